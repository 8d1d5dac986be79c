"""Loss curves of one or several runs as a PNG: each step faint, their running mean strong, validation as points.

python -m nanollava.plot out/align out/instruct --out loss.png
"""

import argparse
import json
from pathlib import Path

from nanollava.errors import UserError, run


def read(run: Path, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of a run's metrics.jsonl, where it holds `key`."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        entries = [e for e in map(json.loads, (x for x in lines if x.endswith("}"))) if key in e]
        return [e["step"] for e in entries], [e[key] for e in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{run}: no metrics of a training ({error!r}); give its --out directory"
        ) from None


def running_mean(values: list[float], window: int) -> list[float]:
    """The mean over the last `window` values, of fewer at the beginning."""
    return [
        sum(last := values[max(0, i - window + 1) : i + 1]) / len(last) for i in range(len(values))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        "nanollava.plot", None, __doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="output directory of a training"
    )
    parser.add_argument("--out", default="loss.png", help="picture to write")
    args = parser.parse_args()
    try:
        from matplotlib import pyplot
    except ImportError:
        raise UserError("the plot needs matplotlib: pip install matplotlib") from None
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for i, path in enumerate(args.runs):
        (steps, values), checks, color = read(path, "loss"), read(path, "validation_loss"), f"C{i}"
        if not steps:
            raise UserError(f"{path}: no step is in its metrics.jsonl")
        axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
        axes.plot(
            steps, running_mean(values, max(1, len(values) // 40)), color=color, label=str(path)
        )
        axes.plot(*checks, "o", color=color, markeredgecolor="white")
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(args.out, dpi=100)
    print(f"{args.out}: {', '.join(map(str, args.runs))}")


if __name__ == "__main__":
    run(main)
