"""The names of a tokenizer's special tokens, and the tokens that somebody added to its vocabulary,
as the JSON files next to a tokenizer give them."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken

from . import schema
from .errors import ConfigError
from .files import read_json
from .sentencepiece import CONTROL, UNKNOWN, UNKNOWN_TEXT, USER_DEFINED, Piece

# LLaMA's names. In templates they stand for those that the tokenizer uses.
BOS = "<s>"
EOS = "</s>"
IMAGE = "<image>"

# Special tokens that added_tokens.json lists without saying that they are: LLaVA's marks of an
# image, and the usual names of a padding token.
KNOWN_TOKENS = frozenset({IMAGE, "<im_patch>", "<im_start>", "<im_end>", "<pad>", "[PAD]"})

# Keys with further special tokens, each a list or an object. The last two are transformers 5's.
LISTS_OF_TOKENS = (
    "additional_special_tokens",
    "extra_special_tokens",
    "model_specific_special_tokens",
)
ADDED_TOKEN_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


@dataclass(frozen=True)
class SpecialTokens:
    """The texts of the special tokens. `pad` is None where the files name none."""

    bos: str = BOS
    eos: str = EOS
    unk: str = UNKNOWN_TEXT
    pad: str | None = None
    others: frozenset[str] = frozenset()

    def texts(self) -> set[str]:
        """All of them, and those that are special in every tokenizer."""
        texts = {self.bos, self.eos, self.unk} | self.others | KNOWN_TOKENS
        if self.pad is not None:
            texts.add(self.pad)
        return texts


def read_special_tokens(folder: Path) -> SpecialTokens:
    """The special tokens that tokenizer_config.json names, or else special_tokens_map.json.

    What neither names has LLaMA's name. Lists of further tokens are read from both files.
    """
    names = {}
    others = set()
    for file_name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = folder / file_name
        for key, value in read_json_if_there(file).items():
            if key in LISTS_OF_TOKENS:
                others.update(texts_in(value, file, key))
            elif key.endswith("_token") and not isinstance(value, bool | None):
                names[key.removesuffix("_token")] = text_of(value, file, key)
    names = {key: text for key, text in names.items() if text}  # old files have ""
    fields = {key: names.pop(key) for key in ("bos", "eos", "unk", "pad") if key in names}
    others.update(names.values())
    return SpecialTokens(**fields, others=frozenset(others - {IMAGE}))


def texts_in(value, file: Path, key: str) -> list[str]:
    """The texts of a list of tokens, or of an object from names to tokens."""
    if value is None:
        return []
    tokens = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(tokens, list):
        raise ConfigError(f"{file}: {key} = {schema.short(value)}; expected a list of tokens")
    return [text_of(token, file, key) for token in tokens]


def text_of(token, file: Path, key: str) -> str:
    """The text of a token, which files give as a string or as an object with `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    if not schema.has_type(text, str):
        raise ConfigError(
            f"{file}: {key} = {schema.short(token)}; expected a text, or an object with 'content'"
        )
    return text


def vocabulary_tokens(pieces: list[Piece]) -> dict[int, AddedToken]:
    """The pieces of a sentencepiece vocabulary that no merge produces, by their ids."""
    tokens = {}
    for token_id, piece in enumerate(pieces):
        if piece.type in (UNKNOWN, CONTROL):
            tokens[token_id] = AddedToken(piece.text, special=True, normalized=False)
        elif piece.type == USER_DEFINED:
            tokens[token_id] = AddedToken(piece.text, special=False, normalized=False)
    return tokens


def json_tokens(file: Path, options: dict, names: SpecialTokens) -> dict[int, AddedToken]:
    """The tokens that the JSON files next to `tokenizer.model` add to its vocabulary, by id.

    `options` are those of tokenizer_config.json, whose `added_tokens_decoder` has flags for each
    token. The older added_tokens.json has only ids.
    """
    tokens = {}
    added_tokens_file = file.with_name("added_tokens.json")
    for text, token_id in read_json_if_there(added_tokens_file).items():
        if not schema.has_type(token_id, int) or not schema.is_unicode(text):
            raise ConfigError(
                f"{added_tokens_file}: {text!r}: {schema.short(token_id)}; expected an id"
            )
        is_special = text in names.texts()
        tokens[token_id] = AddedToken(text, special=is_special, normalized=False)
    try:
        for token_id, token in options.get("added_tokens_decoder", {}).items():
            flags = {flag: bool(token[flag]) for flag in ADDED_TOKEN_FLAGS if flag in token}
            tokens[int(token_id)] = AddedToken(token["content"], **flags)
    except (AttributeError, KeyError, TypeError, ValueError):
        config_file = file.with_name("tokenizer_config.json")
        raise ConfigError(
            f"{config_file}: added_tokens_decoder: expected ids and objects with 'content'"
        ) from None
    return tokens


def read_json_if_there(path: Path) -> dict:
    """The JSON object in a file, or an empty one if there is no file."""
    if path.is_file():
        return read_json(path)
    return {}
