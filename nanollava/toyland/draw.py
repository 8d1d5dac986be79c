"""Draws a scene with Pillow, in normalised coordinates: any size shows the same picture."""

import random

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
SKIN, WOOD, LEAF, GLASS, TYRE = (244, 200, 164), (128, 86, 52), (70, 150, 66), (202, 230, 246), (52, 52, 58)


def mix(a, b, t: float) -> tuple[int, int, int]:
    """Colour between a (t = 0) and b (t = 1)."""
    return tuple(round(x + (y - x) * t) for x, y in zip(a, b, strict=True))


def shade(color, light: float) -> tuple[int, int, int]:
    return tuple(min(255, round(v * light)) for v in color)


class Pen:
    """Draws in the unit square of a box: (0, 0) is its upper left, (1, 1) its lower right corner."""

    def __init__(self, draw: ImageDraw.ImageDraw, box, size: int):
        self.draw = draw
        self.x, self.y = box[0] * size, box[1] * size
        self.w, self.h = (box[2] - box[0]) * size, (box[3] - box[1]) * size
        self.edge = max(1, round(min(self.w, self.h) * 0.028))

    def at(self, points) -> list[tuple[float, float]]:
        return [(self.x + px * self.w, self.y + py * self.h) for px, py in points]

    def poly(self, points, fill, line=None) -> None:
        points = self.at(points)
        self.draw.polygon(points, fill)
        if line:
            self.draw.line([*points, points[0], points[1]], line, self.edge, joint="curve")

    def oval(self, x1, y1, x2, y2, fill, line=None) -> None:
        self.draw.ellipse(
            [*self.at([(x1, y1)])[0], *self.at([(x2, y2)])[0]], fill, line, self.edge if line else 0
        )

    def rect(self, x1, y1, x2, y2, fill, line=None, round_by: float = 0.0) -> None:
        corners = [*self.at([(x1, y1)])[0], *self.at([(x2, y2)])[0]]
        self.draw.rounded_rectangle(
            corners, round_by * min(self.w, self.h), fill, line, self.edge if line else 0
        )

    def line(self, points, fill, width: float) -> None:
        wide = max(1, round(width * min(self.w, self.h)))
        points = self.at(points)
        self.draw.line(points, fill, wide, joint="curve")
        for x, y in (points[0], points[-1]):
            self.draw.ellipse([x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2], fill)

    def ring(self, cx, cy, r, fill, width: float) -> None:
        """A circle of radius r, in parts of the height."""
        x, y = self.at([(cx, cy)])[0]
        r, wide = r * self.h, max(1, round(width * min(self.w, self.h)))
        self.draw.ellipse([x - r, y - r, x + r, y + r], None, fill, wide)

    def disc(self, cx, cy, r, fill, line=None) -> None:
        x, y = self.at([(cx, cy)])[0]
        r *= self.h
        self.draw.ellipse([x - r, y - r, x + r, y + r], fill, line, self.edge if line else 0)


def cat(p: Pen, c, line) -> None:
    p.line([(0.74, 0.9), (0.95, 0.8), (0.93, 0.5), (0.97, 0.36)], line, 0.12)
    p.line([(0.74, 0.9), (0.95, 0.8), (0.93, 0.5), (0.97, 0.36)], c, 0.08)
    p.oval(0.16, 0.42, 0.84, 1.0, c, line)  # sitting body
    p.oval(0.36, 0.62, 0.64, 0.99, shade(c, 1.25) if sum(c) > 200 else (92, 92, 100))
    p.poly([(0.14, 0.3), (0.13, 0.0), (0.42, 0.14)], c, line)
    p.poly([(0.86, 0.3), (0.87, 0.0), (0.58, 0.14)], c, line)
    p.oval(0.08, 0.1, 0.92, 0.6, c, line)
    for x in (0.32, 0.68):
        p.oval(x - 0.07, 0.26, x + 0.07, 0.41, (250, 250, 200), line)
        p.oval(x - 0.025, 0.27, x + 0.025, 0.4, (20, 20, 20))
    p.poly([(0.45, 0.43), (0.55, 0.43), (0.5, 0.49)], (240, 140, 150))
    for y in (0.44, 0.5):
        p.line([(0.36, 0.47), (0.0, y)], line, 0.015)
        p.line([(0.64, 0.47), (1.0, y)], line, 0.015)


def dog(p: Pen, c, line) -> None:
    p.line([(0.1, 0.5), (0.03, 0.24)], line, 0.12)
    p.line([(0.1, 0.5), (0.03, 0.24)], c, 0.08)
    for x in (0.1, 0.24, 0.5, 0.64):
        p.rect(x, 0.6, x + 0.11, 1.0, c, line, 0.04)
    p.rect(0.06, 0.4, 0.76, 0.76, c, line, 0.16)
    p.oval(0.52, 0.04, 0.9, 0.5, c, line)
    p.rect(0.76, 0.24, 1.0, 0.44, c, line, 0.09)  # snout
    p.oval(0.92, 0.22, 1.0, 0.32, (30, 30, 34))
    p.oval(0.49, 0.05, 0.64, 0.46, shade(c, 0.66) if sum(c) > 200 else (90, 90, 98), line)  # floppy ear
    p.oval(0.71, 0.17, 0.78, 0.26, (20, 20, 20) if sum(c) > 200 else (240, 240, 240))
    p.rect(0.55, 0.45, 0.75, 0.52, (206, 64, 60) if c[0] < 200 else (60, 90, 190), None, 0.02)  # collar


def bird(p: Pen, c, line) -> None:
    for x in (0.42, 0.54):
        p.line([(x, 0.74), (x, 0.97), (x + 0.09, 0.98)], (214, 130, 40), 0.035)
    p.poly([(0.2, 0.46), (0.0, 0.3), (0.02, 0.56), (0.22, 0.68)], c, line)  # tail
    p.oval(0.1, 0.28, 0.76, 0.82, c, line)
    p.poly([(0.83, 0.16), (1.0, 0.25), (0.83, 0.32)], (250, 170, 30), (190, 110, 20))
    p.oval(0.52, 0.01, 0.88, 0.44, c, line)
    p.poly(
        [(0.24, 0.42), (0.6, 0.44), (0.44, 0.7), (0.14, 0.76)],
        shade(c, 0.72) if sum(c) > 200 else (92, 92, 100),
        line,
    )
    p.oval(0.7, 0.13, 0.78, 0.23, (20, 20, 20) if sum(c) > 200 else (245, 245, 245))


def person(p: Pen, c, line) -> None:
    dark = shade(c, 0.7) if sum(c) > 200 else (84, 84, 92)
    for x in (0.26, 0.53):
        p.rect(x, 0.62, x + 0.21, 0.98, dark, line, 0.05)
        p.rect(x - 0.03, 0.94, x + 0.24, 1.0, (70, 54, 44), None, 0.05)
    p.line([(0.26, 0.37), (0.09, 0.6)], line, 0.2)
    p.line([(0.74, 0.37), (0.91, 0.6)], line, 0.2)
    p.line([(0.26, 0.37), (0.09, 0.6)], c, 0.15)
    p.line([(0.74, 0.37), (0.91, 0.6)], c, 0.15)
    p.disc(0.09, 0.61, 0.04, SKIN)
    p.disc(0.91, 0.61, 0.04, SKIN)
    p.rect(0.22, 0.3, 0.78, 0.68, c, line, 0.16)
    p.disc(0.5, 0.155, 0.15, SKIN, (150, 104, 74))
    p.draw.pieslice([*p.at([(0.21, 0.0)])[0], *p.at([(0.79, 0.3)])[0]], 180, 360, (92, 60, 40))
    for x in (0.41, 0.59):
        p.disc(x, 0.175, 0.018, (30, 30, 30))
    p.line([(0.42, 0.23), (0.5, 0.245), (0.58, 0.23)], (190, 80, 70), 0.03)


def car(p: Pen, c, line) -> None:
    p.poly([(0.2, 0.42), (0.32, 0.02), (0.68, 0.02), (0.84, 0.42)], c, line)
    p.poly([(0.27, 0.4), (0.36, 0.12), (0.48, 0.12), (0.48, 0.4)], GLASS, line)
    p.poly([(0.53, 0.4), (0.53, 0.12), (0.65, 0.12), (0.76, 0.4)], GLASS, line)
    p.rect(0.0, 0.38, 1.0, 0.82, c, line, 0.16)
    p.oval(0.93, 0.46, 0.995, 0.6, (255, 240, 170), line)
    p.line([(0.5, 0.44), (0.5, 0.76)], line, 0.02)
    for x in (0.24, 0.76):
        p.disc(x, 0.79, 0.21, TYRE, (24, 24, 28))
        p.disc(x, 0.79, 0.09, (206, 208, 214))


def bicycle(p: Pen, c, line) -> None:
    frame = [(0.22, 0.7), (0.4, 0.3), (0.68, 0.3), (0.46, 0.72), (0.22, 0.7)]
    for x in (0.235, 0.765):
        p.ring(x, 0.7, 0.3, line, 0.13)
        p.ring(x, 0.7, 0.285, c, 0.08)
        p.disc(x, 0.7, 0.035, line)
    parts = (frame, [(0.46, 0.72), (0.38, 0.22)], [(0.765, 0.7), (0.66, 0.08)])
    for width, color in ((0.13, line), (0.09, c)):
        for part in parts:
            p.line(part, color, width)
    p.line([(0.56, 0.06), (0.76, 0.06)], (52, 52, 58) if sum(c) > 200 else (210, 210, 216), 0.07)
    p.rect(0.28, 0.15, 0.48, 0.23, (52, 52, 58) if sum(c) > 200 else (210, 210, 216), None, 0.03)


def tree(p: Pen, c, line) -> None:
    p.poly([(0.42, 0.5), (0.58, 0.5), (0.66, 1.0), (0.34, 1.0)], WOOD, (84, 54, 30))
    crown = ((0.0, 0.26, 0.56, 0.66), (0.44, 0.26, 1.0, 0.66), (0.14, 0.0, 0.86, 0.5), (0.2, 0.3, 0.8, 0.72))
    for oval in crown:
        p.oval(*oval, c, line)
    for x1, y1, x2, y2 in crown:
        p.oval(x1 + 0.04, y1 + 0.03, x2 - 0.04, y2 - 0.03, c)
    light = shade(c, 1.18) if sum(c) > 200 else (72, 72, 80)
    for x, y in ((0.28, 0.18), (0.62, 0.12), (0.5, 0.36), (0.2, 0.42), (0.76, 0.4)):
        p.oval(x, y, x + 0.1, y + 0.07, light)


def house(p: Pen, c, line) -> None:
    p.rect(0.7, 0.06, 0.82, 0.4, (150, 84, 66), (96, 50, 38))
    p.rect(0.09, 0.38, 0.91, 1.0, c, line)
    p.poly([(0.0, 0.44), (0.5, 0.0), (1.0, 0.44)], (122, 76, 62), (84, 48, 38))
    p.rect(0.4, 0.62, 0.6, 1.0, (108, 70, 46), (70, 42, 26))
    for x in (0.16, 0.68):
        p.rect(x, 0.54, x + 0.17, 0.74, (255, 244, 190), line)
        p.line([(x + 0.085, 0.55), (x + 0.085, 0.73)], line, 0.015)


def umbrella(p: Pen, c, line) -> None:
    p.line([(0.5, 0.0), (0.5, 0.88), (0.56, 0.97), (0.66, 0.96), (0.69, 0.86)], (104, 72, 50), 0.05)
    p.draw.pieslice([*p.at([(0.0, 0.04)])[0], *p.at([(1.0, 1.02)])[0]], 180, 360, c, line, p.edge)
    for i in range(4):  # ribs and scallops
        x = i * 0.25
        p.oval(x + 0.01, 0.47, x + 0.24, 0.6, shade(c, 0.7) if sum(c) > 200 else (88, 88, 96))
    for x in (0.25, 0.75):
        p.draw.arc(
            [*p.at([(min(x, 1 - x), 0.04)])[0], *p.at([(max(x, 1 - x), 1.02)])[0]], 180, 360, line, p.edge
        )


def ball(p: Pen, c, line) -> None:
    p.oval(0.0, 0.0, 1.0, 1.0, c, line)
    band = (250, 250, 250) if sum(c) < 640 else (120, 170, 220)
    p.draw.arc([*p.at([(0.02, 0.34)])[0], *p.at([(0.98, 1.2)])[0]], 200, 340, band, max(1, round(p.h * 0.1)))
    p.oval(0.2, 0.1, 0.42, 0.26, mix(c, (255, 255, 255), 0.7))


def boat(p: Pen, c, line) -> None:
    p.line([(0.48, 0.04), (0.48, 0.72)], (96, 66, 44), 0.045)
    p.poly([(0.52, 0.02), (0.52, 0.6), (0.96, 0.6)], c, line)
    p.poly([(0.44, 0.12), (0.44, 0.6), (0.1, 0.6)], (250, 246, 234), (170, 164, 150))
    p.poly([(0.0, 0.66), (1.0, 0.66), (0.82, 1.0), (0.18, 1.0)], c, line)
    p.line([(0.08, 0.76), (0.92, 0.76)], (250, 246, 234) if sum(c) < 640 else (140, 160, 190), 0.03)


def flower(p: Pen, c, line) -> None:
    p.line([(0.5, 0.5), (0.5, 0.98)], (52, 122, 56), 0.08)
    p.poly([(0.5, 0.92), (0.12, 0.68), (0.06, 0.82), (0.3, 0.95)], LEAF, (46, 104, 48))
    p.poly([(0.5, 0.86), (0.88, 0.62), (0.94, 0.76), (0.7, 0.89)], LEAF, (46, 104, 48))
    for dx, dy in ((0.0, -0.19), (0.27, -0.1), (0.2, 0.11), (-0.2, 0.11), (-0.27, -0.1)):
        x, y = 0.5 + dx, 0.31 + dy
        p.oval(x - 0.23, y - 0.13, x + 0.23, y + 0.16, c, line)
    p.oval(0.34, 0.2, 0.66, 0.42, (250, 206, 70) if c[2] > 100 or c[1] < 140 else (130, 74, 40), line)


DRAW = dict(
    cat=cat, dog=dog, bird=bird, person=person, car=car, bicycle=bicycle, tree=tree, house=house, umbrella=umbrella,
    ball=ball, boat=boat, flower=flower,
)  # fmt: skip


def draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, size: int, ground) -> None:
    x1, _, x2, y2 = thing.box
    low = (y2 - 0.018) * size
    draw.ellipse([x1 * size, low, x2 * size, low + 0.036 * size], shade(ground, 0.82))  # shadow
    color = COLOR_RGB[thing.color]
    line = (150, 150, 158) if thing.color == "black" else shade(color, 0.55)
    DRAW[thing.kind](Pen(draw, thing.box, size), color, line)


def gradient(
    draw: ImageDraw.ImageDraw, top, bottom, y1: float, y2: float, size: int, bands: int = 24
) -> None:
    for i in range(bands):
        a, b = (y1 + (y2 - y1) * (i + k) / bands for k in (0, 1))
        draw.rectangle([0, a * size, size, b * size], mix(top, bottom, i / (bands - 1)))


def cloud(p: Pen, color) -> None:
    for oval in ((0.0, 0.4, 0.45, 1.0), (0.2, 0.0, 0.7, 0.9), (0.5, 0.3, 1.0, 1.0), (0.15, 0.5, 0.85, 1.0)):
        p.oval(*oval, color)


def draw_sky(draw, weather: str, rng: random.Random, size: int) -> None:
    gradient(draw, *SKY[weather], 0.0, HORIZON, size)
    if weather == "sunny":
        x = rng.uniform(0.12, 0.88)
        for r, color in ((0.105, (255, 244, 190)), (0.075, (255, 222, 70))):
            draw.ellipse([(x - r) * size, (0.13 - r) * size, (x + r) * size, (0.13 + r) * size], color)
    if weather == "night":
        for _ in range(26):
            x, y, r = (
                rng.random() * size,
                rng.uniform(0, HORIZON - 0.05) * size,
                rng.uniform(0.002, 0.006) * size,
            )
            draw.ellipse([x - r, y - r, x + r, y + r], (255, 250, 214))
        x = rng.uniform(0.14, 0.86)
        draw.ellipse([(x - 0.07) * size, 0.05 * size, (x + 0.07) * size, 0.19 * size], (250, 242, 200))
        draw.ellipse([(x - 0.03) * size, 0.035 * size, (x + 0.095) * size, 0.165 * size], SKY["night"][0])
    count = {"sunny": 1, "cloudy": 5, "rainy": 5, "night": 0}[weather]
    color = {"sunny": (255, 255, 255), "cloudy": (246, 248, 250), "rainy": (84, 92, 106), "night": None}[
        weather
    ]
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
            draw.ellipse(
                [x * size, (HORIZON - h) * size, (x + w) * size, (HORIZON + h) * size], shade(color, dim)
            )

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
            draw.rectangle(
                [x * size, 0.735 * size, (x + 0.1) * size, 0.755 * size], shade((244, 240, 220), dim)
            )
    if place == "park":
        for _ in range(28):
            x, y = rng.random() * size, rng.uniform(0.5, 0.98) * size
            for dx in (-0.008, 0, 0.008):
                draw.line(
                    [x, y, x + dx * size, y - 0.018 * size], shade((92, 160, 70), dim), max(1, size // 250)
                )
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
