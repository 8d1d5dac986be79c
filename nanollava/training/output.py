"""The directory --out: one run at a time, and no run over the results of another."""

import sys
from pathlib import Path

from ..errors import UserError
from ..files import read_json
from .distributed import write_on_rank_0
from .fingerprint import differences

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_FILE = "training.lock"  # every training leaves it in its --out
RESULTS = ("*.safetensors", "*.bin", "config.json")

# Open as long as the process lives: closing a file ends its lock.
lock_files = []


def lock(out: str) -> None:
    """Let no other training write to `out` until this process ends, however it ends."""

    def on_rank_0() -> None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK_FILE, "a+b")
        if not try_lock(file):
            file.close()
            raise UserError(
                f"--out {out}: another training writes to it; wait for its end, or choose another"
            )
        lock_files.append(file)

    write_on_rank_0(on_rank_0)


def try_lock(file) -> bool:
    """Lock an open file without waiting. The system unlocks it when the process ends.

    The lock belongs to this process alone: its data workers, which may live on for some seconds
    after a kill, do not inherit it.
    """
    try:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def check_previous(out: str, fingerprint: dict) -> None:
    """A UserError if `out` has results of something else than a run with this fingerprint."""
    if not has_results(Path(out)):
        return
    settings = Path(out) / "training.json"
    if not settings.is_file():
        raise UserError(f"--out {out}: contains a model that no training wrote; choose another")
    changes = differences(read_json(settings), fingerprint)
    if changes:
        raise UserError(
            f"--out {out}: has the results of a run with {changes}; choose another --out, or "
            "remove it"
        )


def has_results(out: Path) -> bool:
    """Whether there are weights, or the metrics of at least one step."""
    metrics = out / "metrics.jsonl"
    if metrics.is_file() and metrics.stat().st_size > 0:
        return True
    return has_model(out)


def has_model(folder: Path) -> bool:
    """Whether there are weights or a config, which a training writes at its end."""
    return any(any(folder.glob(pattern)) for pattern in RESULTS)
