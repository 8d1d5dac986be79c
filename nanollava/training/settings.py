"""What a training is told: every flag's type, default and meaning."""

import json
from dataclasses import field, make_dataclass
from pathlib import Path

from ..errors import UserError

# `free` are those on which the result does not depend.
FLAGS = json.loads((Path(__file__).parent / "flags.json").read_text(encoding="utf-8"))
_named = [(name, object, field(default=flag.get("default"))) for name, flag in FLAGS.items()]
Settings = make_dataclass("Settings", _named, frozen=True)


def micro_batch(settings: Settings, ranks: int) -> int:
    """Samples that one rank computes at once; over all ranks and rounds they must make up the global batch."""
    micro = settings.micro_batch or max(1, settings.batch // ranks)
    if settings.batch % (ranks * micro):
        given = f"--batch {settings.batch} (global) is no multiple of {ranks} ranks x --micro-batch {micro}"
        raise UserError(f"{given}; change one of the three")
    return micro
