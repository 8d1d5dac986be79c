"""Two views for your own picture and text: which tokens of a dialogue are trained, and where the model looks.

python -m nanollava.show mask "What color is the cat?" purple "Where is it?" "on the left"
python -m nanollava.show attention --image cat.jpg --prompt "What color is the cat?" --out look.png
"""

import argparse
import sys
from contextlib import contextmanager
from dataclasses import replace

import torch
from PIL import Image, ImageDraw, ImageFont

from .config import UserError
from .conversation import IGNORE_INDEX, IMAGE, IMAGE_INDEX, TEMPLATES, encode
from .device import pick_device, run
from .generate import prompt, stream
from .image import ImageConfig, fit, open_image, preprocess
from .llama import rotate
from .llava import LLaVA
from .tokenizer import Tokenizer

PANEL = 168  # px


def mask(ids: list[int], labels: list[int], tokenizer: Tokenizer, color: bool = True) -> str:
    """Every token of a dialogue as text: the trained ones lit (without `color`: in brackets), two shades so that borders show."""
    out = []
    for i, (token, label) in enumerate(zip(ids, labels, strict=True)):
        text = IMAGE if token == IMAGE_INDEX else tokenizer.backend.id_to_token(token).replace("▁", " ")
        text = text.replace("<0x0A>", "\\n")
        trained = label != IGNORE_INDEX
        style = ("30;106", "30;46") if trained else ("1;35",) * 2 if token == IMAGE_INDEX else ("0", "2")
        out.append(f"\033[{style[i % 2]}m{text}\033[0m" if color else f"[{text}]" if trained else text)
    return "".join(out)


def default_layers(depth: int) -> list[int]:
    """The decoder's second quarter: on Toyland's validation scenes these layers fetch what is spoken of, later ones do not."""
    return list(range(depth // 4, depth // 2 + 1))


@contextmanager
def watch(model: LLaVA, layers: list[int]):
    """Yields a list that gets one tensor (S,) for every id generated inside: how much the place that foretold it attended
    to each place so far, mean over heads and `layers`. SDPA keeps no weights: they are computed again, for one place."""
    blocks, seen = model.language_model.model.layers, []
    if not all(0 <= layer < len(blocks) for layer in layers):
        raise UserError(f"attention layers {layers}: the model has layers 0 to {len(blocks) - 1}")

    def hook(attention, args, _):
        x, rope, _, cache = args
        q = rotate(
            attention.q_proj(x[:1, -1:]).view(1, -1, 1, attention.head_dim).transpose(1, 2), rope[..., -1:, :]
        )
        k = cache.keys[attention.layer][:1, :, : cache.length + x.shape[1]]  # (1, K, S, E)
        q = q.view(1, k.shape[1], -1, attention.head_dim)  # (1, K, H / K, E)
        weights = torch.softmax((q @ k.mT).float() * attention.head_dim**-0.5, dim=-1).mean((0, 1, 2))  # (S,)
        if attention.layer == min(layers):
            seen.append(torch.zeros_like(weights))
        seen[-1] += weights / len(layers)

    handles = [blocks[layer].self_attn.register_forward_hook(hook) for layer in set(layers)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def words(ids: list[int], tokenizer: Tokenizer) -> list[tuple[str, list[int]]]:
    """The words of an answer, each with the indices of its ids."""
    groups: list[list[int]] = []
    for i, token in enumerate(ids):
        if not groups or tokenizer.backend.id_to_token(token).startswith("▁"):
            groups.append([])
        groups[-1].append(i)
    return [(tokenizer.decode([ids[i] for i in group]), group) for group in groups]


def over_picture(seen: list[torch.Tensor], prompt_ids: list[int], image_token_id: int) -> torch.Tensor:
    """What of the attention falls on the pictures' places, as shares that sum to one: (ids generated, places)."""
    places = torch.tensor(prompt_ids) == image_token_id
    maps = torch.stack([weights.cpu()[: len(places)][places] for weights in seen])
    return maps / maps.sum(1, keepdim=True)


def draw(
    pictures: list[Image.Image], config: ImageConfig, found: list[tuple[str, list[int]]], maps: torch.Tensor
) -> Image.Image:
    """One panel a word: the pictures, lit where the model looked when it said the word, the strongest patch framed."""
    squares = [fit(picture, replace(config, size=PANEL)) for picture in pictures]
    font, text = ImageFont.load_default(size=15), 26
    width, columns = PANEL * len(squares), max(1, min(len(found), 8 // len(squares)))
    sheet = Image.new(
        "RGB", (columns * (width + 6) + 6, -(-len(found) // columns) * (PANEL + text + 6) + 6), "#111111"
    )
    pen = ImageDraw.Draw(sheet)
    for i, (word, group) in enumerate(found):
        left, top = 6 + i % columns * (width + 6), 6 + i // columns * (PANEL + text + 6)
        heat = maps[group].mean(0).view(len(squares), -1)
        side = round(heat.shape[1] ** 0.5)
        light = (heat / heat.max()).view(-1, side, side).sqrt() * 0.85 + 0.15
        for j, square in enumerate(squares):
            shade = Image.fromarray((light[j] * 255).byte().numpy()).resize(
                square.size, Image.Resampling.BICUBIC
            )
            sheet.paste(
                Image.composite(square, Image.new("RGB", square.size), shade), (left + j * PANEL, top)
            )
        at, patch = int(heat.argmax()), PANEL / side
        x, y = left + at // side**2 * PANEL + at % side * patch, top + at % side**2 // side * patch
        pen.rectangle((x, y, x + patch, y + patch), outline="#ffb000", width=2)
        pen.text((left + width / 2, top + PANEL + text / 2), word, "white", font, anchor="mm")
    return sheet


def save(sheet: Image.Image, path: str) -> None:
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the attention's picture cannot be written ({error})") from None


def show_mask(args: argparse.Namespace) -> None:
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(args.texts)]
    turns[0]["value"] = f"{IMAGE}\n" * (not args.no_picture) + turns[0]["value"]
    tokenizer = Tokenizer.from_pretrained(args.model)
    ids, labels = encode(turns, tokenizer, args.template)
    print(mask(ids, labels, tokenizer, sys.stdout.isatty() if args.color is None else args.color))
    print(f"{sum(label != IGNORE_INDEX for label in labels)} of {len(ids)} tokens are trained")


def show_attention(args: argparse.Namespace) -> None:
    device, pictures = pick_device(args.device), [open_image(path) for path in args.image]
    model, tokenizer = (
        LLaVA.from_pretrained(args.model, device, torch.float32),
        Tokenizer.from_pretrained(args.model),
    )
    config = ImageConfig.from_pretrained(args.model, size=model.config.vision_config.image_size)
    turns = [{"from": "human", "value": f"{IMAGE}\n" * len(pictures) + args.prompt}]
    ids = prompt(turns, model, tokenizer, args.template)
    pixel_values = torch.stack([preprocess(picture, config) for picture in pictures]).to(device)
    with watch(model, args.layers or default_layers(len(model.language_model.model.layers))) as seen:
        new = [
            row[0] for row in stream(model, torch.tensor([ids], device=device), pixel_values) if row[0] >= 0
        ]
    maps = over_picture(seen, ids, model.config.image_token_id)
    save(draw(pictures, config, words(new, tokenizer), maps), args.out)
    print(tokenizer.decode(new))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nanollava.show", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="mask|attention")
    for function, name in ((show_mask, "mask"), (show_attention, "attention")):
        sub = commands.add_parser(name, help=(function.__doc__ or name), allow_abbrev=False)
        sub.set_defaults(function=function)
        sub.add_argument(
            "--model", default="checkpoints/toy-llava", help="llava-hf directory (default: %(default)s)"
        )
        sub.add_argument("--template", choices=TEMPLATES, default="vicuna_v1", help="default: %(default)s")
        add = sub.add_argument
        if name == "mask":
            add("texts", nargs="+", metavar="TEXT", help="question, answer, question, answer ...")
            add("--no-picture", action="store_true", help="a dialogue without a picture")
            add("--color", action=argparse.BooleanOptionalAction, help="default: when it goes to a terminal")
        else:
            add("--image", nargs="+", required=True, metavar="PATH", help="the picture, or several")
            add(
                "--prompt",
                default="Describe the picture in detail.",
                help="the question (default: %(default)s)",
            )
            add("--out", default="attention.png", help="file to write (default: %(default)s)")
            add("--layers", type=int, nargs="+", help="decoder layers of which the mean is taken")
            add("--device", default="auto", help="auto, cpu, cuda or mps")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    run(main)
