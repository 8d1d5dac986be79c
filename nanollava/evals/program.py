"""Runs the project's own programs as processes, from any directory."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event
from typing import TypeVar

from ..errors import UserError, exit_with
from ..files import REPOSITORY

Job = TypeVar("Job")
Result = TypeVar("Result")

# Ctrl-C reaches the main thread alone. `in_parallel` sets this, and the others start no program.
STOPPED = Event()


def run_program(*command, **environment: str) -> str:
    """Runs `python COMMAND` and returns what it prints.

    `environment` adds variables to those of this process. If the program fails, its last line is
    a UserError.
    """
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    python_path = os.pathsep.join(path for path in paths if path)
    env = {**os.environ, "PYTHONPATH": python_path, **environment}
    words = [str(word) for word in command]
    if STOPPED.is_set():
        raise UserError(f"{' '.join(words)}: not started, because the run was stopped")
    finished = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env)
    if finished.returncode != 0:
        lines = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
        raise UserError(f"{' '.join(words)}: {lines[-1]}")
    return finished.stdout


def run_on_one_thread(*command) -> str:
    """`run_program` for several programs at once: each computes on one thread."""
    return run_program(*command, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")


def in_parallel(
    function: Callable[[Job], Result], parallel: int, jobs: dict[str, Job]
) -> Iterator[tuple[str, Result]]:
    """Yield (name, function(job)) as they finish, `parallel` jobs at once.

    Each job has a thread. A job should mostly wait for programs, because all threads share one
    Python interpreter. After the first error no further job is started. Running jobs finish and are
    yielded, then the error is raised. If the caller stops (Ctrl-C), the running jobs start no
    further program.
    """
    first_error = None
    with ThreadPoolExecutor(parallel) as pool:
        futures = {pool.submit(function, job): name for name, job in jobs.items()}
        try:
            for future in as_completed(futures):
                if future.cancelled():
                    continue
                if future.exception() is None:
                    yield futures[future], future.result()
                elif first_error is None:
                    first_error = future.exception()
                    for other in futures:
                        other.cancel()
        except BaseException:
            STOPPED.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            STOPPED.clear()
    if first_error is not None:
        raise first_error


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.evals.connectors --help")
