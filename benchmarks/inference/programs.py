"""Whole programs: loading a checkpoint, and the time until sample.py shows something."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.loading import SIDES, STATES, make, measure
from nanollava.conversation import VICUNA_SYSTEM

from .timing import Settings, seconds_of, show_seconds, summarize, take_turns

ROOT = Path(__file__).resolve().parent.parent.parent
TOY = "checkpoints/toy-llava"
QUESTION = "What color is the cat?"
PEAK_FLOOR = 0.75  # peak memory of ours / transformers' while loading


# loading and conversion


def loading(settings: Settings, variant: str) -> dict:
    """Loads a sharded fp16 checkpoint as it is."""
    return load_checkpoint(settings, "float16")


def conversion(settings: Settings, variant: str) -> dict:
    """Loads a sharded fp16 checkpoint as fp32."""
    return load_checkpoint(settings, "float32")


def load_checkpoint(settings: Settings, dtype: str) -> dict:
    """Seconds and peak memory of both sides, for each state that benchmarks/loading.py explains."""
    gigabytes = settings.size
    runs = 5
    warmup = 1
    if settings.quick:
        gigabytes = 0.1
        runs = 1
        warmup = 0
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), gigabytes)
        table = measure(folder, dtype, runs, warmup)
    result = {}
    for state in STATES:
        summaries = {}
        for side in SIDES:
            summaries[side] = summarize(table[state][side]["seconds"])
            peak_bytes = statistics.median(table[state][side]["peak"])
            summaries[side]["peak_mb"] = peak_bytes / 1e6
        ours = summaries["ours"]
        theirs = summaries["transformers"]
        result[state] = {
            **summaries,
            "ratio": theirs["seconds"] / ours["seconds"],
            "peak_ratio": ours["peak_mb"] / theirs["peak_mb"],
        }
    return result


def describe_loading(result: dict, floor: float | None) -> str:
    parts = [f"floor {floor}x, peak memory {PEAK_FLOOR}x"]
    for state in STATES:
        texts = []
        for side in SIDES:
            summary = result[state][side]
            seconds = f"{summary['seconds']:.3f} s ({summary['spread']:.2f})"
            texts.append(f"{seconds} {summary['peak_mb']:.0f} MB")
        ratio = f"{result[state]['ratio']:.2f}x faster"
        peak_ratio = f"peak {result[state]['peak_ratio']:.2f}x"
        parts.append(f"{state}: {' | '.join(texts)} | {ratio}, {peak_ratio}")
    return " | ".join(parts)


# cli


def cli(settings: Settings, variant: str) -> dict:
    """From the command to the end of a one-token answer: sample.py, and a transformers script."""
    question = ["--prompt", QUESTION, "--max-new-tokens", "1", "--device", "cpu"]
    prompt = f"{VICUNA_SYSTEM} USER: <image>\n{QUESTION} ASSISTANT:"
    script = str(Path(__file__).with_name("transformers_script.py"))
    commands = {
        "ours": [sys.executable, "sample.py", "--image", "cat.jpg", *question],
        "transformers": [sys.executable, script, TOY, "cat.jpg", prompt],
    }
    answers = {}

    def run(side: str) -> None:
        done = subprocess.run(commands[side], cwd=ROOT, capture_output=True, text=True, check=True)
        answers[side] = done.stdout.strip()

    sides = {"ours": lambda: run("ours"), "transformers": lambda: run("transformers")}
    rounds = 1
    warmup = 0
    if not settings.quick:
        rounds = settings.rounds
        warmup = 1
    seconds = take_turns(sides, rounds, warmup)
    assert answers["ours"] == answers["transformers"], answers
    result = {side: summarize(seconds[side]) for side in sides}
    result["ratio"] = result["transformers"]["seconds"] / result["ours"]["seconds"]
    return result


def describe_cli(result: dict, floor: float | None) -> str:
    ours = show_seconds(result["ours"])
    theirs = show_seconds(result["transformers"])
    return f"{ours} | {theirs} | {result['ratio']:.2f}x, floor {floor}x"


# word


def word(settings: Settings, variant: str) -> dict:
    """From the command to the answer's first character.

    Compared with what cannot be saved: `import torch`, and loading and prefill of the model.
    """
    sample = [sys.executable, "sample.py", "--image", "cat.jpg", "--device", "cpu"]
    import_torch = [sys.executable, "-c", "import torch; print(1, flush=True)"]
    rounds = 1
    warmup = 0
    if not settings.quick:
        rounds = 5
        warmup = 1
    seconds = {"first_word": [], "import_torch": [], "model": []}
    for r in range(warmup + rounds):
        measured = {
            "first_word": seconds_to_first_byte(sample),
            "import_torch": seconds_to_first_byte(import_torch),
            "model": model_seconds(sample),
        }
        if r >= warmup:
            for name, elapsed in measured.items():
                seconds[name].append(elapsed)
    result = {name: summarize(values) for name, values in seconds.items()}
    necessary = result["import_torch"]["seconds"] + result["model"]["seconds"]
    result["overhead"] = result["first_word"]["seconds"] / necessary - 1
    return result


def seconds_to_first_byte(command: list[str]) -> float:
    """Seconds from the start of a command until it writes something."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        elapsed = seconds_of(lambda: process.stdout.read(1))
        process.stdout.read()
    return elapsed


def model_seconds(sample: list[str]) -> float:
    """Seconds of loading and prefill, as sample.py itself counts them."""
    done = subprocess.run([*sample, "--json"], cwd=ROOT, capture_output=True, check=True)
    seconds = json.loads(done.stdout)["seconds"]
    return seconds["load"] + seconds["prefill"]


def describe_word(result: dict, floor: float | None) -> str:
    first_word = show_seconds(result["first_word"])
    import_torch = show_seconds(result["import_torch"])
    model = show_seconds(result["model"])
    overhead = f"{result['overhead']:+.0%}, floor {floor:+.0%}"
    return f"first word {first_word} = import torch {import_torch} + model {model} {overhead}"
