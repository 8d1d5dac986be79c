"""Loss curves of one or several runs as a PNG: every step, a running mean, and validation points.

python -m nanollava.plot out/align out/instruct --out loss.png
"""

import argparse
from pathlib import Path

from .errors import UserError, run
from .files import parse_object, read_bytes, replacing
from .schema import require

LARGEST_VALUE = 1e38  # of float32; matplotlib cannot draw axes to the end of float64


def read_metric(run_directory: Path, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of `key` in a run's metrics.jsonl, from the lines that hold it."""
    path = run_directory / "metrics.jsonl"
    if not path.exists():
        problem = "no metrics of a training run; give the --out directory of one"
        raise UserError(f"{run_directory}: {problem}")
    steps = []
    values = []
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if not line.endswith(b"}"):  # cut off when the run was killed
            continue
        where = f"{path}, line {number}"
        entry = parse_object(line, where)
        if key in entry:
            steps.append(require(entry, "step", int, where, minimum=0))
            values.append(require(entry, key, float, where, maximum=LARGEST_VALUE))
    return steps, values


def running_mean(values: list[float], window: int) -> list[float]:
    """The mean of the last `window` values at each step; of fewer at the beginning."""
    means = []
    for end in range(1, len(values) + 1):
        recent = values[max(0, end - window) : end]
        means.append(sum(recent) / len(recent))
    return means


def draw_run(axes, run_directory: Path, color: str) -> None:
    """Draw the losses of one run: each step faint, their mean strong, validation as points."""
    steps, losses = read_metric(run_directory, "loss")
    if not steps:
        raise UserError(f"{run_directory}: metrics.jsonl contains no step")
    window = max(1, len(losses) // 40)
    means = running_mean(losses, window)
    axes.plot(steps, losses, color=color, alpha=0.3, linewidth=0.8)
    axes.plot(steps, means, color=color, label=str(run_directory))
    steps, losses = read_metric(run_directory, "validation_loss")
    axes.plot(steps, losses, "o", color=color, markeredgecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m nanollava.plot", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="output directory of a training run"
    )
    parser.add_argument("--out", default="loss.png", help="image file to write")
    args = parser.parse_args()
    try:
        from matplotlib import pyplot
    except ImportError:
        raise UserError("plotting needs matplotlib: pip install matplotlib") from None
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for i, run_directory in enumerate(args.runs):
        draw_run(axes, run_directory, f"C{i}")
    axes.set(xlabel="step", ylabel="loss per label token")
    axes.set_title("thin: each step; thick: running mean; points: validation", fontsize=10)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    path = Path(args.out)
    if path.name and not path.suffix:
        path = path.with_suffix(".png")
    file_format = path.suffix.removeprefix(".").lower()
    if file_format not in figure.canvas.get_supported_filetypes():
        raise UserError(f"--out {args.out}: expected the name of an image file, such as loss.png")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format=file_format)
    print(f"{path}: {', '.join(map(str, args.runs))}")


if __name__ == "__main__":
    run(main)
