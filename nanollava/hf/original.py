"""The vision tower of an original LLaVA, which may be in the checkpoint or only be named by it."""

from pathlib import Path

from .. import schema
from ..files import read_json
from .files import shapes
from .names import WeightsError, is_original


def original_tower(path: str | Path, values: dict, vision: str | Path | None) -> str | Path:
    """Where the vision tower of an original LLaVA is: `vision`, the checkpoint itself if its tower
    was trained, the directory that its config names, or the checkpoint again, which may hold a
    copy of that."""
    if vision is None and tuned_tower_key(values) is not None and holds_tower(path):
        return path
    tower = vision or schema.require(values, "mm_vision_tower", str, f"{path}/config.json")
    if (Path(tower) / "config.json").is_file():
        return tower
    if vision is None and holds_tower(path):
        return path
    missing = f"its vision tower {str(tower)!r} is not a directory here"
    remedy = (
        f"convert it first: python -m nanollava.convert {path} CLIP OUT (sample.py also takes "
        "CLIP's directory with --vision)"
    )
    raise WeightsError(f"{path}: {missing}; {remedy}")


def check_tower(vision: str | Path, llm: str | Path) -> None:
    """A WeightsError if `llm` is an original LLaVA that needs its own vision tower."""
    if Path(vision).resolve() == Path(llm).resolve():
        return
    key = tuned_tower_key(read_json(Path(llm) / "config.json"))
    if key is not None and holds_tower(llm):
        raise WeightsError(
            f"{llm}: its vision tower was trained ({key} in config.json) and is in it; "
            f"{vision} would replace it: leave that out, or give {llm} for it"
        )


def tuned_tower_key(values: dict) -> str | None:
    """The key with which the config of an original LLaVA says that its tower was trained."""
    if not is_original(values):
        return None
    if values.get("unfreeze_mm_vision_tower") is True:
        return "unfreeze_mm_vision_tower"
    if "mm_vision_tower" in str(values.get("mm_tunable_parts")).split(","):
        return "mm_tunable_parts"
    return None


def holds_tower(path: str | Path) -> bool:
    """Whether an original LLaVA was saved with its vision tower."""
    return any(name.startswith("model.vision_tower.") for name in shapes(path))
