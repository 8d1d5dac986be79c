"""Asks a LLaVA about a picture.

python sample.py --image cat.jpg
python sample.py --image cat.jpg --prompt "What color is the cat?"
python sample.py --image cat.jpg --chat
"""

import argparse
import sys

import torch

from nanollava import LLaVA, cli
from nanollava.config import UserError
from nanollava.conversation import IMAGE, STOP, SYSTEMS, encode, expand
from nanollava.engine import DTYPES, pick_device
from nanollava.image import ImageConfig, open_image, preprocess
from nanollava.tokenizer import Tokenizer


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--image", nargs="+", default=[], metavar="PATH", help="the picture, or several")
    add(
        "--prompt",
        metavar="TEXT",
        default="Describe the picture in detail.",
        help="the question (default: %(default)s)",
    )
    add(
        "--model",
        default="checkpoints/toy-llava",
        metavar="DIR",
        help="llava-hf directory (default: %(default)s)",
    )
    add("--vision", metavar="DIR", help="CLIP directory, for an original LLaVA that only names its tower")
    add(
        "--template",
        choices=tuple(SYSTEMS),
        default="vicuna_v1",
        help="prompt that the model was trained with",
    )
    add("--temperature", type=float, default=0.0, help="0 takes the most likely word (default)")
    add("--top-p", type=float, default=1.0, help="draw from the most likely tokens up to this probability")
    add("--max-new-tokens", type=int, default=256, help="longest answer (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the drawing at temperature above 0")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--dtype", choices=tuple(DTYPES), default=None, help="default: fp32 on the CPU, else fp16")
    add("--chat", action="store_true", help="a dialogue: --prompt, if given, is its first question")
    args = parser.parse_args()
    args.asked = any(a == "--prompt" or a.startswith("--prompt=") for a in sys.argv[1:])
    return args


class Printer:
    """Prints text as its tokens come; what may still change (half a character, a beginning stop) waits for the next."""

    def __init__(self, tokenizer: Tokenizer, stop: str | None):
        self.tokenizer, self.stop, self.ids, self.shown = tokenizer, stop, [], 0

    def __call__(self, ids: list[int]) -> bool:
        """Takes the next id; True when the template's stop has come."""
        if ids[0] >= 0:
            self.ids.append(ids[0])
            text = self.text().rstrip("\ufffd")
            self.show(text.rstrip(f"\n {self.stop[0]}") if self.stop else text)
        return self.stop is not None and self.stop in self.tokenizer.decode(self.ids)

    def text(self) -> str:
        text = self.tokenizer.decode(self.ids)
        return text.partition(self.stop)[0].rstrip() if self.stop else text

    def show(self, text: str) -> None:
        print(text[self.shown :], end="", flush=True)
        self.shown = max(self.shown, len(text))


def main() -> None:
    args = arguments()
    if not args.image:
        raise UserError(
            "no picture: give one with --image PATH, for example python sample.py --image cat.jpg"
        )
    device = pick_device(args.device)
    dtype = DTYPES[args.dtype or ("fp32" if device.type == "cpu" else "fp16")]
    pictures = [open_image(path) for path in args.image]
    model = LLaVA.from_pretrained(args.model, device, dtype, args.vision)
    tokenizer = Tokenizer.from_pretrained(args.model)
    config = ImageConfig.from_pretrained(args.model, size=model.config.vision_config.image_size)
    pixel_values = torch.stack([preprocess(picture, config) for picture in pictures]).to(device, dtype)
    patches = model.config.vision_config.num_patches

    def answer(turns: list[dict]) -> str:
        ids, _ = expand(*encode(turns, tokenizer, args.template), model.config.image_token_id, patches)
        printer = Printer(tokenizer, STOP.get(args.template))
        model.generate(
            torch.tensor([ids], device=device), pixel_values, max_new_tokens=args.max_new_tokens,
            temperature=args.temperature, top_p=args.top_p, seed=args.seed, on_token=printer,
        )  # fmt: skip
        printer.show(printer.text())
        print()
        return printer.text()

    opening = f"{IMAGE}\n" * len(pictures)
    if not args.chat:
        answer([{"from": "human", "value": opening + args.prompt.replace(IMAGE, "")}])
        return
    turns, question = [], args.prompt if args.asked else None
    while True:
        if question is None:
            try:
                question = input("> ").strip()
            except EOFError:
                break
        if question:
            turns.append(
                {"from": "human", "value": (opening if not turns else "") + question.replace(IMAGE, "")}
            )
            turns.append({"from": "gpt", "value": answer(turns) or "..."})
        question = None


if __name__ == "__main__":
    cli.run(main)
