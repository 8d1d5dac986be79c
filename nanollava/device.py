"""Device and dtype, chosen by name."""

import time
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

from .errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def beside(module: str) -> ModuleType:
    """A module of the repository that lies beside the package; it is found from the repository's root alone."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.split(".")[0]):
            raise  # the module is here, and something that it needs is not
        raise UserError(f"{module} is not here; run this from the root of the repository") from None


def pick_device(name: str) -> torch.device:
    """ "auto" is the best there is; anything else must exist."""
    there = {
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        name = next(kind for kind, found in there.items() if found)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps") from None
    if (device.index or 0) >= there.get(device.type, 0):
        raise UserError(f"--device {name}: torch finds no {name} device here; try --device cpu")
    return torch.device("cpu") if device.type == "cpu" else device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is bf16 on CUDA, else fp32: the narrow models that a CPU trains lose more by bf16's casts than they win."""
    return DTYPES["bf16" if device.type == "cuda" else "fp32"] if name == "auto" else DTYPES[name]


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measured FLOP/s of one large matrix product on this device: MFU is the share of it."""
    a, seconds = (
        torch.ones(2 * (8192 if device.type == "cuda" else 1024,), device=device, dtype=dtype),
        [],
    )
    for _ in range(4):
        begin = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - begin)
    return 2 * len(a) ** 3 / min(seconds)
