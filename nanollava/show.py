"""Two views for your own picture and text: which tokens of a dialogue are trained, and where the model looks.

python -m nanollava.show mask "What color is the cat?" purple "Where is it?" "on the left"
python -m nanollava.show attention --image cat.jpg --prompt "What color is the cat?" --out look.png
"""

import argparse
import sys
from dataclasses import replace

import torch
from PIL import Image, ImageDraw, ImageFont

from .conversation import IGNORE_INDEX, IMAGE, IMAGE_INDEX, TEMPLATES, encode
from .errors import UserError, run
from .generate import generate, prompt
from .image import ImageConfig, fit, open_image, preprocess, save_image
from .llama import rotate
from .llava import LLaVA
from .tokenizer import Tokenizer

PANEL, TEXT, GAP = 168, 26, 6  # px


def mask(ids: list[int], labels: list[int], tokenizer: Tokenizer, color: bool = True) -> str:
    """A dialogue token by token, in two shades so that borders show: the trained ones lit (without `color`: in brackets)."""
    out = ""
    for i, (token, label) in enumerate(zip(ids, labels, strict=True)):
        text = (
            IMAGE
            if token == IMAGE_INDEX
            else tokenizer.backend.id_to_token(token).replace("▁", " ")
        )
        text, trained = text.replace("<0x0A>", "\\n"), label != IGNORE_INDEX
        style = (
            ("30;106", "30;46")
            if trained
            else ("1;35", "1;35")
            if token == IMAGE_INDEX
            else ("0", "2")
        )
        out += f"\033[{style[i % 2]}m{text}\033[0m" if color else f"[{text}]" if trained else text
    return out


@torch.inference_mode()
def look(model: LLaVA, ids: list[int], new: list[int], pixel_values, layers=None) -> torch.Tensor:
    """Where the model looked when it said each of `new` to the prompt `ids`: shares of the pictures' places that sum to
    one, (len(new), places), mean over heads and `layers`. SDPA keeps no weights: softmax(q k^T) is computed again here.
    By default the decoder's second quarter: on Toyland's validation scenes these layers fetch what is spoken of."""
    if not new:
        raise UserError("the answer is empty: there is no word to draw a panel for")
    inner, T = model.language_model.model, len(ids) + len(new) - 1
    new = [0 if token == model.config.image_token_id else token for token in new]  # drawn by chance
    layers = layers or range(len(inner.layers) // 4, len(inner.layers) // 2 + 1)
    x = model.embed(torch.tensor([ids + new[:-1]], device=pixel_values.device), pixel_values)
    states, rope, weights = inner.hidden_states(x), inner.positions(x), 0
    seen = torch.ones(len(new), T, dtype=torch.bool, device=x.device).tril(len(ids) - 1)
    for block, state in ((inner.layers[i], states[i]) for i in layers):
        attention, state = block.self_attn, block.input_layernorm(state)
        q, k = (
            p(state).view(1, T, -1, attention.head_dim)
            for p in (attention.q_proj, attention.k_proj)
        )
        q, k = (rotate(heads.transpose(1, 2), rope) for heads in (q, k))  # (1, H or K, T, E)
        scores = q[:, :, len(ids) - 1 :] @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT
        scores = (scores.float() * attention.head_dim**-0.5).masked_fill(~seen, -torch.inf)
        weights = weights + scores.softmax(-1).mean((0, 1))  # (len(new), T)
    weights = weights[:, : len(ids)][:, torch.tensor(ids) == model.config.image_token_id].cpu()
    return weights / weights.sum(1, keepdim=True)


def draw(
    pictures: list, config: ImageConfig, new: list[int], tokenizer: Tokenizer, maps: torch.Tensor
):
    """One panel a word of `new`: the pictures lit where `maps` (see `look`) are strong, the strongest patch framed."""
    words: list[list[int]] = []
    for i, token in enumerate(new):
        words += (
            [[]]
            if not words or (tokenizer.backend.id_to_token(token) or "").startswith("▁")
            else []
        )
        words[-1].append(i)
    squares = [fit(picture, replace(config, size=PANEL)) for picture in pictures]
    width, height, columns = PANEL * len(squares) + GAP, PANEL + TEXT + GAP, min(len(words), 8)
    sheet = Image.new(
        "RGB", (columns * width + GAP, -(-len(words) // columns) * height + GAP), "#111111"
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, word in enumerate(words):
        left, top = GAP + i % columns * width, GAP + i // columns * height
        heat, side = maps[word].mean(0), round((maps.shape[1] / len(squares)) ** 0.5)
        light = (heat / heat.max()).view(-1, side, side).sqrt() * 216 + 39
        for j, square in enumerate(squares):
            shade = Image.fromarray(light[j].byte().numpy()).resize(
                square.size, Image.Resampling.BICUBIC
            )
            dark = Image.new("RGB", square.size)
            sheet.paste(Image.composite(square, dark, shade), (left + j * PANEL, top))
        picture, row, column = (int(n) for n in torch.unravel_index(heat.argmax(), light.shape))
        x, y, patch = (
            left + picture * PANEL + column * PANEL / side,
            top + row * PANEL / side,
            PANEL / side,
        )
        pen.rectangle((x, y, x + patch, y + patch), outline="#ffb000", width=2)
        middle = (left + (width - GAP) / 2, top + PANEL + TEXT / 2)
        pen.text(middle, tokenizer.decode([new[k] for k in word]), "white", font, anchor="mm")
    return sheet


def main() -> None:
    form = dict(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser = argparse.ArgumentParser("nanollava.show", description=__doc__, **form)
    add, asked = parser.add_argument, "Describe the picture in detail."
    add("view", choices=("mask", "attention"))
    add("texts", nargs="*", metavar="TEXT", help="mask: question, answer, question, answer ...")
    add("--image", nargs="+", default=[], metavar="PATH", help="attention: the picture, or several")
    add("--prompt", default=asked, help="attention: the question (default: %(default)s)")
    add("--out", default="attention.png", help="attention: file to write (default: %(default)s)")
    add(
        "--model", default="checkpoints/toy-llava", help="llava-hf directory (default: %(default)s)"
    )
    add("--template", choices=TEMPLATES, default="vicuna_v1", help="default: %(default)s")
    args = parser.parse_args()
    tokenizer, opening = (
        Tokenizer.from_pretrained(args.model),
        f"{IMAGE}\n" * max(1, len(args.image)),
    )
    texts, roles = args.texts if args.view == "mask" else [args.prompt], ("human", "gpt")
    texts = [" ".join(text.encode(errors="replace").decode().split(IMAGE)) for text in texts]
    turns = [
        {"from": roles[i % 2], "value": opening * (i == 0) + text} for i, text in enumerate(texts)
    ]
    if args.view == "mask":
        ids, labels = encode(turns, tokenizer, args.template)
        print(mask(ids, labels, tokenizer, sys.stdout.isatty()))
        return print(
            f"{sum(label != IGNORE_INDEX for label in labels)} of {len(ids)} tokens are trained"
        )
    if not args.image:
        raise UserError("no picture: give one with --image PATH")
    pictures = [open_image(path) for path in args.image]
    model = LLaVA.from_pretrained(args.model, dtype=torch.float32)
    config = ImageConfig.from_pretrained(args.model, size=model.config.vision_config.image_size)
    ids = prompt(turns, model, tokenizer, args.template)
    pixel_values = torch.stack([preprocess(picture, config) for picture in pictures])
    new = generate(model, torch.tensor([ids]), pixel_values)[0]
    save_image(
        draw(pictures, config, new, tokenizer, look(model, ids, new, pixel_values)), args.out
    )
    print(tokenizer.decode(new))


if __name__ == "__main__":
    run(main)
