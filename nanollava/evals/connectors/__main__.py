"""Compares the connectors with the same images, tower, decoder, steps and batch.

python -m nanollava.evals.connectors run --out out/connectors
python -m nanollava.evals.connectors table --out out/connectors
python -m nanollava.evals.connectors figures --out out/connectors
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from ... import errors
from ...config import PROJECTORS
from ...errors import UserError
from ...files import shipped
from ...flags import HelpFormatter, check_number
from ..program import in_parallel
from . import figures, table
from .data import write_data
from .rows import LANGUAGE_MODELS, ROWS, SAMPLES, STAGE_1_RATES, STAGE_2_RATES, Row
from .runs import (
    Run,
    Settings,
    Stage1,
    all_results,
    check_settings,
    largest_models,
    train_and_measure,
    train_stage_1,
    train_stage_2,
)

DIVERGED = "(from 0): the loss is"  # in the error of a training whose rate was too high
MAX_SCENES = 1_000_000
MAX_BATCH = 4096
MAX_SEEDS = 100


def run_comparison(args: argparse.Namespace) -> None:
    """Runs what is missing, several rows at once, and prints the tables."""
    check_number(args, "seeds", 1, MAX_SEEDS)
    check_number(args, "samples", 10, MAX_SCENES)
    check_number(args, "batch", 1, MAX_BATCH)
    check_number(args, "parallel", 1, len(ROWS))
    check_number(args, "count", 3, MAX_SCENES, "scenes")
    out = Path(args.out)
    settings = Settings(
        out,
        str(shipped(args.vision)),
        str(shipped(args.llm)),
        sorted(args.samples),
        args.batch,
        args.count,
        args.dtype,
    )
    rows = {row.name: row for row in chosen_rows(args.rows)}  # an error before anything is written
    out.mkdir(parents=True, exist_ok=True)
    check_settings(settings)
    write_data(out / "data", args.samples)
    torch.set_num_threads(1)  # measuring, too, has one thread per row
    compare = partial(compare_row, settings=settings, seeds=args.seeds)
    for _ in in_parallel(compare, args.parallel, rows):  # after an error running rows finish first
        pass
    print(table.all_tables(all_results(out)))


def chosen_rows(names: list[str] | None) -> list[Row]:
    """The rows with these names; all of them for None."""
    if names is None:
        return list(ROWS)
    known = {row.name: row for row in ROWS}
    for name in names:
        if name not in known:
            raise UserError(f"--rows {name}: expected some of {', '.join(known)}")
    return [known[name] for name in names]


def compare_row(row: Row, settings: Settings, seeds: int) -> None:
    """Chooses the learning rates, then trains and measures everything at them."""
    stage_1_rate = best_stage_1_rate(row, settings)
    stage_2_rates = {}
    for language_model in LANGUAGE_MODELS:
        rate = best_stage_2_rate(row, stage_1_rate, language_model, settings)
        stage_2_rates[language_model] = rate
    for seed in range(seeds):
        for size in settings.samples:
            for language_model, rate in stage_2_rates.items():
                run = Run(Stage1(row, stage_1_rate, size, seed), rate, language_model)
                result = train_and_measure(run, settings)
                print(f"{run.title()}: score {result['plain']['overall']:.1%}", flush=True)


def best_stage_1_rate(row: Row, settings: Settings) -> float:
    """The learning rate of stage 1 with the smallest validation loss of that stage.

    Rates are chosen with seed 0 and the middle one of the sizes (of two the smaller): with the
    largest, these trainings would take longer than the rest."""
    candidates = [Stage1(row, rate, middle_size(settings), 0) for rate in STAGE_1_RATES]
    return best_rate(candidates, train_stage_1, settings)


def best_stage_2_rate(
    row: Row, stage_1_rate: float, language_model: str, settings: Settings
) -> float:
    """The learning rate of stage 2 with the smallest validation loss, after the best stage 1."""
    stage_1 = Stage1(row, stage_1_rate, middle_size(settings), 0)
    candidates = [Run(stage_1, rate, language_model) for rate in STAGE_2_RATES]
    return best_rate(candidates, train_stage_2, settings)


def best_rate(
    candidates: list[Stage1] | list[Run],
    train: Callable[[Stage1 | Run, Settings], float],
    settings: Settings,
) -> float:
    """The rate of the training with the smallest loss, which `train` returns.

    `candidates` begin with the lowest rate. One that diverges is not chosen."""
    losses = {}
    for candidate in candidates:
        try:
            losses[candidate.rate] = train(candidate, settings)
        except UserError as error:
            # If even the lowest rate diverges, none may be left.
            if DIVERGED not in str(error) or candidate == candidates[0]:
                raise
            losses[candidate.rate] = math.inf
        loss = losses[candidate.rate]
        print(f"{candidate.title()}: validation loss {loss:.4f}", flush=True)
    return min(losses, key=losses.get)


def middle_size(settings: Settings) -> int:
    return settings.samples[(len(settings.samples) - 1) // 2]


def print_table(args: argparse.Namespace) -> None:
    print(table.all_tables(all_results(Path(args.out))))


def draw_figures(args: argparse.Namespace) -> None:
    """Draws the masks and, for finished runs, the gates and where the queries look."""
    out = Path(args.out)
    folder = Path(args.to or out / "figures")
    folder.mkdir(parents=True, exist_ok=True)
    figures.draw_qformer_masks(folder / "qformer_masks.png")
    figures.draw_image_masks(folder / "image_masks.png")
    for row, model in largest_models(out).items():
        if row.startswith("gated_xattn"):
            figures.draw_gates(model, folder / f"gates-{row}.png")
        if row not in PROJECTORS:  # these rows are named like their projector
            figures.draw_queries(model, folder / f"queries-{row}.jpg")
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
    add(
        "--samples",
        type=int,
        nargs="+",
        default=list(SAMPLES),
        help="sizes of the training sets; each stage passes over its set once",
    )
    add("--batch", type=int, default=16, help="samples per step")
    add("--count", type=int, default=60, help="test scenes")
    add("--parallel", type=int, default=2, help="rows at once, one thread each")
    add("--vision", default="checkpoints/toy-clip", help="Hugging Face CLIP directory")
    add("--llm", default="checkpoints/toy-vicuna", help="Hugging Face Llama directory")
    add(
        "--dtype",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="dtype of the training; auto: bf16 on CUDA, else fp32",
    )


def main() -> None:
    args = parse_arguments()
    args.function(args)


if __name__ == "__main__":
    errors.run(main)
