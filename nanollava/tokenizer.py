"""Text to token ids and back: a thin wrapper of the `tokenizers` library.

LLaMA's tokenizer is a BPE over the whole text. Spaces are written as "▁", one of them is put
before the text, and characters outside the vocabulary become their UTF-8 bytes.

Special tokens such as <s> and </s> are placed by the chat template and never come from text.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from .errors import ConfigError
from .files import read_json, write_json
from .sentencepiece import CONTROL, UNKNOWN, UNKNOWN_TEXT, Piece, bpe_merges, read_pieces

BOS = "<s>"
EOS = "</s>"
IMAGE = "<image>"

# What follows a special token is a continuation: no space is put before it.
CONTINUATION_NORMALIZER = normalizers.Replace(" ", "▁")
TEXT_NORMALIZER = normalizers.Sequence([normalizers.Prepend("▁"), CONTINUATION_NORMALIZER])
DECODER = decoders.Sequence(
    [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),  # the space before the text
    ]
)


class Tokenizer:
    """Encodes and decodes plain text. Who needs <s> and </s> adds their ids.

    `legacy` is transformers' name for its first LLaMA tokenizers, which put a space before every
    stretch of text that follows a special token. Later ones put it only at the beginning of the
    text. LLaVA-1.5 was trained without `legacy`.
    """

    def __init__(self, backend: Backend):
        self.backend = backend
        self.bos_token_id = backend.token_to_id(BOS)
        self.eos_token_id = backend.token_to_id(EOS)
        if self.bos_token_id is None or self.eos_token_id is None:
            raise ConfigError(f"the tokenizer has no {BOS} or no {EOS}: expected a LLaMA tokenizer")
        state = json.loads(backend.to_str())
        self.special_ids = {token["id"] for token in state["added_tokens"]}
        # A Metaspace pre-tokenizer is how tokenizer.json says "not legacy".
        pre_tokenizer = state["pre_tokenizer"] or {}
        self.legacy = pre_tokenizer.get("type") != "Metaspace"

        # Text is encoded by copies without special tokens, so that "</s>" typed by a user stays
        # text.
        state["added_tokens"] = []
        state["post_processor"] = None
        state["truncation"] = None
        state["padding"] = None
        if not self.legacy:
            state["pre_tokenizer"] = None  # Metaspace would remove a space before the text
        self.text_encoder = Backend.from_str(json.dumps(state))
        if not self.legacy:
            self.text_encoder.normalizer = TEXT_NORMALIZER
        self.continuation_encoder = Backend.from_str(json.dumps(state))
        self.continuation_encoder.normalizer = CONTINUATION_NORMALIZER

    def __len__(self) -> int:
        """The number of tokens, with the special ones."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "Tokenizer":
        """Reads `tokenizer.json` of a model directory, or else `tokenizer.model`."""
        file = Path(path) / "tokenizer.json"
        sentencepiece_file = Path(path) / "tokenizer.model"
        if file.is_file():
            try:
                return cls(Backend.from_file(str(file)))
            except Exception as error:  # the library raises bare Exception for broken files
                raise ConfigError(f"{file}: not a tokenizer ({error})") from None
        if sentencepiece_file.is_file():
            return cls.from_sentencepiece(sentencepiece_file)
        raise ConfigError(
            f"{file}: neither it nor tokenizer.model is there; a model needs its tokenizer"
        )

    @classmethod
    def from_sentencepiece(cls, file: Path) -> "Tokenizer":
        """The tokenizer of a sentencepiece `tokenizer.model`.

        `legacy` and added tokens come from `tokenizer_config.json` and `added_tokens.json` in the
        same folder, where they exist.
        """
        pieces = read_pieces(file)
        options = read_json_if_there(file.with_name("tokenizer_config.json"))
        vocab = {piece.text: i for i, piece in enumerate(pieces)}
        bpe = models.BPE(
            vocab, bpe_merges(pieces), unk_token=UNKNOWN_TEXT, fuse_unk=True, byte_fallback=True
        )
        backend = Backend(bpe)
        backend.decoder = DECODER
        legacy = options.get("legacy")
        if legacy is None or legacy is True:  # transformers takes a missing value for true
            backend.normalizer = TEXT_NORMALIZER
        else:
            backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)

        special_tokens = special_tokens_of(file, pieces, options)
        for text, token_id in sorted(special_tokens.items(), key=lambda item: item[1]):
            new_id = add_special_token(backend, text)
            if new_id != token_id:
                raise ConfigError(
                    f"{file}: {text!r} becomes token {new_id}, its files say {token_id}"
                )
        return cls(backend)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes tokenizer.json, and the tokenizer_config.json that transformers needs with it."""
        self.backend.save(str(Path(path) / "tokenizer.json"))
        values = {
            "tokenizer_class": "LlamaTokenizerFast",
            "legacy": self.legacy,
            "bos_token": BOS,
            "eos_token": EOS,
            "unk_token": UNKNOWN_TEXT,
            "add_bos_token": True,
        }
        if self.backend.token_to_id(IMAGE) is not None:
            values["image_token"] = IMAGE
        write_json(Path(path) / "tokenizer_config.json", values)

    @property
    def image_token_id(self) -> int:
        """The id of `<image>`: the next free one if the vocabulary does not have it yet."""
        token_id = self.backend.token_to_id(IMAGE)
        if token_id is None:
            return len(self)
        return token_id

    def with_image_token(self, token_id: int) -> "Tokenizer":
        """A copy that has `<image>` as this token: its present id, or the next free one."""
        copy = Backend.from_str(self.backend.to_str())
        new_id = add_special_token(copy, IMAGE)
        if new_id != token_id:
            raise ConfigError(f"{IMAGE} becomes token {new_id}, the model's config says {token_id}")
        return Tokenizer(copy)

    def encode(self, text: str) -> list[int]:
        """The ids of a text: no BOS, no EOS, and what looks like a special token is text."""
        ids, _ = self.encode_with_starts(text)
        return ids

    def encode_with_starts(
        self, text: str, after_special: bool = False
    ) -> tuple[list[int], list[int]]:
        """The ids of a text, and for each token the index of its first character in the text.

        `after_special` says that the text follows a special token; without `legacy` it then gets
        no space before it.
        """
        encoder = self.text_encoder
        if after_special and not self.legacy:
            encoder = self.continuation_encoder
        encoding = encoder.encode(text, add_special_tokens=False)
        starts = [start for start, _ in encoding.offsets]
        return encoding.ids, starts

    def decode(self, ids: list[int]) -> str:
        """The text of ids, without special tokens."""
        text_ids = [token_id for token_id in ids if token_id not in self.special_ids]
        return self.text_encoder.decode(text_ids)


def read_json_if_there(path: Path) -> dict:
    """The JSON object in a file, or an empty one if there is no file."""
    if path.is_file():
        return read_json(path)
    return {}


def special_tokens_of(file: Path, pieces: list[Piece], options: dict) -> dict[str, int]:
    """Special tokens and their ids: those of the vocabulary, and those added in the JSON files."""
    special_tokens = {}
    for token_id, piece in enumerate(pieces):
        if piece.type in (UNKNOWN, CONTROL):
            special_tokens[piece.text] = token_id
    try:
        for token_id, token in options.get("added_tokens_decoder", {}).items():
            special_tokens[token["content"]] = int(token_id)
    except (AttributeError, KeyError, TypeError, ValueError):
        config_file = file.with_name("tokenizer_config.json")
        raise ConfigError(
            f"{config_file}: added_tokens_decoder: expected ids and objects with 'content'"
        ) from None
    added_tokens_file = file.with_name("added_tokens.json")
    for text, token_id in read_json_if_there(added_tokens_file).items():
        if not isinstance(token_id, int):
            raise ConfigError(f"{added_tokens_file}: {text!r}: {token_id!r}; expected an id")
        special_tokens[text] = token_id
    return special_tokens


def add_special_token(backend: Backend, text: str) -> int:
    """Add a special token if it is not there yet; returns its id."""
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    return backend.token_to_id(text)
