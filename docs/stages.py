"""Draws docs/stages.png: answers before stage 1, after it and after stage 2, and loss curves.

python docs/stages.py --runs out/align out/instruct out/toy-llava

By default the answers are those of the shipped checkpoints. The first two curves are those of the
training scripts without flags, the third is the last part of the shipped model's training
(docs/toyland.md).
"""

import argparse
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from gallery import wrap
from matplotlib import pyplot
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation

from nanollava.errors import run
from nanollava.files import REPOSITORY, replacing, shipped
from nanollava.loading import Loaded, join_parts, load_llava
from nanollava.plot import draw_run
from nanollava.toyland.captions import NUMBERS, WORDS, plural
from nanollava.toyland.draw import draw
from nanollava.toyland.scenes import Scene, scenes
from nanollava.toyland.score import ask, normal
from nanollava.toyland.teacher import detail, stated_facts

DESCRIBE = "Describe the picture in detail."
# Index of a test scene, and what the short question asks about its first thing.
CHOSEN = (
    (4, "count"),
    (7, "color"),
    (10, "position"),
    (24, "color"),
    (8, "position"),
    (16, "count"),
)
SEED = 11  # of the scenes
SEED_OF_W = 0  # of the W before stage 1: the one that train_align.py begins with

STAGES = ("untrained", "stage 1", "stage 2")
LEGEND = (
    "untrained: W is random",
    "stage 1: W has learned",
    "stage 2: W and the language model have learned",
    "n/m facts: n of the m true facts are stated",
)

# All sizes are pixels. A page shows the figure at half its size, 900 pixels wide.
COLUMNS = 3
CELL = 600  # width
MARGIN = 16
IMAGE = 232
LABELS = 132  # width of the names of the stages
LINE = 32
FONT_SIZE = 25
LINES = 3  # of a description, at most
LEGEND_HEIGHT = 52
CURVES_HEIGHT = 460

BLACK = "#202020"
GREEN = "#1a7f37"
RED = "#b42318"
STAGE_COLORS = ("#6a6a6a", "#b35900", "#0a58a8")  # as in STAGES; LEGEND's last entry is BLACK

# Title and color of every training run's loss curve.
CURVES = (
    ("stage 1: python train_align.py", STAGE_COLORS[1]),
    ("stage 2: python train_instruct.py", STAGE_COLORS[2]),
    ("the shipped model: last part of its stage 2", STAGE_COLORS[2]),
)


@dataclass(frozen=True)
class Row:
    """A scene, a short question about it with its right answer, and the answers by stage."""

    scene: Scene
    question: str
    right: str
    answers: list[str]
    descriptions: list[str]


# Answers


def short_question(scene: Scene, fact: str) -> tuple[str, str]:
    """A question about the first thing, with its right answer."""
    thing = scene.things[0]
    if fact == "color":
        return f"What color is the {thing.kind}?", thing.color
    if fact == "position":
        return f"Where is the {thing.kind}?", WORDS[thing.side]
    count = len(scene.of_kind(thing.kind))
    return f"How many {plural(thing.kind)} are there?", NUMBERS[count]


def load_stages(projector: str, model: str) -> list[Loaded]:
    """The LLaVA before stage 1, after it and after stage 2."""
    clip = shipped("checkpoints/toy-clip")
    vicuna = shipped("checkpoints/toy-vicuna")
    torch.manual_seed(SEED_OF_W)
    untrained = join_parts(clip, vicuna, "linear", torch.float32)
    aligned = join_parts(clip, vicuna, shipped(projector), torch.float32)
    return [untrained, aligned, load_llava(shipped(model), dtype=torch.float32)]


def ask_stages(stages: list[Loaded]) -> list[Row]:
    """Both questions about every scene, to the model of every stage."""
    num_scenes = 1 + max(index for index, _ in CHOSEN)
    pool = list(scenes("test", num_scenes, SEED, unseen=False))
    rows = []
    for index, fact in CHOSEN:
        question, right = short_question(pool[index], fact)
        rows.append(Row(pool[index], question, right, [], []))
    for stage in stages:
        short = ask(*stage, [(row.scene, [row.question]) for row in rows], max_new_tokens=12)
        long = ask(*stage, [(row.scene, [DESCRIBE]) for row in rows], max_new_tokens=96)
        for row, (answer,), (description,) in zip(rows, short, long, strict=True):
            row.answers.append(answer)
            row.descriptions.append(description)
    return rows


def true_facts(row: Row, description: str) -> str:
    """How many of the scene's facts a description states."""
    true = stated_facts(detail(row.scene))
    return f"{len(true & stated_facts(description))}/{len(true)} facts"


# Drawing


class Sheet:
    """The figure, with what is needed to write on it."""

    def __init__(self, height: int):
        self.image = Image.new("RGB", (COLUMNS * CELL, height), "white")
        self.pen = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(size=FONT_SIZE)
        self.small_font = ImageFont.load_default(size=FONT_SIZE - 4)

    def lines(self, text: str, width: int, limit: int) -> list[str]:
        """The text in lines of a width, at most `limit` of them; the last ends in dots if cut."""
        lines = wrap(self.pen, self.font, text, width)
        if len(lines) > limit:
            lines = lines[:limit]
            while self.pen.textlength(f"{lines[-1]} ...", self.font) > width:
                lines[-1] = lines[-1].rpartition(" ")[0]
            lines[-1] += " ..."
        return lines

    def write(self, x: int, y: int, text: str, width: int, limit: int, color: str = BLACK) -> int:
        """Writes a text; returns the y below it."""
        for line in self.lines(text, width, limit):
            self.pen.text((x, y), line, color, self.font)
            y += LINE
        return y

    def mark(self, x: int, y: int, is_right: bool) -> None:
        """A check mark or a cross, as high as a line."""
        if is_right:
            self.pen.line([(x, y + 16), (x + 7, y + 23), (x + 18, y + 8)], GREEN, 4)
        else:
            self.pen.line([(x, y + 9), (x + 15, y + 24)], RED, 4)
            self.pen.line([(x, y + 24), (x + 15, y + 9)], RED, 4)


def draw_short_answers(sheet: Sheet, row: Row, x: int, y: int) -> None:
    """The short question and its answers, to the right of the image."""
    width = CELL - IMAGE - 3 * MARGIN
    y = sheet.write(x, y, row.question, width, limit=2) + 8
    for stage, color, answer in zip(STAGES, STAGE_COLORS, row.answers, strict=True):
        sheet.pen.text((x, y), stage, color, sheet.font)
        is_right = normal(answer) == normal(row.right)
        sheet.mark(x + LABELS, y, is_right)
        left = x + LABELS + 28
        y = sheet.write(left, y, answer, width - LABELS - 28, limit=1, color=color) + 8


def draw_descriptions(sheet: Sheet, row: Row, x: int, y: int) -> None:
    """The descriptions, below the image; how many facts they state is written below the stage."""
    y = sheet.write(x, y, DESCRIBE, CELL - 2 * MARGIN, limit=1) + 4
    for stage, color, description in zip(STAGES, STAGE_COLORS, row.descriptions, strict=True):
        sheet.pen.text((x, y), stage, color, sheet.font)
        facts = true_facts(row, description)
        sheet.pen.text((x, y + LINE), facts, color, sheet.small_font)
        width = CELL - LABELS - 2 * MARGIN
        bottom = sheet.write(x + LABELS, y, description, width, LINES, color)
        y = max(bottom, y + 2 * LINE) + 10


def cell_height() -> int:
    descriptions = LINE + 4 + len(STAGES) * (LINES * LINE + 10)
    return IMAGE + descriptions + 3 * MARGIN


def draw_curves(runs: list[Path]) -> Image.Image:
    """The loss of every training run, side by side."""
    size = (COLUMNS * CELL / 200, CURVES_HEIGHT / 200)  # inches, at 200 pixels each
    figure, axes = pyplot.subplots(
        1, len(CURVES), figsize=size, dpi=200, layout="constrained", sharey=True
    )
    for ax, path, (title, color) in zip(axes, runs, CURVES, strict=True):
        draw_run(ax, path, color)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("step", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("loss per label token", fontsize=8)
    axes[0].set_yscale("log")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def draw_legend(sheet: Sheet) -> None:
    x = MARGIN
    for text, color in zip(LEGEND, (*STAGE_COLORS, BLACK), strict=True):
        sheet.pen.text((x, 12), text, color, sheet.font)
        x += round(sheet.pen.textlength(text, sheet.font)) + 3 * MARGIN


def draw_sheet(rows: list[Row], curves: Image.Image) -> Image.Image:
    num_rows = -(-len(rows) // COLUMNS)
    bottom = LEGEND_HEIGHT + num_rows * cell_height()
    sheet = Sheet(bottom + CURVES_HEIGHT)
    draw_legend(sheet)
    for i, row in enumerate(rows):
        x = i % COLUMNS * CELL + MARGIN
        y = LEGEND_HEIGHT + i // COLUMNS * cell_height()
        sheet.image.paste(draw(row.scene, IMAGE), (x, y))
        draw_short_answers(sheet, row, x + IMAGE + MARGIN, y)
        draw_descriptions(sheet, row, x, y + IMAGE + MARGIN)
    sheet.image.paste(curves, (0, bottom))
    return sheet.image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--projector", default="checkpoints/toy-projector", help="W after stage 1")
    add("--model", default="checkpoints/toy-llava", help="LLaVA after stage 2")
    add(
        "--runs",
        nargs=len(CURVES),
        type=Path,
        default=[Path("out") / name for name in ("align", "instruct", "toy-llava")],
        help="directories with metrics.jsonl, as in CURVES",
    )
    add("--out", type=Path, default=REPOSITORY / "docs/stages.png", help="PNG file to write")
    args = parser.parse_args()
    curves = draw_curves(args.runs)
    rows = ask_stages(load_stages(args.projector, args.model))
    sheet = draw_sheet(rows, curves)
    with replacing(args.out) as temporary:  # 128 colors are enough, and make a small file
        sheet.quantize(128).save(temporary, format="png", optimize=True)
    for row in rows:
        print(row.question, row.answers, row.right)


if __name__ == "__main__":
    run(main)
