"""Strict loading: every tensor of a checkpoint is matched or dropped by name, every parameter is found."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import nn

from ..int8 import quantise
from .files import shards, tensors
from .names import LLAVA, PROJECTOR, Layout, WeightsError


@contextmanager
def uninitialized():
    """Builds modules on the meta device and skips their initialisers: the values come from a file."""
    saved = {
        kind: kind.reset_parameters for kind in (nn.Linear, nn.Embedding, nn.Conv2d, nn.LayerNorm)
    }
    try:
        for kind in saved:
            kind.reset_parameters = lambda module: None
        with torch.device("meta"):
            yield
    finally:
        for kind, method in saved.items():
            kind.reset_parameters = method


def load(
    module: nn.Module, path, layout: Layout, device="cpu", dtype: torch.dtype | None = None
) -> None:
    """Fills a module built by `uninitialized` from a checkpoint, each tensor read once, straight to its device and dtype;
    nothing is changed if anything does not fit."""
    wanted = dict(module.named_parameters(remove_duplicate=False))
    found: dict[str, torch.Tensor | Future] = {}
    threads = ThreadPoolExecutor(4)
    for shard in shards(path):
        for name, shape, read in tensors(shard, device):
            if (ours := layout.to_ours(name)) is None:
                continue
            if (
                ours not in wanted
                and "linear_2" in ours.split(".")
                and layout in (LLAVA, PROJECTOR)
            ):
                tensor = read().cpu().float()  # behind a linear W, written in the llava-hf layout
                identity = torch.eye(len(tensor)) if tensor.ndim == 2 else torch.zeros_like(tensor)
                if not torch.equal(tensor, identity):
                    raise WeightsError(
                        f"{shard}: {name!r} is not the identity behind the config's linear W"
                    )
                continue
            if ours not in wanted:
                raise WeightsError(f"{shard}: tensor {name!r} {shape} is not part of this model")
            if ours in found:
                raise WeightsError(f"{shard}: tensor {name!r} comes twice")
            if shape != (expected := tuple(wanted[ours].shape)):
                raise WeightsError(
                    f"{shard}: tensor {name!r} has shape {shape}, the config says {expected}"
                )
            tensor = read()
            if not tensor.is_floating_point():
                raise WeightsError(
                    f"{shard}: tensor {name!r} is {tensor.dtype}; expected fp32, fp16 or bf16"
                )
            if wanted[ours].dtype == torch.int8:
                found[ours], scale = quantise(tensor.to(device))
                found[ours.removesuffix("weight") + "scale"] = scale.to(dtype or tensor.dtype)
            else:
                convert = dtype not in (None, tensor.dtype)
                found[ours] = (
                    threads.submit(tensor.to, device, dtype) if convert else tensor.to(device)
                )
    found = {name: t.result() if isinstance(t, Future) else t for name, t in found.items()}
    first = {
        id(parameter): name for name, parameter in module.named_parameters()
    }  # of tied ones the first
    found |= {name: found[first[id(p)]] for name, p in wanted.items() if first[id(p)] in found}
    missing = [layout.to_file(name) for name in wanted if name not in found]
    if missing:
        share = f"{len(missing)} of {len(wanted)} tensors are missing, the first {missing[0]!r}"
        raise WeightsError(f"{path}: {share}; expected the {layout.name} layout")
    module.load_state_dict(found, strict=False, assign=True)
    if torch.device(device).type != "cpu":
        module.to(device)  # the rotary table
