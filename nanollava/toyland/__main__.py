"""Toyland's commands: `data` writes the data set, `pretrain` makes toy-clip and toy-vicuna, `probe` measures those two,
`score` measures a LLaVA, `picture` draws one scene."""

import argparse
import json
from pathlib import Path

import torch

from .. import cli
from ..config import UserError, read_json
from ..engine import DTYPES, pick_device, pick_dtype
from ..image import ImageConfig
from ..llama import Llama
from ..llava import LLaVA
from ..tokenizer import Tokenizer
from . import clip, data, score, vicuna
from .draw import draw
from .scenes import scenes


def pretrain(args: argparse.Namespace) -> None:
    device, out = pick_device(args.device), Path(args.out)
    dtype = pick_dtype(args.dtype, device)
    if args.only in (None, "clip"):
        model, tokenizer = clip.new_clip(args.seed)
        steps, common = round(2000 * args.scale), (1e-3, dtype, device)
        clip.train_clip(model, tokenizer, steps, steps * 2 // 5, 64, 4, args.pictures, args.seed, *common)
        steps, pictures = round(900 * args.scale), args.pictures * 5 // 7
        clip.train_clip(model, tokenizer, steps, 0, 96, 2, pictures, args.seed + 1, *common)
        clip.save_clip(model, tokenizer, out / "toy-clip")
        cli.made_by(out / "toy-clip")
    if args.only in (None, "vicuna"):
        # Copying comes twice: the second time it is learnt in a few minutes, and dialogues profit from it.
        phases = [("copies", 1500, 2e-3), ("dialogues", 1300, 2e-3), ("dialogues", 1800, 1.5e-3)]
        phases += [("copies", 700, 1.5e-3), ("dialogues", 800, 1.5e-3), ("dialogues", 1300, 1.5e-3)]
        phases += [("dialogues", n, 1.5e-3) for n in (1500, 1000, 2000)] + [("dialogues", 1300, 1.2e-3)]
        phases = [(phase, max(1, round(steps * args.scale)), lr) for phase, steps, lr in phases]
        model, tokenizer = vicuna.train_vicuna(phases, 32, args.seed, dtype, device)
        vicuna.save_vicuna(model, tokenizer, out / "toy-vicuna")
        cli.made_by(out / "toy-vicuna")


def probe(args: argparse.Namespace) -> None:
    result = {}
    if args.clip:
        model, tokenizer = clip.load_clip(Path(args.clip))
        shared = "retrieval among 128, place and weather shared"
        result[shared] = clip.retrieval(model, tokenizer, seed=args.seed)
        for layer in (-2, -1):
            result[f"read-out, layer {layer}"] = clip.readout(model.vision_model, layer, seed=args.seed)
    if args.vicuna:
        model = Llama.from_pretrained(args.vicuna, dtype=torch.float32)
        tokenizer = Tokenizer.from_pretrained(args.vicuna)
        result["questions on a description"] = vicuna.text_accuracy(model, tokenizer, seed=args.seed)
    print(json.dumps(result, indent=2))


def run_score(args: argparse.Namespace) -> None:
    if args.count < 3:
        raise UserError(f"--count {args.count}: expected at least 3 scenes")
    model = LLaVA.from_pretrained(args.model, pick_device(args.device), DTYPES[args.dtype])
    tokenizer, image = Tokenizer.from_pretrained(args.model), ImageConfig.from_pretrained(args.model)
    result = score.score(model, tokenizer, image, args.count, args.seed)
    print(json.dumps(result) if args.json else score.table(result))


def picture(args: argparse.Namespace) -> None:
    scene = list(scenes(args.split, args.index + 1, args.seed, unseen=False))[-1]
    try:
        draw(scene, args.size).save(args.out, quality=92)
    except (OSError, ValueError) as error:
        raise UserError(f"--out {args.out}: cannot be written ({error})") from None
    print(scene)


COMMANDS = {
    "data": lambda args: data.write(args.out, args.train, args.validation, args.seed, args.size),
    "pretrain": pretrain, "probe": probe, "score": run_score, "picture": picture,
}  # fmt: skip


def main() -> None:
    program, form = "python -m nanollava.toyland", argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(prog=program, description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (help, flags) in read_json(Path(__file__).parent / "commands.json").items():
        command = commands.add_parser(name, help=help, allow_abbrev=False, formatter_class=form)
        command.set_defaults(function=COMMANDS[name])
        command.add_argument("--seed", type=int, default=0, help="of scenes, wording and training")
        for flag, options in flags.items():
            of_default = {"type": type(options["default"])} if "default" in options else {}
            command.add_argument(flag, **of_default, **options)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    cli.run(main)
