"""What a training leaves: W alone or a complete LLaVA, in the directory --out.

Unless checkpoints are off (--save-steps 0 --save-minutes 0), the last step was saved before. If the
export fails, the same command resumes after that step and exports again.
"""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from ..config import PROJECTOR
from ..device import DTYPES
from ..errors import UserError
from ..export import save_llava
from ..files import PACKAGE, command_line, made_by
from ..hf.connector import write_connector
from ..hf.files import PROJECTOR_FILES, save_projector
from ..image import ImageConfig
from ..llava import LLaVA
from ..tokenizer import Tokenizer
from .arguments import TrainConfig
from .distributed import full_state, matching_prefix, write_on_rank_0
from .resume import list_checkpoints


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
            check_is_finite(state)
            if model.config.connector is not None:
                write_connector(folder, model.config.projector, model.config.connector)
            save_projector(state, folder / name)

        write_result(out, write)
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
            check_is_finite(state)
            save_llava(folder, model, tokenizer, image_config, config.template, state)

        write_result(Path(config.out), write)


def frozen_state(
    model: LLaVA, trainable: dict[str, bool], prefix: str = ""
) -> dict[str, torch.Tensor]:
    """The frozen weights whose names begin with `prefix`, as they are in the files, on rank 0.

    Call it before sharding, which casts frozen weights to the compute dtype.
    """
    if dist.get_rank() != 0:
        return {}
    frozen = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix) and not trainable[matching_prefix(name, trainable)]:
            frozen[name] = tensor
    return frozen


def check_is_finite(state: dict[str, torch.Tensor]) -> None:
    """A UserError for weights that nothing would load, before they replace an earlier result."""
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{name} is NaN or infinite in {tensor.dtype}; --save-dtype fp32 has more room, or "
                "start over with a lower --lr"
            )


@contextmanager
def export_errors(config: TrainConfig) -> Iterator[None]:
    """Turn an error of the block into a UserError that says how to export again."""
    try:
        yield
    except Exception as error:
        checkpoints = list_checkpoints(Path(config.out) / "checkpoints")
        remedy = "there is no checkpoint, so this trains again"
        if checkpoints:
            remedy = (
                f"the state of the training is in {checkpoints[0]}; once the cause is fixed, this "
                "exports it"
            )
        reason = str(error)
        # The message of another error, such as "0", says little without its type.
        if not reason or not isinstance(error, OSError | UserError):
            reason = f"{type(error).__name__}: {reason}"
        reason = reason.splitlines()[0]
        raise UserError(
            f"the result was not written ({reason}); {remedy}: {same_command()}"
        ) from error


def same_command() -> str:
    """The command of this training, to be pasted."""
    if not dist.is_torchelastic_launched():
        return command_line(sys.argv)
    ranks_here = int(os.environ["LOCAL_WORLD_SIZE"])  # torchrun sets it
    if ranks_here < dist.get_world_size():
        return "the same torchrun command on every node"
    program = shlex.join(sys.argv)
    if Path(sys.argv[0]).resolve().is_relative_to(PACKAGE):
        program = command_line(sys.argv).removeprefix("python ")  # -m nanollava...
    return f"torchrun --nproc_per_node {ranks_here} {program}"


def write_result(out: Path, write: Callable[[Path], None]) -> None:
    """Let rank 0 `write` the result into `out`, with the command that made it."""

    def on_rank_0() -> None:
        out.mkdir(parents=True, exist_ok=True)
        write(out)
        made_by(out, same_command())

    write_on_rank_0(on_rank_0)
