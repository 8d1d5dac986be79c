"""Toyland's images: the pixels stay the same, and what a scene says is what its image shows.

The digests were recorded with Pillow 13.0, when the drawings were still rows of a text file. The
same seed must give the same image, because the shipped weights learned from these pixels.
"""

import hashlib
import random

import numpy as np
import pytest
from PIL import Image

from nanollava.toyland.draw import draw
from nanollava.toyland.scenes import (
    COLORS,
    DISTANCES,
    KINDS,
    PLACES,
    SIDES,
    WEATHERS,
    Scene,
    place_thing,
    scenes,
)

SIZES = (100, 200)  # pixels; below and above 128 the images are drawn at different scales

DIGESTS_OF_KINDS = {
    "cat": "bbd32821792245be",
    "dog": "56ac16119ebe519d",
    "bird": "86b0010c1076b3cc",
    "person": "ff9f7c23a71ff856",
    "car": "1550bd8b90b7ef85",
    "bicycle": "d20abf13118d8d68",
    "tree": "ba2bb76cdb8dd1e4",
    "house": "4a5bcf8dfde21000",
    "umbrella": "dcede31e88f148b1",
    "ball": "62fef930d81e6c71",
    "boat": "bfdede407cdd5c97",
    "flower": "9816fe6a3d507e53",
}
DIGESTS_OF_BACKGROUNDS = {
    "park, sunny": "61bfd7c7b6107d94",
    "beach, sunny": "94f1984d7c857735",
    "street, sunny": "cac7d2c4475d66fc",
    "snow, sunny": "ba91b5f2d963b7e1",
    "park, rainy": "e1146b16a6f9aea4",
    "beach, rainy": "4d54631aceca8aab",
    "street, rainy": "f9bc88b8817c07fb",
    "snow, rainy": "ad442d0899c009ce",
    "park, cloudy": "39e38a299eb5760f",
    "beach, cloudy": "68a22f6c8fb41c9f",
    "street, cloudy": "54296fee8d972866",
    "snow, cloudy": "81d0cfe33747e26f",
    "park, night": "3e91eb66e558969a",
    "beach, night": "0924b6164a572f01",
    "street, night": "11e686c2ea27451c",
    "snow, night": "48ecc40f3f528657",
}
DIGEST_OF_WHOLE_SCENES = "7beee8c5baeab1e5"


def digest(images: list[Image.Image]) -> str:
    """The first 16 digits of the SHA-256 of all pixels."""
    sha256 = hashlib.sha256()
    for image in images:
        sha256.update(image.tobytes())
    return sha256.hexdigest()[:16]


def images_of_kind(kind: str) -> list[Image.Image]:
    """One thing in every color, near and far, on changing sides, places and weathers."""
    images = []
    for i, color in enumerate(COLORS):
        for j, distance in enumerate(DISTANCES):
            rng = random.Random(f"{kind}/{color}/{distance}")
            side = SIDES[(i + j) % len(SIDES)]
            thing = place_thing(rng, kind, color, side, distance)
            place = PLACES[(i + 2 * j) % len(PLACES)]
            weather = WEATHERS[(i // 2 + j) % len(WEATHERS)]
            scene = Scene(place, weather, (thing,), seed=i)
            for size in SIZES:
                images.append(draw(scene, size))
    return images


def images_of_background(place: str, weather: str) -> list[Image.Image]:
    """The place without things under four seeds: clouds, stars, grass and houses."""
    images = []
    for seed in range(4):
        for size in SIZES:
            images.append(draw(Scene(place, weather, (), seed), size))
    return images


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_of_a_kind_stay_the_same(kind):
    assert digest(images_of_kind(kind)) == DIGESTS_OF_KINDS[kind]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("weather", WEATHERS)
def test_pixels_of_a_background_stay_the_same(place, weather):
    images = images_of_background(place, weather)
    assert digest(images) == DIGESTS_OF_BACKGROUNDS[f"{place}, {weather}"]


def test_pixels_of_whole_scenes_stay_the_same():
    images = [draw(scene) for scene in scenes("train", 40, seed=7)]
    assert digest(images) == DIGEST_OF_WHOLE_SCENES


def test_image_is_the_same_at_any_size():
    scene = next(scenes("train", 1))
    large = np.asarray(draw(scene, 400).resize((100, 100)), dtype=float)
    small = np.asarray(draw(scene, 100), dtype=float)
    assert np.abs(large - small).mean() < 6


def test_same_scene_gives_the_same_image():
    scene = next(scenes("train", 1))
    assert np.array_equal(np.asarray(draw(scene, 100)), np.asarray(draw(scene, 100)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_thing_fills_its_box_and_shows_its_color(kind):
    """The image with the thing differs from the one without it in the box (and the shadow)."""
    thing = place_thing(random.Random(1), kind, "red", "middle", "near")
    with_thing = np.asarray(draw(Scene("snow", "cloudy", (thing,), 5), 300), dtype=int)
    without = np.asarray(draw(Scene("snow", "cloudy", (), 5), 300), dtype=int)
    rows, columns = np.where(np.abs(with_thing - without).max(-1) > 40)
    x1, y1, x2, y2 = (300 * v for v in thing.box)
    assert abs(columns.min() - x1) < 7 and abs(columns.max() - x2) < 7
    assert abs(rows.min() - y1) < 7 and abs(rows.max() - y2) < 9
    inside = with_thing[rows, columns]
    reddish = (inside[:, 0] > 1.8 * inside[:, 1]) & (inside[:, 0] > 1.8 * inside[:, 2])
    assert reddish.mean() > 0.3
