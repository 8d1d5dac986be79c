"""Draws a scene with Pillow, in normalised coordinates: any size shows the same picture."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

from ..config import read_json
from .scenes import Scene

HERE = Path(__file__).parent
COLORS = read_json(HERE / "colors.json")  # of things, sky, ground and clouds, and how bright the ground is
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
    named["heart"] = (250, 206, 70) if c[2] > 100 or c[1] < 140 else (130, 74, 40)  # nor that of the petals
    return named[word] if word in named else tuple(map(int, word.split(",")))


class Pen:
    """Draws in fractions of a picture's width and height."""

    def __init__(self, image: Image.Image, rng: random.Random):
        self.draw, self.size, self.rng = ImageDraw.Draw(image), image.width, rng

    def box(self, shape: str, color, *corners: float) -> None:
        """A "rectangle" or an "ellipse" in x1, y1, x2, y2."""
        getattr(self.draw, shape)([v * self.size for v in corners], color)

    def gradient(self, top, bottom, y1: float, y2: float, bands: int = 24) -> None:
        for i in range(bands):
            a, b = (y1 + (y2 - y1) * (i + k) / bands for k in (0, 1))
            self.box("rectangle", mix(top, bottom, i / (bands - 1)), 0, a, 1, b)

    def shapes(self, name: str, box=(0, 0, 1, 1), c=(0, 0, 0), dim: float = 1.0) -> None:
        """The rows of things.txt under a name, in a box, for a thing of colour `c`; the colours they name are dimmed."""
        draw, left, top = self.draw, box[0] * self.size, box[1] * self.size
        w, h = (box[2] - box[0]) * self.size, (box[3] - box[1]) * self.size
        small = min(w, h)
        edge = max(1, round(small * 0.028))
        for op, fill, outline, *words in SHAPES[name]:
            op, _, times = op.partition("*")
            fill = shade(paint(fill, c), dim) if dim != 1 else paint(fill, c)
            if op in ("line", "ring", "arc", "stroke"):  # without an inside: `outline` is the width
                named = {"edge": edge, "thin": max(1, self.size // 250)}
                wide = named.get(outline) or max(1, round(float(outline) * (h if op == "arc" else small)))
            else:
                outline = paint(outline, c)
                wide = edge if outline else 0
            for _ in range(int(times or 1)):
                spans = [[*map(float, word.split("~"))] for word in words]
                numbers = [self.rng.uniform(*span) if len(span) == 2 else span[0] for span in spans]
                first = {"rect": 1, "pie": 2, "arc": 2}.get(op, 0)  # where the points begin
                pairs = zip(numbers[first::2], numbers[first + 1 :: 2], strict=False)
                points = [(left + x * w, top + y * h) for x, y in pairs]
                x, y = points[0]
                if op in ("disc", "ring"):
                    r = numbers[2] * h
                    rx = r * (numbers[3] if len(numbers) > 3 else 1)
                    colors = (fill, outline) if op == "disc" else (None, fill)
                    draw.ellipse([x - rx, y - r, x + rx, y + r], *colors, wide)
                elif op == "oval":
                    draw.ellipse(points, fill, outline, wide)
                elif op == "rect":
                    draw.rounded_rectangle(points, numbers[0] * small, fill, outline, wide)
                elif op == "pie":
                    draw.pieslice(points, *numbers[:2], fill, outline, wide or 1)
                elif op == "arc":
                    draw.arc(points, *numbers[:2], fill, wide)
                elif op == "stroke":
                    length = numbers[2] * h
                    for dx, dy in zip(numbers[3::2], numbers[4::2], strict=True):
                        draw.line([x, y, x + length * dx, y + length * dy], fill, wide)
                elif op == "line":
                    draw.line(points, fill, wide, joint="curve")
                    for x, y in (points[0], points[-1]):
                        draw.ellipse([x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2], fill)
                else:
                    draw.polygon(points, fill)
                    if outline:
                        draw.line([*points, points[0], points[1]], outline, wide, joint="curve")


def draw_sky(pen: Pen, weather: str) -> None:
    rng = pen.rng
    pen.gradient(*COLORS["sky"][weather], 0, HORIZON)
    if weather == "sunny":
        x = rng.uniform(0.12, 0.88)
        pen.shapes("sun", (x, 0, x + 1, 1))
    if weather == "night":
        pen.shapes("stars")
        x = rng.uniform(0.14, 0.86)
        pen.shapes("moon", (x, 0, x + 1, 1))
    count = {"sunny": 1, "night": 0}.get(weather, 5)
    for i in range(count):
        x, y, w = (i + rng.random()) / count - 0.12, rng.uniform(0.01, 0.14), rng.uniform(0.2, 0.32)
        y += 0.12 if weather == "sunny" else 0
        pen.shapes("cloud", (x, y, x + w, y + w * 0.42), COLORS["cloud"][weather])


def draw_ground(pen: Pen, place: str, weather: str) -> None:
    rng, dim = pen.rng, COLORS["dim"][weather]
    near, far = (shade(c, dim) for c in COLORS["ground"][place])
    if place in COLORS["hills"]:
        color, height, count = COLORS["hills"][place]
        for i in range(count):
            x, w, h = (i + rng.random()) / count - 0.2, rng.uniform(0.4, 0.6), rng.uniform(0.6, 1.0) * height
            pen.box("ellipse", shade(color, dim), x, HORIZON - h, x + w, HORIZON + h)
    if place == "street":
        x = -0.02
        while x < 1:
            w, h = rng.uniform(0.1, 0.17), rng.uniform(0.08, 0.2)
            tone = shade(mix((168, 166, 170), (140, 144, 156), rng.random()), dim)
            pen.box("rectangle", tone, x, HORIZON - h, x + w, HORIZON)
            for wx in (x + w * 0.2, x + w * 0.6):
                for wy in [HORIZON - h + 0.015 + 0.05 * row for row in range(int(h / 0.05))]:
                    lit = (250, 226, 140) if weather == "night" and rng.random() < 0.6 else shade(tone, 0.86)
                    pen.box("rectangle", lit, wx, wy, wx + w * 0.2, wy + 0.022)
            x += w + rng.uniform(0.0, 0.02)
    pen.gradient(far, near, HORIZON, 1.0)
    if place == "beach":
        pen.gradient(shade((46, 140, 196), dim), shade((112, 196, 220), dim), HORIZON - 0.03, 0.5, 8)
        foam = [((i / 12) * pen.size, (0.5 + 0.008 * (i % 2)) * pen.size) for i in range(13)]
        pen.draw.line(foam, shade((244, 250, 252), dim), max(1, round(pen.size * 0.012)), joint="curve")
    if place == "street":
        pen.box("rectangle", shade((196, 190, 182), dim), 0, HORIZON, 1, 0.5)  # pavement
        pen.box("rectangle", shade((214, 210, 204), dim), 0, 0.5, 1, 0.51)
        for x in [(i + 0.15) / 5.5 for i in range(6)]:
            pen.box("rectangle", shade((244, 240, 220), dim), x, 0.735, x + 0.1, 0.755)
    pen.shapes(place, dim=dim)


def draw(scene: Scene, size: int = 336) -> Image.Image:
    """The picture of a scene, RGB, size x size; the same scene always gives the same picture."""
    image = Image.new("RGB", [size * (2 if size > 128 else 3)] * 2)
    pen = Pen(image, random.Random(scene.seed))
    draw_sky(pen, scene.weather)
    draw_ground(pen, scene.place, scene.weather)
    shadow = shade(shade(COLORS["ground"][scene.place][0], COLORS["dim"][scene.weather]), 0.82)
    for thing in reversed(scene.things):  # far ones first
        x1, _, x2, y2 = thing.box
        low = (y2 - 0.018) * image.width
        pen.draw.ellipse([x1 * image.width, low, x2 * image.width, low + 0.036 * image.width], shadow)
        pen.shapes(thing.kind, thing.box, COLORS["thing"][thing.color])
    if scene.weather == "rainy":
        pen.shapes("rain")
    return image.resize((size, size), Image.Resampling.BOX)
