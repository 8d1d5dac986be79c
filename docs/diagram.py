"""Draws docs/llava.svg: the whole model in one picture, with shapes for Toyland and for 7B.

python docs/diagram.py
"""

import base64
import io
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation

from nanollava.config import LlavaConfig
from nanollava.files import REPOSITORY, read_json
from nanollava.hf.config import parse_llava_config
from nanollava.image import open_image

WIDTH = 1000
HEIGHT = 690
GRID = 10  # patches per side, as in Toyland
FROZEN = "#D9D9D9"
STAGES_1_AND_2 = "#E69F00"
STAGE_2 = "#56B4E9"
INK = "#222222"
SOFT = "#666666"
ITALIC = 'font-style="italic"'
TIMES = "&#215;"
EMPTY = "&#8203;"


@dataclass(frozen=True)
class Shapes:
    """The sizes that the picture names, of one model."""

    size: int  # pixels
    patches: int
    vision_width: int
    text_width: int
    vision_blocks: int
    text_blocks: int
    vocabulary: int

    @classmethod
    def of(cls, config: LlavaConfig) -> "Shapes":
        vision = config.vision_config
        text = config.text_config
        return cls(
            size=vision.image_size,
            patches=vision.num_patches,
            vision_width=vision.hidden_size,
            text_width=text.hidden_size,
            vision_blocks=vision.num_hidden_layers,
            text_blocks=text.num_hidden_layers,
            vocabulary=text.vocab_size,
        )


def symbol(letter: str, below: str = "") -> str:
    """A letter in italics with a subscript."""
    text = f"<tspan {ITALIC}>{letter}</tspan>"
    if below:
        text += f'<tspan {ITALIC} font-size="11" dy="4">{below}</tspan>'
        text += f'<tspan dy="-4">{EMPTY}</tspan>'  # back to the line
    return text


def write(x, y, text, size=15, anchor="middle", color=INK) -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{color}"'
    return f'<text x="{x}" y="{y}" {style}>{text}</text>'


def box(x, y, width, height, color, stroke=INK) -> str:
    shape = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="6"'
    return f'<rect {shape} fill="{color}" stroke="{stroke}" stroke-width="1.2"/>'


def arrow(x, y1, y2) -> str:
    """Straight up from y1 to y2."""
    line = f'd="M{x} {y1} V{y2 + 7}" stroke="{INK}" stroke-width="1.6"'
    return f'<path {line} marker-end="url(#head)"/>'


def arrow_right(x1, x2, y) -> str:
    line = f'd="M{x1} {y} H{x2 - 7}" stroke="{INK}" stroke-width="1.6"'
    return f'<path {line} marker-end="url(#head)"/>'


def shape_note(x, y, name, toy: str, large: str, indent: int = 44) -> list[str]:
    """A symbol with its shape in both models, to the right of an arrow."""
    return [
        write(x, y + 5, name, 17, "start"),
        write(x + indent, y - 6, f"Toyland {toy}", 12.5, "start", SOFT),
        write(x + indent, y + 13, f"7B {large}", 12.5, "start", SOFT),
    ]


def all_tokens(shapes: Shapes, columns: int) -> str:
    """The shape of a matrix with a row for each patch and each token of the text."""
    return f"({shapes.patches} + {symbol('T', 'q')}) {TIMES} {columns:,}"


def image(x, y, size) -> list[str]:
    """cat.jpg, cut into patches."""
    file = io.BytesIO()
    small = open_image(REPOSITORY / "cat.jpg").resize((120, 120))
    small.quantize(64).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    href = f"data:image/png;base64,{data}"
    parts = [f'<image x="{x}" y="{y}" width="{size}" height="{size}" href="{href}"/>']
    for i in range(1, GRID):
        at = i * size / GRID
        lines = f"M{x + at} {y} v{size} M{x} {y + at} h{size}"
        parts.append(f'<path d="{lines}" stroke="white" stroke-width="0.8" opacity="0.8"/>')
    return parts


def vision_column(toy: Shapes, large: Shapes) -> list[str]:
    """From the image up to H_v."""
    x = 250  # of the column's middle
    parts = image(x - 60, 564, 120)
    parts += [arrow(x, 562, 528)]
    toy_size = f"3 {TIMES} {toy.size} {TIMES} {toy.size}"
    large_size = f"3 {TIMES} {large.size} {TIMES} {large.size}"
    parts += shape_note(x + 14, 545, symbol("X", "v"), toy_size, large_size)
    parts += [box(x - 110, 452, 220, 74, FROZEN)]
    parts += [write(x, 480, f"vision tower {symbol('g')}: CLIP ViT", 16)]
    layers = f"{toy.vision_blocks - 1} of {toy.vision_blocks} | {large.vision_blocks - 1} of"
    parts += [write(x, 500, f"blocks {layers} {large.vision_blocks}", 12.5, color=SOFT)]
    parts += [write(x, 517, "class token dropped", 12.5, color=SOFT)]
    parts += [arrow(x, 450, 412)]
    toy_shape = f"{toy.patches} {TIMES} {toy.vision_width}"
    large_shape = f"{large.patches} {TIMES} {large.vision_width:,}"
    parts += shape_note(x + 14, 431, symbol("Z", "v"), toy_shape, large_shape)
    parts += [box(x - 75, 374, 150, 36, STAGES_1_AND_2)]
    parts += [write(x, 398, f"projector {symbol('W')}", 16)]
    parts += [arrow(x, 372, 330)]
    toy_shape = f"{toy.patches} {TIMES} {toy.text_width}"
    large_shape = f"{large.patches} {TIMES} {large.text_width:,}"
    parts += shape_note(x + 14, 351, symbol("H", "v"), toy_shape, large_shape)
    return parts


def text_column(toy: Shapes, large: Shapes) -> list[str]:
    """From the question up to H_q."""
    x = 690
    parts = [write(x, 606, "“What color is the cat?”", 16)]
    parts += [write(x, 628, "in the prompt template", 12.5, color=SOFT)]
    parts += [arrow(x, 586, 528)]
    parts += [write(x + 14, 561, symbol("X", "q"), 17, "start")]
    parts += [box(x - 110, 490, 220, 36, "white")]
    parts += [write(x, 514, "tokenizer: text to ids", 16)]
    parts += [arrow(x, 488, 412)]
    count = f"{symbol('T', 'q')} ids, a few dozen"
    parts += [write(x + 14, 457, count, 12.5, "start", SOFT)]
    parts += [box(x - 110, 374, 220, 36, STAGE_2)]
    parts += [write(x, 398, "word embeddings", 16)]
    parts += [arrow(x, 372, 330)]
    toy_shape = f"{symbol('T', 'q')} {TIMES} {toy.text_width:,}"
    large_shape = f"{symbol('T', 'q')} {TIMES} {large.text_width:,}"
    parts += shape_note(x + 14, 351, symbol("H", "q"), toy_shape, large_shape)
    return parts


def sequence(toy: Shapes, large: Shapes) -> list[str]:
    """The row of vectors that the language model reads."""
    parts = []
    stretches = [
        (60, 110, "“… USER:”", STAGE_2),
        (176, 250, "one vector per patch", STAGES_1_AND_2),
        (432, 398, "“What color is the cat? ASSISTANT:”", STAGE_2),
        (836, 104, "“purple”", STAGE_2),
    ]
    for x, width, text, color in stretches:
        parts += [box(x, 290, width, 38, color, "white")]
        parts += [write(x + width / 2, 314, text, 12.5)]
    for x in (115, 301, 631, 888):
        parts += [arrow(x, 286, 238)]
    name = f"[{symbol('H', 'v')}, {symbol('H', 'q')}]"
    toy_shape = all_tokens(toy, toy.text_width)
    large_shape = all_tokens(large, large.text_width)
    parts += shape_note(642, 261, name, toy_shape, large_shape, 68)
    parts += [write(466, 266, "one sequence", 15)]
    return parts


def language_model(toy: Shapes, large: Shapes) -> list[str]:
    """The decoder, and the answer above it."""
    parts = []
    name = f"language model {symbol('f', 'φ')}: LLaMA / Vicuna"
    parts += [box(60, 140, 880, 94, STAGE_2), write(500, 172, name, 18)]
    block = f"{toy.text_blocks} | {large.text_blocks} blocks: RMSNorm, causal attention with RoPE"
    parts += [write(500, 196, f"{block}; RMSNorm, SwiGLU", 14)]
    width = f"width {toy.text_width} | {large.text_width:,}"
    vocabulary = f"vocabulary {toy.vocabulary:,} | {large.vocabulary:,}"
    parts += [write(500, 218, f"{width}; {vocabulary}", 14)]
    toy_shape = all_tokens(toy, toy.vocabulary)
    large_shape = all_tokens(large, large.vocabulary)
    parts += [arrow(631, 138, 92)]
    parts += shape_note(642, 116, "logits", toy_shape, large_shape, 56)
    probability = f"{symbol('p')}({symbol('x', 'i')} | {symbol('X', 'v')}, {symbol('X', 'q')}, "
    probability += f"{symbol('x', '&lt;i')})"
    parts += [write(631, 76, f"softmax: {probability}", 15)]
    for x, answer in ((855, "“purple”"), (925, "“&lt;/s&gt;”")):
        parts += [write(x, 76, answer, 16)]
    parts += [arrow_right(732, 798, 71)]
    parts += [write(960, 48, f"answer {symbol('X', 'a')}, token by token", 15, "end")]
    return parts


def legend() -> list[str]:
    entries = [
        (FROZEN, "frozen in both stages"),
        (STAGES_1_AND_2, "trained in stages 1 and 2"),
        (STAGE_2, "trained in stage 2 only"),
    ]
    parts = [write(40, 40, "LLaVA", 22, "start")]
    formula = f"{symbol('H', 'v')} = {symbol('W')} {symbol('g')}({symbol('X', 'v')})"
    parts += [write(120, 40, f"{formula}, then next-token prediction", 15, "start", SOFT)]
    for i, (color, text) in enumerate(entries):
        parts += [box(40, 58 + 22 * i, 16, 14, color), write(64, 70 + 22 * i, text, 13, "start")]
    parts += [write(280, 70, "a | b: a in Toyland, b in 7B", 13, "start")]
    tokens = f"{symbol('T', 'q')}: number of text tokens"
    parts += [write(280, 92, tokens, 13, "start")]
    return parts


def main() -> None:
    path = REPOSITORY / "checkpoints/toy-llava/config.json"
    toy = Shapes.of(parse_llava_config(read_json(path), str(path)))
    large = Shapes.of(LlavaConfig())
    head = '<marker id="head" markerWidth="8" markerHeight="8" refX="1" refY="3" orient="auto">'
    head += f'<path d="M0 0 L7 3 L0 6 Z" fill="{INK}"/></marker>'
    title = "LLaVA: vision tower, projector and language model, with the shapes between them"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif">',
        f"<title>{title}</title><defs>{head}</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *legend(),
        *language_model(toy, large),
        *sequence(toy, large),
        *vision_column(toy, large),
        *text_column(toy, large),
        "</svg>",
    ]
    (REPOSITORY / "docs/llava.svg").write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
