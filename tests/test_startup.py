"""Signals while a program is still importing torch."""

import os
import signal
import subprocess
import sys

import pytest

from nanollava import startup

ROOT = startup.REPOSITORY
PROGRAMS = [
    "sample.py",
    "train_align.py",
    "train_instruct.py",
    "-m nanollava.train_qformer",
    "-m nanollava.convert",
    "-m nanollava.show",
    "-m nanollava.plot",
    "-m nanollava.toyland",
    "-m nanollava.synthesize",
    "-m nanollava.evals.llava_bench",
    "-m nanollava.evals.scienceqa",
    "-m nanollava.evals.tables",
]
# In place of torch: a module that gets a signal while it is imported.
SIGNAL_AT_IMPORT = """
import os, time
os.kill(os.getpid(), {number})
time.sleep(20)
"""

needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


def run_with_signal_at_import(tmp_path, program: str, number: int) -> subprocess.CompletedProcess:
    (tmp_path / "torch.py").write_text(SIGNAL_AT_IMPORT.format(number=int(number)))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, *program.split()]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


@needs_signals
@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_during_the_imports_is_no_traceback(tmp_path, program):
    done = run_with_signal_at_import(tmp_path, program, signal.SIGINT)
    assert (done.returncode, done.stdout + done.stderr) == (-signal.SIGINT, "")


@needs_signals
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_other_signals_during_the_imports_are_no_traceback(tmp_path, name):
    number = getattr(signal, name)
    done = run_with_signal_at_import(tmp_path, "train_align.py", number)
    assert (done.returncode, done.stdout + done.stderr) == (-number, "")


@needs_signals
def test_an_ignored_ctrl_c_stays_ignored(tmp_path):
    """A shell script starts background commands (with `&`) like this."""
    (tmp_path / "torch.py").write_text("import os; os.kill(os.getpid(), 2); os._exit(7)")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ignore = f"import signal, os; signal.signal(2, signal.SIG_IGN); os.execv({sys.executable!r}, "
    code = ignore + "['python', 'sample.py'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env)
    assert done.returncode == 7


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["-m"], True),
        ([str(ROOT / "sample.py"), "--image", "cat.jpg"], True),
        ([str(ROOT / "tests/test_startup.py")], False),
        (["-c"], False),
        (["-"], False),
        ([""], False),
        (["/usr/lib/ipykernel_launcher.py"], False),
        ([], False),
    ],
)
def test_what_counts_as_a_program(monkeypatch, tmp_path, argv, expected):
    monkeypatch.setattr(sys, "argv", argv)
    for folder in (tmp_path, ROOT):
        monkeypatch.chdir(folder)
        assert startup.is_program() == expected


def test_importing_the_package_in_another_program_leaves_its_ctrl_c_alone():
    code = "import signal, nanollava; print(signal.getsignal(signal.SIGINT).__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "default_int_handler\n"
