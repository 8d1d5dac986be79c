"""What the scripts share: flags, data sets of the flags, and errors as one line."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from ..conversation import TEMPLATES
from ..data import InstructionData, collate
from ..device import DTYPES
from ..errors import UserError
from ..files import read_json
from .loop import mean_loss
from .resume import gathered
from .settings import FLAGS, Settings, micro_batch

RECIPES = read_json(Path(__file__).parent / "recipes.json")
TYPES = {"int": int, "float": float, "str": str}


def training_arguments(description: str, stage: int, **defaults) -> Settings:
    """The flags of both stages, checked; where none is given, a recipe's value stands, else the stage's `defaults`."""
    form = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        description=description, allow_abbrev=False, formatter_class=form
    )
    choices = dict(recipe=tuple(RECIPES), template=TEMPLATES, save_dtype=tuple(DTYPES))
    for name, flag in FLAGS.items():
        kind = flag.get("type", "str")
        options = {key: flag[key] for key in ("help", "default", "nargs") if key in flag}
        if kind == "bool":
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"type": TYPES[kind], "choices": choices.get(name, flag.get("choices"))}
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    parser.set_defaults(**defaults)
    asked = parser.parse_args(namespace=argparse.Namespace(epochs=None))
    parser.set_defaults(**{"max_steps": None} if asked.epochs else {})
    parser.set_defaults(**RECIPES[asked.recipe][stage - 1] if asked.recipe else {})
    args = parser.parse_args()
    for name, flag in FLAGS.items():
        value, given = getattr(args, name), f"--{name.replace('_', '-')} {getattr(args, name)}"
        if value is not None and value < flag.get("least", value):
            raise UserError(f"{given}: expected at least {flag['least']}")
        if value is not None and "above" in flag and not value > flag["above"]:
            raise UserError(f"{given}: expected more than {flag['above']}")
    if (args.validation or args.toyland_scenes) and not args.eval_steps:
        raise UserError(
            "--validation or --toyland-scenes: give --eval-steps, too, else nothing is measured"
        )
    return Settings(**vars(args))


def datasets(args, tokenizer, image_config, config) -> list[InstructionData | None]:
    """The training data and the validation split; every record is checked, each rank taking a share."""
    made, rank, ranks = [], dist.get_rank(), dist.get_world_size()
    for path in (args.data, args.validation):
        made.append(
            path
            and InstructionData(
                path,
                args.images or Path(path).parent,
                tokenizer,
                image_config,
                config.image_token_id,
                config.vision_config.num_patches,
                args.template,
                min(args.max_length, config.text_config.max_position_embeddings),
            )
        )
        if path:
            wrong = made[-1].check(
                range(rank, len(made[-1]), ranks), args.check_images, args.workers
            )
            told = made[-1].leave_out(gathered(wrong), args.skip_bad)
            if told and rank == 0:
                print(told, flush=True)
    return made


def evaluation(
    args, model, held_out: InstructionData | None, device, toyland_score
) -> Callable[[], dict]:
    """What is measured every `--eval-steps`: the loss of the validation split, Toyland's score."""
    micro = micro_batch(args, dist.get_world_size())

    def evaluate() -> dict:
        loss = (
            {"validation_loss": mean_loss(model, held_out, collate, micro, device)}
            if held_out
            else {}
        )
        model.unshard()  # the score streams its answers, which is no forward pass that FSDP sees
        return loss | (
            {"toyland_score": toyland_score(args.toyland_scenes)} if args.toyland_scenes else {}
        )

    return evaluate
