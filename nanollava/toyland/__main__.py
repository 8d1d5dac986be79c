"""Toyland's commands: `data` writes the data set, `pretrain` makes toy-clip and toy-vicuna, `score` measures a
LLaVA, `picture` draws one scene."""

import argparse
import json
from pathlib import Path

from ..device import DTYPES, pick_device
from ..errors import UserError, run
from ..files import read_json
from ..image import ImageConfig, save_image
from ..llava import LLaVA
from ..tokenizer import Tokenizer
from . import data, pretrain, score
from .draw import draw
from .scenes import scenes


def run_score(args: argparse.Namespace) -> None:
    if args.count < 3:
        raise UserError(f"--count {args.count}: expected at least 3 scenes")
    model = LLaVA.from_pretrained(args.model, pick_device(args.device), DTYPES[args.dtype])
    tokenizer, image = (
        Tokenizer.from_pretrained(args.model),
        ImageConfig.from_pretrained(args.model),
    )
    result = score.score(model, tokenizer, image, args.count, args.seed)
    print(json.dumps(result) if args.json else score.table(result))


def picture(args: argparse.Namespace) -> None:
    scene = list(scenes(args.split, args.index + 1, args.seed, unseen=False))[-1]
    save_image(draw(scene, args.size), args.out)
    print(scene)


def main() -> None:
    do = {"score": run_score, "picture": picture}
    do["data"] = lambda args: data.write(
        args.out, args.train, args.validation, args.seed, args.size
    )
    do["pretrain"] = lambda args: pretrain.pretrain(args)
    program, form = "python -m nanollava.toyland", argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(prog=program, description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (help, flags) in read_json(Path(__file__).parent / "commands.json").items():
        command = commands.add_parser(name, help=help, allow_abbrev=False, formatter_class=form)
        command.set_defaults(function=do[name])
        command.add_argument("--seed", type=int, default=0, help="of scenes, wording and training")
        for flag, options in flags.items():
            of_default = {"type": type(options["default"])} if "default" in options else {}
            command.add_argument(flag, **of_default, **options)
    args = parser.parse_args()
    if vars(args).get("index", 0) < 0 or vars(args).get("size", 64) < 16:
        raise UserError("--index: expected at least 0; --size: at least 16 pixels")
    args.function(args)


if __name__ == "__main__":
    run(main)
