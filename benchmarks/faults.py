"""Kill a training at random moments, let it resume, and compare the result with an undisturbed run,
bit by bit.

python -m benchmarks.faults                        # 20 kill -9 in each stage, one process
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


class Job:
    """One process (or torchrun with its workers) that trains into `out`, to be killed."""

    def __init__(self, command: list[str], out: Path):
        self.out = out
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
        if self.is_saving():
            return SAVING
        return TRAINING

    def steps(self) -> int:
        """Lines of metrics.jsonl."""
        if not self.metrics.is_file():
            return 0
        return self.metrics.read_text().count("\n")

    def wait_for_a_random_moment(self, rng: random.Random, max_steps: int, step_seconds: float):
        """Wait until some moment while it starts, loads, trains or saves."""
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
    """Kill one stage `args.kills` times and let it finish. Returns whether the result is equal."""
    expected = small_world.reference(path, stage)
    start = time.perf_counter()
    small_world.run(small_world.command(path, stage, expected, args.ranks, args.steps))
    undisturbed_seconds = time.perf_counter() - start
    step_seconds = small_world.read_metrics(expected)[-1]["seconds"] / args.steps

    out = path / f"killed-{stage}"
    command = small_world.command(path, stage, out, args.ranks, args.steps)
    phases = {STARTING: 0, TRAINING: 0, SAVING: 0}
    killed_after = []  # steps
    finished = 0
    while len(killed_after) < args.kills:
        job = Job(command, out)
        job.wait_for_a_random_moment(rng, 2 + args.steps // args.kills, step_seconds)
        if job.kill():
            killed_after.append(job.steps())
            phases[job.phase()] += 1
        else:  # it was faster: start over
            finished += 1
            shutil.rmtree(out)
    small_world.run(command)

    file = small_world.RESULTS[stage]
    weights_equal = same_weights(expected / file, out / file)
    losses_equal = same_losses(expected, out)
    print(
        f"{stage}: {args.kills} kills {phases}, after steps {killed_after}; {finished} runs "
        f"finished before; weights {'bit-identical' if weights_equal else 'DIFFERENT'}; steps and "
        f"losses {'equal' if losses_equal else 'DIFFERENT'}; the undisturbed run took "
        f"{undisturbed_seconds:.1f} s",
        flush=True,
    )
    return weights_equal and losses_equal


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--kills", type=int, default=20, help="kills per stage (default: 20)")
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
