"""Resumable checkpoints: directories `step-N`, written under a temporary name.

A checkpoint holds the trained weights and AdamW's state, sharded as they are.
With the step number they determine the rest of the run bit for bit.
"""

import json
import shutil
import time
import zlib
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from ..errors import UserError
from ..files import read_json, write_json
from ..schema import require
from .arguments import TrainConfig, is_due
from .distributed import on_all_ranks, print_on_rank_0, sum_over_ranks, write_on_rank_0
from .fingerprint import crc32_of_files, differences
from .output import check_previous
from .state import CheckpointError, read_state, training_state, write_state


class Checkpoints:
    """The checkpoints of one run in OUT/checkpoints: resume, when to save, save."""

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        fingerprint: dict,
    ):
        """`fingerprint` has all values on which the result depends. A run resumes only from a
        checkpoint with the same fingerprint.
        """
        self.config = config
        self.folder = Path(config.out) / "checkpoints"
        self.model = model
        self.optimizer = optimizer
        self.fingerprint = fingerprint
        # A run with checkpoints also saves its last step: the export comes after it, and may fail.
        self.saves_last_step = config.save_steps > 0 or config.save_minutes > 0
        self.last_save = time.perf_counter()

    def resume(self) -> int:
        """Load the newest readable checkpoint, and write the settings to OUT/training.json.

        Returns the number of steps done, 0 without a checkpoint.
        """
        if self.config.resume == "never" and list_checkpoints(self.folder):
            raise UserError(
                f"--resume never, but {self.folder} contains checkpoints; remove them or "
                "change --out"
            )
        record = self.load()
        if record is None:
            write_on_rank_0(lambda: check_previous(self.config.out, self.fingerprint))
        settings = asdict(self.config) | self.fingerprint | {"ranks": dist.get_world_size()}
        path = Path(self.config.out) / "training.json"
        write_on_rank_0(lambda: write_json(path, settings))
        if record is None:
            return 0
        self.saves_last_step = True
        return record["step"]

    def load(self) -> dict | None:
        """Load the newest readable checkpoint into model and optimizer.

        Returns its run.json, or None if there is no checkpoint. An unreadable one is reported, and
        the one before it is used. One with another fingerprint is a CheckpointError.
        """
        checkpoints = list_checkpoints(self.folder)
        for path in checkpoints:
            try:
                record = read_record(path)
                check_fingerprint(path, record["fingerprint"], self.fingerprint)
                state = training_state(self.model, self.optimizer)
                on_all_ranks(partial(read_state, state, path))
            except OtherRunError:
                raise
            except (UserError, OSError) as error:
                print_on_rank_0(f"{path} is not readable ({error}); using the previous one")
                continue
            print_on_rank_0(f"resuming from {path}")
            return record
        if checkpoints:
            raise CheckpointError(
                f"{self.folder}: no checkpoint is readable; remove them to start over"
            )
        return None

    def save_if_due(
        self, steps_done: int, steps: int, stop_signal: int | None, device: torch.device
    ) -> Path | None:
        """Save after `steps_done` of `steps` steps if it is time, or if a signal stops the run.

        If that fails, for example because the disk is full, the run continues with a warning. Only
        a run that is being stopped raises the CheckpointError: its work would be lost.
        """
        by_steps = is_due(steps_done, self.config.save_steps)
        by_time = self.minutes_are_over(device)
        at_end = self.saves_last_step and steps_done == steps
        if not (by_steps or by_time or at_end or stop_signal):
            return None
        self.saves_last_step = True
        self.last_save = time.perf_counter()
        try:
            return self.save(steps_done)
        except CheckpointError as error:
            if stop_signal:
                raise
            print_on_rank_0(f"warning: {error}")
            return None

    def save(self, steps_done: int) -> Path:
        """Write the state after `steps_done` steps and remove all but the newest checkpoints.

        If writing fails, the previous checkpoints are untouched.
        """
        final = self.folder / f"step-{steps_done:08d}"
        temporary = final.with_suffix(".partial")
        try:
            state = training_state(self.model, self.optimizer)
            write_on_rank_0(lambda: make_room(temporary, self.model))
            on_all_ranks(lambda: write_state(state, temporary))
            record = {
                "step": steps_done,
                "fingerprint": self.fingerprint,
                "files": checksums(temporary),
            }
            write_on_rank_0(lambda: publish(temporary, final, record, self.config.keep))
        except OSError as error:
            if dist.get_rank() == 0:  # the disk may be full, and the result needs space, too
                shutil.rmtree(temporary, ignore_errors=True)
            previous = list_checkpoints(self.folder)
            remains = "there is no previous one"
            if previous:
                remains = f"the previous one, {previous[0]}, is still valid"
            raise CheckpointError(
                f"checkpoint {final} was not written ({error}); {remains}"
            ) from None
        return final

    def minutes_are_over(self, device: torch.device) -> bool:
        """Whether rank 0's clock asks for a checkpoint: clocks differ, so one decides for all."""
        if self.config.save_minutes == 0:
            return False
        elapsed = time.perf_counter() - self.last_save
        votes_yes = dist.get_rank() == 0 and elapsed >= 60 * self.config.save_minutes
        votes = sum_over_ranks(torch.tensor([votes_yes], dtype=torch.int32, device=device))
        return votes.item() > 0


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, newest first."""
    return sorted(folder.glob("step-" + 8 * "[0-9]"), reverse=True)


def make_room(temporary: Path, model: nn.Module) -> None:
    """Make an empty directory, and check that the disk has space for another checkpoint."""
    folder = temporary.parent
    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.glob("step-*.partial"):
        shutil.rmtree(unfinished)
    trained_bytes = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    needed = int(3.1 * trained_bytes) + 2**20  # weights, AdamW's two moments, and some metadata
    free = shutil.disk_usage(folder).free
    if 0 < free < needed:  # some file systems report 0 for unknown
        raise OSError(f"{folder}: {free:,} bytes free, a checkpoint takes {needed:,}")
    temporary.mkdir()


def publish(temporary: Path, final: Path, record: dict, keep: int) -> None:
    """Give a written checkpoint its final name and remove those that it replaces."""
    write_json(temporary / "run.json", {**record, "crc32": crc32_of_record(record)})
    for unreadable in list_checkpoints(final.parent):
        if unreadable >= final:  # the run resumed from an earlier one
            shutil.rmtree(unreadable)
    temporary.rename(final)
    for old in list_checkpoints(final.parent)[keep:]:
        # Renamed first: a directory that is half removed must not look like a checkpoint.
        shutil.rmtree(old.rename(old.with_suffix(".partial")))


class OtherRunError(CheckpointError):
    """A checkpoint that belongs to a run with other settings."""


def read_record(path: Path) -> dict:
    """A checkpoint's run.json, once it and all other files match their checksums."""
    file = path / "run.json"
    record = read_json(file)
    crc32 = require(record, "crc32", int, str(file))
    step = require(record, "step", int, str(file), minimum=0)
    require(record, "fingerprint", dict, str(file))
    files = require(record, "files", dict, str(file))
    del record["crc32"]
    if crc32 != crc32_of_record(record):
        raise CheckpointError(f"{file} has changed since it was written")
    if path.name != f"step-{step:08d}":
        raise CheckpointError(f"{file} is of step {step}, which its directory is not")
    if files != checksums(path):
        raise CheckpointError(f"{path}: files are missing or have changed since they were written")
    return record


def crc32_of_record(record: dict) -> int:
    """The checksum of run.json's values."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def check_fingerprint(path: Path, previous: dict, fingerprint: dict) -> None:
    """An OtherRunError if a checkpoint was made with other settings."""
    changes = differences(previous, fingerprint)
    if changes:
        raise OtherRunError(
            f"{path} was made with {changes}; use the same flags and files, another --out, or "
            "remove it"
        )


def checksums(path: Path) -> dict[str, int]:
    """CRC-32 of a checkpoint's files, by name. All ranks must call it."""
    files = sorted(file for file in path.iterdir() if file.name != "run.json")
    sums = crc32_of_files(files)
    return {Path(file).name: crc32 for file, crc32 in sums.items()}
