"""A thin wrapper of `tokenizers`: plain text to ids and back. Special tokens are placed by the template, never by text."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from .config import ConfigError


class Tokenizer:
    """`encode` gives the ids of plain text alone; `bos_token_id` and `eos_token_id` are added by whoever needs them."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.bos_token_id = self._special("<s>")
        self.eos_token_id = self._special("</s>")
        # Text is encoded by a copy without added tokens, so that "</s>" typed by a user stays five characters of text.
        state = json.loads(backend.to_str())
        self.special_ids = {t["id"] for t in state["added_tokens"]}
        state.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
        self.plain = Backend.from_str(json.dumps(state))

    def _special(self, token: str) -> int:
        index = self.backend.token_to_id(token)
        if index is None:
            raise ConfigError(f"tokenizer.json has no {token!r} token: expected a LLaMA tokenizer")
        return index

    def __len__(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "Tokenizer":
        """Reads `tokenizer.json` of a model directory."""
        file = Path(path) / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(f"{file}: no such file; a language model's directory needs its tokenizer")
        try:
            return cls(Backend.from_file(str(file)))
        except ConfigError:
            raise
        except Exception as error:  # the library raises bare Exception for broken files
            raise ConfigError(f"{file}: not a tokenizer ({error})") from None

    def save_pretrained(self, path: str | Path) -> None:
        self.backend.save(str(Path(path) / "tokenizer.json"))

    def token_to_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def with_image_token(self, index: int) -> "Tokenizer":
        """A copy that knows `<image>` as token `index`, which must be its own or the next free one."""
        copy = Backend.from_str(self.backend.to_str())
        copy.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
        if copy.token_to_id("<image>") != index:
            raise ConfigError(
                f"<image> becomes token {copy.token_to_id('<image>')}, the model's config says {index}"
            )
        return Tokenizer(copy)

    def encode(self, text: str) -> list[int]:
        """The ids of the text: no BOS, no EOS, and what looks like a special token is text."""
        return self.plain.encode(text, add_special_tokens=False).ids

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        """As `encode`, with the character of `text` at which each token begins."""
        encoding = self.plain.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def decode(self, ids: list[int]) -> str:
        """The text of ids; special tokens are left out."""
        return self.plain.decode([i for i in ids if i not in self.special_ids])


def train_bpe(texts, vocab_size: int) -> Tokenizer:
    """A LLaMA-like byte-fallback BPE: <unk> <s> </s>, then 256 bytes, then merges."""
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    punctuation = pre_tokenizers.Split(Regex(r"[^\w▁]"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), punctuation]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    reserved = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=reserved, show_progress=False, max_token_length=24
    )
    backend.train_from_iterator(texts, trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = state["added_tokens"][:3]  # the bytes are ordinary tokens
    return Tokenizer(Backend.from_str(json.dumps(state)))
