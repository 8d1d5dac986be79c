"""The four skies and the four places, drawn in the whole image from (0, 0) to (1, 1).

Clouds, stars, houses and grass vary with the scene's seed: every function draws its random numbers
in a fixed order, so the same seed gives the same image.
"""

import random
from collections.abc import Callable

from .pen import RGB, Pen, mix, scale

HORIZON = 0.42


# The color of the ground in daylight, near the lower edge of the image.
GROUND_COLORS: dict[str, RGB] = {
    "park": (150, 206, 112),
    "beach": (246, 226, 172),
    "street": (150, 150, 156),
    "snow": (238, 244, 252),
}
# How bright the ground is under each sky. Things keep their full color, so that it can be named.
BRIGHTNESS = {"sunny": 1.0, "cloudy": 0.93, "rainy": 0.8, "night": 0.52}


def ground_color(place: str, weather: str) -> RGB:
    return scale(GROUND_COLORS[place], BRIGHTNESS[weather])


def draw_cloud(pen: Pen, color: RGB) -> None:
    """Four ovals that fill the pen's box."""
    pen.oval((0, 0.4, 0.45, 1), color)
    pen.oval((0.2, 0, 0.7, 0.9), color)
    pen.oval((0.5, 0.3, 1, 1), color)
    pen.oval((0.15, 0.5, 0.85, 1), color)


def draw_cloud_cover(pen: Pen, color: RGB, rng: random.Random) -> None:
    """Five clouds, one in each fifth of the sky."""
    for i in range(5):
        x = rng.uniform(-0.12, 0.08)
        y = rng.uniform(0.01, 0.14)
        width = rng.uniform(0.2, 0.32)
        draw_cloud(pen.inside(x + i / 5, y, width, 0.42 * width), color)


def sunny_sky(pen: Pen, rng: random.Random) -> None:
    pen.gradient((92, 178, 245), (190, 226, 250), 0, HORIZON)
    sun_x = rng.uniform(0.12, 0.88)
    pen.disc((sun_x, 0.13), 0.105, (255, 244, 190))  # its glow
    pen.disc((sun_x, 0.13), 0.075, (255, 222, 70))
    x = rng.uniform(-0.12, 0.88)
    y = rng.uniform(0.13, 0.26)
    width = rng.uniform(0.2, 0.32)
    draw_cloud(pen.inside(x, y, width, 0.42 * width), (255, 255, 255))


def cloudy_sky(pen: Pen, rng: random.Random) -> None:
    pen.gradient((176, 194, 210), (216, 224, 230), 0, HORIZON)
    draw_cloud_cover(pen, (246, 248, 250), rng)


def rainy_sky(pen: Pen, rng: random.Random) -> None:
    pen.gradient((104, 114, 128), (150, 158, 168), 0, HORIZON)
    draw_cloud_cover(pen, (84, 92, 106), rng)


def night_sky(pen: Pen, rng: random.Random) -> None:
    sky = (18, 22, 58)
    pen.gradient(sky, (52, 56, 108), 0, HORIZON)
    for _ in range(26):
        x = rng.uniform(0, 1)
        y = rng.uniform(0, 0.37)
        radius = rng.uniform(0.002, 0.006)
        pen.disc((x, y), radius, (255, 250, 214))
    # The moon: a bright disc, and one of the sky's color that leaves a crescent of it.
    pen = pen.inside(rng.uniform(0.14, 0.86), 0, 1, 1)
    pen.oval((-0.07, 0.05, 0.07, 0.19), (250, 242, 200))
    pen.oval((-0.03, 0.035, 0.095, 0.165), sky)


def draw_rain(pen: Pen, rng: random.Random) -> None:
    """Slanting lines over the whole image, in front of everything."""
    for _ in range(60):
        x = rng.uniform(-0.05, 1.05)
        y = rng.uniform(0, 1)
        length = rng.uniform(0.03, 0.06)
        pen.stroke((x, y), length, (-0.3, 1), (196, 212, 230), width=0.0035)


def draw_hills(
    pen: Pen, color: RGB, count: int, max_offset: float, heights: tuple[float, float], rng
) -> None:
    """Half ovals behind the horizon, one in each column; the ground hides their lower halves."""
    for i in range(count):
        x = rng.uniform(-0.2, max_offset) + i / count
        width = rng.uniform(0.4, 0.6)
        height = rng.uniform(*heights)
        pen.inside(x, HORIZON, width, height).oval((0, -1, 1, 1), color)


def draw_spots(pen: Pen, color: RGB, rng: random.Random) -> None:
    """Flat spots on sand or snow."""
    for _ in range(34):
        x = rng.uniform(0, 1)
        y = rng.uniform(0.54, 0.99)
        radius = rng.uniform(0.002, 0.005)
        pen.disc((x, y), radius, color, stretch=2)


def park(pen: Pen, weather: str, rng: random.Random) -> None:
    light = BRIGHTNESS[weather]
    draw_hills(pen, scale((126, 186, 118), light), 4, 0.05, (0.048, 0.08), rng)
    pen.gradient(scale((118, 182, 88), light), ground_color("park", weather), HORIZON, 1)
    grass = scale((92, 160, 70), light)
    for _ in range(28):
        root = (rng.uniform(0, 1), rng.uniform(0.5, 0.98))
        for blade in ((-0.008, -0.018), (0, -0.018), (0.008, -0.018)):
            pen.stroke(root, 1, blade, grass)


def beach(pen: Pen, weather: str, rng: random.Random) -> None:
    light = BRIGHTNESS[weather]
    pen.gradient(scale((236, 208, 144), light), ground_color("beach", weather), HORIZON, 1)
    sea = scale((46, 140, 196), light)
    pen.gradient(sea, scale((112, 196, 220), light), 0.39, 0.5, bands=8)
    surf = [(0, 0.5)]  # a zigzag along the beach
    for i in range(1, 13, 2):
        surf.append((i / 12, 0.508))
        surf.append(((i + 1) / 12, 0.5))
    pen.line(surf, scale((244, 250, 252), light), width=0.012, round_ends=False)
    draw_spots(pen, scale((222, 192, 128), light), rng)


def draw_houses(pen: Pen, weather: str, rng: random.Random) -> None:
    """Houses along the horizon, each with two columns of windows, some of them lit at night."""
    light = BRIGHTNESS[weather]
    x = -0.02
    while x < 1:
        width = rng.uniform(0.1, 0.17)
        height = rng.uniform(0.08, 0.2)
        wall = scale(mix((168, 166, 170), (140, 144, 156), rng.uniform(0, 1)), light)
        pen.bar((x, HORIZON - height, x + width, HORIZON), wall)
        for window_x in (x + width * 0.2, x + width * 0.6):
            for floor in range(int(height / 0.05)):
                window = scale(wall, 0.86)
                if weather == "night" and rng.uniform(0, 1) < 0.6:
                    window = (250, 226, 140)
                window_y = HORIZON - height + 0.015 + 0.05 * floor
                pen.bar((window_x, window_y, window_x + width * 0.2, window_y + 0.022), window)
        x += width + rng.uniform(0.0, 0.02)


def street(pen: Pen, weather: str, rng: random.Random) -> None:
    light = BRIGHTNESS[weather]
    draw_houses(pen, weather, rng)
    pen.gradient(scale((126, 126, 132), light), ground_color("street", weather), HORIZON, 1)
    pen.rectangle((0, HORIZON, 1, 0.5), scale((196, 190, 182), light))  # pavement
    pen.rectangle((0, 0.5, 1, 0.51), scale((214, 210, 204), light))  # curb
    for i in range(6):  # the dashed line in the middle of the road
        x = (i + 0.15) * 2 / 11
        pen.rectangle((x, 0.735, x + 0.1, 0.755), scale((244, 240, 220), light))


def snow(pen: Pen, weather: str, rng: random.Random) -> None:
    light = BRIGHTNESS[weather]
    draw_hills(pen, scale((206, 220, 238), light), 3, 2 / 15, (0.072, 0.12), rng)
    pen.gradient(scale((222, 232, 244), light), ground_color("snow", weather), HORIZON, 1)
    draw_spots(pen, scale((200, 214, 234), light), rng)


DRAW_WEATHER: dict[str, Callable[[Pen, random.Random], None]] = {
    "sunny": sunny_sky,
    "rainy": rainy_sky,
    "cloudy": cloudy_sky,
    "night": night_sky,
}
DRAW_PLACE: dict[str, Callable[[Pen, str, random.Random], None]] = {
    "park": park,
    "beach": beach,
    "street": street,
    "snow": snow,
}
