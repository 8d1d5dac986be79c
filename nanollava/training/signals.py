"""SIGTERM, SIGINT and SIGHUP end a training in order: after the current step and a checkpoint."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

from ..errors import Stopped
from .distributed import sum_over_ranks

STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT]
if sys.platform != "win32":
    STOP_SIGNALS.append(signal.SIGHUP)  # the terminal was closed
LAUNCHER_CHECK_SECONDS = 1.0


class StopSignals:
    """Records stop signals instead of dying of them, as long as the `with` block runs."""

    def __init__(self):
        self.received = set()
        self.previous_handlers = {}

    def __enter__(self):
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup lets a program ignore SIGHUP
                self.previous_handlers[number] = signal.signal(number, self.record)
        return self

    def record(self, number: int, frame) -> None:
        self.received.add(number)

    def __exit__(self, *exception) -> None:
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def on_any_rank(self, device: torch.device) -> int | None:
        """A stop signal that some rank has received, or None. All ranks must call it."""
        received = [number in self.received for number in STOP_SIGNALS]
        ranks = sum_over_ranks(torch.tensor(received, dtype=torch.int32, device=device))
        for number, count in zip(STOP_SIGNALS, ranks.tolist(), strict=True):
            if count > 0:
                return number
        return None


def stopped(number: int, steps_done: int, steps: int, checkpoint: Path) -> Stopped:
    """The exception that ends a training after a signal and a checkpoint."""
    name = signal.Signals(number).name
    return Stopped(number, f"{name} after step {steps_done}/{steps}: {checkpoint} is written")


def end_with_launcher() -> None:
    """If the parent process is torchrun and is killed, stop this rank like a SIGTERM does.

    torchrun itself passes on every signal that it can catch. On Windows the parent of a process
    never changes.
    """
    if not dist.is_torchelastic_launched():
        return
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(LAUNCHER_CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def ignore_stop_signals(_worker: int) -> None:
    """For data workers: a Ctrl-C reaches the whole process group, but the training decides."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
