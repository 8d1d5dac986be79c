"""Draws docs/toyland.png: test scenes, one question each, and what a LLaVA answers.

python docs/gallery.py [MODEL]
"""

import random
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation

from nanollava import LLaVA
from nanollava.files import REPOSITORY
from nanollava.image import ImageConfig
from nanollava.tokenizer import Tokenizer
from nanollava.toyland.draw import draw
from nanollava.toyland.qa import QA
from nanollava.toyland.questions import questions
from nanollava.toyland.scenes import Scene, scenes
from nanollava.toyland.score import ask, normal
from nanollava.toyland.teacher import facts_from_captions

COLUMNS = 4
SIZE = 300  # pixels; width and height of a cell
MARGIN = 3  # around the image in its cell
LINE = 22  # pixels from one line of text to the next
BAND = 5 * LINE + 8  # pixels below the image, for question and answer
SHOWN_TYPES = ("color", "what", "count", "position", "reason", "relation", "presence", "distance")


def choose_questions(rng: random.Random) -> list[tuple[Scene, QA]]:
    """One question of each shown type, each about another scene with at least three things."""
    chosen = []
    for scene in scenes("test", 60, seed=11, unseen=False):
        if len(chosen) == len(SHOWN_TYPES):
            break
        # Also of scenes that are left out: it draws random numbers, which the figure depends on.
        by_type = questions(facts_from_captions(scene, rng), rng)
        if len(scene.things) < 3:
            continue
        qas = by_type[SHOWN_TYPES[len(chosen)]]
        if qas:
            chosen.append((scene, rng.choice(qas)))
    return chosen


def wrap(
    pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, text: str, width: int
) -> list[str]:
    """The text in lines of at most `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def draw_sheet(chosen: list[tuple[Scene, QA]], answers: list[str]) -> Image.Image:
    rows = len(chosen) // COLUMNS
    sheet = Image.new("RGB", (COLUMNS * SIZE, rows * (SIZE + BAND)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=17)
    for i, ((scene, qa), answer) in enumerate(zip(chosen, answers, strict=True)):
        x = i % COLUMNS * SIZE
        y = i // COLUMNS * (SIZE + BAND)
        sheet.paste(draw(scene, SIZE - 2 * MARGIN), (x + MARGIN, y + MARGIN))
        text = answer
        if normal(answer) != normal(qa.answer):
            text += f"  (wrong: {qa.answer})"
        y += SIZE + 4
        for paragraph, color in ((qa.question, "#202020"), (text, "#0a58a8")):
            for line in wrap(pen, font, paragraph, SIZE - 16):
                pen.text((x + 8, y), line, color, font)
                y += LINE
    return sheet


def main() -> None:
    path = REPOSITORY / "checkpoints/toy-llava"
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
    model = LLaVA.from_pretrained(path, dtype=torch.float32)
    tokenizer = Tokenizer.from_pretrained(path)
    image_config = ImageConfig.from_pretrained(path)
    chosen = choose_questions(random.Random(4))
    asked = [(scene, [qa.question]) for scene, qa in chosen]
    answers = ask(model, tokenizer, image_config, asked, max_new_tokens=32)
    sheet = draw_sheet(chosen, [text for (text,) in answers])
    sheet.save(REPOSITORY / "docs/toyland.png", optimize=True)


if __name__ == "__main__":
    main()
