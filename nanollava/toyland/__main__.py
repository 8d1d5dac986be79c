"""Toyland's commands: `data` writes the data set, `pretrain` makes toy-clip and toy-vicuna, `score`
and `natural` ask a LLaVA questions, `picture` draws."""

import argparse
import json
import sys
from pathlib import Path

from ..assistant import load
from ..conversation import CHAT_TEMPLATES
from ..device import DTYPES, pick_device, pick_dtype
from ..errors import UserError, run
from ..files import check_writable
from ..flags import MAX_SEED, HelpFormatter, check_number, check_texts
from ..image import save_image
from . import data, natural_score
from .clip import MIN_IMAGES, MIN_IMAGES_CAPTIONS_ONLY, captions_only, pretrain_clip, with_regions
from .draw import MIN_SIZE, draw
from .scenes import SPLITS, scenes
from .score import TEMPLATE, plain_score, plain_table, score, table
from .vicuna import pretrain_vicuna

MAX_SCENES = 1_000_000
MAX_SIZE = 10_000  # pixels
DEVICES = "auto, cpu, cuda or mps"


def run_data(args: argparse.Namespace) -> None:
    check_texts(args, "out")
    check_number(args, "size", MIN_SIZE, MAX_SIZE, "pixels")
    check_number(args, "train", 1, MAX_SCENES, "scenes")
    check_number(args, "validation", 0, MAX_SCENES, "scenes")
    data.write(args.out, args.train, args.validation, args.seed, args.size)


def run_pretrain(args: argparse.Namespace) -> None:
    if args.captions_only and args.only == "vicuna":
        raise UserError("--captions-only is about toy-clip, not --only vicuna; omit one of the two")
    smallest = MIN_IMAGES_CAPTIONS_ONLY if args.captions_only else MIN_IMAGES
    check_number(args, "pictures", smallest, MAX_SCENES)
    check_number(args, "scale", above=0, maximum=1000)
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    check_texts(args, "out")
    out = Path(args.out)
    check_writable(out)
    if args.only in (None, "clip"):
        recipe = captions_only if args.captions_only else with_regions
        phases = recipe(args.scale, args.pictures, args.seed)
        pretrain_clip(out / "toy-clip", phases, args.seed, dtype, device)
    if args.only in (None, "vicuna"):
        pretrain_vicuna(out / "toy-vicuna", args.scale, args.seed, dtype, device)


def run_score(args: argparse.Namespace) -> None:
    check_texts(args, "model")
    check_number(args, "count", 3, MAX_SCENES, "scenes")
    assistant = load(args.model, args.device, args.dtype)
    parts = (assistant.model, assistant.tokenizer, assistant.image_config)
    if args.plain:
        result = plain_score(*parts, args.count, args.seed, args.template)
    else:
        result = score(*parts, args.count, args.seed, args.template)
    if args.json:
        print(json.dumps(result, allow_nan=False))
    elif args.plain:
        print(plain_table(result))
    else:
        print(table(result))


def run_natural(args: argparse.Namespace) -> None:
    check_texts(args, "model")
    check_number(args, "count", 1, MAX_SCENES, "scenes")
    assistant = load(args.model, args.device, args.dtype)
    parts = (assistant.model, assistant.tokenizer, assistant.image_config)
    answered = natural_score.replies(*parts, args.count, args.seed, args.template)
    summary = natural_score.summarize(answered)
    if args.wrong:
        output = sys.stderr if args.json else sys.stdout  # --json prints one object and no more
        print(natural_score.wrong_answers(answered), file=output)
    if args.json:
        print(json.dumps(summary, allow_nan=False))
    else:
        print(natural_score.table(summary))


def run_picture(args: argparse.Namespace) -> None:
    check_texts(args, "out")
    check_number(args, "size", MIN_SIZE, MAX_SIZE, "pixels")
    check_number(args, "index", 0, MAX_SCENES)
    # `score` asks about the test scenes without unseen combinations.
    unseen = False if args.split == "test" else None
    scene = list(scenes(args.split, args.index + 1, args.seed, unseen))[-1]
    save_image(draw(scene, args.size), args.out)
    print(scene)


def add_command(commands, name: str, function, help: str) -> argparse.ArgumentParser:
    """A subcommand that calls `function` with the parsed flags; every command has a seed."""
    command = commands.add_parser(
        name,
        help=help,
        description=help,
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    command.set_defaults(function=function)
    command.add_argument(
        "--seed", type=int, default=0, help="seed of scenes, wordings and training"
    )
    return command


def add_data_command(commands) -> None:
    command = add_command(
        commands, "data", run_data, "write the data set: JPEG files and LLaVA JSON"
    )
    command.add_argument("--out", required=True, help="directory to write")
    command.add_argument("--train", type=int, default=16000, help="scenes of the training split")
    command.add_argument(
        "--validation", type=int, default=500, help="scenes of the validation split"
    )
    command.add_argument("--size", type=int, default=200, help="width and height in pixels")


def add_pretrain_command(commands) -> None:
    command = add_command(
        commands, "pretrain", run_pretrain, "train the two starting points, toy-clip and toy-vicuna"
    )
    command.add_argument(
        "--out", default="checkpoints", help="directory for toy-clip and toy-vicuna"
    )
    command.add_argument("--only", choices=["clip", "vicuna"], help="train only one of the two")
    command.add_argument(
        "--captions-only",
        action="store_true",
        help="train toy-clip on whole images and captions alone, without the boxes of things",
    )
    command.add_argument(
        "--pictures",
        type=int,
        default=28000,
        help="images of CLIP's largest phase; the others draw 5 / 7 as many",
    )
    command.add_argument(
        "--scale", type=float, default=1.0, help="multiplies the steps of every phase"
    )
    command.add_argument("--device", default="auto", help=DEVICES)
    command.add_argument(
        "--dtype", choices=["auto", "fp32", "bf16"], default="auto", help="dtype of the computation"
    )


def add_score_command(commands) -> None:
    command = add_command(commands, "score", run_score, "score a LLaVA on the test split, by type")
    command.add_argument("--model", default="checkpoints/toy-llava", help="llava-hf directory")
    command.add_argument(
        "--count", type=int, default=300, help="test scenes; half as many with unseen combinations"
    )
    command.add_argument(
        "--plain", action="store_true", help="ask short questions in plain language, nothing else"
    )
    command.add_argument(
        "--template", choices=CHAT_TEMPLATES, default=TEMPLATE, help="prompt template"
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument("--device", default="auto", help=DEVICES)
    command.add_argument(
        "--dtype", choices=list(DTYPES), default="fp32", help="dtype of the computation"
    )


def add_natural_command(commands) -> None:
    command = add_command(
        commands, "natural", run_natural, "score a LLaVA on questions as people type them"
    )
    command.add_argument("--model", default="checkpoints/toy-llava", help="llava-hf directory")
    command.add_argument(
        "--count", type=int, default=100, help="test scenes, each with a question of every type"
    )
    command.add_argument("--wrong", action="store_true", help="print every wrong answer as well")
    command.add_argument(
        "--template", choices=CHAT_TEMPLATES, default=TEMPLATE, help="prompt template"
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument("--device", default="auto", help=DEVICES)
    command.add_argument(
        "--dtype", choices=list(DTYPES), default="fp32", help="dtype of the computation"
    )


def add_picture_command(commands) -> None:
    command = add_command(commands, "picture", run_picture, "draw one scene")
    command.add_argument("--out", required=True, help="image file to write")
    command.add_argument("--split", default="test", choices=SPLITS, help="split of the scene")
    command.add_argument(
        "--index",
        type=int,
        default=0,
        help="index of the scene in its split, as in the names of the data set's images",
    )
    command.add_argument("--size", type=int, default=448, help="width and height in pixels")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nanollava.toyland", description=__doc__, allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_data_command(commands)
    add_pretrain_command(commands)
    add_score_command(commands)
    add_natural_command(commands)
    add_picture_command(commands)
    args = parser.parse_args()
    check_number(args, "seed", 0, MAX_SEED)
    args.function(args)


if __name__ == "__main__":
    run(main)
