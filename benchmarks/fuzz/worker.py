"""Runs the cases of one target in child processes, so that no case can end the fuzzer."""

import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fuzz.case import Case, CodeExecuted, TimedOut, Wrong
from benchmarks.fuzz.world import World
from nanollava.errors import UserError
from nanollava.evals.answers import Rejected

SECONDS = 10  # CPU time of one case: a busy machine must not make it a hang
WAITING_SECONDS = 60  # for a case that waits instead of computing, for example for a FIFO
GRACE = 5  # seconds after which a case that heeds no signal is killed
MEMORY = 2**30  # bytes of one case, over its input's decoded size
ADDRESS_SPACE = 3 * 2**30  # bytes, over those of the process: allocating more is an error

ACCEPTED = "accepted"
REFUSED = "refused"
FAILURES = ("traceback", "hang", "memory", "wrong", "code", "crash")
KINDS = (ACCEPTED, REFUSED, *FAILURES)

NO_MEMORY = re.compile("can't allocate|not enough memory|Cannot allocate|out of memory|bad_alloc")
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Outcome:
    number: int  # of the case
    kind: str  # one of KINDS
    message: str = ""
    place: str = ""  # file, line and function of ours that was the last in the traceback
    note: str = ""
    seconds: float = 0.0

    def signature(self) -> str:
        """What outcomes with one cause have in common."""
        message = re.sub(r"/[^\s'\":,]+|\d+(\.\d+)?(e[+-]?\d+)?", "N", self.message)
        return f"{self.kind} | {self.place} | {message.splitlines()[0][:100] if message else ''}"


@dataclass
class Result:
    """What came of all cases of a target."""

    counts: Counter = field(default_factory=Counter)  # by kind
    first: dict[str, Outcome] = field(default_factory=dict)  # failure by signature
    repeats: Counter = field(default_factory=Counter)  # by signature
    slowest: float = 0.0  # seconds

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.kind] += 1
        self.slowest = max(self.slowest, outcome.seconds)
        if outcome.kind in FAILURES:
            signature = outcome.signature()
            self.first.setdefault(signature, outcome)
            self.repeats[signature] += 1


# ---- In the parent ----


def run_target(
    name: str, target: Callable[[Case], None], numbers: range, seed: int, world: Path, scratch: Path
) -> Result:
    """Run the cases with these numbers. A case depends on seed, name and its number alone."""
    result = Result()
    next_number = numbers.start
    while next_number < numbers.stop:
        first_number = next_number
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            work(name, target, range(next_number, numbers.stop), seed, world, scratch, writer)
        os.close(writer)
        for outcome in outcomes(child, reader):
            result.add(outcome)
            next_number = outcome.number + 1
        os.close(reader)
        os.waitpid(child, 0)
        if next_number == first_number:
            raise RuntimeError(f"{name}: the child ended before its first case")
    return result


def outcomes(child: int, reader: int) -> Iterator[Outcome]:
    """What a child reports, until it has ended. One that does not come back is killed."""
    running = None
    buffer = b""
    while True:
        ready, _, _ = select.select([reader], [], [], WAITING_SECONDS + GRACE)
        if not ready:
            os.kill(child, signal.SIGKILL)
            yield Outcome(running, "hang", "does not return", seconds=WAITING_SECONDS + GRACE)
            return
        block = os.read(reader, 65536)
        if not block:
            break
        *lines, buffer = (buffer + block).split(b"\n")
        for line in lines:
            report = json.loads(line)
            if isinstance(report, int):
                running = report
            else:
                running = None
                yield Outcome(**report)
    if running is not None:
        yield Outcome(running, "crash", "the process ended")


# ---- In the child ----


def work(name, target, numbers: range, seed: int, world: Path, scratch: Path, writer: int) -> None:
    """Run cases and report each with a line of JSON. Never returns."""
    exit_code = 1
    try:
        silence()
        signal.signal(signal.SIGPROF, on_alarm)
        signal.signal(signal.SIGALRM, on_alarm)
        limit = status_bytes("VmSize") + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        shared = World(world)
        for number in numbers:
            report(writer, number)
            folder = scratch / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            case = Case(random.Random(f"{seed}/{name}/{number}"), shared, folder)
            outcome = run_case(target, case, number)
            if outcome.kind in FAILURES:
                (scratch / f"{name}-{number}.input").write_bytes(case.content)
            report(writer, vars(outcome))
        exit_code = 0
    finally:
        os._exit(exit_code)


def silence() -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    sys.stdout = open(os.devnull, "w")
    sys.stderr = sys.stdout


def report(writer: int, value) -> None:
    os.write(writer, json.dumps(value).encode() + b"\n")


def set_timers(cpu_seconds: float, seconds: float) -> None:
    """When a case is stopped; 0 is never."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def on_alarm(signal_number, frame) -> None:
    raise TimedOut


def run_case(target: Callable[[Case], None], case: Case, number: int) -> Outcome:
    """Run one case with its limits of time and memory."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is in use now
    memory_before = status_bytes("VmRSS")
    start = time.process_time()
    outcome = Outcome(number, ACCEPTED)
    set_timers(SECONDS, WAITING_SECONDS)
    try:
        target(case)
    except BaseException as error:
        set_timers(0, 0)
        message = f"{type(error).__name__}: {error}"[:400].encode(errors="replace").decode()
        outcome = Outcome(number, kind_of(error), message, place_of(error))
    set_timers(0, 0)
    outcome.note = case.note
    outcome.seconds = time.process_time() - start
    used = status_bytes("VmHWM") - memory_before
    if used > MEMORY + case.decoded_bytes:
        outcome.kind = "memory"
        outcome.message = f"{used / 2**30:.1f} GB; {outcome.message}"
    return outcome


def kind_of(error: BaseException) -> str:
    """The kind of outcome that an exception is."""
    if isinstance(error, TimedOut):
        return "hang"
    if isinstance(error, Wrong):
        return "wrong"
    if isinstance(error, CodeExecuted):
        return "code"
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, RuntimeError | OSError) and NO_MEMORY.search(str(error)):
        return "memory"
    is_one_line = isinstance(error, UserError | OSError | Rejected)
    if is_one_line and "Traceback (most recent call last)" not in str(error):
        return REFUSED
    return "traceback"


def place_of(error: BaseException) -> str:
    """The last place in the package that a traceback names, or else its last place."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(f"{ROOT}/nanollava/")]
    frame = ours[-1] if ours else frames[-1]
    file = os.path.relpath(frame.filename, ROOT)
    return f"{file}:{frame.lineno} {frame.name}"


def status_bytes(key: str) -> int:
    """A number of bytes from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(key)
