"""Device and dtype, chosen by name."""

import time
from functools import cache

import torch

from .errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA, else MPS, else the CPU. Others must exist."""
    counts = {
        "cuda": torch.cuda.device_count(),
        "mps": 1 if torch.backends.mps.is_available() else 0,
        "cpu": 1,
    }
    if name == "auto":
        available = [device_type for device_type, count in counts.items() if count > 0]
        name = available[0]
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps") from None
    index = device.index or 0
    if index >= counts.get(device.type, 0):
        raise UserError(f"--device {name}: torch finds no {name} device here; try --device cpu")
    if device.type == "cpu":
        return torch.device("cpu")  # cpu:0 is the same
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of this name for training; "auto" is bf16 on CUDA and fp32 elsewhere.

    The narrow models that a CPU trains lose more time by casts to bf16 than they gain.
    """
    if name == "auto":
        name = "bf16" if device.type == "cuda" else "fp32"
    return DTYPES[name]


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measured FLOP/s of a large matrix product. MFU compares training with this rate."""
    width = 8192 if device.type == "cuda" else 1024
    a = torch.ones(width, width, device=device, dtype=dtype)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    flops = 2 * width**3  # width multiplications and additions for each of width² entries
    return flops / min(seconds)
