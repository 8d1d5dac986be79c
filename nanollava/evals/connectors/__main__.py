"""Compares the connectors on equal terms: same images, tower, decoder, steps and batch.

python -m nanollava.evals.connectors run --out out/connectors
python -m nanollava.evals.connectors table --out out/connectors
python -m nanollava.evals.connectors figures --out out/connectors
"""

import argparse
from pathlib import Path

from ...errors import UserError, run
from ...files import shipped
from ...flags import HelpFormatter, check_number
from ...toyland.score import PLAIN
from . import figures, table
from .data import write_data
from .rows import LANGUAGE_MODELS, RATES, ROWS, SAMPLES, Row
from .runs import Run, Settings, all_results, best_rate, check_settings, train_and_measure

MAX_STEPS = 1_000_000


def run_comparison(args: argparse.Namespace) -> None:
    """Runs what is missing, row by row, and prints the tables."""
    for name in ("seeds", "samples"):
        check_number(args, name, 10 if name == "samples" else 1, MAX_STEPS)
    for name in ("align_steps", "steps", "qformer_steps", "batch"):
        check_number(args, name, 1, MAX_STEPS)
    check_number(args, "count", 3, MAX_STEPS, "scenes")
    out = Path(args.out)
    settings = Settings(
        out,
        str(shipped(args.vision)),
        str(shipped(args.llm)),
        args.align_steps,
        args.steps,
        args.qformer_steps,
        args.batch,
        args.count,
    )
    out.mkdir(parents=True, exist_ok=True)
    check_settings(settings)
    write_data(out / "data", args.samples)
    for row in chosen_rows(args.rows):
        compare_row(row, settings, args.samples, args.seeds)
    print(table.describe(all_results(out)))


def chosen_rows(names: list[str] | None) -> list[Row]:
    """The rows with these names; all of them for None."""
    if names is None:
        return list(ROWS)
    known = {row.name: row for row in ROWS}
    for name in names:
        if name not in known:
            raise UserError(f"--rows {name}: expected some of {', '.join(known)}")
    return [known[name] for name in names]


def compare_row(row: Row, settings: Settings, sizes: list[int], seeds: int) -> None:
    """Chooses the learning rate with seed 0 and the largest set, then runs everything at it."""
    largest = max(sizes)
    results = []
    for rate in RATES:
        results.append(report(Run(row, rate, largest, 0, "trained"), settings))
    best = best_rate(results)
    (rate,) = [rate for rate in RATES if rate.name == best]
    for seed in range(seeds):
        for size in sizes:
            for language_model in LANGUAGE_MODELS:
                report(Run(row, rate, size, seed, language_model), settings)


def report(run: Run, settings: Settings) -> dict:
    """The result of a run, and one line about it."""
    result = train_and_measure(run, settings)
    print(
        f"{run.row.name:20} {run.rate.name:7} {run.samples:6} samples, seed {run.seed}, language "
        f"model {run.language_model:8} score {result['score'][PLAIN]['overall']:.1%}, "
        f"validation loss {result['validation_loss']:.4f}",
        flush=True,
    )
    return result


def print_table(args: argparse.Namespace) -> None:
    print(table.describe(all_results(Path(args.out))))


def draw_figures(args: argparse.Namespace) -> None:
    """The masks, and of the runs that are there the gates and where the queries look."""
    out = Path(args.out)
    folder = Path(args.to or out / "figures")
    folder.mkdir(parents=True, exist_ok=True)
    figures.draw_qformer_masks(folder / "qformer_masks.png")
    figures.draw_image_masks(folder / "image_masks.png")
    for model in sorted(out.glob("*/*/trained/config.json")):
        name = f"{model.parts[-4]}-{model.parts[-3]}.png"
        if model.parts[-4].startswith("gated_xattn"):
            figures.draw_gates(model.parent, folder / f"gates-{name}")
        if model.parts[-4] not in ("linear", "mlp2x_gelu"):
            figures.draw_queries(model.parent, folder / f"queries-{name}")
    print(f"figures are in {folder}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m nanollava.evals.connectors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function, text in (
        ("run", run_comparison, "train and measure what is missing; can be stopped and run again"),
        ("table", print_table, "print the tables of what has been measured so far"),
        ("figures", draw_figures, "draw the masks, the gates over the steps, and the queries"),
    ):
        command = commands.add_parser(
            name, help=text, description=text, formatter_class=HelpFormatter, allow_abbrev=False
        )
        command.set_defaults(function=function)
        command.add_argument("--out", default="out/connectors", help="directory of all runs")
        if name == "run":
            add_run_flags(command)
        if name == "figures":
            command.add_argument("--to", help="directory for the figures; default: OUT/figures")
    return parser.parse_args()


def add_run_flags(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--rows", nargs="+", metavar="NAME", help="only these rows of the table")
    add("--seeds", type=int, default=1, help="runs of each, with seeds 0, 1, 2 ...")
    add("--samples", type=int, nargs="+", default=list(SAMPLES), help="sizes of the training sets")
    add("--align-steps", type=int, default=75, help="optimizer steps of stage 1")
    add("--steps", type=int, default=120, help="optimizer steps of stage 2")
    add("--qformer-steps", type=int, default=150, help="optimizer steps of a Q-Former's own stage")
    add("--batch", type=int, default=24, help="samples per step")
    add("--count", type=int, default=60, help="test scenes")
    add("--vision", default="checkpoints/toy-clip", help="Hugging Face CLIP directory")
    add("--llm", default="checkpoints/toy-vicuna", help="Hugging Face Llama directory")


def main() -> None:
    args = parse_arguments()
    args.function(args)


if __name__ == "__main__":
    run(main)
