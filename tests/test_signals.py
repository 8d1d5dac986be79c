"""Stop signals during a training."""

import os
import signal

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
