"""Asks the LLaVA under evaluation, greedily and in batches."""

import argparse
from collections.abc import Callable, Iterator

from PIL import Image

from ..conversation import IMAGE
from ..device import DTYPES, pick_device
from ..files import shipped
from ..image import ImageConfig
from ..llava import LLaVA
from ..streaming import answer
from ..tokenizer import Tokenizer
from .answers import Reply

CHUNK = 64  # questions between two writes to the answers file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the model under evaluation."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="checkpoints/toy-llava", help="LLaVA directory")
    group.add_argument(
        "--vision", help="CLIP directory, for an original LLaVA that only names its vision tower"
    )
    group.add_argument(
        "--template", default="vicuna_v1", help="prompt template the model was trained with"
    )
    group.add_argument("--max-new-tokens", type=int, default=256, help="longest answer in tokens")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    group.add_argument(
        "--dtype", default="fp32", choices=list(DTYPES), help="dtype of the computation"
    )


def make_job(args: argparse.Namespace, question: str, image: str | None) -> dict:
    """Describe one question for the answers file.

    The job includes the modification times of the model's files: answers of an older model in the
    same directory do not count as answers of this one.
    """
    paths = sorted(path for path in shipped(args.model).glob("*") if path.is_file())
    files = [(path.name, path.stat().st_mtime) for path in paths]
    model = [args.model, files, args.template, args.max_new_tokens]
    return {"prompt": question, "image": image, "model": model}


def ask_model(
    args: argparse.Namespace, open_image: Callable[[str], Image.Image], jobs: dict[str, dict]
) -> Iterator[tuple[str, Reply]]:
    """Yield (name, Reply) for jobs made by `make_job`; `open_image` opens what a job names."""
    path = shipped(args.model)
    device = pick_device(args.device)
    model = LLaVA.from_pretrained(path, device, DTYPES[args.dtype], args.vision)
    tokenizer = Tokenizer.from_pretrained(path)
    image_size = model.config.vision_config.image_size
    image_config = ImageConfig.from_pretrained(path, size=image_size)
    names = list(jobs)
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK]
        prompts = []
        for name in chunk:
            images = []
            question = jobs[name]["prompt"].replace(IMAGE, "")
            if jobs[name]["image"]:
                images.append(open_image(jobs[name]["image"]))
                question = f"{IMAGE}\n{question}"
            prompts.append((images, [{"from": "human", "value": question}]))
        texts = answer(
            model,
            tokenizer,
            image_config,
            prompts,
            template=args.template,
            max_new_tokens=args.max_new_tokens,
        )
        for name, text in zip(chunk, texts, strict=True):
            yield name, Reply(text)
