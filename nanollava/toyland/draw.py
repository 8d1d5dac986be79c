"""Draws a scene with Pillow, in normalised coordinates: any size shows the same picture."""

import random
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw

from ..files import read_json
from .scenes import Scene

HERE = Path(__file__).parent
COLORS = read_json(HERE / "colors.json")  # of things and ground, and how bright the ground is
PARTS = (HERE / "things.txt").read_text(encoding="utf-8").strip().split("\n\n")[1:]
SHAPES = {name: [row.split() for row in rows] for name, *rows in map(str.splitlines, PARTS)}
HORIZON = 0.42


def mix(a, b, t: float) -> tuple[int, int, int]:
    """Colour between a (t = 0) and b (t = 1)."""
    return tuple(round(x + (y - x) * t) for x, y in zip(a, b, strict=True))


def shade(color, light: float) -> tuple[int, int, int]:
    return tuple(min(255, round(v * light)) for v in color)


def paint(word: str, c):
    """The colour that a word of things.txt means for a thing of colour `c`."""
    is_white, is_black = sum(c) > 640, sum(c) < 200
    word, _, white = word.partition("^")
    word, _, black = word.partition("|")
    word = white if white and is_white else black if black and is_black else word
    if word.startswith("c*"):
        return shade(c, float(word[2:]))
    named = {"c": tuple(c), "-": None, "shine": mix(c, (255, 255, 255), 0.7)}
    named["line"] = (150, 150, 158) if is_black else shade(c, 0.55)
    named["collar"] = (206, 64, 60) if c[0] < 200 else (60, 90, 190)  # never the colour of the dog
    named["heart"] = (
        (250, 206, 70) if c[2] > 100 or c[1] < 140 else (130, 74, 40)
    )  # nor that of the petals
    return named[word] if word in named else tuple(map(int, word.split(",")))


class Pen:
    """Draws in fractions of a picture's width and height, by the rows of things.txt."""

    def __init__(self, image: Image.Image, rng: random.Random):
        self.draw, self.size, self.rng = ImageDraw.Draw(image), image.width, rng

    def box(self, color, x1: float, y1: float, x2: float, y2: float) -> None:
        self.draw.rectangle([v * self.size for v in (x1, y1, x2, y2)], color)

    def shapes(self, name: str, box=(0, 0, 1, 1), c=(0, 0, 0), dim: float = 1.0) -> None:
        """The rows under a name, in a box, for a thing of colour `c`; the colours of the rows are dimmed."""
        draw, left, top = self.draw, box[0] * self.size, box[1] * self.size
        w, h = (box[2] - box[0]) * self.size, (box[3] - box[1]) * self.size
        small = min(w, h)
        edge = max(1, round(small * 0.028))
        for op, fill, outline, *words in SHAPES[name]:
            op, _, times = op.partition("*")
            fill = paint(fill, c) and shade(paint(fill, c), dim)
            if op in (
                "line",
                "path",
                "ring",
                "arc",
                "stroke",
            ):  # without an inside: `outline` is the width
                named = {"edge": edge, "thin": max(1, self.size // 250)}
                wide = named.get(outline) or max(
                    1, round(float(outline) * (h if op == "arc" else small))
                )
                outline = fill
            else:
                wide, outline = edge, paint(outline, c) and shade(paint(outline, c), dim)
            for i in range(int(times or 1)):
                spans = [[*map(float, word.split("~"))] for word in words]
                numbers = [self.rng.uniform(*span) if len(span) == 2 else span[0] for span in spans]
                first = {"rect": 1, "pie": 2, "arc": 2}.get(op, 0)  # where the points begin
                pairs = zip(numbers[first::2], numbers[first + 1 :: 2], strict=False)
                points = [(left + x * w, top + y * h) for x, y in pairs]
                (x, y), r = points[0], numbers[2] * h if len(numbers) > 2 else 0
                if op in SHAPES:
                    x1, y1, width, height, *share = numbers
                    x1, height = x1 + i / int(times or 1), height * width if share else height
                    self.shapes(op, (x1, y1, x1 + width, y1 + height), fill or c)
                elif op == "fade":
                    bands, y1, y2 = int(numbers[0]), *numbers[1:]
                    for i in range(bands):
                        a, b = (y1 + (y2 - y1) * (i + k) / bands for k in (0, 1))
                        self.box(mix(fill, outline, i / (bands - 1)), 0, a, 1, b)
                elif op in ("oval", "disc", "ring"):
                    rx = r * (numbers[3] if len(numbers) > 3 else 1)
                    corners = points if op == "oval" else [x - rx, y - r, x + rx, y + r]
                    draw.ellipse(corners, None if op == "ring" else fill, outline, wide)
                elif op == "rect":
                    draw.rounded_rectangle(points, numbers[0] * small, fill, outline, wide)
                elif op == "pie":
                    draw.pieslice(points, *numbers[:2], fill, outline, wide)
                elif op == "arc":
                    draw.arc(points, *numbers[:2], fill, wide)
                elif op == "stroke":
                    for dx, dy in zip(numbers[3::2], numbers[4::2], strict=True):
                        draw.line([x, y, x + r * dx, y + r * dy], fill, wide)
                elif op in ("line", "path"):
                    draw.line(points, fill, wide, joint="curve")
                    for x, y in (points[0], points[-1]) if op == "line" else ():
                        draw.ellipse([x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2], fill)
                else:
                    draw.polygon(points, fill)
                    if outline:
                        draw.line([*points, *points[:2]], outline, wide, joint="curve")


def draw_street(pen: Pen, at_night: bool, dim: float) -> None:
    """Houses up to the horizon, each with two columns of windows, some of them lit at night."""
    x, uniform = -0.02, pen.rng.uniform
    while x < 1:
        w, h = uniform(0.1, 0.17), uniform(0.08, 0.2)
        tone = shade(mix((168, 166, 170), (140, 144, 156), uniform(0, 1)), dim)
        pen.box(tone, x, HORIZON - h, x + w, HORIZON)
        for wx, row in product((x + w * 0.2, x + w * 0.6), range(int(h / 0.05))):
            lit = (250, 226, 140) if at_night and uniform(0, 1) < 0.6 else shade(tone, 0.86)
            wy = HORIZON - h + 0.015 + 0.05 * row
            pen.box(lit, wx, wy, wx + w * 0.2, wy + 0.022)
        x += w + uniform(0.0, 0.02)


def draw(scene: Scene, size: int = 336) -> Image.Image:
    """The picture of a scene, RGB, size x size; the same scene always gives the same picture."""
    image = Image.new("RGB", [size * (2 if size > 128 else 3)] * 2)
    pen = Pen(image, random.Random(scene.seed))
    ground, dim = COLORS["ground"][scene.place], COLORS["dim"][scene.weather]
    pen.shapes(scene.weather)
    if scene.place == "street":
        draw_street(pen, scene.weather == "night", dim)
    pen.shapes(scene.place, c=ground, dim=dim)
    for thing in reversed(scene.things):  # far ones first
        x1, _, x2, y2 = thing.box
        shadow = [v * image.width for v in (x1, y2 - 0.018, x2)]
        shadow.append(shadow[1] + 0.036 * image.width)
        pen.draw.ellipse(shadow, shade(shade(ground, dim), 0.82))
        pen.shapes(thing.kind, thing.box, COLORS["thing"][thing.color])
    if scene.weather == "rainy":
        pen.shapes("rain")
    return image.resize((size, size), Image.Resampling.BOX)
