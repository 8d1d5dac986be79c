"""Tokenizer, templates and the label mask."""

import pytest

from nanollava.conversation import IMAGE_INDEX, VICUNA_SYSTEM, ConversationError, encode, expand
from nanollava.toyland.pretrain import make_tokenizer

TURNS = [
    {"from": "human", "value": "<image>\nWhat color is the cat?"},
    {"from": "gpt", "value": "red"},
    {"from": "human", "value": "Where is the dog?"},
    {"from": "assistant", "value": "on the left, in front"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(0).with_image_token(704)


@pytest.mark.parametrize(
    "text", ["a red cat", "  two  spaces", "新年快乐 é", "x\ty\n\n", "", "</s><s><image><unk>"]
)
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & tokenizer.special_ids, "text must never become a special token"


def test_special_tokens_are_not_decoded(tokenizer):
    image = tokenizer.backend.token_to_id("<image>")
    assert tokenizer.decode([1, image, *tokenizer.encode("a cat"), 2]) == "a cat"


def test_mask_covers_answers_and_end_tokens_and_nothing_else(tokenizer):
    ids, labels = encode(TURNS, tokenizer)
    assert ids.count(IMAGE_INDEX) == 1 and ids[0] == tokenizer.bos_token_id
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    runs, run = [], []
    for label in [*labels, -100]:
        if label != -100:
            run.append(label)
        elif run:
            runs.append(run)
            run = []
    assert [tokenizer.decode(r[:-1]) for r in runs] == ["red", "on the left, in front"]
    assert all(r[-1] == tokenizer.eos_token_id for r in runs)
    shown = tokenizer.decode(
        [t for t, label in zip(ids, labels, strict=True) if label == -100 and t >= 0]
    )
    assert shown.startswith(VICUNA_SYSTEM + " USER: ") and shown.count("ASSISTANT:") == 2
    assert (
        "What color is the cat?" in shown and "Where is the dog?" in shown and "left" not in shown
    )


def test_plain(tokenizer):
    ids, labels = encode(TURNS[:2], tokenizer, "plain")
    assert ids[:2] == [tokenizer.bos_token_id, IMAGE_INDEX]
    assert labels[:2] == [-100, -100] and labels[2:] == ids[2:]
    assert tokenizer.decode(ids[2:]) == "red\n"


def test_prompt_is_the_beginning_of_the_conversation(tokenizer):
    """What generation is asked to continue is what training showed before the answer."""
    whole, labels = encode(TURNS[:2], tokenizer)
    prompt, none = encode(TURNS[:1], tokenizer)
    first = next(i for i, label in enumerate(labels) if label != -100)
    assert prompt == whole[:first] and set(none) == {-100}


def test_end_token_in_text_is_text(tokenizer):
    turns = [{"from": "human", "value": "say </s> now"}, {"from": "gpt", "value": "</s> it is"}]
    ids, labels = encode(turns, tokenizer)
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode([t for t in labels if t != -100]) == "</s> it is"


def test_expand():
    assert expand([1, IMAGE_INDEX, 5], [-100, -100, 5], 9, 3) == ([1, 9, 9, 9, 5], [-100] * 4 + [5])


@pytest.mark.parametrize(
    "turns, message",
    [
        ([], "expected a list of turns"),
        (TURNS[1:], "turn 0: comes from 'gpt', expected 'human'"),
        ([TURNS[0], TURNS[0]], "turn 1: comes from 'human', expected 'gpt'"),
        ([TURNS[0], {"from": "gpt", "value": " "}], "turn 1: the answer is empty"),
        ([{"from": "human"}], "turn 0: expected an object with 'from' and the text 'value'"),
        ([{"from": "robot", "value": "x"}], "comes from 'robot'"),
    ],
)
def test_malformed_turns(tokenizer, turns, message):
    with pytest.raises(ConversationError, match=message):
        encode(turns, tokenizer)
