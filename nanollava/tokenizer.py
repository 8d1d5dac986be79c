"""Text to token ids and back: a thin wrapper of the `tokenizers` library.

LLaMA's tokenizer is a BPE over the whole text. Spaces are written as "▁", one of them is put
before the text, and characters outside the vocabulary become their UTF-8 bytes.

Special tokens such as <s> and </s> are placed by the chat template and never come from text. Other
tokens that somebody added to the vocabulary, such as "[SEG]", do come from text.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from .config import SPECIAL_IDS, LlavaConfig
from .errors import ConfigError
from .files import read_json, write_json, write_text
from .schema import check_value, optional, short
from .sentencepiece import UNKNOWN_TEXT, bpe_merges, read_pieces
from .special_tokens import (
    IMAGE,
    SpecialTokens,
    json_tokens,
    read_json_if_there,
    read_special_tokens,
    vocabulary_tokens,
)

SPACE = "▁"  # how the vocabulary writes a space
MAX_TOKEN_ID = 2**22  # far above any vocabulary; the library counts all ids up to the largest
CLOSING_PUNCTUATION = ".,:;!?)]}'\"%"  # what follows a word without a space


class PrefixSpace(NamedTuple):
    """Where a tokenizer puts a space before text.

    At the beginning it also comes before a text that begins with a space itself, as sentencepiece
    has it; otherwise decoding would lose that space.
    """

    at_start: bool  # at the beginning of a text
    after_special: bool  # after a special token, and after one that was added to the vocabulary
    doubles: bool  # after a special token also before a text that begins with a space


# By the `prepend_scheme` of a Metaspace pre-tokenizer in tokenizer.json.
METASPACE_PREFIX = {
    "always": PrefixSpace(at_start=True, after_special=True, doubles=False),
    "first": PrefixSpace(at_start=True, after_special=False, doubles=False),
    "never": PrefixSpace(at_start=False, after_special=False, doubles=False),
}
# Older files have a normalizer "Prepend" instead.
PREPEND_PREFIX = PrefixSpace(at_start=True, after_special=True, doubles=True)
NO_PREFIX = METASPACE_PREFIX["never"]

LLAMA_TOKENS = SpecialTokens()


class AddedTokenInText(NamedTuple):
    """An added token that occurs in a text, from character `start` to `end`."""

    id: int
    start: int
    end: int
    is_piece: bool  # of sentencepiece's vocabulary: text after it gets no prefix space


class Splitter:
    """Finds the added tokens in a text. Special tokens are not among them."""

    def __init__(self, added_tokens: list[dict], backend: Backend):
        """`added_tokens` as in tokenizer.json, each with its id in `backend`."""
        self.finder = Backend(models.BPE())  # without a vocabulary it sees nothing else
        vocabulary = backend.get_vocab(with_added_tokens=False)
        self.ids: dict[int, int] = {}  # by the finder's ids
        self.is_piece: dict[int, bool] = {}
        self.added_ids = set()  # of those that are no pieces
        for token in added_tokens:
            text = token["content"].replace(SPACE, " ")
            flags = {key: token[key] for key in ("single_word", "lstrip", "rstrip")}
            self.finder.add_tokens([AddedToken(text, normalized=False, **flags)])
            found_id = self.finder.token_to_id(text)
            if found_id in self.ids:
                raise ConfigError(
                    f"two added tokens have the same text {text!r}; remove one of them"
                )
            is_piece = token["content"] in vocabulary
            self.ids[found_id] = token["id"]
            self.is_piece[found_id] = is_piece
            if not is_piece:
                self.added_ids.add(token["id"])

    def tokens_in(self, text: str) -> Iterator[AddedTokenInText]:
        """The added tokens in a text, in order. Of two at the same place, the longer one."""
        if not self.ids:
            return
        encoding = self.finder.encode(text, add_special_tokens=False)
        for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            yield AddedTokenInText(self.ids[i], start, end, self.is_piece[i])


class Tokenizer:
    """Encodes and decodes plain text. Callers add the ids of <s> and </s>.

    `legacy` is transformers' name for its first LLaMA tokenizers, which put a space before every
    stretch of text that follows a special token. Later ones put it only at the beginning of the
    text. LLaVA-1.5 was trained without `legacy`.
    """

    def __init__(self, backend: Backend, names: SpecialTokens = LLAMA_TOKENS):
        """`names` of the special tokens, as the files next to tokenizer.json give them."""
        self.backend = backend
        self.names = names
        self.bos_token_id = backend.token_to_id(self.names.bos)
        self.eos_token_id = backend.token_to_id(self.names.eos)
        if self.bos_token_id is None or self.eos_token_id is None:
            raise ConfigError(
                f"the tokenizer has no {self.names.bos} or no {self.names.eos}: "
                "expected a LLaMA tokenizer"
            )
        self.pad_token_id = None  # many tokenizers have none
        if self.names.pad is not None:
            self.pad_token_id = backend.token_to_id(self.names.pad)

        ids = backend.get_vocab(with_added_tokens=True).values()
        self.next_free_id = max(ids) + 1

        state = json.loads(backend.to_str())
        self.special_ids = set()
        text_tokens = []
        for token in state["added_tokens"]:
            if token["special"] or token["content"] in self.names.texts():
                self.special_ids.add(token["id"])
            else:
                text_tokens.append(token)
        self.splitter = Splitter(text_tokens, backend)

        self.prefix_space = take_prefix_space(state)
        # Text is encoded without special tokens, so that "</s>" typed by a user stays text.
        state["added_tokens"] = []
        state["post_processor"] = None
        state["truncation"] = None
        state["padding"] = None
        self.text_encoder = Backend.from_str(json.dumps(state))
        self.check_special_tokens_stay_out_of_text()

    def __len__(self) -> int:
        """The number of tokens, with the special ones."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def legacy(self) -> bool:
        """Is a space put before text that follows a special token?"""
        return self.prefix_space.after_special

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "Tokenizer":
        """Reads `tokenizer.json` of a model directory, or else `tokenizer.model`.

        The files next to it name the special tokens: see `read_special_tokens`.
        """
        if not Path(path).is_dir():
            raise ConfigError(f"{path}: no such file or directory; expected a model directory")
        file = Path(path) / "tokenizer.json"
        sentencepiece_file = Path(path) / "tokenizer.model"
        if file.is_file():
            names = read_special_tokens(file.parent)
            values = read_json(file)
            check_vocabulary(values, file)
            try:
                tokenizer = cls(Backend.from_file(str(file)), names)
            except BaseException as error:
                if not is_broken_file_error(error):
                    raise
                raise ConfigError(f"{file}: not a tokenizer ({error})") from None
            check_added_ids(values, file, tokenizer.backend)
            check_decoder(tokenizer.backend, file)
            return tokenizer
        if sentencepiece_file.is_file():
            return cls.from_sentencepiece(sentencepiece_file)
        raise ConfigError(
            f"{file}: neither it nor tokenizer.model is there; a model needs its tokenizer"
        )

    @classmethod
    def from_sentencepiece(cls, file: Path) -> "Tokenizer":
        """The tokenizer of a sentencepiece `tokenizer.model`.

        `legacy`, `add_prefix_space` and added tokens come from `tokenizer_config.json` and
        `added_tokens.json` in the same folder, where they exist.
        """
        pieces = read_pieces(file)
        names = read_special_tokens(file.parent)
        options = read_json_if_there(file.with_name("tokenizer_config.json"))
        vocab = {piece.text: i for i, piece in enumerate(pieces)}
        bpe = models.BPE(
            vocab, bpe_merges(pieces), unk_token=UNKNOWN_TEXT, fuse_unk=True, byte_fallback=True
        )
        backend = Backend(bpe)
        scheme = prepend_scheme(options)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
        backend.decoder = text_decoder(strips_space=scheme != "never")
        added_tokens = vocabulary_tokens(pieces) | json_tokens(file, options, names)
        for token_id, token in sorted(added_tokens.items()):
            new_id = add_token(backend, token)
            if new_id != token_id:
                raise ConfigError(
                    f"{file}: {token.content!r} becomes token {new_id}, its files say {token_id}"
                )
        return cls(backend, names)

    def save_pretrained(self, path: str | Path, pad_token_id: int | None = None) -> None:
        """Writes tokenizer.json, and the tokenizer_config.json that transformers needs with it.

        `pad_token_id` is the padding token of the model, where the tokenizer's files name none.
        """
        backend = Backend.from_str(self.backend.to_str())
        if backend.post_processor is None:  # transformers lets it put <s> before a text
            bos = self.names.bos
            backend.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A",
                pair=f"{bos} $A {bos} $B",
                special_tokens=[(bos, self.bos_token_id)],
            )
        write_text(Path(path) / "tokenizer.json", backend.to_str(pretty=True))
        pad = self.names.pad
        if pad is None and pad_token_id is not None:
            pad = backend.id_to_token(pad_token_id)
        values = {
            "tokenizer_class": "LlamaTokenizerFast",
            "legacy": self.legacy,
            "bos_token": self.names.bos,
            "eos_token": self.names.eos,
            "unk_token": self.names.unk,
            "add_bos_token": True,
            "padding_side": "left",  # of prompts in a batch: all answers begin right after them
        }
        if not self.prefix_space.at_start:
            values["add_prefix_space"] = False
        if pad is not None:
            values["pad_token"] = pad
        if self.names.others:
            values["additional_special_tokens"] = sorted(self.names.others)
        if self.backend.token_to_id(IMAGE) is not None:
            values["image_token"] = IMAGE
        write_json(Path(path) / "tokenizer_config.json", values)

    @property
    def image_token_id(self) -> int:
        """The id of `<image>`: the next free one if the vocabulary does not have it yet."""
        token_id = self.backend.token_to_id(IMAGE)
        if token_id is None:
            return self.next_free_id
        return token_id

    def with_image_token(self, token_id: int) -> "Tokenizer":
        """A copy that has `<image>` as this token: its present id, or the next free one."""
        copy = Backend.from_str(self.backend.to_str())
        new_id = add_token(copy, AddedToken(IMAGE, special=True, normalized=False))
        if new_id != token_id:
            raise ConfigError(f"{IMAGE} becomes token {new_id}, the model's config says {token_id}")
        return Tokenizer(copy, self.names)

    def with_special_ids(self, config: LlavaConfig, where: str | Path) -> LlavaConfig:
        """The config, with this tokenizer's ids of bos, eos and pad where it has none.

        Ids that disagree are a ConfigError: the model would be trained to end with one token, and
        asked until another. `where` is the model's directory.
        """
        ids = {}
        for key in SPECIAL_IDS:
            in_config = getattr(config, key)
            in_tokenizer = getattr(self, key)
            ids[key] = in_tokenizer if in_config is None else in_config
            if in_tokenizer not in (None, ids[key]):
                raise ConfigError(
                    f"{where}: config.json says {key} = {in_config}, the tokenizer has "
                    f"{in_tokenizer}; correct the file that is wrong"
                )
        self.check_image_token(config.image_token_id, where)
        self.check_text_tokens(config.text_config.vocab_size, where)
        if ids["pad_token_id"] is None:  # as LLaVA does for Llamas, which have no padding token
            ids["pad_token_id"] = self.backend.token_to_id(self.names.unk)
        return replace(config, **ids)

    def check_special_tokens_stay_out_of_text(self) -> None:
        """A ConfigError if the text of a special token becomes that token.

        LLaMA's merges never do that. Those of other tokenizers may, and a user could then end the
        prompt, or open another turn. The token for unknown characters is the exception: text with
        them does become it.
        """
        texts = self.names.texts() | {self.backend.id_to_token(i) for i in self.special_ids}
        for text in texts - {self.names.unk}:
            token_id = self.backend.token_to_id(text)
            for example in (text, f"a{text}a", f"{text} {text}"):
                if token_id is not None and token_id in self.encode(example):
                    raise ConfigError(
                        f"text becomes the special token {text!r} in this tokenizer; expected one "
                        "that, like LLaMA's, never does that"
                    )

    def check_image_token(self, token_id: int, where: str | Path) -> None:
        """A ConfigError for an image token that also comes from text or from a template."""
        text = self.backend.id_to_token(token_id)
        if text is None:
            return
        is_text = text != IMAGE and token_id not in self.special_ids
        if is_text or text in (self.names.bos, self.names.eos, self.names.unk):
            raise ConfigError(
                f"{where}: config.json says that token {token_id} stands for images, but it is "
                f"{text!r} in the tokenizer"
            )

    def check_text_tokens(self, vocab_size: int, where: str | Path) -> None:
        """A ConfigError for a token that text can become and that has no row in the embedding."""
        for text, token_id in self.backend.get_vocab(with_added_tokens=True).items():
            if token_id >= vocab_size and token_id not in self.special_ids:
                raise ConfigError(
                    f"{where}: token {text!r} is number {token_id} of the tokenizer, but "
                    f"config.json says vocab_size = {vocab_size}; expected files of one model"
                )

    def encode(self, text: str) -> list[int]:
        """The ids of a text: no BOS, no EOS, and what looks like a special token is text."""
        ids, _ = self.encode_with_starts(text)
        return ids

    def encode_with_starts(
        self, text: str, after_special: bool = False
    ) -> tuple[list[int], list[int]]:
        """The ids of a text, and for each token the index of its first character in the text.

        `after_special` says that the text follows a special token: see `PrefixSpace`.
        """
        ids = []
        starts = []
        end = 0  # of what has been encoded
        prefix = self.prefix(text, 0, after_special)
        for token in self.splitter.tokens_in(text):
            stretch = text[end : token.start]
            # Before a piece, even an empty stretch gives the prefix space, as in sentencepiece.
            if stretch or token.is_piece:
                stretch_ids, stretch_starts = self.encode_stretch(prefix, stretch, end)
                ids += stretch_ids
                starts += stretch_starts
            ids.append(token.id)
            starts.append(token.start)
            end = token.end
            prefix = ""
            if not token.is_piece:
                prefix = self.prefix(text, end, after_special=True)
        if end < len(text):
            stretch_ids, stretch_starts = self.encode_stretch(prefix, text[end:], end)
            ids += stretch_ids
            starts += stretch_starts
        return ids, starts

    def prefix(self, text: str, start: int, after_special: bool) -> str:
        """The space that is put before the stretch that starts here, or ""."""
        rule = self.prefix_space
        if not after_special:
            return SPACE if rule.at_start else ""
        has_space = text.startswith((" ", SPACE), start)
        if rule.after_special and (rule.doubles or not has_space):
            return SPACE
        return ""

    def encode_stretch(self, prefix: str, stretch: str, start: int) -> tuple[list[int], list[int]]:
        """The ids of a stretch without added tokens, and where each begins in the whole text.

        `start` is where the stretch begins. A token of the prefix alone begins there, too.
        """
        encoding = self.text_encoder.encode(prefix + stretch, add_special_tokens=False)
        starts = []
        for token_start, _ in encoding.offsets:
            starts.append(start + max(token_start - len(prefix), 0))
        return encoding.ids, starts

    def decode(self, ids: list[int]) -> str:
        """The text of ids, without special tokens.

        More ids only append to the text, except where bytes of a character are missing.
        """
        text_ids = [token_id for token_id in ids if token_id not in self.special_ids]
        if not self.prefix_space.after_special:
            return self.backend.decode(text_ids, skip_special_tokens=False)
        text = ""
        run: list[int] = []  # an added token, except in the first run, and what follows it
        for token_id in text_ids:
            if token_id in self.splitter.added_ids:
                text += self.decode_run(run)
                run = []
            run.append(token_id)
        return text + self.decode_run(run)

    def decode_run(self, ids: list[int]) -> str:
        """The text of a run: without the space that `encode` put after an added token."""
        text = self.backend.decode(ids, skip_special_tokens=False)
        if not ids or ids[0] not in self.splitter.added_ids:
            return text
        added_text = self.backend.decode(ids[:1], skip_special_tokens=False)
        behind = text.removeprefix(added_text)
        if not behind.startswith(" "):
            return text
        # Where no space is doubled, this one may have been in the text. It was not if closing
        # punctuation follows; what follows a space at the end is not known yet.
        if self.prefix_space.doubles or len(behind) == 1 or behind[1] in CLOSING_PUNCTUATION:
            behind = behind[1:]
        return added_text + behind


def take_prefix_space(state: dict) -> PrefixSpace:
    """Takes the space before a text out of tokenizer.json's `state`; returns where it goes."""
    prefix_space = NO_PREFIX
    for step in steps_of(state["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Metaspace":
            prefix_space = METASPACE_PREFIX[step["prepend_scheme"]]
            step["prepend_scheme"] = "never"
    steps = steps_of(state["normalizer"], "normalizers")
    others = [step for step in steps if step["type"] != "Prepend"]
    if len(others) < len(steps):
        prefix_space = PREPEND_PREFIX
        state["normalizer"] = {"type": "Sequence", "normalizers": others}
    return prefix_space


def steps_of(component: dict | None, key: str) -> list[dict]:
    """The steps of a normalizer or pre-tokenizer, which may be none, one, or a Sequence."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        return component[key]
    return [component]


def prepend_scheme(options: dict) -> str:
    """The Metaspace scheme that the options of tokenizer_config.json stand for."""
    if options.get("add_prefix_space") is False:
        return "never"
    if options.get("legacy") in (None, True):  # transformers 4 takes a missing value for true
        return "always"
    return "first"


def text_decoder(strips_space: bool) -> decoders.Decoder:
    """Pieces to text. `strips_space` takes away the space that was put before the text."""
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if strips_space:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


def add_token(backend: Backend, token: AddedToken) -> int:
    """Adds a token if it is not there yet; returns its id."""
    if token.special:
        backend.add_special_tokens([token])
    else:
        backend.add_tokens([token])
    return backend.token_to_id(token.content)


def is_broken_file_error(error: BaseException) -> bool:
    """Can reading a broken file raise this? Any Exception can come, and a panic of the library's
    Rust code, which is a BaseException. Ctrl-C is neither."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def check_vocabulary(values: dict, file: Path) -> None:
    """A ConfigError unless each token of tokenizer.json's vocabulary has an id of its own."""
    model = optional(values, "model", dict, str(file), default={})
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):  # of another kind of model, or broken: the library tells
        return
    for text, token_id in vocab.items():
        check_value(token_id, int, f"{file}: id of {short(text)}", minimum=0, maximum=MAX_TOKEN_ID)
    if len(set(vocab.values())) < len(vocab):
        raise ConfigError(f"{file}: two tokens of the vocabulary have the same id")


def check_decoder(backend: Backend, file: Path) -> None:
    """A ConfigError for a decoder that strips the end of a text.

    No LLaMA has one, and the library panics where the text is shorter than what is stripped."""
    state = json.loads(backend.to_str())  # as the library has understood the file
    for step in steps_of(state["decoder"], "decoders"):
        if step["type"] == "Strip" and step["stop"] > 0:
            raise ConfigError(
                f"{file}: decoder Strip with stop = {step['stop']} is not supported; expected 0"
            )


def check_added_ids(values: dict, file: Path, backend: Backend) -> None:
    """A ConfigError if the library gives an added token another id than tokenizer.json.

    It numbers them in order, so that it silently closes gaps between the ids.
    """
    for token in values.get("added_tokens") or []:
        new_id = backend.token_to_id(token["content"])
        if new_id != token["id"]:
            raise ConfigError(
                f"{file}: {token['content']!r} becomes token {new_id}, the file says {token['id']}"
            )
