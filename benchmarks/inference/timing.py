"""Timing: sides take turns, and medians with their spread are reported."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What the command line says, for every row."""

    quick: bool  # small models and few rounds: only shows that a row runs
    threads: int
    rounds: int  # measured rounds per row
    tokens: int  # new tokens per answer
    size: float  # gigabytes of the checkpoint in the loading rows


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def best_seconds(call: Callable[[], object], calls: int = 5) -> float:
    """The fastest of some calls. For what a machine can do at most, never for a comparison."""
    return min(seconds_of(call) for _ in range(calls))


def take_turns(
    sides: dict[str, Callable[[], object]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of every call, by side.

    A machine's speed drifts, so every round calls each side once, and every second round goes
    through them in reverse. The `warmup` rounds before do not count.
    """
    seconds = {name: [] for name in sides}
    for r in range(warmup + rounds):
        names = list(sides)
        if r % 2 == 1:
            names.reverse()
        for name in names:
            elapsed = seconds_of(sides[name])
            if r >= warmup:
                seconds[name].append(elapsed)
    return seconds


def summarize(seconds: list[float]) -> dict[str, float]:
    """The median in seconds, and the spread: (largest - smallest) / median."""
    median = statistics.median(seconds)
    spread = (max(seconds) - min(seconds)) / median
    return {"seconds": median, "spread": spread}


def show_seconds(summary: dict[str, float]) -> str:
    """A summary as text, for example "1.52 s (0.03)"."""
    return f"{summary['seconds']:.2f} s ({summary['spread']:.2f})"


def show_milliseconds(summary: dict[str, float]) -> str:
    return f"{1000 * summary['seconds']:.1f} ms ({summary['spread']:.2f})"
