"""Pillow's bicubic resize of a part of an image, for images so long that the whole result would not
fit into memory.

Pillow can also resize a part, by `resize(box=...)`, but it rounds the borders of the box to
float32, so the pixels differ.
"""

import numpy as np

PRECISION = 22  # bits after the binary point of Pillow's weights, which are integers
STRIP_PIXELS = 2**21  # pixels that are converted to float64 at a time


def bicubic(x: np.ndarray) -> np.ndarray:
    """The cubic kernel with a = -1/2. It is 0 at a distance of 2 or more."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def resample_rows(
    pixels: np.ndarray,
    length: int,
    new_length: int,
    start: int,
    count: int,
    offset: int = 0,
    color: tuple[int, ...] = (0, 0, 0),
) -> np.ndarray:
    """Rows `start` to `start + count` of an image of `length` rows resized to `new_length` rows.

    `pixels` (H, W, 3) are the rows of the image from `offset` on; all others have one `color`.
    Returns (count, W, 3), equal to Pillow's bytes: its weights are the kernel at the distances from
    the center of the new row, as integers with PRECISION bits after the binary point.
    """
    height, width, _ = pixels.shape
    background = np.array(color, dtype=np.float64)
    result = np.empty((count, width, 3), dtype=np.uint8)
    windows = [row_weights(row, length, new_length) for row in range(start, start + count)]
    strip_width = max(1, STRIP_PIXELS // height)
    for left in range(0, width, strip_width):
        strip = pixels[:, left : left + strip_width]
        strip_values = np.ascontiguousarray(strip, dtype=np.float64).reshape(height, -1)
        for row, (first, weights) in enumerate(windows):
            # The rows of the window that are in `pixels`; the others have one color.
            top = max(first, offset)
            bottom = max(min(first + len(weights), offset + height), top)
            inside = weights[top - first : bottom - first]
            total = inside @ strip_values[top - offset : bottom - offset]
            total = total.reshape(-1, 3) + (weights.sum() - inside.sum()) * background
            # Products and sums are integers, exact in float64.
            rounded = np.floor(total / 2**PRECISION + 0.5)
            result[row, left : left + strip_width] = np.clip(rounded, 0, 255)
    return result


def row_weights(row: int, length: int, new_length: int) -> tuple[int, np.ndarray]:
    """The first old row that a new row depends on, and the weights of it and the next ones."""
    scale = length / new_length  # old rows per new row
    stretch = max(scale, 1.0)  # a smaller image averages over more rows
    center = (row + 0.5) * scale
    first = max(int(center - 2 * stretch + 0.5), 0)
    last = min(int(center + 2 * stretch + 0.5), length)
    weights = bicubic((np.arange(first, last) - center + 0.5) / stretch)
    weights = weights / weights.sum()
    return first, np.trunc(weights * 2**PRECISION + np.copysign(0.5, weights))
