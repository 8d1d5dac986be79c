"""Errors that a user can fix, and the one place where a script prints them as a single line."""

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import active_children


class UserError(ValueError):
    """Input that cannot be used. Scripts print its message as one line and exit with code 2."""


class ConfigError(UserError):
    """A config.json that does not describe a model this package can build."""


class Stopped(Exception):
    """A signal ended the training after a checkpoint: (signal number, message)."""


# What to do about errors that torch raises, by a name in their first line.
_COMPILER = "--compile needs a working C++ compiler, on a GPU Triton; leave it out, or install them"
REMEDIES = {
    "InvalidCxxCompiler": _COMPILER,
    "CppCompileError": _COMPILER,
    "TritonMissing": _COMPILER,
    "OutOfMemoryError": "a smaller --micro-batch or --checkpoint-activations, --int8 or --device cpu",
}


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
        print(
            "error:", str(error).rpartition("DataError: ")[2], file=sys.stderr
        )  # no reader's traceback
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
