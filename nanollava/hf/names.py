"""Tensor names: the table of every layout that is read or written."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import UserError
from ..files import read_json

BUFFERS = (".rotary_emb.inv_freq", ".position_ids")  # in old files


class WeightsError(UserError):
    """A checkpoint that is missing, broken, or does not fit the model."""


@dataclass(frozen=True)
class Layout:
    """`prefixes` (file, ours), the first that fits counts, and the first per module is the one written;
    `drop` are patterns of tensor names that are left out on purpose."""

    name: str
    prefixes: Sequence[tuple[str, str]]
    drop: Sequence[str] = ()

    def to_ours(self, name: str) -> str | None:
        """Our name for a file's tensor, None for one that is dropped, or a WeightsError."""
        if f".{name}".endswith(BUFFERS) or any(fnmatchcase(name, pattern) for pattern in self.drop):
            return None
        for theirs, ours in self.prefixes:
            if name.startswith(theirs):
                return ours + name[len(theirs) :]
        raise WeightsError(f"tensor {name!r} has no place in the {self.name} layout")

    def to_file(self, name: str) -> str:
        for theirs, ours in self.prefixes:
            if name.startswith(ours):
                return theirs + name[len(ours) :]
        raise WeightsError(f"parameter {name!r} has no name in the {self.name} layout")


# Prefixes of transformers 4 and 5, whose towers differ, and of the original LLaVA, whose projector is an nn.Sequential.
_tables = read_json(Path(__file__).with_name("layouts.json"))
LLAVA, CLIP_VISION, LLAMA, PROJECTOR = (Layout(name, **table) for name, table in _tables.items())
