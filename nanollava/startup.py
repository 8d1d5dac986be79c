"""Ctrl-C while a program is still importing torch ends it without a traceback."""

import signal
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def is_program() -> bool:
    """Is Python running a program of this project, and not only importing the package?"""
    if sys.argv[:1] == ["-m"]:  # until Python has found the module of python -m nanollava...
        return True
    if sys.argv[:1] in ([], ["-c"], ["-"]):
        return False
    program = Path(sys.argv[0]).resolve()
    return program.parent == REPOSITORY and program.suffix == ".py"


def end_quietly() -> None:
    """Let SIGINT end this process at once, until `errors.run` turns it into KeyboardInterrupt.

    A signal that is ignored, as nohup and `&` in scripts have it, stays ignored.
    """
    if is_program() and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
