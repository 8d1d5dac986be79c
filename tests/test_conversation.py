"""Chat templates: what each writes, what of it is trained, and its ids against sentencepiece."""

import pytest
import sentencepiece

from nanollava.conversation import (
    CHAT_TEMPLATES,
    DEMO_SYSTEM,
    IGNORE_INDEX,
    IMAGE_INDEX,
    LLAMA_2_SYSTEM,
    TEMPLATES,
    VICUNA_SYSTEM,
    ConversationError,
    Span,
    checked_turns,
    encode,
    expand,
    pieces,
    place_image,
)
from nanollava.tokenizer import Tokenizer

BOS_ID = 1
EOS_ID = 2

TURNS = [
    {"from": "human", "value": "<image>\nWhat color is the cat?"},
    {"from": "gpt", "value": "red"},
    {"from": "human", "value": "Where is the dog?"},
    {"from": "assistant", "value": "on the left, in front"},
]
# The same shape with spaces, special tokens and bytes that a tokenizer could get wrong.
HARD_TURNS = [
    {"from": "human", "value": "<image>\nWhat is </s> there?"},
    {"from": "gpt", "value": "two  cats"},
    {"from": "human", "value": "And <s>\n?"},
    {"from": "gpt", "value": "naïve 你好\n"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_pretrained("checkpoints/toy-llava")


# What the templates write


def written(template: str, turns=TURNS) -> str:
    """The text of a conversation, with images and special tokens."""
    return "".join(
        p.text if isinstance(p, Span) else p for p in pieces(checked_turns(turns), template)
    )


def trained_text(template: str, turns=TURNS) -> str:
    """The part of it that is trained."""
    text = ""
    for piece in pieces(checked_turns(turns), template):
        if piece == "</s>":
            text += piece
        elif isinstance(piece, Span) and piece.trained:
            text += piece.text
    return text


def test_vicuna_v1_writes_answers_that_end_with_eos():
    assert written("vicuna_v1") == (
        f"{VICUNA_SYSTEM} USER: <image>\nWhat color is the cat? ASSISTANT: red</s>"
        "USER: Where is the dog? ASSISTANT: on the left, in front</s>"
    )
    assert trained_text("vicuna_v1") == " red</s> on the left, in front</s>"


def test_llava_v1_differs_in_the_system_message():
    assert written("llava_v1") == written("vicuna_v1").replace(VICUNA_SYSTEM, DEMO_SYSTEM)


def test_v0_ends_turns_with_number_signs():
    assert written("v0") == (
        f"{DEMO_SYSTEM}\n\n### Human: <image>\nWhat color is the cat?\n### Assistant: red\n"
        "### Human: Where is the dog?\n### Assistant: on the left, in front\n### "
    )


def test_v0_trains_the_number_signs_and_the_assistants_name():
    assert trained_text("v0") == (
        "###### Assistant: red\n###### Assistant: on the left, in front\n### "
    )


def test_llama_2_writes_every_round_as_a_sequence_of_its_own():
    assert written("llama_2") == (
        f"[INST] <<SYS>>\n{LLAMA_2_SYSTEM}\n<</SYS>>\n\n<image>\nWhat color is the cat? [/INST] "
        "red </s><s>[INST] Where is the dog? [/INST] on the left, in front </s>"
    )
    assert trained_text("llama_2") == " red </s> on the left, in front </s>"


def test_plain_writes_images_and_captions_alone():
    assert written("plain", TURNS[:2]) == "<image>red\n"
    assert trained_text("plain", TURNS[:2]) == "red\n"


@pytest.mark.parametrize("template", CHAT_TEMPLATES)
def test_a_prompt_is_the_beginning_of_the_conversation(template):
    """What generation continues is what training shows before the answer."""
    prompt = written(template, TURNS[:3])
    assert written(template).startswith(prompt)
    assert written(template)[len(prompt) :].startswith(" on the left")


# Where the image is placed


def placed(text: str, image_position: str = "front") -> str:
    ((_, question),) = place_image([("human", text)], image_position)
    return question


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<image>\nWhat is it?", "<image>\nWhat is it?"),
        ("What is it?\n<image>", "<image>\nWhat is it?"),
        ("What is it? <image>  ", "<image>\nWhat is it?"),
        ("<image>\n\n\nA question", "<image>\nA question"),
        ("<image>What is it?\n", "<image>\nWhat is it?"),
        ("What is <image> this?", "<image>\nWhat is  this?"),
        (" <image>\n", "<image>"),
        (" What is it?\n", " What is it?\n"),
    ],
)
def test_front_puts_the_image_and_a_newline_before_the_words(text, expected):
    assert placed(text) == expected
    assert placed(text, "as_written") == text


def test_several_images_stay_as_written():
    assert placed("a <image> or b <image>?") == "a <image> or b <image>?"
    turns = [("human", "this <image>?"), ("gpt", "a cat"), ("human", "and this <image>?")]
    assert place_image(turns, "front") == turns


def test_the_image_moves_to_the_front_of_its_own_turn():
    turns = [("human", " Hi "), ("gpt", " Hello "), ("human", "And this? <image>")]
    assert place_image(turns, "front") == [*turns[:2], ("human", "<image>\nAnd this?")]


def test_another_image_position_is_an_error():
    expected = "image position 'behind': expected front or as_written"
    with pytest.raises(ConversationError, match=expected):
        placed("<image>", "behind")


@pytest.mark.parametrize("template", CHAT_TEMPLATES)
def test_encode_moves_the_image_to_the_front_by_default(tokenizer, template):
    behind = [{"from": "human", "value": "What color is the cat?\n<image>"}, *TURNS[1:]]
    assert encode(behind, tokenizer, template) == encode(TURNS, tokenizer, template)
    as_written, _ = encode(behind, tokenizer, template, "as_written")
    assert as_written != encode(TURNS, tokenizer, template, "as_written")[0]


# Templates without questions

TWO_IMAGES = [{"from": "human", "value": "<image><image>"}, TURNS[1]]


@pytest.mark.parametrize(
    "turns, message",
    [
        (TURNS, "4 turns; template 'plain' expects one image and its caption"),
        (TURNS[2:], "turn 0: 0 <image>; template 'plain' expects one image and its caption"),
        (TWO_IMAGES, "turn 0: 2 <image>; template 'plain' expects one image and its caption"),
    ],
    ids=["several turns", "no image", "two images"],
)
def test_plain_refuses_what_is_no_caption(tokenizer, turns, message):
    with pytest.raises(ConversationError, match=message):
        encode(turns, tokenizer, "plain")


def test_braces_in_a_turn_stay_text():
    turns = [{"from": "human", "value": "{text} {0} {}"}]
    assert "USER: {text} {0} {} ASSISTANT:" in written("vicuna_v1", turns)


def test_an_unknown_template_is_an_error(tokenizer):
    with pytest.raises(ConversationError, match="unknown template 'v2': expected one of vicuna_v1"):
        encode(TURNS, tokenizer, "v2")


# Ids and labels


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_label_is_the_id_or_ignored(tokenizer, template):
    ids, labels = encode(TURNS[:2], tokenizer, template)
    for token_id, label in zip(ids, labels, strict=True):
        assert label in (IGNORE_INDEX, token_id)


def test_only_answers_and_end_tokens_are_labelled(tokenizer):
    _, labels = encode(TURNS, tokenizer)
    labelled = [label for label in labels if label != IGNORE_INDEX]
    red = tokenizer.encode("red")
    left = tokenizer.encode("on the left, in front")
    assert labelled == [*red, tokenizer.eos_token_id, *left, tokenizer.eos_token_id]


def test_a_sequence_begins_with_an_unlabelled_bos(tokenizer):
    ids, labels = encode(TURNS, tokenizer)
    assert ids[0] == tokenizer.bos_token_id
    assert labels[0] == IGNORE_INDEX


def test_a_prompt_of_one_question_has_no_labels(tokenizer):
    ids, labels = encode(TURNS[:1], tokenizer)
    assert labels == [IGNORE_INDEX] * len(ids)


def test_a_prompt_has_the_ids_that_training_shows(tokenizer):
    ids, labels = encode(TURNS[:2], tokenizer)
    prompt, _ = encode(TURNS[:1], tokenizer)
    first_label = [label != IGNORE_INDEX for label in labels].index(True)
    assert prompt == ids[:first_label]


def test_special_tokens_in_a_turn_are_text(tokenizer):
    turns = [{"from": "human", "value": "say </s> now"}, {"from": "gpt", "value": "</s> it is"}]
    ids, labels = encode(turns, tokenizer)
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id
    labelled = [label for label in labels if label != IGNORE_INDEX]
    assert tokenizer.decode(labelled) == "</s> it is"


def test_every_image_of_a_turn_is_one_id(tokenizer):
    ids, _ = encode([{"from": "human", "value": "<image><image> or <image>?"}], tokenizer)
    assert ids.count(IMAGE_INDEX) == 3


def test_a_turn_without_image_has_no_image_id(tokenizer):
    ids, _ = encode([{"from": "human", "value": "hello"}], tokenizer)
    assert IMAGE_INDEX not in ids


def test_expand_makes_room_for_the_patches():
    ids, labels = expand([1, IMAGE_INDEX, 5], [-100, -100, 5], image_token_id=9, num_image_tokens=3)
    assert ids == [1, 9, 9, 9, 5]
    assert labels == [-100, -100, -100, -100, 5]


# Ids against sentencepiece: every stretch between special tokens encoded by itself


class Oracle:
    """The ids of texts, special ids (int) and images (None), as the original code joins them."""

    def __init__(self, tokenizer_dir):
        file = str(tokenizer_dir / "tokenizer.model")
        self.processor = sentencepiece.SentencePieceProcessor(model_file=file)

    def encode(self, parts: list, legacy: bool) -> list[int]:
        ids = []
        for i, part in enumerate(parts):
            follows_special = i > 1 and isinstance(parts[i - 1], int)
            if part is None:
                ids.append(IMAGE_INDEX)
            elif isinstance(part, int):
                ids.append(part)
            elif follows_special and not legacy:
                ids += self.encode_continuation(part)
            else:
                ids += self.processor.encode(part)
        return ids

    def encode_continuation(self, text: str) -> list[int]:
        """A text without a space before it: after a character that merges with nothing."""
        prefix = self.processor.encode("\x01")
        return self.processor.encode("\x01" + text)[len(prefix) :]


@pytest.fixture
def oracle(tokenizer_dir):
    return Oracle(tokenizer_dir)


@pytest.fixture
def small_tokenizer(tokenizer_dir):
    return Tokenizer.from_pretrained(tokenizer_dir)


@pytest.mark.parametrize(
    "template, system", [("vicuna_v1", VICUNA_SYSTEM), ("llava_v1", DEMO_SYSTEM)]
)
def test_ids_of_vicuna_equal_sentencepiece(oracle, small_tokenizer, template, system):
    parts = [
        BOS_ID,
        f"{system} USER: ",
        None,
        "\nWhat is </s> there? ASSISTANT: two  cats",
        EOS_ID,
        "USER: And <s>\n? ASSISTANT: naïve 你好\n",
        EOS_ID,
    ]
    ids, _ = encode(HARD_TURNS, small_tokenizer, template)
    assert ids == oracle.encode(parts, small_tokenizer.legacy)


def test_ids_of_v0_equal_sentencepiece(oracle, small_tokenizer):
    parts = [
        BOS_ID,
        f"{DEMO_SYSTEM}\n\n### Human: ",
        None,
        "\nWhat is </s> there?\n### Assistant: two  cats\n### Human: And <s>\n?\n"
        "### Assistant: naïve 你好\n\n### ",
    ]
    ids, labels = encode(HARD_TURNS, small_tokenizer, "v0")
    assert ids == oracle.encode(parts, small_tokenizer.legacy)
    labelled = [label for label in labels if label != IGNORE_INDEX]
    assert small_tokenizer.decode(labelled) == (
        "###### Assistant: two  cats\n###### Assistant: naïve 你好\n\n### "
    )


def test_ids_of_llama_2_equal_sentencepiece(oracle, small_tokenizer):
    parts = [
        BOS_ID,
        f"[INST] <<SYS>>\n{LLAMA_2_SYSTEM}\n<</SYS>>\n\n",
        None,
        "\nWhat is </s> there? [/INST] two  cats ",
        EOS_ID,
        BOS_ID,
        "[INST] And <s>\n? [/INST] naïve 你好\n ",
        EOS_ID,
    ]
    ids, labels = encode(HARD_TURNS, small_tokenizer, "llama_2")
    assert ids == oracle.encode(parts, small_tokenizer.legacy)
    labelled = [label for label in labels if label != IGNORE_INDEX]
    assert small_tokenizer.decode(labelled) == "two  cats  naïve 你好\n "


def test_ids_of_plain_equal_sentencepiece(oracle, small_tokenizer):
    parts = [BOS_ID, None, "two  cats\n naïve 你好\n\n"]
    caption = {"from": "gpt", "value": "two  cats\n naïve 你好\n"}
    ids, labels = encode([HARD_TURNS[0], caption], small_tokenizer, "plain")
    assert ids == oracle.encode(parts, small_tokenizer.legacy)
    assert labels == [IGNORE_INDEX, IGNORE_INDEX, *ids[2:]]


# Turns that form no conversation


@pytest.mark.parametrize(
    "turns, message",
    [
        ([], "expected a list of turns"),
        ("hello", "expected a list of turns"),
        (TURNS[1:], "turn 0: comes from 'gpt', expected 'human'"),
        ([TURNS[0], TURNS[0]], "turn 1: comes from 'human', expected 'gpt'"),
        ([TURNS[0], {"from": "gpt", "value": " "}], "turn 1: the answer is empty"),
        ([TURNS[0], {"from": "gpt", "value": "<image>"}], "turn 1: the answer contains <image>"),
        ([{"from": "human"}], "turn 0: expected an object with 'from' and the text 'value'"),
        ([{"from": "robot", "value": "x"}], "comes from 'robot'"),
    ],
)
def test_malformed_turns_are_an_error(turns, message):
    with pytest.raises(ConversationError, match=message):
        checked_turns(turns)
