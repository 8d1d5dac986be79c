"""The state of a training as safetensors files, one per rank. Reading them cannot run code.

A rank's file holds its rows of every tensor. The rows of rank-00000, rank-00001, ... one below the
other are the whole tensor. So any number of ranks can read what any other number has written.
"""

import math
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import nn
from torch.distributed.tensor import DTensor

from ..errors import UserError
from ..hf.files import write_safetensors
from .distributed import reshard


class CheckpointError(UserError):
    """A checkpoint cannot be written, cannot be read, or belongs to another run."""


def training_state(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """All tensors that determine the next step: trained weights and AdamW's state.

    Frozen weights come from the model's own files; a checkpoint does not repeat them.
    """
    reshard(model)
    state = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        state[f"model.{name}"] = parameter
        for key, tensor in adamw_state(optimizer, parameter).items():
            state[f"optimizer.{name}.{key}"] = tensor
    return state


def adamw_state(optimizer: torch.optim.AdamW, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    """The number of steps and both moments; zeros, as AdamW itself makes them, before step 1."""
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
        state["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
    return state


def write_state(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Write this rank's rows. What is not sharded is the same on all ranks: rank 0 writes it."""
    rank = dist.get_rank()
    rows = {}
    for name, tensor in state.items():
        if isinstance(tensor, DTensor) or rank == 0:
            rows[name] = local_rows(tensor).cpu().contiguous()
    file = folder / f"rank-{rank:05d}.safetensors"
    write_safetensors(rows, file)


def read_state(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Fill the tensors of `state` with a checkpoint's. Each rank reads its rows alone."""
    with ExitStack() as stack:
        files = []
        for path in sorted(folder.glob("rank-*.safetensors")):
            files.append(stack.enter_context(safe_open(path, framework="pt")))
        if not files:
            raise CheckpointError(f"{folder}: no rank-*.safetensors in it")
        for name, tensor in state.items():
            if isinstance(tensor, DTensor):
                stored = read_rows(files, name, *row_range(tensor), tensor.shape)
            else:
                stored = files[0].get_tensor(name)
            target = local_rows(tensor)
            if stored.shape != target.shape or stored.dtype != target.dtype:
                found = f"{tuple(stored.shape)} {stored.dtype}"
                expected = f"{tuple(target.shape)} {target.dtype}"
                raise CheckpointError(f"{folder}: {name} is {found}; expected {expected}")
            target.copy_(stored)


def read_rows(files: list, name: str, first: int, end: int, shape: torch.Size) -> torch.Tensor:
    """Rows `first` to `end` of a whole tensor, whose rows are distributed over `files` in order."""
    parts = []
    start = 0  # of the current file's rows in the whole tensor
    for file in files:
        stored = file.get_slice(name)
        stored_shape = stored.get_shape()
        if len(stored_shape) == 0 or stored_shape[1:] != list(shape[1:]):
            raise CheckpointError(f"{name}: shape {stored_shape}; expected rows of {list(shape)}")
        num_rows = stored_shape[0]
        from_row = min(max(first - start, 0), num_rows)
        to_row = min(max(end - start, 0), num_rows)
        parts.append(stored[from_row:to_row])
        start += num_rows
    if start != shape[0]:
        raise CheckpointError(f"{name}: {start} rows; expected {shape[0]}")
    return torch.cat(parts)


def local_rows(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's rows of a sharded tensor, all of any other one. They share its memory."""
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    return tensor


def row_range(tensor: DTensor) -> tuple[int, int]:
    """First and end of this rank's rows: FSDP2 cuts a tensor like torch.chunk."""
    rows_per_rank = math.ceil(tensor.shape[0] / dist.get_world_size())
    first = min(dist.get_rank() * rows_per_rank, tensor.shape[0])
    return first, first + len(tensor.to_local())
