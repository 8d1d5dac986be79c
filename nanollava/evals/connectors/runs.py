"""One run of the comparison: both stages as their scripts train them, and what is measured then.

A run is a directory. What is in it is not computed again, and the scripts themselves resume from
their checkpoints, so the whole comparison can be stopped at any time.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ...assistant import load
from ...connectors.costs import connector_parameters
from ...errors import UserError
from ...files import REPOSITORY, read_json, read_json_lines, write_json
from ...toyland import natural_score
from ...toyland.score import score
from ...training import plan
from .data import two_image_score
from .rows import Rate, Row

STAGE_2 = {plan.TOWER: False, plan.PROJECTOR: True, plan.LLM: True}


@dataclass(frozen=True)
class Settings:
    """What all runs have in common."""

    out: Path
    vision: str
    llm: str
    align_steps: int
    steps: int
    qformer_steps: int
    batch: int
    count: int  # test scenes


@dataclass(frozen=True)
class Run:
    """One training of both stages."""

    row: Row
    rate: Rate
    samples: int
    seed: int
    language_model: str  # "trained" or "frozen" in stage 2

    def folder(self, out: Path) -> Path:
        """Where stage 1 is, which both language models share."""
        return out / self.row.name / f"{self.rate.name}-{self.samples}-{self.seed}"

    def result_file(self, out: Path) -> Path:
        return self.folder(out) / f"{self.language_model}.json"


def check_settings(settings: Settings) -> None:
    """A UserError if the directory has results of a comparison with other settings."""
    values = asdict(settings)
    del values["out"]
    file = settings.out / "settings.json"
    if not file.is_file():
        write_json(file, values)
        return
    changes = []
    for name, previous in read_json(file).items():
        if values.get(name) != previous:
            changes.append(f"{name} {previous!r}, now {values.get(name)!r}")
    if changes:
        raise UserError(
            f"--out {settings.out}: has results with {'; '.join(changes)}; use the same settings, "
            "or another --out"
        )


def train_and_measure(run: Run, settings: Settings) -> dict:
    """The result of a run, from its file if there is one."""
    file = run.result_file(settings.out)
    if not file.is_file():
        folder = run.folder(settings.out)
        train_stage_1(run, settings, folder / "align")
        trained = folder / run.language_model
        train_stage_2(run, settings, folder / "align", trained)
        write_json(file, measure(run, settings, trained))
    return read_json(file)


def train_stage_1(run: Run, settings: Settings, out: Path) -> None:
    """train_align.py, after train_qformer where the row begins with it."""
    flags = [*common_flags(settings, run.seed), "--projector", run.row.projector, *run.row.flags]
    if run.row.image_tokens is not None:
        flags += ["--image-tokens", str(run.row.image_tokens)]
    if run.row.has_qformer_stage:
        flags += ["--qformer", str(qformer_stage(run, settings))]
    flags += ["--data", str(settings.out / f"data/align-{run.samples}.json")]
    flags += ["--max-steps", str(settings.align_steps), "--lr", str(run.rate.align)]
    call([str(REPOSITORY / "train_align.py")], out, flags)


def qformer_stage(run: Run, settings: Settings) -> Path:
    """The Q-Former that stage 1 of BLIP-2 trains on the same images; rows share it."""
    name = f"tokens-{run.row.image_tokens}-{run.samples}-{run.seed}"
    out = settings.out / "qformer-stage-1" / name
    flags = [*common_flags(settings, run.seed), "--image-tokens", str(run.row.image_tokens)]
    flags += ["--data", str(settings.out / f"data/align-{run.samples}.json")]
    flags += ["--max-steps", str(settings.qformer_steps)]
    call(["-m", "nanollava.train_qformer"], out, flags)
    return out


def train_stage_2(run: Run, settings: Settings, align: Path, out: Path) -> None:
    """train_instruct.py, with the loss on validation data after the last step."""
    flags = [*common_flags(settings, run.seed), "--projector", str(align)]
    flags += ["--data", str(settings.out / f"data/plain-{run.samples}.json")]
    flags += ["--max-steps", str(settings.steps), "--lr", str(run.rate.instruct)]
    flags += ["--validation", str(settings.out / "data/plain-validation.json")]
    flags += ["--eval-steps", str(settings.steps)]
    if run.language_model == "frozen":
        flags += ["--freeze-llm"]
    if run.row.projector == "gated_xattn":
        every = max(1, settings.steps // 20)  # the gates are read from the checkpoints
        flags += ["--save-steps", str(every), "--keep", "1000"]
    call([str(REPOSITORY / "train_instruct.py")], out, flags)


def common_flags(settings: Settings, seed: int) -> list[str]:
    return [
        *("--vision", settings.vision, "--llm", settings.llm),
        *("--batch", str(settings.batch), "--seed", str(seed), "--save-dtype", "fp32"),
    ]


def call(program: list[str], out: Path, flags: list[str]) -> None:
    """Runs a training program, unless its result is there. A failure is a UserError."""
    if (out / "MADE_BY.txt").is_file():
        return
    command = [sys.executable, *program, "--out", str(out), *flags]
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    python_path = os.pathsep.join(path for path in paths if path)  # from any directory
    env = {**os.environ, "PYTHONPATH": python_path}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{program[-1]} --out {out}: {lines[-1]}")


def measure(run: Run, settings: Settings, trained: Path) -> dict:
    """Everything that the table has about a run."""
    model, tokenizer, image_config = parts(trained)
    natural = natural_score.replies(model, tokenizer, image_config, max(1, settings.count // 5))
    result = {
        "row": run.row.name,
        "rate": run.rate.name,
        "samples": run.samples,
        "seed": run.seed,
        "language_model": run.language_model,
        "score": score(model, tokenizer, image_config, settings.count),
        "natural": natural_score.summarize(natural),
        "two_images": two_image_score(model, tokenizer, image_config, settings.count),
        "image_tokens": model.config.num_image_tokens,
        **costs(model.config, trained, run, settings),
    }
    return result


def parts(path: Path):
    """Model, tokenizer and image processing of a trained LLaVA."""
    assistant = load(path, device="cpu", dtype="fp32")
    return assistant.model, assistant.tokenizer, assistant.image_config


def costs(config, trained: Path, run: Run, settings: Settings) -> dict:
    """Trained parameters, FLOPs and seconds per sample of stage 2, and its last losses."""
    trainable = {**STAGE_2, plan.LLM: run.language_model == "trained"}
    steps = [entry for _, entry in read_json_lines(trained / "metrics.jsonl")]
    last = steps[-1]
    samples = len(steps) * settings.batch
    tokens = round(sum(entry["tokens"] for entry in steps) / samples)
    labels = round(sum(entry["label_tokens"] for entry in steps) / samples)
    connector = plan.projector_parameters(config)
    if config.connector is not None:
        connector = connector_parameters(config).trained
    return {
        "connector_parameters": connector,
        "trained_parameters": plan.trained_parameters(config, trainable),
        "flops": sum(plan.flops(config, trainable, [tokens], 1, labels).values()),
        "seconds": last["seconds"] / samples,
        "tokens": tokens,
        "validation_loss": last["validation_loss"],
    }


def best_rate(results: list[dict]) -> str:
    """The name of the rate with the smallest validation loss."""
    return min(results, key=lambda result: result["validation_loss"])["rate"]


def all_results(out: Path) -> list[dict]:
    """The results that are there so far."""
    results = []
    for file in sorted(out.glob("*/*/*.json")):
        if file.stem in ("trained", "frozen"):
            results.append(json.loads(file.read_text(encoding="utf-8")))
    return results
