"""Target: the values of command-line flags. What is accepted is used as far as the first step."""

import argparse
import random
import re

import torch

from benchmarks.fuzz.case import Case, expect
from nanollava.device import pick_device
from nanollava.errors import UserError
from nanollava.evals import endpoint
from nanollava.generate import stream
from nanollava.training import plan
from nanollava.training.arguments import TrainConfig, combine, flag_parser
from nanollava.training.batches import global_batches
from nanollava.training.loop import cosine
from train_align import DEFAULTS, TRAINABLE

VALUES = (
    *(
        "",
        " ",
        "0",
        "1",
        "-1",
        "2",
        "0.5",
        "-0.5",
        "1e-320",
        "1e308",
        "1e400",
        "nan",
        "inf",
        "-inf",
    ),
    *("4294967296", "18446744073709551616", "1" + 30 * "0", "1_0", "0x10", "٣", "True", "auto"),
    *("cpu", "cuda", "mps", "cpu:1", "meta", "cuda:-1", "\0", "x" * 3000, "/nowhere", "--"),
)
SAMPLING = {
    "max_new_tokens": int,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "repetition_penalty": float,
    "seed": int,
}


def flags(case: Case) -> None:
    """Flags of the trainings, of an answer or of an endpoint: used, or refused in one line."""
    check = case.rng.choice((training_flags, sampling_options, endpoint_flags, device_name))
    check(case)


def parse(parser: argparse.ArgumentParser, words: list[str], case: Case) -> argparse.Namespace:
    """The parsed flags. What argparse itself refuses is a UserError here."""
    case.note = repr(words)[:300]
    try:
        return parser.parse_args(words)
    except SystemExit:
        raise UserError("argparse refuses them") from None


def random_flags(parser: argparse.ArgumentParser, rng: random.Random) -> list[str]:
    """Up to three flags of a parser with odd values."""
    actions = [action for action in parser._actions if action.dest != "help"]
    words = []
    for action in rng.sample(actions, rng.randint(1, 3)):
        words.append(action.option_strings[0])
        count = action.nargs if isinstance(action.nargs, int) else 1
        words += [rng.choice(VALUES) for _ in range(count)]
    return words


def training_flags(case: Case) -> None:
    parser = flag_parser("training", DEFAULTS)
    given = vars(parse(parser, random_flags(parser, case.rng), case))
    config = combine(DEFAULTS, {}, given)
    for step in (0, 599):
        expect(0 <= cosine(step, 600, config.warmup) <= 1, "a learning rate outside of its range")
    if config.batch < 10_000:
        next(iter(global_batches(50, config.batch, 1, config.seed)))
    pick_device(config.device)
    check_plan(case, given)


def check_plan(case: Case, given: dict) -> None:
    """--plan with these flags has no number that is not finite."""
    if {"model", "vision", "llm", "projector"} & given.keys():
        return
    parts = {"vision": str(case.world.path / "clip"), "llm": str(case.world.path / "llama")}
    config: TrainConfig = combine(DEFAULTS, {}, {"samples": 10, **parts, **given})
    text = plan.describe(config, TRAINABLE)
    expect(re.search(r"\b(nan|inf)\b", text) is None, "a plan with a number that is not finite")


def sampling_options(case: Case) -> None:
    options = {}
    for name in case.rng.sample(list(SAMPLING), case.rng.randint(1, 3)):
        try:
            options[name] = SAMPLING[name](case.rng.choice(VALUES))
        except ValueError:
            raise UserError("argparse refuses them") from None
    case.note = repr(options)[:300]
    ids = torch.tensor([[1, 5, 6]])
    steps = stream(case.world.model, ids, None, **options)
    for _ in range(2):
        next(steps, None)


def endpoint_flags(case: Case) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    endpoint.add_arguments(parser)
    args = parse(parser, random_flags(parser, case.rng), case)
    endpoint.check_arguments(args)


def device_name(case: Case) -> None:
    case.note = case.rng.choice(VALUES)[:300]
    pick_device(case.note)


TARGETS = {"flags": flags}
