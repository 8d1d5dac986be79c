"""The paper's tables on Toyland: every row trained and scored with several seeds, the paper's figure beside it.

python -m nanollava.evals.tables          # from the repository's root; a later run goes on where this one stopped
python -m nanollava.evals.tables --quick
"""

import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.endpoint import arguments, in_threads, run_jobs
from nanollava.data import read_records
from nanollava.errors import UserError, run
from nanollava.files import read_json
from nanollava.llama import Llama
from nanollava.tokenizer import Tokenizer
from nanollava.toyland import data as toyland
from nanollava.toyland import pretrain
from nanollava.toyland.scenes import scenes

HERE, LLM, CPU = Path(__file__).parent, "checkpoints/toy-vicuna", torch.device("cpu")
QUICK = dict(seeds=1, steps=[60, 150], heal=150, pictures=20, scenes=50, out="out/tables-quick")
QUICK["doc"] = "out/tables-quick/tables.md"
COLUMNS = ("conv", "detail", "complex", "all", "exact")


def call(*command) -> str:
    """Runs `python COMMAND` on one thread and returns what it prints."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=env
    )
    if done.returncode:
        raise UserError(f"{' '.join(map(str, command))}: {done.stderr.strip()[-500:]}")
    return done.stdout


def smaller(path: Path, steps: int) -> None:
    """Writes toy-vicuna's first 3 layers, trained on for `steps` batches of its own dialogues."""
    whole, tokenizer = (
        Llama.from_pretrained(LLM, dtype=torch.float32),
        Tokenizer.from_pretrained(LLM),
    )
    model = Llama(replace(whole.config, num_hidden_layers=3))
    model.load_state_dict({name: whole.state_dict()[name] for name in model.state_dict()})
    rng, pool = random.Random(0), list(scenes("train", 32 * steps))

    def backward(step: int) -> tuple[torch.Tensor, dict]:
        rows = pretrain.dialogues(rng, 32, tokenizer, pool)
        return pretrain.text_backward(model, rows, threads, torch.bfloat16, CPU), {}

    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.98), weight_decay=0.01)
    with ThreadPoolExecutor(2) as threads:
        pretrain.fit(path.name, model, optimizer, steps, backward, 20)
    pretrain.save_vicuna(model, tokenizer, path)


def mixture(data: Path, path: Path, cell: dict, seed: int) -> None:
    """Writes the part of the instruction data that a cell trains on, reasons before answers where it asks for that."""
    rng, records = random.Random(seed), read_records(data / "instruct.json")[0]
    records = [
        r for r in records if rng.random() < cell.get("share", {}).get(r["id"].split("_")[2], 1)
    ]
    for turn in (
        turn for r in records for turn in r["conversations"] if cell.get("reasoning first")
    ):
        turn["value"] = re.sub(r"^([^.]*), because (.*)\.$", r"because \2, \1.", turn["value"])
    path.write_text(json.dumps(records), encoding="utf-8")


def shown(change: list[float], paper: float | None) -> str:
    """Whether a row's change against the first row, one of each seed, is the paper's."""
    mean, among = statistics.mean(change), len(change)
    if paper is None:
        return f"{mean:+.1f}"
    noise = 2 * statistics.stdev(change) / among**0.5 if among > 1 else float("inf")
    word = "no" if mean * paper <= 0 else "yes" if abs(mean) > noise else "not beyond the noise"
    return f"{word}: {mean:+.1f}, the paper {paper:+.1f}"


def tables(spec: dict, result: dict[str, dict], seeds: range) -> list[str]:
    """Markdown of all tables from the scores of every cell."""
    lines = []
    for table in spec["tables"]:
        measure, (first, *_, paper_first) = table["measure"], table["rows"][0]
        heads = " | ".join(f"**{c}**" if c == measure else c for c in COLUMNS)
        lines += [
            "",
            f"## {table['title']}",
            "",
            f"| row | paper: {table['paper']} | {heads} | shown? |",
        ]
        lines.append("|---" * (len(COLUMNS) + 3) + "|")
        for cell, name, told, paper in table["rows"]:
            scores, cells = (
                {c: [result[f"{cell}-{seed}"][c] for seed in seeds] for c in COLUMNS},
                [],
            )
            for values in scores.values():
                spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.1f}{spread}")
            change = [
                result[f"{cell}-{s}"][measure] - result[f"{first}-{s}"][measure] for s in seeds
            ]
            word = "" if cell == first else shown(change, paper and paper - paper_first)
            lines.append(f"| {' | '.join([name, told, *cells, word])} |")
    return lines


def main() -> None:
    args = arguments(__doc__, "tables")
    vars(args).update(QUICK if args.quick else {})
    out, data, spec = Path(args.out), Path(args.data), read_json(HERE / "tables.json")
    if not data.exists():
        toyland.write(data)
    torch.set_num_threads(1)
    if not (out / "small" / "tokenizer.json").exists():
        smaller(out / "small", args.heal)
    stage_1, cells, steps = {}, {}, dict(zip(("align", "instruct"), args.steps, strict=True))
    for name, seed in ((name, seed) for seed in range(args.seeds) for name in spec["cells"]):
        cell = spec["cells"][name]
        own = f"{name if cell.keys() & {'both', 'align'} else 'full'}-{seed}"
        job = {
            "seed": seed,
            "start": str(out / "align" / own),
            "place": str(out / "cells" / f"{name}-{seed}"),
        }
        job |= {"settings": [args.batch, args.heal], **cell}
        stage_1[own] = stage_1.get(own, job | {"steps": steps["align"]})
        cells[f"{name}-{seed}"] = job | {"steps": steps, "scored on": [args.pictures, args.scenes]}

    def train(stage: str, job: dict, place: str, *flags) -> None:
        shutil.rmtree(place, ignore_errors=True)
        own = [flag.format(out=out) for part in ("both", stage) for flag in job.get(part, ())]
        size = ("--max-steps", steps[stage], "--batch", args.batch, "--dtype", "bf16")
        flags = ("--images", data, "--seed", job["seed"], "--out", place, *size, *flags)
        call(f"train_{stage}.py", *flags, *own)

    def align(job: dict) -> tuple[str, list[int]]:
        train("align", job, job["start"], "--data", data / "align.json")
        return "{}", [0, 0]

    def instruct(job: dict) -> tuple[str, list[int]]:
        place = Path(job["place"])
        place.parent.mkdir(parents=True, exist_ok=True)
        mixture(data, place.with_suffix(".json"), job, job["seed"])
        train(
            "instruct",
            job,
            place,
            "--data",
            place.with_suffix(".json"),
            "--projector",
            job["start"],
        )
        exact = call(
            "-m", "nanollava.toyland", "score", "--model", place, "--count", args.scenes, "--json"
        )
        bench = ("--model", place, "--count", args.pictures, "--out", place / "bench")
        call("-m", "nanollava.evals.llava_bench", *bench)
        scores = {
            column: score[0] for column, score in read_json(place / "bench" / "score.json").items()
        }
        return json.dumps({**scores, "exact": 100 * json.loads(exact)["overall"]}), [0, 0]

    def run(file: str, do, jobs: dict) -> dict:
        ask = lambda missing: in_threads(do, missing, args.parallel)  # noqa: E731
        return run_jobs(out / file, "id", jobs, ask, lambda _, text: json.loads(text))

    run("stage_1.jsonl", align, stage_1)
    result = run("cells.jsonl", instruct, cells)
    head = (HERE / "tables.head.md").read_text(encoding="utf-8").format(**vars(args))
    lines = [head.rstrip(), *tables(spec, result, range(args.seeds))]
    Path(args.doc).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"the tables are in {args.doc}")


if __name__ == "__main__":
    run(main)
