"""What every script needs before a model is there: device, dtype, and errors as one line. Imports nothing heavy."""

import os
import sys
from collections.abc import Callable

import torch

from .config import UserError


class Stopped(Exception):
    """A signal ended the training, after a checkpoint; holds the signal's number and what to tell."""


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def run(main: Callable[[], None]) -> None:
    """Calls a script's main; what the user can mend is printed as one line, with exit code 2."""
    try:
        main()
    except UserError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        number, told = stopped.args
        print(f"\nstopped by {told}; the same command goes on from there", file=sys.stderr)
        sys.exit(128 + number)
    except BrokenPipeError:  # whoever read our output has enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)


def pick_device(name: str) -> torch.device:
    """ "auto" is the best there is; anything else must exist."""
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch finds no CUDA device here; try --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name}: torch finds no MPS device here; try --device cpu")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is bf16 where the device multiplies it natively (CUDA, CPUs with AVX512-BF16), else fp32."""
    if name != "auto":
        return DTYPES[name]
    native = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32
