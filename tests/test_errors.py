"""How a program ends: one line and an exit code for what the user can fix, a traceback for bugs."""

import multiprocessing
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch._inductor.exc import InductorError, InvalidCxxCompiler, TritonMissing

from nanollava.errors import Stopped, UserError, run

FAILING_PROGRAM = """
from nanollava.errors import UserError, run

def main():
    print("output")
    raise UserError("message")

run(main)
"""


def end_of(error: BaseException, capsys) -> tuple[int, str]:
    """The exit code, and what is printed to stderr, of a program that raises this error."""

    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(fail)
    return ended.value.code, capsys.readouterr().err


def test_a_user_error_is_one_line(capsys):
    assert end_of(UserError("a.json: no such file"), capsys) == (
        2,
        "error: a.json: no such file\n",
    )


def test_a_file_that_cannot_be_read_is_one_line(capsys):
    code, message = end_of(PermissionError(13, "Permission denied", "a.json"), capsys)
    assert code == 2
    assert message == "error: [Errno 13] Permission denied: 'a.json'\n"


def test_the_traceback_of_a_data_loaders_process_is_left_out(capsys):
    """torch puts the traceback of the process before the message."""
    error = UserError("Caught DataError in worker 0.\nTraceback ...\nDataError: record 7 is bad")
    assert end_of(error, capsys) == (2, "error: record 7 is bad\n")


def test_normal_output_comes_before_the_error():
    done = subprocess.run(
        [sys.executable, "-c", FAILING_PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.stdout == "output\nerror: message\n"


def test_a_stopped_training_says_how_to_resume(capsys):
    code, message = end_of(Stopped(signal.SIGTERM, "SIGTERM at step 3"), capsys)
    assert code == 128 + signal.SIGTERM
    assert message == "\nstopped by SIGTERM at step 3; the same command resumes from there\n"


def test_ctrl_c_is_no_traceback(capsys):
    assert end_of(KeyboardInterrupt(), capsys) == (130, "\nstopped\n")


@pytest.mark.parametrize(
    "error, message",
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore"),
            "2 GiB (what helps: in a training a smaller --micro",
        ),
        (
            InductorError(torch.OutOfMemoryError("Tried 2 GiB"), None),
            "2 GiB (what helps: in a training a smaller --micro",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "(what helps: in a training a smaller --micro",
        ),
        (
            MemoryError("Unable to allocate 28 GiB"),
            "(what helps: in a training a smaller --micro",
        ),
        (
            InductorError(InvalidCxxCompiler("nowhere/g++"), None),
            "what helps: --compile needs a working C++",
        ),
        (
            TritonMissing(None),
            "what helps: --compile needs a working C++ compiler, on a GPU Triton",
        ),
    ],
    ids=[
        "memory",
        "memory while compiling",
        "memory of a CPU",
        "memory of Python",
        "no compiler",
        "no Triton",
    ],
)
def test_an_error_of_torch_says_what_helps(error, message, capsys):
    code, printed = end_of(error, capsys)
    assert code == 2
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), KeyError("x")])
def test_a_bug_keeps_its_traceback(error):
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        run(fail)


def test_a_closed_pipe_is_no_traceback():
    program = "from nanollava.errors import run; run(lambda: [print(i) for i in range(10**6)])"
    done = subprocess.run(
        f'{shlex.quote(sys.executable)} -c "{program}" | head -n 1',
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "0\n"
    assert done.stderr == ""


def test_child_processes_end_with_the_program():
    def main() -> None:
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
        child.start()
        children.append(child)

    children = []
    run(main)
    children[0].join(timeout=10)
    assert not children[0].is_alive()


def test_a_system_without_sigchld_is_no_error(monkeypatch):
    """Windows."""
    monkeypatch.delattr(signal, "SIGCHLD")
    run(lambda: None)
