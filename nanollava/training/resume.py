"""Checkpoints to go on from: torch DCP directories `step-N`, written aside and renamed, the last few kept."""

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed.checkpoint import state_dict as dcp_state

from ..errors import UserError
from ..files import read_json, write_json

ONLY_TRAINED = dcp_state.StateDictOptions(
    ignore_frozen_params=True, strict=False
)  # the rest is not in it


class CheckpointError(UserError):
    """A checkpoint that cannot be written, or none that can be read, or one of another run."""


def on_rank_0(action: Callable[[], None]) -> None:
    """Does it on rank 0, which the others await; if writing fails there, every rank raises a CheckpointError."""
    failure = [None]
    try:
        if dist.get_rank() == 0:
            action()
    except (OSError, SafetensorError) as error:
        failure = [str(error)]
    dist.broadcast_object_list(failure)
    if failure[0]:
        raise CheckpointError(failure[0])


def found(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, newest first."""
    return sorted(folder.glob("step-" + 8 * "[0-9]"), reverse=True)


def gathered(mine: dict) -> dict:
    """The union over all ranks of dicts of different keys."""
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return {key: value for part in parts for key, value in part.items()}


def checksums(path: Path) -> dict[str, int]:
    """CRC-32 of DCP's files, each rank reading a share: DCP itself reads a changed byte without a word."""
    sums, files = {}, sorted(file for file in path.iterdir() if file.name != "run.json")
    for file in files[dist.get_rank() :: dist.get_world_size()]:
        sums[file.name] = 0
        with open(file, "rb") as content:
            while block := content.read(1 << 24):
                sums[file.name] = zlib.crc32(block, sums[file.name])
    return gathered(sums)


def state_of(model, optimizer) -> dict:
    weights, moments = dcp_state.get_state_dict(model, optimizer, options=ONLY_TRAINED)
    return {"model": weights, "optimizer": moments, "rng": torch.get_rng_state()}


def save(folder: Path, step: int, model, optimizer, run: dict, keep: int) -> Path:
    """Writes what `step` steps gave; `run` tells what it depends on. If it fails the former ones are untouched."""
    final, state = folder / f"step-{step:08d}", state_of(model, optimizer)
    aside = final.with_suffix(".partial")

    def prepare() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.partial"):
            shutil.rmtree(old)
        trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        free, need = (
            shutil.disk_usage(folder).free,
            int(3.1 * trained) + 2**20,
        )  # AdamW's moments, too
        if 0 < free < need:  # some file systems say 0
            raise OSError(f"{folder}: {free:,} bytes free, a checkpoint takes {need:,}")

    def finish() -> None:
        write_json(aside / "run.json", {**run, "step": step, "crc32": sums})
        for unreadable in (
            path for path in found(folder) if path >= final
        ):  # it went on from a former one
            shutil.rmtree(unreadable)
        aside.rename(final)
        for old in found(folder)[keep:]:
            shutil.rmtree(old.rename(old.with_suffix(".partial")))

    try:
        on_rank_0(prepare)
        dcp.save(state, checkpoint_id=aside)
        sums = checksums(aside)
        on_rank_0(finish)
    except (dcp.api.CheckpointException, CheckpointError) as error:
        former, reason = found(folder), str(error).strip().splitlines()[-1]
        stands = f"the former one, {former[0]}, stands" if former else "there is no former one"
        raise CheckpointError(f"checkpoint {final} was not written ({reason}); {stands}") from None
    return final


def load(folder: Path, model, optimizer, run: dict, say: Callable[[str], None]) -> dict:
    """Fills model, optimizer and RNG from the newest readable checkpoint; returns its run.json, or {} if none is there."""
    run = json.loads(json.dumps(run))
    for path in found(folder):
        try:
            told = read_json(path / "run.json")
            if checksums(path) != told.get("crc32"):
                raise CheckpointError(
                    f"{path}: files are missing or have changed since they were written"
                )
            changed = [f"{k} {told.get(k)!r}, now {run[k]!r}" for k in run if told.get(k) != run[k]]
            state = state_of(model, optimizer)
            if not changed:
                dcp.load(state, checkpoint_id=path)
        except (dcp.api.CheckpointException, UserError, OSError) as error:
            say(
                f"{path} is not readable ({str(error).strip().splitlines()[-1]}); taking the former one"
            )
            continue
        if changed:
            made = f"{path} was made with {'; '.join(changed)}"
            raise CheckpointError(f"{made}; give the same flags, another --out, or remove it")
        parts = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
        dcp_state.set_state_dict(model, optimizer, **parts, options=ONLY_TRAINED)
        torch.set_rng_state(state["rng"])
        say(f"going on from {path}")
        return told
    if found(folder):
        raise CheckpointError(f"{folder}: no checkpoint is readable; remove them to begin anew")
    return {}
