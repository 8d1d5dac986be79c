"""Stop signals during a training."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from nanollava.training import distributed
from nanollava.training.signals import STOP_SIGNALS, StopSignals, stopped

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def process_group():
    distributed.start("cpu")
    yield
    distributed.finish()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_recorded(number):
    with StopSignals() as signals:
        os.kill(os.getpid(), number)
        assert signals.on_any_rank(CPU) == number


def test_a_closed_terminal_is_a_stop_signal():
    assert signal.SIGHUP in STOP_SIGNALS


def test_a_program_under_nohup_ignores_a_closed_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.on_any_rank(CPU) is None
    finally:
        signal.signal(signal.SIGHUP, before)


LAUNCHER = """
import subprocess, sys, time
rank = "from nanollava.training import signals; signals.end_with_launcher(); print(1, flush=True);"
subprocess.Popen([sys.executable, "-c", rank + "import time; time.sleep(600)"])
time.sleep(600)
"""


def test_a_rank_ends_when_its_launcher_is_killed():
    """Its standard output is closed when it ends."""
    env = {**os.environ, "TORCHELASTIC_RUN_ID": "1"}  # as torchrun sets it
    command = [sys.executable, "-c", LAUNCHER]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
    assert launcher.stdout.readline() == b"1\n"
    launcher.kill()
    launcher.wait()
    assert launcher.stdout.read() == b"", "waits for the rank"


def test_without_a_signal_there_is_none():
    with StopSignals() as signals:
        assert signals.on_any_rank(CPU) is None


@pytest.mark.parametrize("error", [None, ValueError])
def test_the_handlers_are_restored_even_after_an_error(error):
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    try:
        with StopSignals():
            assert signal.getsignal(signal.SIGTERM) not in before
            if error:
                raise error
    except ValueError:
        pass
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_the_exception_names_signal_step_and_checkpoint():
    number, message = stopped(signal.SIGTERM, 3, 10, "out/step-3").args
    assert number == 15
    assert message == "SIGTERM after step 3/10: out/step-3 is written"
