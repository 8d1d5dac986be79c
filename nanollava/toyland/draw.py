"""Draws a scene with Pillow, in normalised coordinates: any size shows the same picture."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

from .scenes import Scene, Thing

COLOR_RGB = {
    "red": (222, 45, 48), "orange": (255, 146, 30), "yellow": (253, 222, 52), "green": (38, 160, 72),
    "blue": (44, 106, 226), "purple": (146, 62, 190), "white": (248, 248, 246), "black": (40, 40, 46),
}  # fmt: skip
SKY = {
    "sunny": ((92, 178, 245), (190, 226, 250)), "cloudy": ((176, 194, 210), (216, 224, 230)),
    "rainy": ((104, 114, 128), (150, 158, 168)), "night": ((18, 22, 58), (52, 56, 108)),
}  # fmt: skip
GROUND = {
    "park": ((150, 206, 112), (118, 182, 88)), "beach": ((246, 226, 172), (236, 208, 144)),
    "street": ((150, 150, 156), (126, 126, 132)), "snow": ((238, 244, 252), (222, 232, 244)),
}  # fmt: skip
DIM = {"sunny": 1.0, "cloudy": 0.93, "rainy": 0.8, "night": 0.52}  # how bright the ground is
HORIZON = 0.42


def mix(a, b, t: float) -> tuple[int, int, int]:
    """Colour between a (t = 0) and b (t = 1)."""
    return tuple(round(x + (y - x) * t) for x, y in zip(a, b, strict=True))


def shade(color, light: float) -> tuple[int, int, int]:
    return tuple(min(255, round(v * light)) for v in color)


def shapes() -> dict[str, list[list[str]]]:
    """The lines of things.txt by kind, each as its words."""
    found: dict[str, list[list[str]]] = {}
    for line in (Path(__file__).parent / "things.txt").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) == 1:
            found[words[0]] = kind = []
        elif words[0] != "#":
            kind.append(words)
    return found


SHAPES = shapes()


class Pen:
    """Draws in the unit square of a box: (0, 0) is its upper left, (1, 1) its lower right corner."""

    def __init__(self, draw: ImageDraw.ImageDraw, box, size: int):
        self.draw = draw
        self.x, self.y = box[0] * size, box[1] * size
        self.w, self.h = (box[2] - box[0]) * size, (box[3] - box[1]) * size
        self.small = min(self.w, self.h)
        self.edge = max(1, round(self.small * 0.028))

    def at(self, numbers) -> list[tuple[float, float]]:
        """Points of x, y, x, y, ..."""
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        return [(self.x + px * self.w, self.y + py * self.h) for px, py in pairs]

    def shape(self, op: str, fill, outline, numbers: list[float]) -> None:
        """One line of things.txt; `outline` is a width for what has no inside."""
        draw, edge = self.draw, self.edge if outline else 0
        wide = outline if isinstance(outline, int) else 0
        if op in ("disc", "ring"):
            (x, y), r = self.at(numbers[:2])[0], numbers[2] * self.h
            box = [x - r, y - r, x + r, y + r]
            draw.ellipse(box, *((fill, outline, edge) if op == "disc" else (None, fill, wide)))
        elif op == "oval":
            draw.ellipse(self.at(numbers), fill, outline, edge)
        elif op == "rect":
            draw.rounded_rectangle(self.at(numbers[1:]), numbers[0] * self.small, fill, outline, edge)
        elif op == "pie":
            draw.pieslice(self.at(numbers[2:]), *numbers[:2], fill, outline, edge or 1)
        elif op == "arc":
            draw.arc(self.at(numbers[2:]), *numbers[:2], fill, wide)
        elif op == "line":
            points = self.at(numbers)
            draw.line(points, fill, wide, joint="curve")
            for x, y in (points[0], points[-1]):
                draw.ellipse([x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2], fill)
        else:
            points = self.at(numbers)
            draw.polygon(points, fill)
            if outline:
                draw.line([*points, points[0], points[1]], outline, self.edge, joint="curve")


def paint(word: str, c, line):
    """The colour that a word of things.txt means for a thing of colour `c` with outlines of colour `line`."""
    word, _, white = word.partition("^")
    word, _, black = word.partition("|")
    word = white if white and sum(c) > 640 else black if black and sum(c) < 200 else word
    named = {"c": c, "line": line, "-": None, "shine": mix(c, (255, 255, 255), 0.7)}
    named["collar"] = (206, 64, 60) if c[0] < 200 else (60, 90, 190)  # never the colour of the dog
    named["heart"] = (250, 206, 70) if c[2] > 100 or c[1] < 140 else (130, 74, 40)  # nor that of the petals
    if word.startswith("c*"):
        return shade(c, float(word[2:]))
    return named[word] if word in named else tuple(map(int, word.split(",")))


def draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, size: int, ground) -> None:
    x1, _, x2, y2 = thing.box
    low = (y2 - 0.018) * size
    draw.ellipse([x1 * size, low, x2 * size, low + 0.036 * size], shade(ground, 0.82))  # shadow
    c, pen = COLOR_RGB[thing.color], Pen(draw, thing.box, size)
    line = (150, 150, 158) if thing.color == "black" else shade(c, 0.55)
    for op, fill, outline, *numbers in SHAPES[thing.kind]:
        if op in ("line", "ring", "arc"):
            unit = pen.h if op == "arc" else pen.small
            edge = pen.edge if outline == "edge" else max(1, round(float(outline) * unit))
        else:
            edge = paint(outline, c, line)
        pen.shape(op, paint(fill, c, line), edge, [*map(float, numbers)])


def gradient(draw, top, bottom, y1: float, y2: float, size: int, bands: int = 24) -> None:
    for i in range(bands):
        a, b = (y1 + (y2 - y1) * (i + k) / bands for k in (0, 1))
        draw.rectangle([0, a * size, size, b * size], mix(top, bottom, i / (bands - 1)))


def cloud(p: Pen, color) -> None:
    for oval in ((0.0, 0.4, 0.45, 1.0), (0.2, 0.0, 0.7, 0.9), (0.5, 0.3, 1.0, 1.0), (0.15, 0.5, 0.85, 1.0)):
        p.shape("oval", color, None, oval)


def draw_sky(draw, weather: str, rng: random.Random, size: int) -> None:
    gradient(draw, *SKY[weather], 0.0, HORIZON, size)
    if weather == "sunny":
        x = rng.uniform(0.12, 0.88)
        for r, color in ((0.105, (255, 244, 190)), (0.075, (255, 222, 70))):
            draw.ellipse([(x - r) * size, (0.13 - r) * size, (x + r) * size, (0.13 + r) * size], color)
    if weather == "night":
        for _ in range(26):
            x, y = rng.random() * size, rng.uniform(0, HORIZON - 0.05) * size
            r = rng.uniform(0.002, 0.006) * size
            draw.ellipse([x - r, y - r, x + r, y + r], (255, 250, 214))
        x = rng.uniform(0.14, 0.86)
        draw.ellipse([(x - 0.07) * size, 0.05 * size, (x + 0.07) * size, 0.19 * size], (250, 242, 200))
        draw.ellipse([(x - 0.03) * size, 0.035 * size, (x + 0.095) * size, 0.165 * size], SKY["night"][0])
    count = {"sunny": 1, "cloudy": 5, "rainy": 5, "night": 0}[weather]
    color = {"sunny": (255, 255, 255), "cloudy": (246, 248, 250), "rainy": (84, 92, 106)}.get(weather)
    for i in range(count):
        x, y, w = (i + rng.random()) / count - 0.12, rng.uniform(0.01, 0.14), rng.uniform(0.2, 0.32)
        y += 0.12 if weather == "sunny" else 0
        cloud(Pen(draw, (x, y, x + w, y + w * 0.42), size), color)


def draw_ground(draw, place: str, weather: str, rng: random.Random, size: int):
    """Draws the place and returns its ground colour, for the shadows."""
    dim = DIM[weather]
    near, far = (shade(c, dim) for c in GROUND[place])

    def hills(color, height: float, count: int) -> None:
        for i in range(count):
            x, w, h = (i + rng.random()) / count - 0.2, rng.uniform(0.4, 0.6), rng.uniform(0.6, 1.0) * height
            box = [x * size, (HORIZON - h) * size, (x + w) * size, (HORIZON + h) * size]
            draw.ellipse(box, shade(color, dim))

    if place == "park":
        hills((126, 186, 118), 0.08, 4)
    if place == "snow":
        hills((206, 220, 238), 0.12, 3)
    if place == "street":
        x = -0.02
        while x < 1:
            w, h = rng.uniform(0.1, 0.17), rng.uniform(0.08, 0.2)
            tone = shade(mix((168, 166, 170), (140, 144, 156), rng.random()), dim)
            draw.rectangle([x * size, (HORIZON - h) * size, (x + w) * size, HORIZON * size], tone)
            for i in range(2):
                for j in range(int(h / 0.05)):
                    wx, wy = x + w * (0.2 + 0.4 * i), HORIZON - h + 0.015 + 0.05 * j
                    lit = (250, 226, 140) if weather == "night" and rng.random() < 0.6 else shade(tone, 0.86)
                    draw.rectangle([wx * size, wy * size, (wx + w * 0.2) * size, (wy + 0.022) * size], lit)
            x += w + rng.uniform(0.0, 0.02)
    gradient(draw, far, near, HORIZON, 1.0, size)
    if place == "beach":
        gradient(draw, shade((46, 140, 196), dim), shade((112, 196, 220), dim), HORIZON - 0.03, 0.5, size, 8)
        foam = [((i / 12) * size, (0.5 + 0.008 * (i % 2)) * size) for i in range(13)]
        draw.line(foam, shade((244, 250, 252), dim), max(1, round(size * 0.012)), joint="curve")
    if place == "street":
        draw.rectangle([0, HORIZON * size, size, 0.5 * size], shade((196, 190, 182), dim))  # pavement
        draw.rectangle([0, 0.5 * size, size, 0.51 * size], shade((214, 210, 204), dim))
        for i in range(6):
            x = (i + 0.15) / 5.5
            box = [x * size, 0.735 * size, (x + 0.1) * size, 0.755 * size]
            draw.rectangle(box, shade((244, 240, 220), dim))
    if place == "park":
        for _ in range(28):
            x, y = rng.random() * size, rng.uniform(0.5, 0.98) * size
            for dx in (-0.008, 0, 0.008):
                stalk = [x, y, x + dx * size, y - 0.018 * size]
                draw.line(stalk, shade((92, 160, 70), dim), max(1, size // 250))
    if place in ("beach", "snow"):
        dot = shade((222, 192, 128) if place == "beach" else (200, 214, 234), dim)
        for _ in range(34):
            x, y, r = rng.random() * size, rng.uniform(0.54, 0.99) * size, rng.uniform(0.002, 0.005) * size
            draw.ellipse([x - 2 * r, y - r, x + 2 * r, y + r], dot)
    return near


def draw(scene: Scene, size: int = 336) -> Image.Image:
    """The picture of a scene, RGB, size x size; the same scene always gives the same picture."""
    rng = random.Random(scene.seed)
    big = size * (2 if size > 128 else 3)
    image = Image.new("RGB", (big, big))
    pen = ImageDraw.Draw(image)
    draw_sky(pen, scene.weather, rng, big)
    ground = draw_ground(pen, scene.place, scene.weather, rng, big)
    for thing in reversed(scene.things):  # far ones first
        draw_thing(pen, thing, big, ground)
    if scene.weather == "rainy":
        for _ in range(60):
            x, y, length = rng.uniform(-0.05, 1.05) * big, rng.random() * big, rng.uniform(0.03, 0.06) * big
            pen.line([x, y, x - length * 0.3, y + length], (196, 212, 230), max(1, round(big * 0.0035)))
    return image.resize((size, size), Image.Resampling.BOX)
