"""Draws docs/toyland.png: test scenes, one question each, and what a LLaVA answers.

python docs/gallery.py [MODEL]
"""

import random
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parents[1]))

from nanollava import LLaVA
from nanollava.image import ImageConfig
from nanollava.tokenizer import Tokenizer
from nanollava.toyland.captions import boxes, captions
from nanollava.toyland.draw import draw
from nanollava.toyland.scenes import scenes
from nanollava.toyland.score import ask, normal
from nanollava.toyland.teacher import questions, read

COLUMNS, SIZE, BAND = 4, 300, 64
KINDS = (
    "color",
    "what",
    "count",
    "position",
    "reason",
    "relation",
    "presence",
    "distance",
)  # one question each


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else "checkpoints/toy-llava"
    model, rng = LLaVA.from_pretrained(path, dtype=torch.float32), random.Random(4)
    asked = []
    for scene in scenes("test", 60, seed=11, unseen=False):
        found = questions(read(captions(scene, rng), boxes(scene)), rng)
        if len(asked) < len(KINDS) and len(scene.things) >= 3 and found[KINDS[len(asked)]]:
            asked.append((scene, rng.choice(found[KINDS[len(asked)]])))
    pairs = [(scene, qa.question) for scene, qa in asked]
    answers = ask(
        model, Tokenizer.from_pretrained(path), ImageConfig.from_pretrained(path), pairs, 32
    )
    rows = len(asked) // COLUMNS
    sheet = Image.new("RGB", (COLUMNS * SIZE, rows * (SIZE + BAND)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for i, ((scene, qa), answer) in enumerate(zip(asked, answers, strict=True)):
        x, y = i % COLUMNS * SIZE, i // COLUMNS * (SIZE + BAND)
        sheet.paste(draw(scene, SIZE - 6), (x + 3, y + 3))
        pen.text((x + 8, y + SIZE + 4), qa.question, "#202020", font)
        wrong = "" if normal(answer) == normal(qa.answer) else f"  (wrong: {qa.answer})"
        pen.text((x + 8, y + SIZE + 30), answer + wrong, "#0a58a8", font)
    sheet.save("docs/toyland.png", optimize=True)


if __name__ == "__main__":
    main()
