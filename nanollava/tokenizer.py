"""A thin wrapper of `tokenizers`: plain text to ids and back. Special tokens are placed by the template, never by text.
LLaMA's sentencepiece model is BPE over the whole text, blanks written as "▁", one of them before the text; unknown
characters fall back to bytes. With `legacy`, as the first LLaMA tokenizers had it, every stretch of text after a
special token gets this blank as well; without, only the beginning of a text."""

import io
import json
import struct
from pathlib import Path

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from .errors import ConfigError
from .files import read_json, write_json

BARE = normalizers.Replace(" ", "▁")
BLANKS = normalizers.Sequence([normalizers.Prepend("▁"), BARE])
# Bytes to characters, "▁" to blanks, and the one before the text left out.
_steps = [
    decoders.Replace("▁", " "),
    decoders.ByteFallback(),
    decoders.Fuse(),
    decoders.Strip(" ", 1, 0),
]
DECODER = decoders.Sequence(_steps)
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # kinds of sentencepiece's pieces; 6 is a byte


class Tokenizer:
    """`encode` gives the ids of plain text alone; `bos_token_id` and `eos_token_id` are added by whoever needs them."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.bos_token_id, self.eos_token_id = map(backend.token_to_id, ("<s>", "</s>"))
        if self.bos_token_id is None or self.eos_token_id is None:
            raise ConfigError("the tokenizer has no '<s>' or no '</s>': expected a LLaMA tokenizer")
        # Text is encoded by a copy without added tokens, so that "</s>" typed by a user stays five characters of text.
        state = json.loads(backend.to_str())
        self.special_ids = {t["id"] for t in state["added_tokens"]}
        state.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
        # A Metaspace pre-tokenizer is how tokenizer.json says "not legacy"; it would swallow a blank before the text.
        self.legacy = (state["pre_tokenizer"] or {}).get("type") != "Metaspace"
        if not self.legacy:
            state.update(pre_tokenizer=None, normalizer=json.loads(BLANKS.__getstate__()))
        self.plain, self.bare = (Backend.from_str(json.dumps(state)) for _ in range(2))
        self.bare.normalizer = BARE  # for what follows a special token, unless legacy

    def __len__(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "Tokenizer":
        """Reads `tokenizer.json` of a model directory, else the sentencepiece `tokenizer.model` with its JSON files."""
        path = Path(path)
        file = path / "tokenizer.json"
        if not file.is_file() and (path / "tokenizer.model").is_file():
            return cls.from_sentencepiece(path / "tokenizer.model")
        if not file.is_file():
            raise ConfigError(
                f"{file}: neither it nor tokenizer.model is there; a model needs its tokenizer"
            )
        try:
            return cls(Backend.from_file(str(file)))
        except Exception as error:  # the library raises bare Exception for broken files
            raise ConfigError(f"{file}: not a tokenizer ({error})") from None

    @classmethod
    def from_sentencepiece(cls, file: Path) -> "Tokenizer":
        """The same tokenizer as BPE with byte fallback; `legacy` and added tokens come from the JSON files beside it."""
        pieces = read_sentencepiece(file)
        beside = [file.with_name(name) for name in ("tokenizer_config.json", "added_tokens.json")]
        options, added = (read_json(path) if path.is_file() else {} for path in beside)
        vocab = {text: i for i, (text, _, _) in enumerate(pieces)}
        # Only normal pieces come of merges: "<s>" or "<0x0A>" in a text are its characters. Of two merges, that which
        # makes the piece of the higher score goes first.
        normal = {text: score for text, score, kind in pieces if kind == NORMAL}
        merges = [
            (-score, vocab[text[:i]], vocab[text[i:]], text[:i], text[i:])
            for text, score in normal.items()
            for i in range(1, len(text))
            if text[:i] in normal and text[i:] in normal
        ]
        merges = [merge[3:] for merge in sorted(merges)]
        backend = Backend(
            models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        )
        if options.get("legacy") in (
            None,
            True,
        ):  # transformers takes a missing or null value for true
            backend.normalizer = BLANKS
        else:
            backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
        backend.decoder = DECODER
        extra = {text: vocab[text] for text, _, kind in pieces if kind in (UNKNOWN, CONTROL)}
        extra |= {
            t["content"]: int(i) for i, t in options.get("added_tokens_decoder", {}).items()
        } | added
        for text, index in sorted(extra.items(), key=lambda item: item[1]):
            backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])
            if (found := backend.token_to_id(text)) != index:
                raise ConfigError(f"{file}: {text!r} becomes token {found}, its files say {index}")
        return cls(backend)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes tokenizer.json and the tokenizer_config.json that transformers needs beside it."""
        self.backend.save(str(Path(path) / "tokenizer.json"))
        names = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True)
        names |= (
            {"image_token": "<image>"} if self.backend.token_to_id("<image>") is not None else {}
        )
        values = {"tokenizer_class": "LlamaTokenizerFast", "legacy": self.legacy, **names}
        write_json(Path(path) / "tokenizer_config.json", values)

    @property
    def image_token_id(self) -> int:
        """That of `<image>`, which is the next free one where the vocabulary does not know it yet."""
        known = self.backend.token_to_id("<image>")
        return len(self) if known is None else known

    def with_image_token(self, index: int) -> "Tokenizer":
        """A copy that knows `<image>` as token `index`, which must be its own or the next free one."""
        copy = Backend.from_str(self.backend.to_str())
        copy.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
        if (found := copy.token_to_id("<image>")) != index:
            raise ConfigError(f"<image> becomes token {found}, the model's config says {index}")
        return Tokenizer(copy)

    def encode(self, text: str) -> list[int]:
        """The ids of the text: no BOS, no EOS, and what looks like a special token is text."""
        return self.plain.encode(text, add_special_tokens=False).ids

    def encode_with_starts(
        self, text: str, after_special: bool = False
    ) -> tuple[list[int], list[int]]:
        """As `encode`, with the character of `text` at which each token begins; `legacy` matters after a special token."""
        backend = self.bare if after_special and not self.legacy else self.plain
        encoding = backend.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def decode(self, ids: list[int]) -> str:
        """The text of ids; special tokens are left out."""
        return self.plain.decode([i for i in ids if i not in self.special_ids])


def protobuf(data: bytes):
    """Yields (field number, value) of a protobuf message: whole numbers, and bytes for all else."""
    stream = io.BytesIO(data)

    def varint() -> int:
        value = shift = 0
        while (byte := stream.read(1)[0]) > 127:
            value, shift = value | (byte & 127) << shift, shift + 7
        return value | byte << shift

    while stream.tell() < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = varint() if key & 7 == 2 else {1: 8, 5: 4}[key & 7]
        if stream.tell() + size > len(data):
            raise IndexError("the file ends too early")
        yield key >> 3, stream.read(size)


def read_sentencepiece(file: Path) -> list[tuple[str, float, int]]:
    """(piece, score, kind) in the order of ids; a model that is not LLaMA's kind of BPE is a ConfigError."""
    try:
        fields = list(protobuf(file.read_bytes()))
        pieces = [dict(protobuf(value)) for number, value in fields if number == 1]
        pieces = [
            (p[1].decode(), *struct.unpack("<f", p.get(2, bytes(4))), p.get(3, NORMAL))
            for p in pieces
        ]
        trainer, normalizer = (dict(protobuf(dict(fields).get(number, b""))) for number in (2, 3))
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, struct.error):
        raise ConfigError(f"{file}: not a whole sentencepiece model; download it again") from None
    if trainer.get(3) != 2 or normalizer.get(2) or normalizer.get(4, 1) or not normalizer.get(3, 1):
        raise ConfigError(
            f"{file}: expected LLaMA's BPE without normalization, with a blank before the text"
        )
    return pieces
