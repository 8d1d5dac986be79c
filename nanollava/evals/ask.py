"""Asks the LLaVA under evaluation, greedily and in batches."""

import argparse
from collections.abc import Callable, Iterator

from PIL import Image

from ..assistant import Assistant, dialogue_turns, load
from ..conversation import CHAT_TEMPLATES
from ..device import DTYPES
from ..errors import UserError
from ..files import shipped
from ..flags import check_number, check_texts
from ..generate import needed_positions
from ..streaming import encode_prompt
from .answers import Refused, Reply

CHUNK = 64  # questions between two writes to the answers file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the model under evaluation."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="checkpoints/toy-llava", help="LLaVA directory")
    group.add_argument(
        "--vision", help="CLIP directory, for an original LLaVA that only names its vision tower"
    )
    group.add_argument(
        "--template",
        default="vicuna_v1",
        choices=CHAT_TEMPLATES,
        help="prompt template the model was trained with",
    )
    group.add_argument("--max-new-tokens", type=int, default=256, help="longest answer in tokens")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    group.add_argument(
        "--dtype", default="fp32", choices=list(DTYPES), help="dtype of the computation"
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Raise a UserError if a flag of the model has an unusable value."""
    check_texts(args, "model", "vision", "template", "device")
    check_number(args, "max_new_tokens", 1, 1_000_000)
    if args.vision is not None and not shipped(args.vision).exists():
        raise UserError(f"--vision {args.vision}: no such file or directory")


def make_job(args: argparse.Namespace, question: str, image: str | None) -> dict:
    """Describe one question for the answers file.

    The job includes all that an answer depends on, also the modification times of the model's
    files: answers of an older model in the same directory do not count as answers of this one.
    """
    model = [args.model, modification_times(args.model)]
    if args.vision is not None:
        model += [args.vision, modification_times(args.vision)]
    model += [args.template, args.max_new_tokens, args.dtype]
    return {"prompt": question, "image": image, "model": model}


def modification_times(folder: str) -> list[tuple[str, float]]:
    """Name and time of every file of a directory."""
    times = []
    for path in sorted(shipped(folder).glob("*")):
        if path.is_file():
            times.append((path.name, path.stat().st_mtime))
    return times


def ask_model(
    args: argparse.Namespace, open_image: Callable[[str], Image.Image], jobs: dict[str, dict]
) -> Iterator[tuple[str, Reply | Refused]]:
    """Yield (name, Reply) for jobs made by `make_job`; `open_image` opens what a job names.

    A question that is too long for the model yields Refused, and the others are still asked.
    """
    assistant = load(
        args.model, args.device, args.dtype, template=args.template, vision=args.vision
    )
    names = []
    for name, job in jobs.items():
        num_images = 1 if job["image"] else 0
        try:
            check_length(assistant, job["prompt"], num_images, args.max_new_tokens)
        except UserError as error:
            yield name, Refused(str(error))
        else:
            names.append(name)
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK]
        requests = []
        for name in chunk:
            image = None
            if jobs[name]["image"]:
                image = open_image(jobs[name]["image"])
            requests.append((image, jobs[name]["prompt"]))
        texts = assistant.batch(requests, max_new_tokens=args.max_new_tokens)
        for name, text in zip(chunk, texts, strict=True):
            yield name, Reply(text)


def check_length(assistant: Assistant, question: str, num_images: int, max_new_tokens: int) -> None:
    """A UserError if the model has no room for a question and its answer."""
    turns = dialogue_turns(num_images, question, [])
    ids = encode_prompt(turns, assistant.model, assistant.tokenizer, assistant.template)
    needed_positions(assistant.model, len(ids), max_new_tokens)
