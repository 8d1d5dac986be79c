"""Targets: tokenizer.json, sentencepiece's tokenizer.model, and the files beside them."""

import json
import random
import struct

import torch

from benchmarks.fuzz.case import Case, expect
from benchmarks.fuzz.mutate import changed_bytes, changed_json
from benchmarks.fuzz.world import logits
from nanollava.conversation import encode
from nanollava.sentencepiece import read_pieces
from nanollava.tokenizer import Tokenizer

TEXTS = (
    "What color is the cat?",
    "é 日本 🙂 </s> <image>",
    "",
    " ",
    200 * "a",
    "\n\t",
    "12345 + x",
)
TURNS = [{"from": "human", "value": "<image>\nx"}, {"from": "gpt", "value": "é b"}]

# Steps of a tokenizer.json that no LLaMA has.
STEPS = (
    None,
    {},
    {"type": "Metaspace"},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True},
    {"type": "ByteLevel"},
    {"type": "Lowercase"},
    {"type": "Whitespace"},
    {"type": "BertPreTokenizer"},
    {"type": "Prepend", "prepend": ""},
    {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
    {"type": "Replace", "pattern": {"Regex": "("}, "content": ""},
    {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
    {"type": "Sequence", "normalizers": []},
    {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}]},
    {"type": "Strip", "content": " ", "start": 2**40, "stop": 0},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
)
OPTIONS = {
    "legacy": False,
    "bos_token": "<s>",
    "eos_token": {"content": "</s>", "special": True},
    "pad_token": None,
    "add_prefix_space": None,
    "additional_special_tokens": [],
    "added_tokens_decoder": {
        "0": {"content": "<unk>", "special": True},
        "1": {"content": "<s>", "special": True},
        "2": {"content": "</s>", "special": True},
    },
}


def use(tokenizer: Tokenizer) -> None:
    """Encode and decode, and check what can be checked of any tokenizer."""
    for text in TEXTS:
        for after_special in (False, True):
            ids, starts = tokenizer.encode_with_starts(text, after_special)
            expect(len(ids) == len(starts), "not one start for every id")
            for token_id, start in zip(ids, starts, strict=True):
                expect(0 <= start <= max(len(text) - 1, 0), "a token outside of the text")
                expect(0 <= token_id < tokenizer.next_free_id, "an id beyond the vocabulary")
        tokenizer.decode(ids)
    encode(TURNS, tokenizer)


def tokenizer_json(case: Case) -> None:
    """tokenizer.json and tokenizer_config.json."""
    values = case.world.read_json("llava/tokenizer.json")
    kind = case.rng.random()
    if kind < 0.25:
        case.note = "a step"
        key = case.rng.choice(("normalizer", "pre_tokenizer", "decoder", "post_processor"))
        values[key] = case.rng.choice(STEPS)
        content = json.dumps(values).encode()
    elif kind < 0.5:
        case.note = "vocabulary"
        change_vocabulary(case.rng, values["model"])
        content = json.dumps(values).encode()
    elif kind < 0.6:
        case.note = "added tokens"
        content = changed_part(case.rng, values, "added_tokens")
    elif kind < 0.9:
        case.note = "anything but the vocabulary"
        content = changed_part(case.rng, values, case.rng.choice(list(values)))
    else:
        case.note = "bytes"
        content = changed_bytes(case.rng, json.dumps(values).encode())
    if case.rng.random() < 0.3:
        options = changed_json(case.rng, OPTIONS)
        case.note += f"; tokenizer_config.json {options[:100]!r}"
        case.write("tokenizer_config.json", options)
    case.write("tokenizer.json", content)
    tokenizer = Tokenizer.from_pretrained(case.folder)
    use(tokenizer)
    model_config = case.world.model.config
    tokenizer = tokenizer.with_image_token(model_config.image_token_id)
    tokenizer.with_special_ids(model_config, case.folder)
    result = logits(case.world.model, tokenizer, case.world.pixel_values)
    expect(bool(torch.isfinite(result).all()), "logits are not finite")


def changed_part(rng: random.Random, values: dict, key: str) -> bytes:
    """The file with a change below one of its keys."""
    part = values[key]
    if key == "model":
        part = {name: value for name, value in part.items() if name not in ("vocab", "merges")}
    changed = changed_json(rng, part)
    marker = '"the changed part"'
    values[key] = "the changed part"
    before, after = json.dumps(values).split(marker)
    return before.encode() + changed + after.encode()


def change_vocabulary(rng: random.Random, model: dict) -> None:
    """Other ids, missing or new tokens, other merges."""
    vocab = model["vocab"]
    for _ in range(rng.choice((1, 3, 100))):
        token = rng.choice(list(vocab))
        kind = rng.randrange(5)
        if kind == 0 and len(vocab) > 1:
            del vocab[token]
        elif kind == 1:
            vocab[token] = rng.choice((-1, 0, 5, 10**6, 2**31, 2**32 - 1, 2**32, 1.5, None, "x"))
        elif kind == 2:
            vocab[rng.choice(("", " ", "new", "\ud800", "日本", "<image>"))] = rng.choice((3, 900))
        elif kind == 3:
            model["merges"].append(rng.choice(("a b", "a", "", ["a", "b"], ["a"], [], 5, "zz y")))
        else:
            model["merges"] = rng.choice((model["merges"][:-5], model["merges"][::-1], []))
            return


# ---- sentencepiece ----


def varint(value: int) -> bytes:
    result = b""
    while value > 127:
        result += bytes([value & 127 | 128])
        value >>= 7
    return result + bytes([value])


def field(number: int, value: int | float | bytes) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: bytes, score: float, kind: int) -> bytes:
    return field(1, field(1, text) + field(2, score) + field(3, kind))


def whole_pieces() -> list[bytes]:
    """A small vocabulary of LLaMA's kind: special tokens, bytes, letters and a few words."""
    pieces = [piece(b"<unk>", 0.0, 2), piece(b"<s>", 0.0, 3), piece(b"</s>", 0.0, 3)]
    for byte in range(256):
        pieces.append(piece(b"<0x%02X>" % byte, 0.0, 6))
    words = "▁ a b c d e t h o r s i n ▁a ▁t th ▁th the ▁the re ed ▁c ca ▁ca cat ▁cat at . ?"
    for i, word in enumerate(words.split()):
        pieces.append(piece(word.encode(), -float(i), 1))
    return pieces


ODD_PIECES = (
    piece(b"\xff\xfe", 0.0, 1),
    piece(b"", 0.0, 1),
    piece(b"a", float("nan"), 1),
    piece(b"q", float("inf"), 1),
    piece(b"cat", 0.0, 1),
    piece(b"<s>", 0.0, 1),
    piece(b"</s>", 0.0, 5),
    piece(b"[SEG]", 0.0, 4),
    piece(b"zz", 0.0, 2**60),
    piece(b"q", 0.0, 0),
    piece(40_000 * b"x", 0.0, 1),
    piece(2_000_000 * b"a", 0.0, 1),
    field(1, 5),
    field(1, b""),
)
BPE_TRAINER = field(2, field(3, 2))
NORMALIZER = field(3, field(2, b"") + field(3, 1) + field(4, 0))
ODD_TAILS = (
    b"",
    field(2, 5),
    field(2, b"") + NORMALIZER,
    field(2, field(3, 1)) + NORMALIZER,
    BPE_TRAINER + field(3, field(4, 1)),
    BPE_TRAINER + field(3, 5),
    BPE_TRAINER + field(3, field(2, b"xx") + field(4, 0)),
    field(2, 20 * b"\xff") + NORMALIZER,
)


def tokenizer_model(case: Case) -> None:
    """tokenizer.model, tokenizer_config.json, special_tokens_map.json and added_tokens.json."""
    rng = case.rng
    pieces = whole_pieces()
    tail = BPE_TRAINER + NORMALIZER
    kind = rng.random()
    if kind < 0.3:
        pieces.insert(rng.randint(0, len(pieces)), rng.choice(ODD_PIECES))
    elif kind < 0.4:
        pieces = rng.choice(([], pieces[:2], pieces * 2, pieces[::-1], pieces[3:]))
    elif kind < 0.5:
        tail = rng.choice(ODD_TAILS)
    content = b"".join(pieces) + tail
    if 0.5 <= kind < 0.75:
        content = changed_bytes(rng, content)
    elif 0.75 <= kind < 0.78:
        content = rng.choice((b"\x80", b"\xff", b"\x0a")) * rng.choice((100, 400_000))
    path = case.write("tokenizer.model", content)
    write_side_files(case, len(pieces))
    case.content = content
    tokenizer = Tokenizer.from_pretrained(case.folder)
    use(tokenizer)
    texts = [piece.text for piece in read_pieces(path)]
    expect(len(texts) == len(set(texts)), "a piece stands twice")
    for text, token_id in json.loads(tokenizer.backend.to_str())["model"]["vocab"].items():
        expect(texts[token_id] == text, "a piece has another id than in the file")


def write_side_files(case: Case, next_id: int) -> None:
    """JSON files beside tokenizer.model, some of them damaged."""
    for name, values in (
        ("tokenizer_config.json", OPTIONS),
        ("added_tokens.json", {"<pad>": next_id, "[SEG]": next_id + 1}),
        ("special_tokens_map.json", {"bos_token": "<s>", "pad_token": {"content": "<pad>"}}),
    ):
        chance = case.rng.random()
        if chance < 0.25:
            content = changed_json(case.rng, values)
            case.note += f"{name} {content[:100]!r}; "
            case.write(name, content)
        elif chance < 0.5:
            case.write(name, json.dumps(values).encode())


TARGETS = {"tokenizer_json": tokenizer_json, "tokenizer_model": tokenizer_model}
