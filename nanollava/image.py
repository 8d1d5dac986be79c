"""CLIP's image preprocessing with Pillow and NumPy: RGB, (pad), resize, crop, normalize."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image

from .errors import UserError
from .files import check_regular_file, replacing
from .image_config import ImageConfig
from .resample import resample_rows

# Sizes that a file may claim. Larger ones are an error before anything is decoded.
MAX_PIXELS = 2**27  # of an image: half a gigabyte at Pillow's 4 bytes per pixel
MAX_SIDE = 2**17
# If `fit` would make a larger image than this on the way, it computes only what the crop keeps.
MAX_FIT_PIXELS = 2**26
STRIP_ROWS = 512  # rows of an image with transparency that are converted at a time

# How an image is turned by the value of EXIF's orientation.
EXIF_ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns of broken metadata and of large images. The first changes no pixel, the second is
# checked here.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(UserError):
    """An image that cannot be read or written."""


def open_image(file: str | Path | BinaryIO, name: str | None = None) -> Image.Image:
    """Opens and decodes an image; of an animation, the first frame.

    A missing, broken or huge file is an ImageError, which calls it `name` or by its path. The image
    is turned as its EXIF data says, like in every viewer. CLIP's processor and the original LLaVA
    leave it as it is stored.
    """
    name = name or str(file)
    try:
        if isinstance(file, str | Path):
            check_regular_file(file)
        image = Image.open(file)
        check_image_size(image)
        image.load()
    except FileNotFoundError:
        raise ImageError(f"{name}: no such image") from None
    except Exception as error:  # Pillow raises many types for broken files
        reason = str(error).removeprefix(f"{file}: ")
        if not isinstance(file, str | Path):
            reason = reason.replace(f" {file!r}", "")  # <_io.BytesIO object at 0x7f...>
        raise ImageError(f"{name}: not a readable image ({reason})") from None
    return turn_upright(image)


def check_image_size(image: Image.Image) -> None:
    """An ImageError for an image that would take gigabytes, before it is decoded."""
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError(
            f"{width} x {height} pixels; expected at most {MAX_SIDE:,} a side and {MAX_PIXELS:,} "
            "in all"
        )


def turn_upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data says. EXIF data that cannot be read turns nothing."""
    image.load()  # which turns a TIFF, and changes its EXIF data
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # Pillow raises many types for broken EXIF data
        return image
    if not isinstance(orientation, int) or orientation not in TURNS:
        return image
    return image.transpose(TURNS[orientation])


def format_of_name(path: str) -> str:
    """Pillow's name of the format that a file name's extension means, or an ImageError."""
    image_format = Image.registered_extensions().get(Path(path).suffix.lower())
    if image_format not in Image.SAVE:  # None, or a format that Pillow only reads
        raise ImageError(
            f"{path}: this image cannot be written (no format for this file extension; use .png)"
        )
    return image_format


def check_can_be_saved(path: str) -> None:
    """An ImageError now, and not after minutes of work, if `save_image` will not write there."""
    format_of_name(path)
    if not Path(path).parent.is_dir():
        raise ImageError(f"{path}: this image cannot be written (no such folder)")


def save_image(image: Image.Image, path: str) -> None:
    """Writes an image in the format of its file name, all of it or nothing."""
    image_format = format_of_name(path)
    try:
        with replacing(Path(path)) as temporary:
            image.save(temporary, format=image_format, quality=92)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: this image cannot be written ({error})") from None


def preprocess(image: Image.Image, config: ImageConfig) -> torch.Tensor:
    """An image as CLIP's pixel values (3, size, size), float32."""
    square = np.array(fit(image, config))  # (size, size, 3), 0..255
    pixels = torch.from_numpy(square).permute(2, 0, 1).float()  # (3, size, size)
    return normalize(pixels, config)


def normalize(pixels: torch.Tensor, config: ImageConfig) -> torch.Tensor:
    """(x / 255 - mean) / std for pixels (..., 3, H, W) in 0..255.

    1 / 255 is the usual `rescale_factor`.
    """
    mean = torch.tensor(config.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(config.std, device=pixels.device).view(3, 1, 1)
    # Divided, as in the formula: a product with 1 / 255 rounds to other values.
    return (pixels / (1 / config.rescale_factor) - mean) / std


def fit(image: Image.Image, config: ImageConfig) -> Image.Image:
    """The square that the vision tower sees, as an RGB image (size, size)."""
    image = to_rgb(image)
    width, height = image.size
    if max_pixels_of_fit(image.size, config) > max(MAX_FIT_PIXELS, width * height):
        return fit_by_rows(image, config)
    if config.mode == "pad":
        image = pad_to_square(image, config.mean)
    image = image.resize(resized_size(image.size, config), Image.Resampling.BICUBIC)
    return crop_center(image, config.size)


def max_pixels_of_fit(size: tuple[int, int], config: ImageConfig) -> int:
    """Pixels of the largest image that `fit` makes of one of this (width, height)."""
    width, height = padded_size(size, config)
    new_width, new_height = resized_size((width, height), config)
    return max(width * height, new_width * new_height)


def fit_by_rows(image: Image.Image, config: ImageConfig) -> Image.Image:
    """The same bytes as `fit` returns, in less memory.

    A long image, such as one of 1 x 60,000 pixels, would be resized or padded to gigabytes. Only
    the columns and rows that the crop keeps are computed. Columns come first, as in Pillow where
    both sides grow, or both shrink alike.
    """
    width, height = image.size
    padded_width, padded_height = padded_size(image.size, config)
    new_width, new_height = resized_size((padded_width, padded_height), config)
    color = padding_color(config.mean)
    columns = resample_rows(
        np.array(image).swapaxes(0, 1),  # (W, H, 3)
        padded_width,
        new_width,
        start=max(new_width - config.size, 0) // 2,
        count=min(new_width, config.size),
        offset=(padded_width - width) // 2,
        color=color,
    )
    rows = resample_rows(
        columns.swapaxes(0, 1),
        padded_height,
        new_height,
        start=max(new_height - config.size, 0) // 2,
        count=min(new_height, config.size),
        offset=(padded_height - height) // 2,
        color=color,
    )
    return crop_center(Image.fromarray(rows), config.size)


def to_rgb(image: Image.Image) -> Image.Image:
    """Transparency is laid on white, and 16-bit values are cut off at 255.

    Both as transformers' CLIPImageProcessor does it.
    """
    has_alpha = "A" in image.getbands()
    has_transparent_color = image.info.get("transparency") is not None
    if has_alpha or has_transparent_color:
        return on_white(image)
    if image.mode == "RGB":
        return image
    return image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """An image with transparency on a white background, a strip at a time to save memory."""
    width, height = image.size
    result = Image.new("RGB", image.size)
    for top in range(0, height, STRIP_ROWS):
        strip = image.crop((0, top, width, min(top + STRIP_ROWS, height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        result.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return result


def padded_size(size: tuple[int, int], config: ImageConfig) -> tuple[int, int]:
    """(width, height) of an image after padding, if the config asks for it."""
    if config.mode == "pad":
        return max(size), max(size)
    return size


def padding_color(mean: tuple[float, float, float]) -> tuple[int, int, int]:
    """The mean color in 0..255, which normalizes to about 0."""
    red, green, blue = mean
    return int(255 * red), int(255 * green), int(255 * blue)


def pad_to_square(image: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
    """The image in the middle of a square of the mean color."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), padding_color(mean))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def resized_size(size: tuple[int, int], config: ImageConfig) -> tuple[int, int]:
    """(width, height) after resizing.

    The short side becomes `config.short_side`, the long side in proportion, rounded down as CLIP
    does. With `config.stretch`, the image becomes exactly that large.
    """
    if config.stretch is not None:
        new_height, new_width = config.stretch
        return new_width, new_height
    width, height = size
    short_side = min(width, height)
    new_short_side = config.short_side or config.size
    return new_short_side * width // short_side, new_short_side * height // short_side


def crop_center(image: Image.Image, size: int) -> Image.Image:
    """The square (size, size) in the middle, with black around a smaller image."""
    width, height = image.size
    left = (width - size) // 2
    top = (height - size) // 2
    return image.crop((left, top, left + size, top + size))
