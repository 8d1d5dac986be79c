"""What the scripts share: flags, composition of the model from the flags, and errors as one line."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import torch

from .config import UserError
from .conversation import TEMPLATES
from .device import DTYPES, run  # noqa: F401
from .engine import Settings


def made_by(path: Path) -> None:
    """Leaves beside weights the command that made them, seed and all its flags."""
    name = Path(sys.argv[0])
    program = f"-m nanollava.{name.parent.name}" if name.name == "__main__.py" else name.name
    command = " ".join(["python", program, *sys.argv[1:]])
    text = f"{command}\n(torch {torch.__version__}; seed 0 unless given)\n"
    (path / "MADE_BY.txt").write_text(text, encoding="utf-8")


# Stage 1 and stage 2 of the releases. v0 also framed the picture by <im_start> and <im_end>, which is not done here.
ONCE = {"epochs": 1, "max_steps": None, "max_length": 2048}  # a linear W and cropped pictures are the default
RECIPES = {
    "paper": (dict(ONCE, template="v0", batch=128, lr=2e-3), dict(ONCE, template="v0", batch=32, lr=2e-5, epochs=3)),
    "v1": (dict(ONCE, template="plain", batch=128, lr=2e-3), dict(ONCE, template="vicuna_v1", batch=32, lr=2e-5)),
    "v1.5": (
        dict(ONCE, template="plain", projector="mlp2x_gelu", batch=256, lr=1e-3),
        dict(ONCE, template="vicuna_v1", image_mode="pad", batch=128, lr=2e-5),
    ),
}  # fmt: skip


def training_arguments(description: str, stage: int, **defaults) -> argparse.Namespace:
    """The flags that both stages share; where none is given, a recipe's value stands, else the stage's `defaults`."""
    form = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False, formatter_class=form)
    add = parser.add_argument
    add("--out", help="directory for the result and metrics.jsonl")
    add("--data", help="LLaVA JSON; Toyland's is made when its default is missing")
    add("--images", help="directory of the records' pictures; default: that of the data file")
    add("--vision", default="checkpoints/toy-clip", help="Hugging Face CLIP directory")
    add("--llm", default="checkpoints/toy-vicuna", help="Hugging Face Llama directory")
    add("--projector", help="a new 'linear' or 'mlp2x_gelu' W, or the result of stage 1")
    add("--recipe", choices=tuple(RECIPES), help="template, projector, picture shape and rates of a release")
    add("--template", choices=TEMPLATES, help="prompt template")
    add("--image-mode", choices=("crop", "pad"), default="crop", help="how a picture becomes a square")
    add("--batch", type=int, help="samples of one optimizer step, over all ranks")
    add("--micro-batch", type=int, help="samples of one forward pass on one rank; default: batch / ranks")
    add("--epochs", type=int, default=1, help="passes over the data")
    add("--max-steps", type=int, help="optimizer steps; overrides --epochs")
    add("--max-length", type=int, help="longest sample in tokens, image places included")
    add("--lr", type=float, help="peak learning rate")
    add("--seed", type=int, default=0, help="of the order of samples and of a new W")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    help = "of the computation; auto: bf16 where it is native; master weights are fp32"
    add("--dtype", choices=("auto", "fp32", "bf16"), default="auto", help=help)
    add("--save-dtype", choices=tuple(DTYPES), default="fp16", help="of the saved weights")
    parser.set_defaults(**defaults)
    recipe = parser.parse_args().recipe
    parser.set_defaults(**RECIPES[recipe][stage - 1] if recipe else {})
    return parser.parse_args()


def settings(args: argparse.Namespace) -> Settings:
    """The loop's part of the flags, checked."""
    for name in ("batch", "micro_batch", "epochs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: expected at least 1")
    if args.max_steps is not None and args.max_steps < 0:
        raise UserError(f"--max-steps {args.max_steps}: expected 0 (write the untrained model) or more")
    if args.lr <= 0:
        raise UserError(f"--lr {args.lr}: expected a positive learning rate")
    return Settings(**{f.name: getattr(args, f.name) for f in fields(Settings) if hasattr(args, f.name)})
