"""Feeds damaged files to every reader of the project, and counts what goes wrong.

python -m benchmarks.fuzz --cases 50000 --seed 1
python -m benchmarks.fuzz --only config records --cases 2000
python -m benchmarks.fuzz --only config --first 17 --cases 1     # one case again

A file may be accepted, or refused with a UserError or an OSError, which programs print as one
line. Anything else is a failure:

    traceback  any other exception
    hang       more than 10 seconds of CPU time, or a minute of waiting
    memory     more than 1 GB above what the decoded input takes
    wrong      accepted, but the result is not what the file says
    code       code inside the file was executed
    crash      the process died

The exit code is 1 if there was any. Needs Linux. The cases depend only on seed, target and number.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the children are forked, without OpenMP's threads

from benchmarks.fuzz import (
    archives,
    configs,
    conversations,
    endpoint,
    evals,
    flags,
    images,
    records,
    tokenizers,
    training,
    weights,
    world,
)
from benchmarks.fuzz.worker import FAILURES, KINDS, Result, run_target

TARGETS = {
    **configs.TARGETS,
    **weights.TARGETS,
    **tokenizers.TARGETS,
    **records.TARGETS,
    **conversations.TARGETS,
    **images.TARGETS,
    **archives.TARGETS,
    **training.TARGETS,
    **evals.TARGETS,
    **endpoint.TARGETS,
    **flags.TARGETS,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--cases", type=int, default=10_000, help="divided among the targets (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    targets = list(TARGETS)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=targets,
        default=targets,
        metavar="TARGET",
        help=", ".join(targets),
    )
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first case of each target (default: 0)"
    )
    parser.add_argument(
        "--keep", type=Path, help="directory in which the inputs of failures are kept"
    )
    return parser.parse_args()


def make_world(path: Path) -> None:
    """Make the world in a child: this process must not start threads before it forks."""
    child = os.fork()
    if child == 0:
        exit_code = 1
        try:
            world.make(path)
            training.make(path)
            exit_code = 0
        except Exception:
            traceback.print_exc()  # os._exit would lose it
        finally:
            os._exit(exit_code)
    _, status = os.waitpid(child, 0)
    if status != 0:
        sys.exit("error: the files to damage could not be made")


def keep_failures(name: str, scratch: Path, folder: Path) -> None:
    """Copies the inputs on which a target failed. Nothing else in the folder is touched."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in scratch.glob(f"{name}-*.input"):
        shutil.copy(path, folder)


def print_row(name: str, counts: Counter, seconds: float) -> None:
    cells = "".join(f"{counts[kind]:>10}" for kind in KINDS)
    print(f"{name:18}{counts.total():>8}{cells}{seconds:>10.1f}", flush=True)


def print_failures(name: str, result: Result, seed: int) -> None:
    """Each kind of failure of a target with its first case."""
    for signature, count in result.repeats.most_common():
        outcome = result.first[signature]
        again = f"--only {name} --first {outcome.number} --cases 1 --seed {seed}"
        print(f"\n{name}: {count} x {signature}\n    {again}   {outcome.note}")


def main() -> None:
    args = parse_arguments()
    cases = -(-args.cases // len(args.only))  # of each target, rounded up
    numbers = range(args.first, args.first + cases)
    start = time.perf_counter()
    results: dict[str, Result] = {}
    sums = Counter()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "cases"
        world_path = Path(folder) / "world"
        make_world(world_path)
        header = "".join(f"{kind:>10}" for kind in KINDS)
        print(f"{'target':18}{'cases':>8}{header}{'slowest s':>10}", flush=True)
        for name in args.only:
            result = run_target(name, TARGETS[name], numbers, args.seed, world_path, scratch)
            results[name] = result
            sums.update(result.counts)
            print_row(name, result.counts, result.slowest)
            if args.keep is not None:
                keep_failures(name, scratch, args.keep)
    for name, result in results.items():
        print_failures(name, result, args.seed)
    failures = {kind: sums[kind] for kind in FAILURES}
    words = ", ".join(f"{count} {kind}" for kind, count in failures.items())
    seconds = time.perf_counter() - start
    print(f"\nfuzz: {sums.total()} cases, seed {args.seed}: {words}; {seconds:.0f} s")
    if any(failures.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
