"""What a training reports: the progress bar, metrics.jsonl, TensorBoard, and MFU."""

import json
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from ..device import matmul_rate, pick_dtype
from ..errors import ConfigError, UserError
from ..files import parse_object, read_bytes, replacing
from ..schema import require
from .arguments import TrainConfig
from .batches import Counts
from .distributed import print_on_rank_0

# A short bar: the metrics after it need the line.
BAR_FORMAT = "{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"

if sys.platform != "win32":
    import resource  # a module of Unix


def announce(
    config: TrainConfig,
    device: torch.device,
    parameter_report: list[str],
    samples: int,
    title: str,
) -> None:
    """Print all settings, where the training runs, and what is trained."""
    settings = asdict(config) | {"samples": samples, "ranks": dist.get_world_size()}
    words = " ".join(f"{name}={value}" for name, value in settings.items())
    dtype = str(pick_dtype(config.dtype, device)).removeprefix("torch.")
    print_on_rank_0(f"{title}, on {device.type} in {dtype}")
    print_on_rank_0(textwrap.fill(words, 100, break_long_words=False, break_on_hyphens=False))
    print_on_rank_0("\n".join(parameter_report))


class Metrics:
    """Reports every step on rank 0: progress bar, OUT/metrics.jsonl, TensorBoard if asked for."""

    def __init__(self, config: TrainConfig, device: torch.device, first_step: int, steps: int):
        self.device = device
        self.is_writer = dist.get_rank() == 0
        self.peak_flops = matmul_rate(device, pick_dtype(config.dtype, device))  # FLOP/s
        self.file = None
        self.board = None
        self.step_seconds = 0.0  # of the last step
        self.seconds = 0.0  # of all steps, with those of the runs that this one resumes
        if self.is_writer:
            path = Path(config.out) / "metrics.jsonl"
            self.seconds = keep_lines_before(path, first_step)
            self.file = open(path, "a", encoding="utf-8")
            if config.tensorboard:
                self.board = open_tensorboard(Path(config.out) / "tensorboard", first_step)
        self.bar = tqdm(
            total=steps,
            initial=first_step,
            mininterval=0.5,
            dynamic_ncols=True,
            bar_format=BAR_FORMAT,
            disable=not self.is_writer,
        )
        self.begin_step()

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()
        with suppress(OSError):  # a full disk does not end a training
            if self.file is not None:
                self.file.close()
            if self.board is not None:
                self.board.close()

    def begin_step(self) -> None:
        self.step_start = time.perf_counter()

    def end_step(self) -> None:
        """Stops the clock: evaluation and checkpoints are not part of a step."""
        self.step_seconds = time.perf_counter() - self.step_start
        self.seconds += self.step_seconds

    def log(
        self,
        step: int,
        loss: float,
        lr: float,
        grad_norm: float,
        counts: Counts,
        evaluation: dict[str, float],
    ) -> None:
        """Report one step. `counts` and `loss` are of all ranks."""
        if not self.is_writer:
            return
        # Model FLOPs utilization: the work that the step needs, per second and rank, as a fraction
        # of what one matrix product reaches on this device.
        utilization = {}
        if counts.flops > 0:  # a Q-Former's stage 1 does not count them
            mfu = counts.flops / self.step_seconds / dist.get_world_size() / self.peak_flops
            utilization["mfu"] = round(mfu, 4)
        memory = peak_memory(self.device)
        self.write(
            {
                "step": step,
                "loss": loss,
                "lr": lr,
                "grad_norm": grad_norm,
                "tokens": int(counts.tokens),
                "label_tokens": int(counts.label_tokens),
                "images": int(counts.images),
                "memory": memory,
                **evaluation,
                **utilization,
                "seconds": round(self.seconds, 3),
            }
        )
        shown = {
            "loss": loss,
            "lr": lr,
            **utilization,
            "tokens/s": counts.tokens / self.step_seconds,
            "images/s": counts.images / self.step_seconds,
            "GB": memory / 1e9,
            **evaluation,
        }
        self.bar.set_postfix({name: short(value) for name, value in shown.items()}, refresh=False)
        self.bar.update()

    def write(self, entry: dict) -> None:
        try:
            self.file.write(json.dumps(entry) + "\n")
            self.file.flush()
        except OSError as error:  # a full disk does not end a training
            print(f"warning: {self.file.name}: {error}", flush=True)
        if self.board is not None:
            self.write_to_board(entry)

    def write_to_board(self, entry: dict) -> None:
        try:
            for name, value in entry.items():
                self.board.add_scalar(name, value, entry["step"])
        except OSError as error:  # of an earlier entry: TensorBoard writes in a thread
            print(f"warning: tensorboard: {error}; nothing more is written to it", flush=True)
            self.board = None


def keep_lines_before(path: Path, first_step: int) -> float:
    """Drop the steps that a resumed run repeats, and lines that are cut off or damaged.

    Returns the training seconds up to the last line that is kept.
    """
    kept = []
    seconds = 0.0
    if first_step > 0 and path.exists():
        lines = read_bytes(path).split(b"\n")
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}"
            try:
                entry = parse_object(line, where)
                step = require(entry, "step", int, where)
                seconds_so_far = require(entry, "seconds", float, where)
            except ConfigError as error:
                if number < len(lines):  # the last line may be empty, or cut off by a kill
                    print(f"warning: {error}; the line is dropped", flush=True)
                continue
            if step < first_step:
                kept.append(line + b"\n")
                seconds = seconds_so_far
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(kept))
    return seconds


def open_tensorboard(folder: Path, first_step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard: pip install tensorboard, or omit the flag") from None
    return SummaryWriter(str(folder), purge_step=first_step)


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: of GPU memory on CUDA, else of this process (Windows: 0)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return largest  # bytes on macOS
    return 1024 * largest  # kilobytes on Linux


def short(value: float) -> str:
    """A number for the progress bar: three digits, or all before the decimal point."""
    if value < 1000:
        return f"{value:,.3g}"
    return f"{value:,.0f}"
