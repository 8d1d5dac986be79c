"""Asks a LLaVA about a picture.

python sample.py --image cat.jpg
python sample.py --image cat.jpg --prompt "What color is the cat?" --json
python sample.py --image cat.jpg --attention look.png
python sample.py --image cat.jpg --chat
"""

import argparse
import io
import json
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from nanollava import LLaVA, cpu
from nanollava.conversation import IMAGE, STOP, SYSTEMS
from nanollava.device import DTYPES, pick_device
from nanollava.errors import UserError, run
from nanollava.generate import Answer, compile_step, prompt, stream
from nanollava.image import ImageConfig, open_image, preprocess, save_image
from nanollava.llama import KVCache
from nanollava.tokenizer import Tokenizer

COMMANDS = """/image PATH   another picture, a new dialogue
/reset        a new dialogue about the same picture
/save FILE    the dialogue so far, as LLaVA's JSON
Ctrl-C stops an answer, Ctrl-D ends"""


def arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=form)
    add = parser.add_argument
    add(
        "--image",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="the picture, or several",
    )
    add("--prompt", metavar="TEXT", help="the question (default: Describe the picture in detail.)")
    toy = "checkpoints/toy-llava"
    add(
        "--model",
        default=toy,
        metavar="DIR",
        help="LLaVA directory, llava-hf's or the original's (%(default)s)",
    )
    add(
        "--vision",
        metavar="DIR",
        help="CLIP directory, for an original LLaVA that only names its tower",
    )
    add(
        "--template",
        choices=tuple(SYSTEMS),
        default="vicuna_v1",
        help="prompt the model was trained with",
    )
    add("--temperature", type=float, default=0.0, help="0 takes the most likely word (default)")
    add(
        "--top-p",
        type=float,
        default=1.0,
        help="draw from the most likely tokens up to this probability",
    )
    add(
        "--top-k",
        type=int,
        default=0,
        help="draw from that many of the most likely tokens (default: all)",
    )
    add(
        "--repetition-penalty",
        type=float,
        default=1.0,
        help="above 1, what was said becomes less likely",
    )
    add("--max-new-tokens", type=int, default=256, help="longest answer (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the drawing at temperature above 0")
    add(
        "--device", default="auto", help="auto (cuda, mps, cpu, the first there is), or one of them"
    )
    add("--dtype", choices=tuple(DTYPES), help="default: fp32 on the CPU, else fp16")
    add("--int8", action="store_true", help="the language model's layers in one byte a weight")
    add(
        "--compile",
        action="store_true",
        help="compile the one-token step: a slow start, then faster",
    )
    add(
        "--attention",
        metavar="OUT.png",
        help="draw where the model looked at each word of the answer",
    )
    add(
        "--json",
        action="store_true",
        help="one JSON object: answer, token count, end reason, seconds",
    )
    add(
        "--chat",
        action="store_true",
        help="a dialogue, --prompt its first question; /help tells more",
    )
    args = parser.parse_args()
    args.prompt = (
        args.prompt and args.prompt.encode(errors="replace").decode()
    )  # bytes that are no UTF-8
    if not args.image:
        raise UserError(
            "no picture: give one with --image PATH, as in python sample.py --image cat.jpg"
        )
    if args.chat and (args.json or args.attention):
        raise UserError("--chat: --json and --attention tell of one answer; leave one of them out")
    return args


class Dialogue:
    """A model, pictures and the turns about them. The cache lives from turn to turn: only what is new is computed."""

    def __init__(self, args: argparse.Namespace):
        start = time.perf_counter()
        self.args, self.device = args, pick_device(args.device)
        dtype = DTYPES[args.dtype or ("fp32" if self.device.type == "cpu" else "fp16")]
        self.open(args.image)
        self.model = LLaVA.from_pretrained(args.model, self.device, dtype, args.vision, args.int8)
        cpu.convert(self.model)
        self.tokenizer = Tokenizer.from_pretrained(args.model)
        size = self.model.config.vision_config.image_size
        self.image_config = ImageConfig.from_pretrained(args.model, size=size)
        self.step = compile_step(self.model) if args.compile else None
        self.seconds = {"load": time.perf_counter() - start}

    def open(self, paths: list[str]) -> None:
        """Begins anew with other pictures; they are read here, once."""
        self.pictures, self.paths = [open_image(path) for path in paths], paths
        self.turns, self.cache = [], None

    def ask(self, question: str) -> Answer:
        """Prints the answer as it comes, and takes both into the dialogue."""
        args, model = self.args, self.model
        opening = "" if self.turns else f"{IMAGE}\n" * len(self.pictures)
        turns = [*self.turns, {"from": "human", "value": opening + " ".join(question.split(IMAGE))}]
        self.ids = prompt(turns, model, self.tokenizer, args.template)
        embedding = model.language_model.model.embed_tokens.weight
        if self.cache is None:  # pictures that have not been looked at
            pixels = torch.stack(
                [preprocess(picture, self.image_config) for picture in self.pictures]
            )
            self.pixels = pixels.to(self.device, embedding.dtype)
            self.cache = KVCache(model.config.text_config, 1, self.device, embedding.dtype)
        answer = Answer(self.tokenizer, STOP.get(args.template, ()))
        show = (lambda text: None) if args.json else (lambda text: print(text, end="", flush=True))
        try:
            for (token,) in stream(
                model,
                torch.tensor([self.ids], device=self.device),
                self.pixels,
                max_new_tokens=args.max_new_tokens,
                temperature=args.temperature,
                top_p=args.top_p,
                top_k=args.top_k,
                repetition_penalty=args.repetition_penalty,
                seed=args.seed,
                cache=self.cache,
                step=self.step,
                seconds=self.seconds,
            ):
                show(answer.add(token))
                if answer.end:
                    break
            show(answer.finish())
        except KeyboardInterrupt:
            if not args.chat:
                raise
            show(answer.finish("interrupted"))
        show("\n")
        said = " ".join(
            answer.text.split(IMAGE)
        ).strip()  # a picture's mark is not the model's to write
        self.turns = [*turns, {"from": "gpt", "value": said or "..."}]
        return answer

    def save(self, path: str) -> None:
        """Writes the dialogue in the form that the training scripts read."""
        image = self.paths[0] if len(self.paths) == 1 else self.paths
        record = {"id": Path(path).stem, "image": image, "conversations": self.turns}
        try:
            Path(path).write_bytes(
                (json.dumps([record], indent=2, ensure_ascii=False) + "\n").encode()
            )
        except (OSError, ValueError) as error:  # the second where a name cannot be written or used
            raise UserError(f"/save {path}: cannot be written ({error})") from None


def chat(dialogue: Dialogue, question: str | None) -> None:
    """Reads questions and commands until the input ends; what goes wrong with one is told, and the dialogue goes on."""
    if sys.stdin is None:
        raise UserError("--chat: there is no input to read")
    if sys.stdin.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 - gives input() line editing and history
    elif isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no UTF-8
    while True:
        try:
            line = question or input("> " if sys.stdin.isatty() else "")
            line = (
                line.encode(errors="replace").decode().strip()
            )  # a terminal lets such bytes through
            command, _, path = (part.strip() for part in line.partition(" "))
            if command == "/image" and path:
                dialogue.open([path])
            elif command == "/save" and path and dialogue.turns:
                dialogue.save(path)
            elif line == "/reset":
                dialogue.turns = []
            elif line.startswith("/"):
                print(COMMANDS)
            elif line:
                dialogue.ask(line)
        except UserError as error:
            sys.stdout.flush()
            print(f"error: {error}", file=sys.stderr)
        except EOFError:
            return
        except KeyboardInterrupt:  # at the prompt: the line is dropped
            print()
        question = None


def main() -> None:
    args = arguments()
    dialogue = Dialogue(args)
    if args.chat:
        return chat(dialogue, args.prompt)
    answer = dialogue.ask(args.prompt or "Describe the picture in detail.")
    if args.json:
        counts = dict(tokens=len(answer.ids), prompt_tokens=len(dialogue.ids))
        seconds = {k: round(v, 4) for k, v in dialogue.seconds.items()}
        print(json.dumps({"answer": answer.text, **counts, "end": answer.end, "seconds": seconds}))
    if args.attention:
        from nanollava import show

        maps = show.look(dialogue.model, dialogue.ids, answer.ids, dialogue.pixels)
        sheet = show.draw(
            dialogue.pictures, dialogue.image_config, answer.ids, dialogue.tokenizer, maps
        )
        save_image(sheet, args.attention)


if __name__ == "__main__":
    run(main)
