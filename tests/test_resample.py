"""Rows of a resized image, compared with Pillow's resize of the whole image."""

import random

import numpy as np
import pytest
from PIL import Image

from nanollava.resample import bicubic, resample_rows

COLOR = (122, 116, 104)


def random_pixels(height: int, width: int, seed: int) -> np.ndarray:
    """Black and white: the hardest for a kernel that overshoots."""
    return np.random.default_rng(seed).integers(0, 2, (height, width, 3), dtype=np.uint8) * 255


def resized(pixels: np.ndarray, length: int) -> np.ndarray:
    width = pixels.shape[1]
    image = Image.fromarray(pixels).resize((width, length), Image.Resampling.BICUBIC)
    return np.array(image)


@pytest.mark.parametrize("seed", range(40))
def test_rows_equal_pillows(seed):
    rng = random.Random(seed)
    height = rng.randint(1, 500)
    new_height = rng.choice([rng.randint(1, 50), rng.randint(1, 1500)])
    start = rng.randrange(new_height)
    count = rng.randint(1, new_height - start)
    pixels = random_pixels(height, 5, seed)
    rows = resample_rows(pixels, height, new_height, start, count)
    assert np.array_equal(rows, resized(pixels, new_height)[start : start + count])


@pytest.mark.parametrize("seed", range(40))
def test_rows_outside_the_pixels_have_one_color(seed):
    rng = random.Random(seed)
    height = rng.randint(1, 200)
    length = height + rng.randint(0, 300)
    offset = rng.randint(0, length - height)
    new_height = rng.randint(1, 700)
    pixels = random_pixels(height, 5, seed)
    padded = np.empty((length, 5, 3), dtype=np.uint8)
    padded[:] = COLOR
    padded[offset : offset + height] = pixels
    rows = resample_rows(pixels, length, new_height, 0, new_height, offset, COLOR)
    assert np.array_equal(rows, resized(padded, new_height))


def test_the_kernel_is_1_at_0_and_0_at_the_other_integers():
    assert bicubic(np.array([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 1, 0, 0]
