"""CLIP's picture preprocessing with Pillow and NumPy."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from .errors import UserError
from .files import read_json, write_json

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ImageError(UserError):
    """A picture that cannot be read or written."""


@dataclass(frozen=True)
class ImageConfig:
    """`size` in pixels; `mode` "crop" cuts the centre square, "pad" first extends the picture to a square."""

    size: int = 224
    mode: str = "crop"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    def __post_init__(self):
        numbers, known = (self.size, *self.mean, *self.std), self.mode in ("crop", "pad")
        if (
            not known
            or [isinstance(n, int | float) for n in numbers] != [True] * 7
            or self.size < 1
        ):
            raise UserError(
                f"{self}: expected mode crop or pad, size in px, mean and std of three colours"
            )

    @classmethod
    def from_pretrained(
        cls, path: str | Path, mode: str = "crop", size: int | None = None
    ) -> "ImageConfig":
        """Reads `preprocessor_config.json` or `processor_config.json` of a model directory; what is not computed here, or
        another size than `size`, that of the vision tower, is an error. An original LLaVA has neither file: its config.json
        tells the mode."""
        path, tower = Path(path), size
        original = (
            read_json(path / "config.json") if size and (path / "config.json").is_file() else {}
        )
        if (path / "processor_config.json").is_file() and not (
            path / "preprocessor_config.json"
        ).is_file():
            values = read_json(path / "processor_config.json").get("image_processor", {})
        elif "mm_vision_tower" in original:
            values = {"size": size, "do_pad": original.get("image_aspect_ratio") == "pad"}
        else:
            values = read_json(path / "preprocessor_config.json")
        size = values.get("size", 224)
        size = (
            size.get("shortest_edge", size.get("height", 224)) if isinstance(size, dict) else size
        )
        crop = values.get("crop_size") or size
        values = values | {"crop_size": crop.get("height") if isinstance(crop, dict) else crop}
        only = dict(do_resize=True, do_rescale=True, do_normalize=True, resample=3, crop_size=size)
        odd = [
            f"{key} {values[key]}"
            for key, one in only.items()
            if values.get(key) not in (None, one)
        ]
        odd += [f"size {size}, but the tower takes {tower}"] if tower and tower != size else []
        if odd:
            raise UserError(f"{path}: pictures with {', '.join(odd)}: not computed here")
        mean, std = (
            tuple(values.get(f"image_{key}", of)) for key, of in (("mean", MEAN), ("std", STD))
        )
        return cls(size, "pad" if values.get("do_pad") else mode, mean, std)

    def save_pretrained(self, path: str | Path) -> None:
        values = dict(
            image_processor_type="CLIPImageProcessor",
            do_pad=self.mode == "pad",
            do_convert_rgb=True,
            do_resize=True,
            resample=3,
            size={"shortest_edge": self.size},
            do_center_crop=True,
            crop_size={"height": self.size, "width": self.size},
            do_rescale=True,
            rescale_factor=1 / 255,
            do_normalize=True,
            image_mean=self.mean,
            image_std=self.std,
        )
        write_json(Path(path) / "preprocessor_config.json", values)


def open_image(path: str | Path) -> Image.Image:
    """Opens and fully decodes a picture, of an animation the first frame; what is missing or broken is an ImageError.
    It is turned as EXIF says, as every viewer shows it; CLIP's processor and the original LLaVA leave it as stored."""
    try:
        image = Image.open(path)
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises many types for broken files
        missing, broken = isinstance(error, FileNotFoundError), f"not a readable picture ({error})"
        raise ImageError(f"{path}: {'no such picture' if missing else broken}") from None


def save_image(image: Image.Image, path: str) -> None:
    try:
        image.save(path, quality=92)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: this picture cannot be written ({error})") from None


def normalize(pixels: torch.Tensor, config: ImageConfig) -> torch.Tensor:
    """(x / 255 - mean) / std, pixels (..., 3, H, W) in 0..255."""
    mean, std = (
        torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (config.mean, config.std)
    )
    return (pixels / 255 - mean) / std


def fit(image: Image.Image, config: ImageConfig) -> Image.Image:
    """The square that the model sees (size, size): RGB, (pad), bicubic resize, centre crop. Transparency is
    laid on white, 16-bit values are cut at 255, both as transformers' CLIPImageProcessor does."""
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    width, height = image.size
    if config.mode == "pad" and width != height:
        side = max(width, height)
        square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in config.mean))
        square.paste(image, ((side - width) // 2, (side - height) // 2))
        image = square
    short = min(image.size)
    # The short side becomes `size`, the long side keeps the proportion, rounded down as CLIP's processor does.
    size = tuple(
        config.size if side == short else int(config.size * side / short) for side in image.size
    )
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - config.size) // 2, (size[1] - config.size) // 2
    return image.crop((left, top, left + config.size, top + config.size))


def preprocess(image: Image.Image, config: ImageConfig) -> torch.Tensor:
    """A picture to CLIP's pixel values (3, size, size), float32."""
    return normalize(
        torch.from_numpy(np.array(fit(image, config))).permute(2, 0, 1).float(), config
    )
