"""Errors that a user can fix, and the one place where a program prints them as a single line."""

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import active_children


class UserError(ValueError):
    """Input that cannot be used. Programs print its message as one line and exit with code 2."""


class ConfigError(UserError):
    """A file whose content cannot be used: a config.json, tokenizer or other JSON file."""


class Stopped(Exception):
    """A signal ended the training after a checkpoint. Arguments: signal number, message."""


# What helps against errors that torch raises, by a name in the first line of the error.
COMPILER_REMEDY = (
    "--compile needs a working C++ compiler, on a GPU Triton; leave it out, or install them"
)
MEMORY_REMEDY = (
    "in a training a smaller --micro-batch or --checkpoint-activations; "
    "for questions --dtype bf16, --int8, --int4 or --device cpu"
)
REMEDIES = {
    "InvalidCxxCompiler": COMPILER_REMEDY,
    "CppCompileError": COMPILER_REMEDY,
    "TritonMissing": COMPILER_REMEDY,
    "OutOfMemoryError": MEMORY_REMEDY,  # on CUDA
    "MPS backend out of memory": MEMORY_REMEDY,
    "DefaultCPUAllocator": MEMORY_REMEDY,
    "MemoryError": MEMORY_REMEDY,  # Python's and NumPy's
    "DataLoader worker": (
        "memory may have run out; fewer --workers need less; the same command resumes from the "
        "newest checkpoint"
    ),
}


def run(main: Callable[[], None]) -> None:
    """Call a program's `main`. An error that the user can fix becomes one line and exit code 2.

    Other errors keep their traceback: they are bugs.
    """
    sigint_was_quiet = signal.getsignal(signal.SIGINT) == signal.SIG_DFL  # see startup.py
    try:
        if sigint_was_quiet:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
    except Stopped as stopped:
        number, message = stopped.args
        print(f"\nstopped by {message}; the same command resumes from there", file=sys.stderr)
        sys.exit(128 + number)
    except BrokenPipeError:
        # The reader of our output has closed it, like `| head`. Python would complain again when
        # it flushes the output at exit, so the output goes nowhere from here on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, OSError) as error:  # OSError: a file that cannot be read or written
        exit_with(error_message(error))
    except (RuntimeError, MemoryError) as error:
        first_line = f"{type(error).__name__}: {error}".splitlines()[0]
        remedy = find_remedy(first_line)
        if remedy is None:
            raise
        exit_with(f"{first_line} (what helps: {remedy})")
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    finally:
        if sigint_was_quiet:  # again, for the end of the process
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        end_children()


def exit_with(message: str) -> None:
    """Print an error after all normal output, and exit with code 2."""
    sys.stdout.flush()
    print("error:", message, file=sys.stderr)
    sys.exit(2)


def error_message(error: Exception) -> str:
    """The message alone. An error of a data loader's process arrives with its traceback."""
    return str(error).rpartition("DataError: ")[2]


def find_remedy(first_line: str) -> str | None:
    """What helps against an error of torch, or None if nothing is known to."""
    for name, remedy in REMEDIES.items():
        if name in first_line:
            return remedy
    return None


def end_children() -> None:
    """End the processes of data loaders, which ignore other signals."""
    if hasattr(signal, "SIGCHLD"):  # not on Windows
        # torch's handler would report each of them as a crash.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in active_children():
        child.kill()
