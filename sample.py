"""Asks a LLaVA about an image.

python sample.py --image cat.jpg
python sample.py --image cat.jpg --prompt "What color is the cat?" --json
python sample.py --image cat.jpg --attention look.png
python sample.py --image cat.jpg --chat
"""

import argparse
import io
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from nanollava import load
from nanollava.assistant import Reply, dialogue_turns, without_image_marks
from nanollava.conversation import CHAT_TEMPLATES
from nanollava.device import DTYPES
from nanollava.errors import UserError, run
from nanollava.files import check_not_input, replacing, shipped
from nanollava.flags import check_texts
from nanollava.image import check_can_be_saved, open_image, save_image
from nanollava.sampling import SamplingConfig

DEFAULT_PROMPT = "Describe the picture in detail."
COMMANDS = """/image PATH   another image, in a new dialogue
/reset        a new dialogue about the same image
/save FILE    the dialogue so far, as LLaVA's JSON
/help         this text
Ctrl-C stops an answer, Ctrl-D ends the chat"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("words", nargs="*", help=argparse.SUPPRESS)  # for an error with advice
    add("--image", nargs="+", action="extend", default=[], metavar="PATH", help="one or several")
    add("--prompt", metavar="TEXT", help=f"the question (default: {DEFAULT_PROMPT})")
    add(
        "--model",
        default="checkpoints/toy-llava",
        metavar="DIR",
        help="LLaVA directory, llava-hf's or the original's (default: %(default)s)",
    )
    add("--vision", metavar="DIR", help="CLIP directory, if an original LLaVA only names its tower")
    add(
        "--template",
        choices=CHAT_TEMPLATES,
        default="vicuna_v1",
        help="prompt template that the model was trained with",
    )
    add("--temperature", type=float, default=0.0, help="0 (default): the most likely token")
    add(
        "--top-p",
        type=float,
        default=1.0,
        help="sample from the fewest tokens that have this total probability",
    )
    add("--top-k", type=int, default=0, help="sample from the most likely K (default: all)")
    add("--repetition-penalty", type=float, default=1.0, help="above 1: less repetition")
    add("--max-new-tokens", type=int, default=256, help="longest answer (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the sampling (default: %(default)s)")
    add(
        "--device",
        default="auto",
        help="auto (the first available of cuda, mps, cpu), or one of them",
    )
    add(
        "--dtype",
        choices=tuple(DTYPES),
        help="default: fp32 on CPU, else fp16; bf16 with --int8, --int4",
    )
    add("--int8", action="store_true", help="the decoder's layers in 8 bits per weight")
    add("--int4", action="store_true", help="the decoder's layers in 4 bits per weight")
    add("--compile", action="store_true", help="compile the decode step: slow start, then faster")
    add("--attention", metavar="OUT.png", help="draw where the model looked, word by word")
    add("--json", action="store_true", help="one JSON object: answer, tokens, end, seconds")
    add(
        "--chat",
        action="store_true",
        help="a dialogue (/help: its commands and what to ask); --prompt is its first question",
    )
    arguments = parser.parse_args()
    check_arguments(arguments)
    return arguments


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raises a UserError for invalid flags or combinations of flags."""
    if arguments.words:
        words = " ".join(arguments.words)
        raise UserError(f"{words}: an image is given with --image, a question with --prompt")
    check_texts(arguments, "image", "prompt", "model", "vision", "device", "attention")
    if arguments.prompt is not None and not arguments.prompt.strip():
        raise UserError("--prompt: expected a question, got only spaces")
    if arguments.vision is not None and not shipped(arguments.vision).exists():
        raise UserError(f"--vision {arguments.vision}: no such file or directory")
    if not arguments.image:
        example = "python sample.py --image cat.jpg"
        raise UserError(f"no image: give one with --image PATH, as in {example}")
    if arguments.chat and (arguments.json or arguments.attention):
        raise UserError("--chat: --json and --attention show one answer; leave one of them out")
    if arguments.attention is not None:
        check_not_input("--attention", arguments.attention, arguments.image)
        check_can_be_saved(arguments.attention)
    if arguments.int8 and arguments.int4:
        raise UserError("--int8 and --int4: choose one of them")
    SamplingConfig(**sampling_options(arguments))  # it checks their ranges


def sampling_options(arguments: argparse.Namespace) -> dict:
    """The flags that are fields of SamplingConfig."""
    return {
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
        "top_k": arguments.top_k,
        "repetition_penalty": arguments.repetition_penalty,
        "seed": arguments.seed,
    }


def printable(text: str) -> str:
    """The text, with "?" for bytes that are not UTF-8, which a shell or terminal lets through."""
    return text.encode(errors="replace").decode()


class Dialogue:
    """Images and the questions and answers about them."""

    def __init__(self, arguments: argparse.Namespace):
        start = time.perf_counter()
        self.arguments = arguments
        self.open(arguments.image)
        quantize = None
        if arguments.int8:
            quantize = "int8"
        if arguments.int4:
            quantize = "int4"
        self.assistant = load(
            arguments.model,
            device=arguments.device,
            dtype=arguments.dtype,
            quantize=quantize,
            template=arguments.template,
            vision=arguments.vision,
            compile=arguments.compile,
        )
        self.load_seconds = time.perf_counter() - start

    def open(self, paths: list[str]) -> None:
        """Starts a new dialogue about other images, which are read once, here."""
        self.images = [open_image(path) for path in paths]
        self.paths = paths
        self.history = []

    def ask(self, question: str) -> Reply:
        """Prints the answer as it comes, and adds question and answer to the history."""
        options = sampling_options(self.arguments)
        reply = self.assistant.stream(self.images, question, self.history, **options)
        try:
            for text in reply:
                self.show(text)
        except KeyboardInterrupt:
            if not self.arguments.chat:
                raise
            self.show(reply.finish("interrupted"))
        self.show("\n")
        self.history = [*self.history, (question, reply.text)]
        return reply

    def show(self, text: str) -> None:
        """Prints a piece of an answer, unless all of it will be printed as JSON."""
        if not self.arguments.json:
            print(text, end="", flush=True)

    def save(self, path: str) -> None:
        """Writes the dialogue in the form that the training scripts read.

        Paths of images are written as they were given.
        """
        if not self.history:
            raise UserError("/save: there is nothing to save yet; ask a question first")
        check_not_input("/save", path, self.paths)
        image = self.paths[0] if len(self.paths) == 1 else self.paths
        *earlier, (question, answer) = self.history
        turns = dialogue_turns(len(self.images), question, earlier)
        turns.append({"from": "gpt", "value": without_image_marks(answer) or "..."})
        record = {"id": Path(path).stem, "image": image, "conversations": turns}
        try:
            text = json.dumps([record], indent=2, ensure_ascii=False) + "\n"
            with replacing(Path(path)) as temporary:  # an old dialogue stays if this fails
                temporary.write_bytes(text.encode())
        except (OSError, ValueError) as error:  # ValueError: a name that is not UTF-8
            raise UserError(f"/save {path}: cannot be written ({error})") from None


def chat(dialogue: Dialogue, first_question: str | None) -> None:
    """Reads questions and commands until the input ends. An error does not end the dialogue."""
    if sys.stdin is None:
        raise UserError("--chat: there is no input to read")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are not UTF-8
    if sys.stdin.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 - gives input() line editing and history
    question = first_question
    while True:
        try:
            if question is None:
                question = input("> " if sys.stdin.isatty() else "")
            handle_line(dialogue, printable(question).strip())
        except UserError as error:
            sys.stdout.flush()
            print(f"error: {error}", file=sys.stderr)
        except EOFError:
            return
        except KeyboardInterrupt:  # at the prompt: the line is dropped
            print()
        question = None


def handle_line(dialogue: Dialogue, line: str) -> None:
    """Answers a question, or does what a line that begins with "/" says."""
    command, _, path = line.partition(" ")
    path = os.path.expanduser(path.strip())  # "~" is home; no shell has seen this line
    if command == "/image" and path:
        dialogue.open([path])
    elif command == "/save" and path:
        dialogue.save(path)
    elif line == "/reset":
        dialogue.history = []
    elif line == "/help":
        print(help_text(dialogue))
    elif line.startswith("/"):
        print(COMMANDS)
    elif line:
        dialogue.ask(line)


def help_text(dialogue: Dialogue) -> str:
    """The commands, and for a model of Toyland what it can be asked."""
    from nanollava.toyland.help import is_of_toyland, what_to_ask

    if is_of_toyland(dialogue.assistant.model.config):
        return f"{COMMANDS}\n\n{what_to_ask()}"
    return COMMANDS


def print_json(dialogue: Dialogue, reply: Reply) -> None:
    """One object: the answer, what was counted, why it ended, and seconds by phase."""
    seconds = {"load": dialogue.load_seconds, **reply.seconds}
    result = {
        "answer": reply.text,
        "tokens": len(reply.ids),
        "prompt_tokens": len(reply.prompt_ids),
        "end": reply.end,
        "seconds": {phase: round(value, 4) for phase, value in seconds.items()},
    }
    print(json.dumps(result))


def check_attention(dialogue: Dialogue) -> None:
    """An error before the answer is generated, if its attention view could not be drawn."""
    from nanollava import show

    show.check_has_attention_view(dialogue.assistant.model)


def draw_attention(dialogue: Dialogue, reply: Reply, path: str) -> None:
    """Writes an image of where the model looked at each word of the answer."""
    from nanollava import show

    assistant = dialogue.assistant
    maps = show.look(assistant.model, reply.prompt_ids, reply.ids, reply.pixel_values)
    sheet = show.draw(dialogue.images, assistant.image_config, reply.ids, assistant.tokenizer, maps)
    save_image(sheet, path)


def main() -> None:
    arguments = parse_arguments()
    question = None if arguments.prompt is None else printable(arguments.prompt)
    dialogue = Dialogue(arguments)
    if arguments.attention:
        check_attention(dialogue)
    if arguments.chat:
        chat(dialogue, question)
        return
    reply = dialogue.ask(question or DEFAULT_PROMPT)
    if arguments.json:
        print_json(dialogue, reply)
    if arguments.attention:
        draw_attention(dialogue, reply, arguments.attention)


if __name__ == "__main__":
    run(main)
