"""Target: conversations of odd texts in every template."""

import json

from benchmarks.fuzz.case import Case, expect
from nanollava.conversation import (
    IGNORE_INDEX,
    IMAGE_INDEX,
    TEMPLATES,
    Span,
    checked_turns,
    encode,
    pieces,
    place_image,
)
from nanollava.special_tokens import BOS, EOS
from nanollava.tokenizer import Tokenizer

WORDS = (
    *("cat", "red", "The answer", "a", ".", "…", " ", "  ", "\n", "\t", "é", "日本", "🙂", "▁"),
    *("</s>", "<s>", "<unk>", "<image>", "<image", ">", "<0x0A>", "<|im_end|>", "###", "s>"),
    *("### Assistant:", "USER:", "ASSISTANT:", "[/INST]", "\u200b", "\0", "\r", "e\u0301", "ﬁ"),
    *("\U0010ffff", "{text}", "%s", "{", "}"),
)


def conversations(case: Case) -> None:
    """The ids spell the text, special tokens stand where the template has them."""
    turns = []
    for i in range(case.rng.randint(0, 5)):
        words = case.rng.choices(WORDS, k=case.rng.choice((0, 1, 2, 3, 6, 12, 40)))
        turns.append({"from": ("human", "gpt")[i % 2], "value": "".join(words)})
    template = case.rng.choice(list(TEMPLATES))
    tokenizer = case.world.tokenizer
    if case.rng.random() < 0.5:
        tokenizer = case.world.other_tokenizer
    case.note = f"{template}, legacy {tokenizer.legacy}"
    case.content = json.dumps(turns).encode()
    ids, labels = encode(turns, tokenizer, template)
    parts = list(pieces(place_image(checked_turns(turns), "front"), template))
    check_ids(ids, parts, tokenizer)
    expect(len(labels) == len(ids), "not one label for every id")
    for token_id, label in zip(ids, labels, strict=True):
        expect(label in (token_id, IGNORE_INDEX), "a label that is no id")
        expect(token_id != IMAGE_INDEX or label == IGNORE_INDEX, "an image is trained")


def check_ids(ids: list[int], parts: list, tokenizer: Tokenizer) -> None:
    """Special tokens by number, and the text between them by its letters."""
    texts = [part.text for part in parts if isinstance(part, Span)]
    others = [part for part in parts if not isinstance(part, Span)]
    expect(ids.count(tokenizer.bos_token_id) == 1 + others.count(BOS), "not as many <s>")
    expect(ids.count(tokenizer.eos_token_id) == others.count(EOS), "not as many </s>")
    expect(ids.count(IMAGE_INDEX) == len(others) - others.count(BOS) - others.count(EOS), "images")
    expect(tokenizer.image_token_id not in ids, "<image> comes from text")
    decoded = ""
    stretch = []
    for token_id in [*ids, IMAGE_INDEX]:
        if token_id in (IMAGE_INDEX, tokenizer.bos_token_id, tokenizer.eos_token_id):
            decoded += tokenizer.decode(stretch)
            stretch = []
        else:
            stretch.append(token_id)
    expect(letters(decoded) == letters("".join(texts)), "the ids do not spell the text")


def letters(text: str) -> str:
    """A text without its spaces, which the templates and the tokenizer join and split."""
    return text.replace(" ", "").replace("▁", "")


TARGETS = {"conversations": conversations}
