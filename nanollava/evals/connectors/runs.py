"""The runs of the comparison: both stages as their scripts train them, and what is measured then.

OUT/ROW/RATE-SAMPLES-SEED/align          stage 1, shared by the runs that begin with it
OUT/ROW/RATE-SAMPLES-SEED/trained-RATE   stage 2; its scores are beside it, in trained-RATE.json
OUT/qformer-stage-1/                     the Q-Former's own stage, shared by rows

Finished trainings and scores are kept, and the scripts resume from their checkpoints, so the
comparison can be stopped at any time. A training that diverged leaves no result: a rerun tries it
again.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from threading import Lock

from ...assistant import load
from ...config import LlavaConfig
from ...errors import UserError
from ...files import REPOSITORY, read_json, read_json_lines, write_json
from ...toyland import natural_score
from ...toyland.score import plain_score, score
from ...training import plan
from ..program import run_on_one_thread
from .data import two_image_score
from .rows import STAGE_1_RATES, STAGE_2_RATES, Row

STAGE_2 = {plan.TOWER: False, plan.PROJECTOR: True, plan.LLM: True}  # what it trains
STAGE_2_FROZEN = {**STAGE_2, plan.LLM: False}
QFORMER_LOCK = Lock()  # rows share the Q-Former's own stage: one trains it, the others wait


@dataclass(frozen=True)
class Settings:
    """What all runs have in common."""

    out: Path
    vision: str
    llm: str
    samples: list[int]  # sizes of the training sets, the smallest first
    batch: int
    count: int  # test scenes
    dtype: str


@dataclass(frozen=True)
class Stage1:
    """One training of stage 1, which several runs share."""

    row: Row
    rate: float  # peak learning rate
    samples: int
    seed: int

    def folder(self, out: Path) -> Path:
        """Where everything is that begins with this stage 1."""
        return out / self.row.name / f"{self.rate:g}-{self.samples}-{self.seed}"

    def result(self, out: Path) -> Path:
        """The trained connector."""
        return self.folder(out) / "align"

    def title(self) -> str:
        samples = f"{self.samples:,} samples"
        return f"{self.row.name:18} {samples:>13}, seed {self.seed}, stage 1 at {self.rate:g}"


@dataclass(frozen=True)
class Run:
    """One training of both stages. Stage 2 has as many samples as stage 1, and its seed."""

    stage_1: Stage1
    rate: float  # peak learning rate of stage 2
    language_model: str  # "trained" or "frozen" in stage 2

    def llava(self, out: Path) -> Path:
        """The LLaVA that stage 2 writes."""
        return self.stage_1.folder(out) / f"{self.language_model}-{self.rate:g}"

    def result_file(self, out: Path) -> Path:
        return self.stage_1.folder(out) / f"{self.language_model}-{self.rate:g}.json"

    def title(self) -> str:
        return f"{self.stage_1.title()}, {self.language_model} at {self.rate:g}"


def check_settings(settings: Settings) -> None:
    """A UserError if the directory has results of a comparison with other settings."""
    values = asdict(settings)
    del values["out"]
    values["rates"] = [list(STAGE_1_RATES), list(STAGE_2_RATES)]  # earlier versions had others
    file = settings.out / "settings.json"
    if not file.is_file():
        write_json(file, values)
        return
    recorded = read_json(file)
    changes = []
    for name, value in values.items():
        previous = recorded.get(name, "unknown")
        if previous != value:
            changes.append(f"{name} {previous!r}, now {value!r}")
    if changes:
        raise UserError(
            f"--out {settings.out}: has results with {'; '.join(changes)}; use the same settings, "
            "or another --out"
        )


def train_and_measure(run: Run, settings: Settings) -> dict:
    """The result of a run, from its file if there is one."""
    file = run.result_file(settings.out)
    if not file.is_file():
        train_stage_2(run, settings)
        write_json(file, measure(run, settings))
    return read_json(file)


def train_stage_1(stage_1: Stage1, settings: Settings) -> float:
    """train_align.py, after train_qformer where the row begins with it. Returns the loss on
    validation data after the last step."""
    row = stage_1.row
    out = stage_1.result(settings.out)
    flags = [*common_flags(stage_1, settings), "--projector", row.projector, *row.flags]
    if row.image_tokens is not None:
        flags += ["--image-tokens", str(row.image_tokens)]
    if row.has_qformer_stage:
        flags += ["--qformer", str(qformer_stage(stage_1, settings))]
    flags += ["--data", str(settings.out / f"data/align-{stage_1.samples}.json")]
    flags += ["--lr", str(stage_1.rate)]
    flags += validation_flags("align", stage_1, settings)
    call([str(REPOSITORY / "train_align.py")], out, flags)
    return logged_steps(out)[-1]["validation_loss"]


def train_stage_2(run: Run, settings: Settings) -> float:
    """train_instruct.py, after stage 1. Returns the loss on validation data after the last step."""
    stage_1 = run.stage_1
    out = run.llava(settings.out)
    train_stage_1(stage_1, settings)
    flags = [*common_flags(stage_1, settings), "--projector", str(stage_1.result(settings.out))]
    flags += ["--data", str(settings.out / f"data/plain-{stage_1.samples}.json")]
    flags += ["--lr", str(run.rate)]
    flags += validation_flags("plain", stage_1, settings)
    if run.language_model == "frozen":
        flags += ["--freeze-llm"]
    call([str(REPOSITORY / "train_instruct.py")], out, flags)
    return logged_steps(out)[-1]["validation_loss"]


def logged_steps(result: Path) -> list[dict]:
    """What the training of a result wrote about each of its steps."""
    return [entry for _, entry in read_json_lines(result / "metrics.jsonl")]


def qformer_stage(stage_1: Stage1, settings: Settings) -> Path:
    """The result of the Q-Former's own stage on the same images; rows share it.

    Its learning rate is the default of train_qformer in all rows."""
    tokens = stage_1.row.image_tokens
    out = settings.out / f"qformer-stage-1/tokens-{tokens}-{stage_1.samples}-{stage_1.seed}"
    flags = [*common_flags(stage_1, settings), "--image-tokens", str(tokens)]
    flags += ["--data", str(settings.out / f"data/align-{stage_1.samples}.json")]
    with QFORMER_LOCK:
        call(["-m", "nanollava.train_qformer"], out, flags)
    return out


def validation_flags(data: str, stage_1: Stage1, settings: Settings) -> list[str]:
    """Flags that measure the loss on validation data after the last step."""
    file = settings.out / f"data/{data}-validation.json"
    return ["--validation", str(file), "--eval-steps", str(steps_of(stage_1, settings))]


def common_flags(stage_1: Stage1, settings: Settings) -> list[str]:
    return [
        *("--vision", settings.vision, "--llm", settings.llm, "--batch", str(settings.batch)),
        *("--max-steps", str(steps_of(stage_1, settings)), "--seed", str(stage_1.seed)),
        *("--dtype", settings.dtype, "--save-dtype", "fp32"),
        *checkpoint_flags(stage_1, settings),
    ]


def checkpoint_flags(stage_1: Stage1, settings: Settings) -> list[str]:
    """Flags that save about 20 checkpoints per stage, from which the gates are read."""
    if stage_1.row.projector != "gated_xattn" or not is_largest(stage_1, settings):
        return []
    every = max(1, steps_of(stage_1, settings) // 20)
    return ["--save-steps", str(every), "--keep", "1000"]


def steps_of(stage_1: Stage1, settings: Settings) -> int:
    """Optimizer steps of one pass over the training set; a last, smaller batch is left out."""
    return max(1, stage_1.samples // settings.batch)


def is_largest(stage_1: Stage1, settings: Settings) -> bool:
    return stage_1.samples == max(settings.samples)


def call(program: list[str], out: Path, flags: list[str]) -> None:
    """Runs a training program, unless its result is there."""
    if not (out / "MADE_BY.txt").is_file():
        run_on_one_thread(*program, "--out", out, *flags)


def measure(run: Run, settings: Settings) -> dict:
    """The scores of a run by type of question, and its validation loss.

    Every run has `plain`, the column "score" of the tables. With the largest set and a trained
    language model there are also `score` (the column "all forms"), `natural`, `two_images` and the
    costs; `own_stage_seconds` is what the Q-Former's own stage costs per sample.
    """
    stage_1 = run.stage_1
    llava = run.llava(settings.out)
    assistant = load(llava, device="cpu", dtype="fp32")
    parts = (assistant.model, assistant.tokenizer, assistant.image_config)
    result = {
        "row": stage_1.row.name,
        "rates": [stage_1.rate, run.rate],
        "samples": stage_1.samples,
        "seed": stage_1.seed,
        "language_model": run.language_model,
        "plain": plain_score(*parts, settings.count),
        "validation_loss": logged_steps(llava)[-1]["validation_loss"],
    }
    if is_largest(stage_1, settings) and run.language_model == "trained":
        natural = natural_score.replies(*parts, max(1, settings.count // 5))
        result["score"] = score(*parts, settings.count)
        result["natural"] = natural_score.summarize(natural)
        result["two_images"] = two_image_score(*parts, settings.count)
        result["image_tokens"] = assistant.model.config.num_image_tokens
        result |= costs(assistant.model.config, llava, settings)
        if stage_1.row.has_qformer_stage:
            steps = logged_steps(qformer_stage(stage_1, settings))
            result["own_stage_seconds"] = median_step(steps) / samples_per_step(settings)
    return result


def samples_per_step(settings: Settings) -> int:
    """Samples per step of the runs on the largest set, which may be smaller than a batch."""
    return min(settings.batch, max(settings.samples))


def costs(config: LlavaConfig, llava: Path, settings: Settings) -> dict:
    """Parameters trained, in the connector and in all; FLOPs and seconds per sample of stage 2."""
    steps = logged_steps(llava)
    samples = len(steps) * samples_per_step(settings)
    return {
        "connector_parameters": plan.projector_parameters(config).trained,
        "trained_parameters": plan.trained_parameters(config, STAGE_2),
        "flops": flops_per_sample(config, STAGE_2, steps, samples),
        "flops_frozen": flops_per_sample(config, STAGE_2_FROZEN, steps, samples),
        "seconds": median_step(steps) / samples_per_step(settings),
    }


def flops_per_sample(
    config: LlavaConfig, trainable: dict[str, bool], steps: list[dict], samples: int
) -> float:
    """Mean FLOPs per sample of a training, with all samples taken to be equally long."""
    tokens = sum(entry["tokens"] for entry in steps) / samples
    images = sum(entry["images"] for entry in steps)
    labels = sum(entry["label_tokens"] for entry in steps)
    flops = plan.flops(config, trainable, [tokens] * samples, images, labels)
    return sum(flops.values()) / samples


def median_step(steps: list[dict]) -> float:
    """The median seconds of a step: short interruptions do not count, steady load does."""
    seconds_so_far = [0.0, *(step["seconds"] for step in steps)]
    return median(later - earlier for earlier, later in pairwise(seconds_so_far))


def all_results(out: Path) -> list[dict]:
    """The results that are there so far."""
    return [read_json(file) for file in result_files(out)]


def result_files(out: Path) -> list[Path]:
    files = sorted(out.glob("*/*/trained-*.json"))
    files += sorted(out.glob("*/*/frozen-*.json"))
    return files


def largest_models(out: Path) -> dict[str, Path]:
    """The LLaVA trained on the largest set with seed 0, by name of the row."""
    models = {}
    for file in result_files(out):
        result = read_json(file)
        if "two_images" in result and result["seed"] == 0:
            models[result["row"]] = file.with_suffix("")
    return models
