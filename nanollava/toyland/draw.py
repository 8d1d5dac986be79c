"""Draws a scene with Pillow, in fractions of the image: the same scene at any size."""

import random

from PIL import Image

from ..errors import exit_with
from . import backgrounds
from .pen import RGB, Pen, scale
from .scenes import Scene, Thing
from .things import THINGS

MIN_SIZE = 48  # pixels; below it some parts of things are too small for Pillow to draw

RGB_OF_COLOR: dict[str, RGB] = {
    "red": (222, 45, 48),
    "orange": (255, 146, 30),
    "yellow": (253, 222, 52),
    "green": (38, 160, 72),
    "blue": (44, 106, 226),
    "purple": (146, 62, 190),
    "white": (248, 248, 246),
    "black": (40, 40, 46),
}


def draw_thing(image: Image.Image, thing: Thing, ground: RGB) -> None:
    """The thing's shadow, then the thing in its box."""
    x1, _, x2, foot = thing.box
    shadow_left = x1 * image.width
    shadow_top = (foot - 0.018) * image.width
    shadow_right = x2 * image.width
    shadow_bottom = shadow_top + 0.036 * image.width
    shadow = [shadow_left, shadow_top, shadow_right, shadow_bottom]
    Pen(image).draw.ellipse(shadow, scale(ground, 0.82))
    draw_kind = THINGS[thing.kind]
    draw_kind(Pen(image, thing.box), RGB_OF_COLOR[thing.color])


def draw(scene: Scene, size: int = 336) -> Image.Image:
    """The image of a scene, RGB, size x size pixels; the same scene always gives the same image."""
    # Drawn larger and then averaged, so that edges are smooth.
    enlargement = 2 if size > 128 else 3
    enlarged = size * enlargement
    image = Image.new("RGB", (enlarged, enlarged))
    rng = random.Random(scene.seed)
    pen = Pen(image)
    backgrounds.DRAW_WEATHER[scene.weather](pen, rng)
    backgrounds.DRAW_PLACE[scene.place](pen, scene.weather, rng)
    ground = backgrounds.ground_color(scene.place, scene.weather)
    for thing in reversed(scene.things):  # far ones first, so that near ones cover them
        draw_thing(image, thing, ground)
    if scene.weather == "rainy":
        backgrounds.draw_rain(pen, rng)
    return image.resize((size, size), Image.Resampling.BOX)


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.toyland picture --help")
