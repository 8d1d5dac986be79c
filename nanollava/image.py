"""CLIP's image preprocessing with Pillow and NumPy: RGB, (pad), resize, crop, normalize."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from .errors import UserError
from .files import read_json, write_json

# Mean and standard deviation of the colors red, green and blue in CLIP's training data, in 0..1.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# Options of which only one value is supported; a missing one has it.
SUPPORTED_VALUES = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "resample": 3,  # Pillow's number for bicubic
}


class ImageError(UserError):
    """An image that cannot be read or written."""


@dataclass(frozen=True)
class ImageConfig:
    """How an image becomes the square that the vision tower sees.

    `size` is the side of the square in pixels. `mode` says what happens to an oblong image: "crop"
    cuts out the center square; "pad" first extends the image to a square with the mean color.
    """

    size: int = 224
    mode: str = "crop"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    def __post_init__(self):
        if self.mode not in ("crop", "pad"):
            raise UserError(f"{self}: expected mode 'crop' or 'pad'")
        if not isinstance(self.size, int) or self.size < 1:
            raise UserError(f"{self}: expected a size in pixels")
        for color in (self.mean, self.std):
            if len(color) != 3 or not all(is_finite(value) for value in color):
                raise UserError(f"{self}: expected mean and std of three colors")
        if min(self.std) <= 0:
            raise UserError(f"{self}: expected std above 0, because it divides")

    @classmethod
    def from_pretrained(
        cls, path: str | Path, mode: str = "crop", size: int | None = None
    ) -> "ImageConfig":
        """Reads the preprocessing that a model directory describes.

        `mode` is for files that do not ask for padding. `size` is what the vision tower takes:
        another size in the file is an error, as is any option that is not supported.
        """
        values = read_values(Path(path), size)
        image_size = side_of(values.get("size"), default=224)
        crop_size = side_of(values.get("crop_size"), default=image_size)
        check_values(values, path)
        if size is not None and image_size != size:
            raise UserError(
                f"{path}: size = {image_size!r}, but the vision tower takes {size} pixels"
            )
        if crop_size != image_size:
            raise UserError(
                f"{path}: crop_size = {crop_size!r} is not supported; expected {image_size!r}, "
                "the size of the short side"
            )
        if values.get("do_pad"):
            mode = "pad"
        mean = color_of(values, "image_mean", MEAN, path)
        std = color_of(values, "image_std", STD, path)
        return cls(image_size, mode, mean, std)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes the preprocessor_config.json that transformers' CLIPImageProcessor reads."""
        values = {
            "image_processor_type": "CLIPImageProcessor",
            "do_pad": self.mode == "pad",
            "do_convert_rgb": True,
            "do_resize": True,
            "resample": 3,
            "size": {"shortest_edge": self.size},
            "do_center_crop": True,
            "crop_size": {"height": self.size, "width": self.size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": self.mean,
            "image_std": self.std,
        }
        write_json(Path(path) / "preprocessor_config.json", values)


def is_finite(value) -> bool:
    """Is this a number that can be computed with?"""
    return isinstance(value, int | float) and math.isfinite(value)


def read_values(path: Path, size: int | None) -> dict:
    """The options of a model directory, from the first of three places that has them.

    - `processor_config.json`, where transformers 5 puts them, if there is no other file;
    - `config.json` of an original LLaVA, which only says whether images are padded;
    - `preprocessor_config.json`.
    """
    config_file = path / "config.json"
    processor_file = path / "processor_config.json"
    preprocessor_file = path / "preprocessor_config.json"
    if processor_file.is_file() and not preprocessor_file.is_file():
        values = read_json(processor_file).get("image_processor", {})
        if not isinstance(values, dict):
            raise UserError(f"{processor_file}: image_processor = {values!r}; expected an object")
        return values
    if size is not None and config_file.is_file():
        config = read_json(config_file)
        if "mm_vision_tower" in config:
            return {"size": size, "do_pad": config.get("image_aspect_ratio") == "pad"}
    return read_json(preprocessor_file)


def side_of(value, default):
    """The pixels of a size, which files write as a number or as an object."""
    if not value:
        return default
    if isinstance(value, dict):
        return value.get("shortest_edge", value.get("height", default))
    return value


def check_values(values: dict, path: str | Path) -> None:
    """A UserError if an option has a value that is not supported."""
    for key, supported_value in SUPPORTED_VALUES.items():
        value = values.get(key)
        if value is not None and value != supported_value:
            raise UserError(
                f"{path}: {key} = {value!r} is not supported; expected {supported_value!r}"
            )


def color_of(values: dict, key: str, default: tuple, path: str | Path) -> tuple:
    """A list of three numbers; `ImageConfig` checks what is in it."""
    color = values.get(key, default)
    if not isinstance(color, list | tuple):
        raise UserError(f"{path}: {key} = {color!r}; expected three numbers")
    return tuple(color)


def open_image(path: str | Path) -> Image.Image:
    """Opens and decodes an image; of an animation, the first frame.

    A missing or broken file is an ImageError. The image is turned as its EXIF data says, like in
    every viewer. CLIP's processor and the original LLaVA leave it as it is stored.
    """
    try:
        image = Image.open(path)
        image.load()
        return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image") from None
    except Exception as error:  # Pillow raises many types for broken files
        raise ImageError(f"{path}: not a readable image ({error})") from None


def save_image(image: Image.Image, path: str) -> None:
    """Writes an image in the format of its file name."""
    try:
        image.save(path, quality=92)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: this image cannot be written ({error})") from None


def preprocess(image: Image.Image, config: ImageConfig) -> torch.Tensor:
    """An image as CLIP's pixel values (3, size, size), float32."""
    square = np.array(fit(image, config))  # (size, size, 3), 0..255
    pixels = torch.from_numpy(square).permute(2, 0, 1).float()  # (3, size, size)
    return normalize(pixels, config)


def normalize(pixels: torch.Tensor, config: ImageConfig) -> torch.Tensor:
    """(x / 255 - mean) / std for pixels (..., 3, H, W) in 0..255."""
    mean = torch.tensor(config.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(config.std, device=pixels.device).view(3, 1, 1)
    return (pixels / 255 - mean) / std


def fit(image: Image.Image, config: ImageConfig) -> Image.Image:
    """The square that the vision tower sees, as an RGB image (size, size)."""
    image = to_rgb(image)
    if config.mode == "pad":
        image = pad_to_square(image, config.mean)
    image = resize_short_side(image, config.size)
    return crop_center(image, config.size)


def to_rgb(image: Image.Image) -> Image.Image:
    """Transparency is laid on white, and 16-bit values are cut off at 255.

    Both as transformers' CLIPImageProcessor does it.
    """
    has_alpha = "A" in image.getbands()
    has_transparent_color = image.info.get("transparency") is not None
    if has_alpha or has_transparent_color:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def pad_to_square(image: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
    """The image in the middle of a square of the mean color, which normalizes to about 0."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    color = tuple(int(255 * value) for value in mean)
    square = Image.new("RGB", (side, side), color)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def resize_short_side(image: Image.Image, size: int) -> Image.Image:
    """The short side becomes `size`, the long side in proportion, rounded down as CLIP does."""
    width, height = image.size
    short_side = min(width, height)
    new_size = (int(size * width / short_side), int(size * height / short_side))
    return image.resize(new_size, Image.Resampling.BICUBIC)


def crop_center(image: Image.Image, size: int) -> Image.Image:
    """The square (size, size) in the middle."""
    width, height = image.size
    left = (width - size) // 2
    top = (height - size) // 2
    return image.crop((left, top, left + size, top + size))
