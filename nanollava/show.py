"""Two views for your own image and text: the trained tokens of a dialogue, and where a model looks.

python -m nanollava.show mask "What color is the cat?" purple "Where is it?" "on the left"
python -m nanollava.show attention --image cat.jpg --prompt "What color is the cat?" --out look.png
"""

import argparse
import math
import sys

import torch
from PIL import Image, ImageDraw, ImageFont

from .assistant import load
from .conversation import CHAT_TEMPLATES, IGNORE_INDEX, IMAGE, IMAGE_INDEX, TEMPLATES, encode
from .errors import UserError, run
from .files import check_not_input, shipped
from .flags import check_texts
from .image import ImageConfig, check_can_be_saved, fit, open_image, save_image
from .llama import apply_rotary_emb, causal_mask, rope_cos_sin
from .llava import LLaVA
from .tokenizer import SPACE, Tokenizer

PANEL = 168  # width and height of an image in the sheet, px
CAPTION = 26  # height of the line below it, px
GAP = 6  # between panels, px

# Terminal colors, two shades each so that the borders between tokens show.
TRAINED = ("30;106", "30;46")
NOT_TRAINED = ("0", "2")
IMAGE_MARK = ("1;35", "1;35")


def mask(ids: list[int], labels: list[int], tokenizer: Tokenizer, color: bool = True) -> str:
    """A dialogue token by token, the trained ones highlighted; without `color` in brackets."""
    pieces = []
    for i, (token, label) in enumerate(zip(ids, labels, strict=True)):
        is_trained = label != IGNORE_INDEX
        text = token_text(token, tokenizer)
        if color:
            pieces.append(f"\033[{token_style(token, is_trained)[i % 2]}m{text}\033[0m")
        elif is_trained:
            pieces.append(f"[{text}]")
        else:
            pieces.append(text)
    return "".join(pieces)


def token_text(token: int, tokenizer: Tokenizer) -> str:
    """A token as the reader should see it: a space for the space marker, \\n for a line break."""
    if token == IMAGE_INDEX:
        return IMAGE
    text = tokenizer.backend.id_to_token(token)
    return text.replace(SPACE, " ").replace("<0x0A>", "\\n")


def token_style(token: int, is_trained: bool) -> tuple[str, str]:
    """The two shades of a token's color."""
    if is_trained:
        return TRAINED
    if token == IMAGE_INDEX:
        return IMAGE_MARK
    return NOT_TRAINED


def attention_weights(block, hidden_states: torch.Tensor, config) -> torch.Tensor:
    """softmax(q k^T / sqrt(E)) of one decoder block, (H, T, T).

    `hidden_states` (1, T, D) enter the block. The fused attention of the model keeps no weights, so
    they are computed again here, one equation per line.
    """
    attention = block.self_attn
    x = block.input_layernorm(hidden_states)
    T = x.shape[1]
    position = torch.arange(T, device=x.device)[None]
    cos, sin = rope_cos_sin(position, config, like=x)
    q = apply_rotary_emb(attention.split_heads(attention.q_proj(x)), cos, sin)  # (1, H, T, E)
    k = apply_rotary_emb(attention.split_heads(attention.k_proj(x)), cos, sin)  # (1, K, T, E)
    queries_per_key = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(queries_per_key, dim=1)  # (1, H, T, E)
    scores = (q @ k.mT).float() / math.sqrt(attention.head_dim)
    scores = scores.masked_fill(~causal_mask(T, T, like=x), -torch.inf)
    return scores.softmax(-1).squeeze(0)


def check_has_attention_view(model: LLaVA) -> None:
    """A UserError for a connector whose image tokens are not patches."""
    if model.config.connector is not None:
        kind = model.config.projector
        raise UserError(
            f"the attention view needs one image token per patch, which {kind} does not have"
        )


@torch.inference_mode()
def look(
    model: LLaVA,
    prompt_ids: list[int],
    answer_ids: list[int],
    pixel_values: torch.Tensor,
    layers: range | None = None,
) -> torch.Tensor:
    """Where the model looked for each token of an answer: (answer tokens, image tokens).

    Shares of the image tokens that sum to one, the mean over heads and `layers`. The default is
    the decoder's second quarter. In toy-llava's descriptions of validation scenes these layers
    look most at the thing spoken of.
    """
    if not answer_ids:
        raise UserError("the answer is empty: there is no word to draw a panel for")
    check_has_attention_view(model)
    llama = model.language_model.model
    if layers is None:
        layers = range(len(llama.layers) // 4, len(llama.layers) // 2 + 1)
    # An image token that was drawn by chance in the answer has no image behind it.
    image_token_id = model.config.image_token_id
    answer_ids = [0 if token == image_token_id else token for token in answer_ids]
    # The token at position t is predicted at t - 1: the last one is not an input.
    ids = torch.tensor([prompt_ids + answer_ids[:-1]], device=pixel_values.device)
    states = llama.hidden_states(model.embed(ids, pixel_values))

    first = len(prompt_ids) - 1  # the position that predicts the first token of the answer
    total = torch.zeros(len(answer_ids), ids.shape[1], device=ids.device)
    for layer in layers:
        weights = attention_weights(llama.layers[layer], states[layer], llama.config)
        total += weights[:, first:].mean(0)  # (answer tokens, T)
    is_image = ids[0] == image_token_id
    on_image = total[:, is_image].cpu()
    return on_image / on_image.sum(1, keepdim=True)


def words_of(answer_ids: list[int], tokenizer: Tokenizer) -> list[list[int]]:
    """Positions in the answer of each word's tokens."""
    words = []
    for i, token in enumerate(answer_ids):
        text = tokenizer.backend.id_to_token(token) or ""
        if not words or text.startswith(SPACE):
            words.append([])
        words[-1].append(i)
    return words


def draw(
    images: list[Image.Image],
    config: ImageConfig,
    answer_ids: list[int],
    tokenizer: Tokenizer,
    maps: torch.Tensor,
) -> Image.Image:
    """One panel per word of the answer: the images, lit where `maps` (see `look`) are strong."""
    squares = [fit(image, config.scaled(PANEL)) for image in images]
    words = words_of(answer_ids, tokenizer)
    columns = min(len(words), 8)
    rows = math.ceil(len(words) / columns)
    width = PANEL * len(squares) + GAP
    height = PANEL + CAPTION + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "#111111")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for i, word in enumerate(words):
        row, column = divmod(i, columns)
        left = GAP + column * width
        top = GAP + row * height
        draw_panel(sheet, squares, maps[word].mean(0), left, top)
        text = tokenizer.decode([answer_ids[k] for k in word])
        middle = (left + (width - GAP) / 2, top + PANEL + CAPTION / 2)
        pen.text(middle, text, "white", font, anchor="mm")
    return sheet


def draw_panel(
    sheet: Image.Image, squares: list[Image.Image], heat: torch.Tensor, left: int, top: int
) -> None:
    """The images side by side, lit by `heat` (image tokens,), the strongest patch framed."""
    grid = math.isqrt(len(heat) // len(squares))  # patches in a row of an image
    heat = heat.view(len(squares), grid, grid)
    # The square root lifts weak places; nothing gets darker than 39 of 255.
    light = (heat / heat.max()).sqrt() * 216 + 39
    for i, square in enumerate(squares):
        shade = Image.fromarray(light[i].byte().numpy())
        shade = shade.resize(square.size, Image.Resampling.BICUBIC)
        black = Image.new("RGB", square.size)
        sheet.paste(Image.composite(square, black, shade), (left + i * PANEL, top))
    image, row, column = (int(n) for n in torch.unravel_index(heat.argmax(), heat.shape))
    patch = PANEL / grid  # px
    x = left + image * PANEL + column * patch
    y = top + row * patch
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((x, y, x + patch, y + patch), outline="#ffb000", width=2)


def show_mask(texts: list[str], num_images: int, model: str, template: str) -> None:
    """Prints question, answer, question, answer ... with the trained tokens highlighted."""
    if not texts:
        raise UserError("no text: after mask, give a question and its answer")
    tokenizer = Tokenizer.from_pretrained(shipped(model))
    turns = []
    for i, text in enumerate(texts):
        role = "human" if i % 2 == 0 else "gpt"
        turns.append({"from": role, "value": clean(text)})
    turns[0]["value"] = f"{IMAGE}\n" * max(1, num_images) + turns[0]["value"]
    ids, labels = encode(turns, tokenizer, template)
    trained = sum(label != IGNORE_INDEX for label in labels)
    print(mask(ids, labels, tokenizer, color=sys.stdout.isatty()))
    print(f"{trained} of {len(ids)} tokens are trained")


def clean(text: str) -> str:
    """The text without image marks and without bytes that are not UTF-8."""
    text = text.encode(errors="replace").decode()
    return " ".join(text.split(IMAGE))


def show_attention(arguments: argparse.Namespace) -> None:
    """Answers a question and writes the image of where the model looked."""
    if arguments.texts:
        words = " ".join(arguments.texts)
        raise UserError(f"{words}: the question is given with --prompt")
    if not arguments.image:
        raise UserError("no image: give one with --image PATH")
    check_not_input("--out", arguments.out, arguments.image)
    check_can_be_saved(arguments.out)
    if arguments.template not in CHAT_TEMPLATES:
        expected = ", ".join(CHAT_TEMPLATES)
        raise UserError(f"--template {arguments.template}: shows no question; expected {expected}")
    images = [open_image(path) for path in arguments.image]
    assistant = load(arguments.model, device="cpu", dtype="fp32", template=arguments.template)
    check_has_attention_view(assistant.model)
    reply = assistant.stream(images, clean(arguments.prompt))
    answer = "".join(reply)
    maps = look(assistant.model, reply.prompt_ids, reply.ids, reply.pixel_values)
    sheet = draw(images, assistant.image_config, reply.ids, assistant.tokenizer, maps)
    save_image(sheet, arguments.out)
    print(answer)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m nanollava.show",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    question = "Describe the picture in detail."
    add("view", choices=("mask", "attention"))
    add("texts", nargs="*", metavar="TEXT", help="mask: question, answer, question, answer ...")
    add(
        "--image",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="attention: one or several images; mask: only their number counts (default: 1)",
    )
    add("--prompt", default=question, help="attention: the question (default: %(default)s)")
    add("--out", default="attention.png", help="attention: file to write (default: %(default)s)")
    add("--model", default="checkpoints/toy-llava", help="LLaVA directory (default: %(default)s)")
    add("--template", choices=TEMPLATES, default="vicuna_v1", help="default: %(default)s")
    arguments = parser.parse_args()
    check_texts(arguments, "image", "prompt", "out", "model")
    if arguments.view == "mask":
        num_images = len(arguments.image)
        show_mask(arguments.texts, num_images, arguments.model, arguments.template)
    else:
        show_attention(arguments)


if __name__ == "__main__":
    run(main)
