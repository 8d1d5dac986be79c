"""The paper's tables on Toyland: every row trained and scored with several seeds.

python -m nanollava.evals.tables            # a later run continues where this one stopped
python -m nanollava.evals.tables --quick
"""

import argparse
import json
import random
import re
import shutil
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from ..data import read_records
from ..errors import UserError, run
from ..files import REPOSITORY, parse_object, read_json, shipped, write_text
from ..flags import HelpFormatter, check_number, check_texts
from ..llama import Llama
from ..schema import require
from ..tokenizer import Tokenizer
from ..toyland import data as toyland
from ..toyland.pretrain import fit
from ..toyland.scenes import scenes
from ..toyland.vicuna import dialogues, save_vicuna, text_backward
from .answers import Rejected, Reply, collect
from .ask import modification_times
from .program import in_parallel, run_on_one_thread

BENCH_COLUMNS = ("conv", "detail", "complex", "all")
COLUMNS = (*BENCH_COLUMNS, "exact")
VISION = "checkpoints/toy-clip"
LLM = "checkpoints/toy-vicuna"
MAX_COUNT = 1_000_000  # of any flag
SMALL_LAYERS = 3  # of the smaller language model


# ---------------------------------------------------------------------------------------------
# What is compared


@dataclass(frozen=True)
class Cell:
    """One model to train: how it differs from "full", which is LLaVA as in the paper."""

    name: str
    share: dict[str, float] = field(default_factory=dict)  # kept of a kind of data; default 1
    reasoning_first: bool = False  # "because ..., yes" instead of "yes, because ..."
    align_flags: tuple[str, ...] = ()  # of train_align.py; such a cell has its own stage 1
    instruct_flags: tuple[str, ...] = ()  # of train_instruct.py


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    cell: str
    name: str
    paper: str  # the paper's figures as printed
    paper_score: float | None  # the one to compare with


@dataclass(frozen=True)
class Table:
    """One comparison. The first row is the one that the others are compared with."""

    title: str
    measure: str  # the column that decides
    paper: str  # what the paper's figures are
    rows: tuple[Row, ...]


LAST_LAYER = ("--vision-layer", "-1")
MIDDLE_LAYER = ("--vision-layer", "-4")
SMALL_LLM = ("--llm", "{out}/small-{heal}")

CELLS = (
    Cell("full"),
    Cell("detail + complex", share={"conversation": 0}),
    Cell("conversation + 5% detail + 10% complex", share={"detail": 0.05, "complex": 0.1}),
    Cell("conversation", share={"detail": 0, "complex": 0}),
    Cell("no instruction tuning", instruct_flags=("--max-steps", "0")),
    Cell("last layer", align_flags=LAST_LAYER, instruct_flags=LAST_LAYER),
    Cell("middle layer", align_flags=MIDDLE_LAYER, instruct_flags=MIDDLE_LAYER),
    Cell("no stage 1", instruct_flags=("--projector", "linear")),
    Cell("reasoning first", reasoning_first=True),
    Cell("smaller language model", align_flags=SMALL_LLM, instruct_flags=SMALL_LLM),
    Cell("MLP projector", align_flags=("--projector", "mlp2x_gelu")),
)

NOT_IN_PAPER = "not in the paper"
SCIENCEQA = "ScienceQA accuracy, %"
MIXTURES = Table(
    "1. Data mixture (the paper's table 4: LLaVA-Bench, COCO)",
    "all",
    "conversation / detail / complex / all: relative score, %",
    (
        Row("full", "full data", "83.1 / 75.3 / 96.5 / 85.1", 85.1),
        Row("detail + complex", "detail + complex", "81.5 / 73.3 / 90.8 / 81.9", 81.9),
        Row(
            "conversation + 5% detail + 10% complex",
            "conversation + 5% detail + 10% complex",
            "81.0 / 68.4 / 91.5 / 80.5",
            80.5,
        ),
        Row("conversation", "conversation only", "76.5 / 59.8 / 84.9 / 73.8", 73.8),
        Row("no instruction tuning", "none: stage 1 alone", "22.0 / 24.0 / 18.5 / 21.5", 21.5),
    ),
)
LAYERS = Table(
    "2. Layer of the vision tower (table 8: ScienceQA)",
    "exact",
    SCIENCEQA,
    (
        Row("full", "the one before the last", "90.92", 90.92),
        Row("last layer", "the last", "89.96", 89.96),
        Row("middle layer", "the middle (third of six)", NOT_IN_PAPER, None),
    ),
)
STAGE_1 = Table(
    "3. Stage 1 (table 8: ScienceQA)",
    "exact",
    SCIENCEQA,
    (
        Row("full", "with stage 1", "90.92", 90.92),
        Row("no stage 1", "without: stage 2 from a new W", "85.81", 85.81),
    ),
)
ORDER = Table(
    "4. Order of answer and reason, on questions that need a reason (table 8: ScienceQA)",
    "complex",
    SCIENCEQA,
    (
        Row("reasoning first", '"because it is raining, yes"', "90.92", 90.92),
        Row("full", '"yes, because it is raining"', "89.77", 89.77),
    ),
)
SIZES = Table(
    "5. Size of the language model (table 8: ScienceQA)",
    "exact",
    SCIENCEQA,
    (
        Row("full", "5 layers (the paper: 13B)", "90.92", 90.92),
        Row(
            "smaller language model",
            "its first 3 layers, trained on (the paper: 7B)",
            "89.84",
            89.84,
        ),
    ),
)
PROJECTORS = Table(
    "6. Projector (the paper leaves other designs to future work; LLaVA-1.5 took two layers)",
    "exact",
    NOT_IN_PAPER,
    (
        Row("full", "linear", NOT_IN_PAPER, None),
        Row("MLP projector", "Linear, GELU, Linear", NOT_IN_PAPER, None),
    ),
)
TABLES = (MIXTURES, LAYERS, STAGE_1, ORDER, SIZES, PROJECTORS)


# ---------------------------------------------------------------------------------------------
# Training and scoring one cell


def make_smaller_llm(path: Path, steps: int) -> None:
    """Write toy-vicuna's first layers, trained for `steps` batches of its own dialogues."""
    whole = Llama.from_pretrained(shipped(LLM), dtype=torch.float32)
    tokenizer = Tokenizer.from_pretrained(shipped(LLM))
    model = Llama(replace(whole.config, num_hidden_layers=SMALL_LAYERS))
    weights = whole.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    rng = random.Random(0)
    pool = list(scenes("train", 32 * steps))
    device = torch.device("cpu")

    with ThreadPoolExecutor(2) as threads:

        def backward(step: int) -> tuple[torch.Tensor, dict]:
            rows = dialogues(rng, 32, tokenizer, pool)
            loss = text_backward(model, rows, threads, torch.bfloat16, device)
            return loss, {}

        optimizer = torch.optim.AdamW(
            model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01
        )
        fit(path.name, model, optimizer, steps, backward, 20)
    save_vicuna(model, tokenizer, path)


def write_mixture(data: Path, path: Path, cell: Cell, seed: int) -> None:
    """Write the instruction data that a cell trains on, in plain language.

    A few hundred steps do not teach all the forms in which people ask.
    """
    rng = random.Random(seed)
    records = []
    path_of_records = data / "plain.json"
    for i, record in enumerate(read_records(path_of_records)[0]):
        kind = response_type(record, f"{path_of_records}, record {i}")
        if rng.random() < cell.share.get(kind, 1):
            records.append(record)
    if cell.reasoning_first:
        for record in records:
            for turn in record["conversations"]:
                turn["value"] = put_reason_first(turn["value"])
    write_text(path, json.dumps(records))


def response_type(record: dict, where: str) -> str:
    """ "conversation", "detail" or "complex", from the id of one of Toyland's records."""
    parts = require(record, "id", str, where).split("_")
    if len(parts) < 3:
        raise UserError(f"{where}: expected Toyland's data, with ids such as train_000001_detail_0")
    return parts[2]


def put_reason_first(answer: str) -> str:
    """ "yes, because it is raining." becomes "because it is raining, yes."; others stay."""
    return re.sub(r"^([^.]*), because (.*)\.$", r"because \2, \1.", answer)


@dataclass(frozen=True)
class Settings:
    """What all cells share; from the flags."""

    out: Path
    data: Path
    steps: tuple[int, int]  # optimizer steps of stage 1 and stage 2
    batch: int
    heal: int  # batches for the smaller language model
    images: int  # of LLaVA-Bench
    scenes: int  # of the exact score


def train(settings: Settings, script: str, steps: int, job: dict, out: str, *flags) -> None:
    """Run one of the two training scripts into `out`, which is deleted first."""
    path = REPOSITORY / script
    if not path.is_file():
        raise UserError(f"{path}: no such file; the tables need a clone of the repository")
    shutil.rmtree(out, ignore_errors=True)
    size = ["--max-steps", steps, "--batch", settings.batch, "--dtype", "bf16"]
    shared = ["--images", settings.data, "--seed", job["seed"], "--out", out, *size]
    # The last of two equal flags counts, so the cell's own come last.
    own = [flag.format(out=settings.out, heal=settings.heal) for flag in job["flags"]]
    run_on_one_thread(path, *shared, *flags, *own)


def align(settings: Settings, job: dict) -> Reply:
    """Train stage 1."""
    data = settings.data / "align.json"
    train(settings, "train_align.py", settings.steps[0], job, job["out"], "--data", data)
    return Reply("{}")


def instruct(settings: Settings, job: dict) -> Reply:
    """Train stage 2 and score the model: LLaVA-Bench and the share of exact answers."""
    out = Path(job["out"])
    data = out.with_suffix(".json")
    cell = next(cell for cell in CELLS if cell.name == job["cell"])
    write_mixture(settings.data, data, cell, job["seed"])
    flags = ["--data", data, "--projector", job["start"]]
    train(settings, "train_instruct.py", settings.steps[1], job, str(out), *flags)

    score_flags = ["--model", out, "--plain", "--count", settings.scenes, "--json"]
    exact = run_on_one_thread("-m", "nanollava.toyland", "score", *score_flags)
    scores = {"exact": 100 * json.loads(exact)["overall"]}
    bench_flags = ["--model", out, "--plain", "--count", settings.images, "--out", out / "bench"]
    run_on_one_thread("-m", "nanollava.evals.llava_bench", *bench_flags)
    bench = read_json(out / "bench" / "score.json")
    for column in BENCH_COLUMNS:
        scores[column] = bench[column][0]
    return Reply(json.dumps(scores))


def make_jobs(settings: Settings, seeds: int) -> tuple[dict[str, dict], dict[str, dict]]:
    """The trainings of stage 1 and stage 2, by name. Cells with the same stage 1 share it."""
    stage_1 = {}
    stage_2 = {}
    for seed in range(seeds):
        for cell in CELLS:
            aligned = cell.name if cell.align_flags else "full"
            start = str(settings.out / "align" / f"{aligned}-{seed}")
            common = {
                "seed": seed,
                "settings": [settings.batch, settings.heal],
                "files": [modification_times(folder) for folder in (VISION, LLM, settings.data)],
            }
            if f"{aligned}-{seed}" not in stage_1:
                stage_1[f"{aligned}-{seed}"] = {
                    **common,
                    "out": start,
                    "flags": cell.align_flags,
                    "steps": settings.steps[0],
                }
            stage_2[f"{cell.name}-{seed}"] = {
                **common,
                "cell": cell.name,
                "differs by": asdict(cell),
                "start": start,
                "out": str(settings.out / "cells" / f"{cell.name}-{seed}"),
                "flags": cell.instruct_flags,
                "steps": settings.steps,
                "scored on": [settings.images, settings.scenes],
                "language": "plain",  # of data and questions
            }
    return stage_1, stage_2


def parse_nothing(job: dict, text: str) -> dict:
    """A stage 1 that has run has no scores."""
    return {}


def accept(job: dict, row: dict, where: str) -> None:
    """Every row of a finished stage 1 will do."""


def parse_scores(job: dict, text: str) -> dict:
    """The scores of a cell, by column."""
    try:
        scores = parse_object(text, job["out"])
        check_scores(job, scores, job["out"])
    except UserError as error:
        raise Rejected(str(error)) from None
    return {column: scores[column] for column in COLUMNS}


def check_scores(job: dict, row: dict, where: str) -> None:
    """Check the row of a cell that was read from the answers file."""
    for column in COLUMNS:
        require(row, column, float, where, minimum=0)


# ---------------------------------------------------------------------------------------------
# The document

INTRODUCTION = """\
# The paper's tables on Toyland

Written by `python -m nanollava.evals.tables`. Every cell is the mean over the seeds (here {seeds})
± the standard deviation between them; a seed sets the order of the data, the new W and the part of
the data that is used. Every row gets the same optimizer steps ({align_steps} in stage 1,
{instruct_steps} in stage 2, of {batch} samples). With the default flags that is less than one epoch
of any mixture. So the mixtures differ in the share of each kind of data, not in its amount: without
conversations a row trains on more descriptions and reasons.
Data and questions are in Toyland's plain language, a few forms of each question: so few steps teach
no more.
Conversation (conv), detail, complex and all are relative scores on Toyland's LLaVA-Bench ({images}
test images, three questions each, exact judge); exact is the share of exact answers to the short
questions of `nanollava.toyland score --plain` over {scenes} test scenes. It compares whole texts:
the row that is trained to give the reason first gets every question that needs a reason wrong.

The last column compares with the table's first row in the measure in bold, seed by seed: an effect
is shown if the mean difference has the paper's sign and is more than twice its standard error. With
three seeds, chance alone passes this test about once in eleven times.

Two things limit what can be shown. Toyland's teacher is a program: its answers have one form, and
answering in that form is much of what the instruction data teach. And the smaller language model is
not pretrained by itself: it is toy-vicuna without its last two layers, trained on {heal} batches of
toy-vicuna's own dialogues."""


def introduce(settings: Settings, seeds: int) -> str:
    """The text above the tables."""
    return INTRODUCTION.format(
        seeds=seeds,
        align_steps=settings.steps[0],
        instruct_steps=settings.steps[1],
        batch=settings.batch,
        images=settings.images,
        scenes=settings.scenes,
        heal=settings.heal,
    )


def verdict(changes: list[float], paper_change: float | None) -> str:
    """Whether a row's change against the first row, one per seed, agrees with the paper's."""
    K = len(changes)
    mean = statistics.mean(changes)
    if paper_change is None:
        return f"{mean:+.1f}"
    noise = float("inf")  # one seed shows nothing
    if K > 1:
        noise = 2 * statistics.stdev(changes) / K**0.5
    if mean * paper_change <= 0:
        word = "no"
    elif abs(mean) > noise:
        word = "yes"
    else:
        word = "not beyond the noise"
    return f"{word}: {mean:+.1f}, the paper {paper_change:+.1f}"


def mean_and_spread(values: list[float]) -> str:
    """The mean, and the standard deviation where there are several values."""
    text = f"{statistics.mean(values):.1f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.1f}"
    return text


def markdown(table: Table, scores: dict[str, dict], seeds: int) -> list[str]:
    """A table's lines, from the scores of every "CELL-SEED"."""
    heads = []
    for column in COLUMNS:
        heads.append(f"**{column}**" if column == table.measure else column)
    lines = ["", f"## {table.title}", ""]
    lines.append(f"| row | paper: {table.paper} | {' | '.join(heads)} | shown? |")
    lines.append("|---" * (len(COLUMNS) + 3) + "|")
    first = table.rows[0]
    for row in table.rows:
        fields = [row.name, row.paper]
        for column in COLUMNS:
            values = [scores[f"{row.cell}-{seed}"][column] for seed in range(seeds)]
            fields.append(mean_and_spread(values))
        shown = ""
        if row is not first:
            changes = []
            for seed in range(seeds):
                score = scores[f"{row.cell}-{seed}"][table.measure]
                changes.append(score - scores[f"{first.cell}-{seed}"][table.measure])
            paper_change = None
            if row.paper_score is not None:
                paper_change = row.paper_score - first.paper_score
            shown = verdict(changes, paper_change)
        lines.append(f"| {' | '.join([*fields, shown])} |")
    return lines


# ---------------------------------------------------------------------------------------------
# The program


# What --quick changes, where no flag says otherwise.
QUICK = {
    "seeds": 1,
    "steps": [60, 150],
    "heal": 150,
    "pictures": 20,
    "scenes": 50,
    "out": "out/tables-quick",
    "doc": "out/tables-quick/tables.md",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m nanollava.evals.tables",
        description=__doc__.split("\n")[0],
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out", default="out/tables", help="directory for models and finished cells"
    )
    parser.add_argument(
        "--data", default="data/toyland", help="Toyland's data set; made if it is missing"
    )
    parser.add_argument("--doc", default="docs/tables.md", help="file to write the tables to")
    parser.add_argument("--seeds", type=int, default=3, help="seeds per row")
    parser.add_argument(
        "--steps",
        type=int,
        nargs=2,
        default=[200, 250],
        help="optimizer steps of stage 1 and stage 2",
    )
    parser.add_argument("--batch", type=int, default=16, help="samples per optimizer step")
    parser.add_argument(
        "--heal", type=int, default=400, help="dialogue batches for the smaller language model"
    )
    parser.add_argument("--pictures", type=int, default=40, help="images of LLaVA-Bench")
    parser.add_argument("--scenes", type=int, default=100, help="scenes of the exact score")
    parser.add_argument("--parallel", type=int, default=2, help="cells at once, one thread each")
    parser.add_argument(
        "--quick", action="store_true", help="one seed and few steps, in a directory of its own"
    )
    args = parser.parse_args()
    if args.quick:
        parser.set_defaults(**QUICK)
        args = parser.parse_args()  # flags that are given still count
    check_texts(args, "out", "data", "doc")
    for name in ("seeds", "steps", "batch", "heal", "pictures", "parallel"):
        check_number(args, name, 1, MAX_COUNT)
    check_number(args, "scenes", 3, MAX_COUNT)
    return args


def main() -> None:
    args = parse_arguments()
    settings = Settings(
        out=Path(args.out),
        data=Path(args.data),
        steps=tuple(args.steps),
        batch=args.batch,
        heal=args.heal,
        images=args.pictures,
        scenes=args.scenes,
    )
    if not settings.data.exists():
        toyland.write(settings.data)
    torch.set_num_threads(1)
    small = settings.out / f"small-{settings.heal}"
    if not (small / "config.json").exists():  # which is written last
        make_smaller_llm(small, settings.heal)

    stage_1, stage_2 = make_jobs(settings, args.seeds)
    do_align = partial(in_parallel, partial(align, settings), args.parallel)
    collect(settings.out / "stage_1.jsonl", "id", stage_1, do_align, parse_nothing, accept)
    do_instruct = partial(in_parallel, partial(instruct, settings), args.parallel)
    scores = collect(
        settings.out / "cells.jsonl", "id", stage_2, do_instruct, parse_scores, check_scores
    )

    if len(scores) < len(stage_2):
        missing = len(stage_2) - len(scores)
        raise UserError(f"{missing} of {len(stage_2)} cells have no scores; run it again")

    lines = [introduce(settings, args.seeds)]
    for table in TABLES:
        lines += markdown(table, scores, args.seeds)
    write_text(args.doc, "\n".join(lines) + "\n")
    print(f"the tables are in {args.doc}")


if __name__ == "__main__":
    run(main)
