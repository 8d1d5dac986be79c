"""What a training leaves: W alone or a complete LLaVA, in the directory --out.

The state is on disk as a checkpoint before, so a failed export costs nothing: the same command
resumes after the last step and exports again.
"""

import filecmp
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from ..device import DTYPES
from ..errors import UserError
from ..export import save_llava
from ..files import command_line, made_by
from ..hf.connector import write_connector
from ..hf.files import PROJECTOR_FILES, remove_other_weights, save_projector
from ..image import ImageConfig
from ..llava import LLaVA
from ..tokenizer import Tokenizer
from .arguments import TrainConfig
from .distributed import full_state, matching_prefix, write_on_rank_0
from .resume import list_checkpoints

PROJECTOR = "multi_modal_projector."
MADE_BY = "MADE_BY.txt"


def export_w(config: TrainConfig, model: LLaVA, frozen: dict[str, torch.Tensor]) -> Path:
    """Write the projector alone, the result of stage 1. Returns its file.

    `frozen` are weights of it that were not trained, as they were before.
    """
    out = Path(config.out)
    name = PROJECTOR_FILES[0]
    dtype = DTYPES[config.save_dtype]
    with export_errors(config):
        state = full_state(model, dtype, PROJECTOR)
        for parameter, tensor in frozen.items():
            state[parameter] = tensor.to(dtype)

        def write(folder: Path) -> None:
            save_projector(state, folder / name)
            if model.config.connector is not None:
                write_connector(folder, model.config.projector, model.config.connector)

        replace_files(out, write)
    return out / name


def export_llava(
    config: TrainConfig,
    model: LLaVA,
    trainable: dict[str, bool],
    frozen: dict[str, torch.Tensor],
    tokenizer: Tokenizer,
    image_config: ImageConfig,
) -> None:
    """Write a complete LLaVA: what was trained, and `frozen` as it was before the training."""
    dtype = DTYPES[config.save_dtype]
    trained = [prefix for prefix, is_trained in trainable.items() if is_trained]
    with export_errors(config):
        state = full_state(model, dtype, *trained)
        for name, tensor in frozen.items():
            state[name] = tensor.to(dtype)

        def write(folder: Path) -> None:
            save_llava(folder, model, tokenizer, image_config, config.template, state)

        replace_files(Path(config.out), write)


def frozen_state(
    model: LLaVA, trainable: dict[str, bool], prefix: str = ""
) -> dict[str, torch.Tensor]:
    """The frozen weights as they are in the files, on rank 0. Call it before sharding.

    Those whose names begin with `prefix`.

    Sharding casts frozen weights to the compute dtype; the result gets them as they were.
    """
    if dist.get_rank() != 0:
        return {}
    frozen = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix) and not trainable[matching_prefix(name, trainable)]:
            frozen[name] = tensor
    return frozen


@contextmanager
def export_errors(config: TrainConfig) -> Iterator[None]:
    """Turn an error of the block into a UserError that says how to export again."""
    try:
        yield
    except Exception as error:
        checkpoints = list_checkpoints(Path(config.out) / "checkpoints")
        state = "no checkpoint could be written before"
        if checkpoints:
            state = f"the state of the training is in {checkpoints[0]}"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"the result was not written ({reason}); {state}; this exports it: {same_command()}"
        ) from error


def same_command() -> str:
    """The command of this training, to be pasted."""
    if not dist.is_torchelastic_launched():
        return command_line(sys.argv)
    launcher = ["torchrun", "--nproc_per_node", str(dist.get_world_size())]
    return shlex.join([*launcher, *sys.argv])


def replace_files(out: Path, write: Callable[[Path], None]) -> None:
    """Let rank 0 `write` into a temporary directory, and move its files to `out` at the end."""

    def on_rank_0() -> None:
        temporary = out / "export.partial"
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
        temporary.mkdir(parents=True)
        try:
            write(temporary)
            made_by(temporary)
            move_files(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    write_on_rank_0(on_rank_0)


def move_files(temporary: Path, out: Path) -> None:
    """Move complete files to `out`. A kill in between leaves no mixture that somebody could load.

    One file is replaced at once. If more differ, config.json is taken away first and comes back
    last: without it nothing loads the directory.
    """
    new_names = [file.name for file in temporary.iterdir() if file.name != MADE_BY]
    weights = [name for name in new_names if name.endswith(".safetensors")]
    changed = [name for name in new_names if not is_same(temporary / name, out / name)]
    if len(changed) > 1:
        (out / "config.json").unlink(missing_ok=True)
    for name in changed:
        if name != "config.json":
            (temporary / name).replace(out / name)
    if "config.json" in new_names:  # W alone has none
        remove_other_weights(out, keep=weights)
        (temporary / "config.json").replace(out / "config.json")
    (temporary / MADE_BY).replace(out / MADE_BY)


def is_same(one: Path, other: Path) -> bool:
    """Whether both are files of the same content."""
    return other.is_file() and filecmp.cmp(one, other, shallow=False)
