"""Kill a training at random moments, let it resume, and compare the result with an undisturbed run,
bit by bit. About every fourth kill hits the export after the last step.

python -m benchmarks.faults                        # 40 kill -9 in each stage, one process
python -m benchmarks.faults --kills 5 --ranks 2    # torchrun
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks import small_world

STARTING = "starting"
TRAINING = "training"
SAVING = "writing a checkpoint"
EXPORTING = "exporting"
EXPORT_SHARE = 0.25  # of the kills
EXPORT_SECONDS = 0.15  # from the last checkpoint to the end of the export, at least


class Job:
    """One process (or torchrun with its workers) that trains into `out`, to be killed."""

    def __init__(self, command: list[str], out: Path, steps: int):
        self.out = out
        self.last_checkpoint = out / f"checkpoints/step-{steps:08d}"
        self.metrics = out / "metrics.jsonl"
        self.previous_inode = inode(self.metrics)
        self.started_at = time.time()
        self.process = subprocess.Popen(
            command,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def is_running(self) -> bool:
        return self.process.poll() is None

    def has_started_training(self) -> bool:
        """A run replaces metrics.jsonl when it starts or resumes."""
        return inode(self.metrics) != self.previous_inode

    def is_saving(self) -> bool:
        """Whether it is writing a checkpoint, or was when it was killed."""
        with suppress(FileNotFoundError):  # a checkpoint may get its final name meanwhile
            for path in (self.out / "checkpoints").glob("*.partial"):
                if path.stat().st_mtime >= self.started_at:
                    return True
        return False

    def phase(self) -> str:
        if not self.has_started_training():
            return STARTING
        if self.last_checkpoint.is_dir():
            return EXPORTING
        if self.is_saving():
            return SAVING
        return TRAINING

    def steps(self) -> int:
        """Lines of metrics.jsonl."""
        if not self.metrics.is_file():
            return 0
        return self.metrics.read_text().count("\n")

    def wait_for_the_export(self, rng: random.Random) -> None:
        """Wait until some moment after the last checkpoint."""
        while self.is_running():
            if self.has_started_training() and self.last_checkpoint.is_dir():
                break
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, EXPORT_SECONDS))

    def wait_for_a_random_moment(self, rng: random.Random, max_steps: int, step_seconds: float):
        """Wait until some moment while it starts, loads, trains, saves or exports."""
        if rng.random() < EXPORT_SHARE:
            self.wait_for_the_export(rng)
            return
        steps = rng.randint(-1, max_steps)
        if steps < 0:
            time.sleep(rng.uniform(0, 5))
            return
        while self.is_running() and not self.has_started_training():
            time.sleep(0.002)
        target = self.steps() + steps
        while self.is_running() and self.steps() < target:
            time.sleep(0.002)
        if rng.random() < 0.7:
            time.sleep(rng.uniform(0, 3 * step_seconds))
            return
        while self.is_running() and not self.is_saving():
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.03))

    def kill(self) -> bool:
        """kill -9 of the process and its children: torchrun's workers have sessions of their own.

        Returns False if it had already finished.
        """
        if self.is_running():
            children = subprocess.run(
                ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True
            )
            for pid in [self.process.pid, *map(int, children.stdout.split())]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        errors = self.process.communicate()[1].decode()
        if self.process.returncode == -signal.SIGKILL:
            return True
        assert self.process.returncode == 0, errors
        return False


def inode(path: Path) -> int:
    return path.stat().st_ino if path.is_file() else 0


def same_weights(one: Path, other: Path) -> bool:
    weights = load_file(one)
    other_weights = load_file(other)
    if weights.keys() != other_weights.keys():
        return False
    return all(torch.equal(weights[name], other_weights[name]) for name in weights)


def same_losses(expected: Path, actual: Path) -> bool:
    """Whether both have the same steps, each once, with the same losses."""
    return steps_and_losses(expected) == steps_and_losses(actual)


def steps_and_losses(out: Path) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in small_world.read_metrics(out)]


def check_stage(path: Path, stage: str, args: argparse.Namespace, rng: random.Random) -> bool:
    """Kill one stage `args.kills` times and let it finish. Returns whether all results are equal.

    A run that was killed during its export is finished at once and begins again from nothing.
    """
    expected = small_world.reference(path, stage)
    start = time.perf_counter()
    small_world.run(small_world.command(path, stage, expected, args.ranks, args.steps))
    undisturbed_seconds = time.perf_counter() - start
    step_seconds = small_world.read_metrics(expected)[-1]["seconds"] / args.steps

    out = path / f"killed-{stage}"
    command = small_world.command(path, stage, out, args.ranks, args.steps)
    phases = {STARTING: 0, TRAINING: 0, SAVING: 0, EXPORTING: 0}
    steps_per_kill = 2 + args.steps // args.kills
    finished = 0  # runs that were faster than the kill
    different = 0  # results
    while sum(phases.values()) < args.kills:
        job = Job(command, out, args.steps)
        job.wait_for_a_random_moment(rng, steps_per_kill, step_seconds)
        if job.kill():
            phase = job.phase()
            phases[phase] += 1
            if phase != EXPORTING:
                continue
            small_world.run(command)
        else:
            finished += 1
        different += not same_result(expected, out, stage)
        shutil.rmtree(out)
    small_world.run(command)
    different += not same_result(expected, out, stage)
    print(
        f"{stage}: {args.kills} kills {phases}; {finished} runs finished before; results that "
        f"differ in a bit: {different}; the undisturbed run took {undisturbed_seconds:.1f} s",
        flush=True,
    )
    return different == 0


def same_result(expected: Path, out: Path, stage: str) -> bool:
    """Whether weights, steps and losses of two runs are equal."""
    file = small_world.RESULTS[stage]
    return same_weights(expected / file, out / file) and same_losses(expected, out)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--kills", type=int, default=40, help="kills per stage (default: 40)")
    parser.add_argument("--ranks", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--steps", type=int, default=40, help="training steps (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        small_world.make(path)
        for stage in small_world.RESULTS:
            if not check_stage(path, stage, args, rng):
                sys.exit(1)


if __name__ == "__main__":
    main()
