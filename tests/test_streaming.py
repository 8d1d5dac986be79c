"""Text from ids as they come, and batches of questions."""

import pytest

from nanollava import load
from nanollava.conversation import IMAGE
from nanollava.errors import UserError
from nanollava.image import open_image
from nanollava.streaming import TextStream, answer_dialogues, encode_prompt
from nanollava.tokenizer import Tokenizer

TOY = "checkpoints/toy-llava"
QUESTIONS = (
    "What color is the cat?",
    "Where is the cat?",
    "Is there a dog?",
    "How is the weather?",
)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_pretrained(TOY)


@pytest.fixture(scope="module")
def toy():
    return load(TOY, device="cpu")


def shown_text(
    tokenizer: Tokenizer, ids: list[int], stops: tuple[str, ...] = ()
) -> tuple[list[str], TextStream]:
    text = TextStream(tokenizer, stops)
    return [*map(text.add, ids), text.finish()], text


def test_utf8_pieces(tokenizer):
    """Characters that arrive as bytes are shown whole; the pieces join to the text of all ids."""
    for line in (
        "a 猫 sat",
        "😀😀 two",
        "naïve café — 3 €",
        "in  two   blanks",
        "end with 猫",
        "猫",
    ):
        ids = tokenizer.encode(line)
        shown, text = shown_text(tokenizer, ids)
        assert "".join(shown) == text.text == line == tokenizer.decode(ids)
        assert not any("\ufffd" in part for part in shown) and text.end == "length"
    assert len(tokenizer.encode("😀")) >= 4
    shown, _ = shown_text(tokenizer, tokenizer.encode("so 😀 it is")[:-5])
    assert "".join(shown) == "so"
    broken = [tokenizer.backend.token_to_id(f"<0x{byte:02X}>") for byte in (0xE7, 0x8C)]
    shown, text = shown_text(
        tokenizer, tokenizer.encode("a cat") + broken
    )  # half a character, and the answer ended
    assert "".join(shown) == text.text == "a cat"


@pytest.mark.parametrize(
    "stop, before", [("###", "a red cat"), ("ca", "a red"), ("d c", "a re"), ("red cat", "a")]
)
def test_stop_strings_across_token_borders(tokenizer, stop, before):
    shown, text = shown_text(
        tokenizer, tokenizer.encode("a red cat\n### and so on"), (stop, "never")
    )
    assert "".join(shown) == text.text == before and text.end == "stop string"
    line = f"a red cat{stop[:-1]}!"
    shown, text = shown_text(
        tokenizer, tokenizer.encode(line), (stop + stop,)
    )  # begins like a stop and is none
    assert "".join(shown) == line and text.end == "length"


def test_only_new_ids_are_decoded(tokenizer):
    """Each id is decoded a bounded number of times, however long the answer."""
    decoded = []

    class Counting:
        def decode(self, ids):
            decoded.append(len(ids))
            return tokenizer.decode(ids)

    shown_text(Counting(), tokenizer.encode("in front on the left there is a purple cat " * 20))
    assert max(decoded) <= 8


def test_answers_in_batches_equal_single_answers(toy):
    """Unequal prompts, one without an image and one with two images."""
    cat = open_image("cat.jpg")
    asked = []
    for question in QUESTIONS:
        asked.append(([cat], [{"from": "human", "value": f"{IMAGE}\n{question}"}]))
    asked.append(([], [{"from": "human", "value": "Is it sunny?"}]))
    two = f"{IMAGE}\n{IMAGE}\nWhat color is the cat?"
    asked.append(([cat, cat], [{"from": "human", "value": two}]))
    options = dict(max_new_tokens=24)
    parts = (toy.model, toy.tokenizer, toy.image_config)
    found = answer_dialogues(*parts, asked, batch_size=4, **options)
    assert found[:3] == ["purple", "on the left", "no"]
    assert found == answer_dialogues(*parts, asked, batch_size=1, **options)


def test_no_questions_have_no_answers(toy):
    assert answer_dialogues(toy.model, toy.tokenizer, toy.image_config, []) == []


def test_a_batch_of_nothing_is_an_error(toy):
    with pytest.raises(UserError, match="batch_size 0: expected at least 1"):
        answer_dialogues(toy.model, toy.tokenizer, toy.image_config, [], batch_size=0)


def test_a_stop_string_ends_an_answer_of_the_v0_template(toy, monkeypatch):
    """Every answer of a batch ends where its own stop string begins."""
    texts = [toy.tokenizer.encode(text) for text in ("a cat ### Human", "one ### two")]
    length = min(len(ids) for ids in texts)
    steps = [list(row) for row in zip(*(ids[:length] for ids in texts), strict=True)]
    monkeypatch.setattr("nanollava.streaming.stream", lambda *args, **options: iter(steps))
    turns = [{"from": "human", "value": "What?"}]
    asked = [([], turns), ([], turns)]
    found = answer_dialogues(toy.model, toy.tokenizer, toy.image_config, asked, template="v0")
    assert found == ["a cat", "one"]


def test_prompt_expands_every_image(toy):
    turns = [{"from": "human", "value": f"{IMAGE}\n{IMAGE}\nWhat?"}]
    ids = encode_prompt(turns, toy.model, toy.tokenizer, "vicuna_v1")
    patches = toy.model.config.vision_config.num_patches
    assert ids.count(toy.model.config.image_token_id) == 2 * patches
