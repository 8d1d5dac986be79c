"""Reads LLaMA's `tokenizer.model` without the sentencepiece library.

The file is a protobuf message, which is a list of numbered fields. These count here (the names are
those of sentencepiece_model.proto):

    ModelProto       1 pieces, in the order of their ids   2 trainer_spec   3 normalizer_spec
    SentencePiece    1 piece (the text)   2 score   3 type
    TrainerSpec      3 model_type
    NormalizerSpec   2 precompiled_charsmap   3 add_dummy_prefix   4 remove_extra_whitespaces
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .errors import ConfigError
from .files import read_bytes

# Values of `type` of a SentencePiece.
NORMAL = 1
UNKNOWN = 2  # <unk>
CONTROL = 3  # <s> and </s>
USER_DEFINED = 4  # a text that is always one token, such as "[SEG]"

UNKNOWN_TEXT = "<unk>"
MAX_PIECE_LENGTH = 256  # characters; sentencepiece makes pieces of 16, and merges try every split

BPE = 2  # a value of `model_type` of a TrainerSpec

# How protobuf stores the value of a field.
VARINT = 0
LENGTH_DELIMITED = 2
FIXED_SIZES = {1: 8, 5: 4}  # bytes
MAX_VARINT_BYTES = 10  # 64 bits, 7 in each byte


class Piece(NamedTuple):
    """A token of the vocabulary. A merge that makes a piece with a higher score goes first."""

    text: str
    score: float
    type: int


def read_pieces(file: Path) -> list[Piece]:
    """The vocabulary of a `tokenizer.model`, in the order of the ids.

    A broken file, or a model that is not of LLaMA's kind, is a ConfigError.
    """
    content = read_bytes(file)
    pieces = []
    trainer = {}
    normalizer = {}
    try:
        for number, value in protobuf_fields(content):
            if number == 1:
                pieces.append(parse_piece(value))
            elif number == 2:
                trainer = dict(protobuf_fields(value))
            elif number == 3:
                normalizer = dict(protobuf_fields(value))
    except (ValueError, LookupError, TypeError, AttributeError, struct.error):
        # A value that is missing, cut off, or of the wrong type.
        raise ConfigError(f"{file}: not a whole sentencepiece model; download it again") from None
    check_kind(file, trainer, normalizer)
    check_vocabulary(file, pieces)
    return pieces


def parse_piece(message: bytes) -> Piece:
    """One SentencePiece message. Missing fields have protobuf's defaults."""
    values = dict(protobuf_fields(message))
    text = values[1].decode("utf-8")
    (score,) = struct.unpack("<f", values.get(2, bytes(4)))
    piece_type = values.get(3, NORMAL)
    return Piece(text, score, piece_type)


def check_kind(file: Path, trainer: dict, normalizer: dict) -> None:
    """A ConfigError unless this is BPE that changes no character and puts a space before a text."""
    is_bpe = trainer.get(3) == BPE
    changes_characters = bool(normalizer.get(2))
    adds_space = normalizer.get(3, 1) == 1
    removes_spaces = normalizer.get(4, 1) == 1
    if not is_bpe or changes_characters or removes_spaces or not adds_space:
        raise ConfigError(
            f"{file}: expected LLaMA's BPE without normalization and with a space before the text"
        )


def check_vocabulary(file: Path, pieces: list[Piece]) -> None:
    """A ConfigError unless every piece is there once, of a usual length and with a score, and one
    of them is for unknown characters."""
    for i, piece in enumerate(pieces):
        if piece.type == NORMAL and len(piece.text) > MAX_PIECE_LENGTH:
            raise ConfigError(
                f"{file}: piece {i} has {len(piece.text):,} characters; expected at most "
                f"{MAX_PIECE_LENGTH}"
            )
        if not math.isfinite(piece.score):
            raise ConfigError(f"{file}: piece {i} has the score {piece.score}")
    texts = {piece.text for piece in pieces}
    if len(texts) < len(pieces):
        raise ConfigError(f"{file}: a piece is in the vocabulary twice")
    if UNKNOWN_TEXT not in texts:
        raise ConfigError(
            f"{file}: no {UNKNOWN_TEXT} in the vocabulary: expected a LLaMA tokenizer"
        )


def bpe_merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """The pairs of pieces that merge to a piece, the first to be applied first.

    The file has no list of merges: any two pieces merge if their texts joined are a piece, and the
    highest score goes first. Only normal pieces take part, so that "<s>" or "<0x0A>" in a text
    stay characters.
    """
    ids = {piece.text: i for i, piece in enumerate(pieces)}
    scores = {piece.text: piece.score for piece in pieces if piece.type == NORMAL}
    ranked = []
    for text, score in scores.items():
        for split in range(1, len(text)):
            left = text[:split]
            right = text[split:]
            if left in scores and right in scores:
                rank = (-score, ids[left], ids[right])  # the ids only make the order unique
                ranked.append((rank, (left, right)))
    return [pair for _, pair in sorted(ranked)]


def protobuf_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message as (field number, value).

    A value is an int for a varint, and bytes for everything else.
    """
    position = 0
    while position < len(data):
        key, position = read_varint(data, position)
        field_number = key >> 3
        wire_type = key & 0b111
        if wire_type == VARINT:
            value, position = read_varint(data, position)
            yield field_number, value
            continue
        if wire_type == LENGTH_DELIMITED:
            size, position = read_varint(data, position)
        else:
            size = FIXED_SIZES[wire_type]
        end = position + size
        if end > len(data):
            raise ValueError("the message ends too early")
        yield field_number, data[position:end]
        position = end


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number that begins at `position`, and the position after it.

    Each byte has 7 bits of the number, the lowest first; its high bit says that another follows.
    """
    value = 0
    for i in range(MAX_VARINT_BYTES):
        byte = data[position + i]
        value |= (byte & 0b0111_1111) << (7 * i)
        if byte < 0b1000_0000:
            return value, position + i + 1
    raise ValueError(f"a number of more than {MAX_VARINT_BYTES} bytes")
