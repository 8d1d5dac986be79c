"""Inference compared with transformers on this machine: same weights, dtype, threads and tokens.

python -m benchmarks.inference                     # all rows of docs/performance.md
python -m benchmarks.inference --quick             # does every row run? small models, few rounds
python -m benchmarks.inference --rows decode bf16 --json figures.json

The sides take turns; medians, and in brackets the spread: (largest - smallest) / median.
One thread unless --threads says otherwise. Each row runs in a process of its own (not with
--quick), with OMP_WAIT_POLICY=PASSIVE for all sides.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from nanollava.errors import UserError, run

from . import decode, gpu, memory, prefill, programs, toyland
from .timing import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
SIZES = ("0.5M", "29M", "320M")
LARGE_SIZES = ("29M", "320M")
ONCE = ("",)  # the row has no variants


@dataclass(frozen=True)
class Row:
    """One kind of measurement. `measure(settings, variant)` returns figures for JSON, and
    `describe(figures, floor)` puts them into a line."""

    measure: Callable[[Settings, str], dict]
    describe: Callable[[dict, float | None], str]
    variants: tuple[str, ...] = ONCE
    quick_variants: tuple[str, ...] = ONCE
    floors: dict[str, float] = field(default_factory=dict)  # targets by variant


# Floors are ratios (ours faster than the other side), if the row's line does not say otherwise.
ROWS = {
    "machine": Row(decode.machine, decode.describe_machine),
    "decode": Row(
        decode.decode,
        decode.describe_comparison,
        variants=SIZES,
        quick_variants=("0.5M", "29M"),
        floors={"29M": 1.0, "320M": 1.0},
    ),
    "compile": Row(
        decode.compile,
        decode.describe_comparison,
        variants=LARGE_SIZES,
        quick_variants=("0.5M",),
        floors={"29M": 1.2, "320M": 1.2},
    ),
    "bf16": Row(
        decode.bf16,
        decode.describe_comparison,
        variants=LARGE_SIZES,
        quick_variants=("29M",),
        floors={"29M": 1.2, "320M": 1.2},
    ),
    "compile-bf16": Row(
        decode.compile_bf16,
        decode.describe_comparison,
        variants=LARGE_SIZES,
        quick_variants=("0.5M",),
    ),
    "int8": Row(
        decode.int8,
        decode.describe_comparison,
        variants=("320M",),
        quick_variants=("29M",),
        floors={"320M": 2.0},
    ),
    "int4": Row(
        decode.int4,
        decode.describe_comparison,
        variants=("320M",),
        quick_variants=("29M",),
        floors={"320M": 3.0},
    ),
    "prefill": Row(
        prefill.prefill,
        prefill.describe_prefill,
        variants=LARGE_SIZES,
        quick_variants=("29M",),
        floors={"29M": 0.8, "320M": 0.8},
    ),
    "llava": Row(
        decode.llava,
        decode.describe_comparison,
        variants=("fp32", "bf16"),
        quick_variants=("fp32",),
    ),
    "loading": Row(programs.loading, programs.describe_loading, floors={"": 4.0}),
    "conversion": Row(programs.conversion, programs.describe_loading, floors={"": 1.0}),
    "cli": Row(programs.cli, programs.describe_cli, floors={"": 2.0}),
    "word": Row(programs.word, programs.describe_word, floors={"": 0.1}),
    "batch": Row(toyland.batch, toyland.describe_batch),
    "context": Row(decode.context, decode.describe_context),
    "memory": Row(memory.memory, memory.describe_memory),
    "score": Row(toyland.run_score, toyland.describe_score),
    "gpu": Row(gpu.gpu, gpu.describe_gpu),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    rows = list(ROWS)
    add("--rows", nargs="+", choices=rows, default=rows, metavar="ROW", help=", ".join(rows))
    add("--quick", action="store_true", help="small models, few rounds and tokens")
    add("--json", type=Path, metavar="FILE", help="also write every figure to this file")
    add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    add(
        "--rounds",
        type=int,
        help="measured rounds (default: 5, with --quick 2); loading, conversion, word, batch and "
        "context have their own",
    )
    add(
        "--tokens",
        type=int,
        help="new tokens per answer (default: 64, with --quick 16); gpu and batch have their own",
    )
    add(
        "--size",
        type=float,
        default=1.0,
        help="gigabytes of the checkpoint of loading and conversion (default: 1)",
    )
    add("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in ("threads", "rounds", "tokens", "size"):
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name} {value}: expected more than 0")
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise UserError(f"--json {arguments.json}: its directory does not exist")
    return arguments


def make_settings(arguments: argparse.Namespace) -> Settings:
    """The settings, with the defaults that depend on --quick."""
    rounds = arguments.rounds
    if rounds is None:
        rounds = 2 if arguments.quick else 5
    tokens = arguments.tokens
    if tokens is None:
        tokens = 16 if arguments.quick else 64
    return Settings(arguments.quick, arguments.threads, rounds, tokens, arguments.size)


def measure_in_new_process(name: str, variant: str, settings: Settings) -> dict:
    """Runs this command again for one row, and returns the figures that it prints."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(settings.threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait by spinning slow down the other side
    }
    command = [sys.executable, "-m", "benchmarks.inference"]
    command += ["--child", name, variant, json.dumps(asdict(settings))]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        raise UserError(f"{name} {variant}: the measurement failed")
    return json.loads(done.stdout.splitlines()[-1])


def measure_here(name: str, variant: str, settings: Settings) -> dict:
    """The figures of one row, measured in this process."""
    torch.set_num_threads(settings.threads)
    return ROWS[name].measure(settings, variant)


def describe(
    figures: dict, name: str, variant: str, machine_rates: dict, settings: Settings
) -> str:
    """One line of the printed table."""
    row = ROWS[name]
    text = row.describe(figures, row.floors.get(variant))
    if "bytes_per_token" in figures:
        text += " | " + decode.describe_limit(figures, machine_rates, settings.tokens)
    return f"{label(name, variant):17} | {text}"


def label(name: str, variant: str) -> str:
    return f"{name} {variant}".strip()


def measure_rows(names: list[str], settings: Settings, json_path: Path | None) -> None:
    """Measures and prints the rows one by one."""
    processor = platform.processor() or platform.machine()
    hardware = f"{processor}, {os.cpu_count()} cores, torch {torch.__version__}"
    date = time.strftime("%Y-%m-%d")
    sides = "ours | transformers, spread in brackets"
    print(f"{date}, {hardware}, {settings.threads} thread(s); {sides}")
    report = {"date": date, "hardware": hardware, "settings": asdict(settings), "rows": {}}
    machine_rates = {}
    for name, row in ROWS.items():
        if name not in names:
            continue
        for variant in row.quick_variants if settings.quick else row.variants:
            if settings.quick:  # importing both libraries takes longer than most rows
                figures = measure_here(name, variant, settings)
            else:
                figures = measure_in_new_process(name, variant, settings)
            if name == "machine":
                machine_rates = figures
            print(describe(figures, name, variant, machine_rates, settings), flush=True)
            report["rows"][label(name, variant)] = {**figures, "floor": row.floors.get(variant)}
            if json_path is not None:  # after every row: an interrupted run keeps its figures
                json_path.write_text(json.dumps(report, indent=2) + "\n")


def main() -> None:
    arguments = parse_arguments()
    if arguments.child:
        name, variant, settings = arguments.child
        figures = measure_here(name, variant, Settings(**json.loads(settings)))
        print(json.dumps(figures))
        return
    names = ["machine", *arguments.rows]  # the limits of other rows are the machine's
    measure_rows(names, make_settings(arguments), arguments.json)


if __name__ == "__main__":
    run(main)
