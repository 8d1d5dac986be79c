"""What every script needs before a model is there: device, dtype, and errors as one line. Imports nothing heavy."""

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from multiprocessing import active_children
from types import ModuleType

import torch

from .config import UserError


class Stopped(Exception):
    """A signal ended the training, after a checkpoint; holds the signal's number and what to tell."""


# What helps against errors of torch's, by a name in their first line.
_compiler = "--compile needs a working C++ compiler, on a GPU Triton; leave it out, or install them"
REMEDIES = dict.fromkeys(("InvalidCxxCompiler", "CppCompileError", "TritonMissing"), _compiler)
REMEDIES["OutOfMemoryError"] = "a smaller --micro-batch or --checkpoint-activations, --int8 or --device cpu"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def run(main: Callable[[], None]) -> None:
    """Calls a script's main; what the user can mend is printed as one line, with exit code 2."""
    try:
        main()
    except Stopped as stopped:
        number, told = stopped.args
        print(f"\nstopped by {told}; the same command goes on from there", file=sys.stderr)
        sys.exit(128 + number)
    except BrokenPipeError:  # whoever read our output has enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, OSError) as error:  # the second where a file cannot be read or written
        sys.stdout.flush()
        print("error:", str(error).rpartition("DataError: ")[2], file=sys.stderr)  # no reader's traceback
        sys.exit(2)
    except RuntimeError as error:
        first = f"{type(error).__name__}: {error}".splitlines()[0]
        helps = [remedy for name, remedy in REMEDIES.items() if name in first]
        if not helps:
            raise
        print(f"error: {first} (what helps: {helps[0]})", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for child in active_children():  # readers of data, which heed no other signal
            child.kill()


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
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
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
    a, seconds = torch.ones(2 * (8192 if device.type == "cuda" else 1024,), device=device, dtype=dtype), []
    for _ in range(4):
        begin = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - begin)
    return 2 * len(a) ** 3 / min(seconds)
