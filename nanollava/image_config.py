"""How images become pixels, by the files of a model directory: ImageConfig."""

from dataclasses import dataclass, replace
from pathlib import Path

from .errors import UserError
from .files import read_json, write_json
from .hf.names import is_original
from .schema import check_value, optional, short

# Mean and standard deviation of the colors red, green and blue in CLIP's training data, in 0..1.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

MAX_CONFIG_SIDE = 4096  # of a size in preprocessor_config.json
# Of mean, std and rescale_factor. Beyond them, float32 pixels can become infinite.
SMALLEST = 1e-9
LARGEST = 1e9

# transformers' classes that compute what is computed here. Only the second kind pads: the first
# ignores `do_pad`.
CLIP_PROCESSORS = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor")
LLAVA_PROCESSORS = ("LlavaImageProcessor", "LlavaImageProcessorFast")

# Options of which only one value is supported; a missing one has it.
SUPPORTED_VALUES = {
    "do_resize": True,
    "resample": 3,  # Pillow's number for bicubic
    "do_convert_rgb": True,
    "default_to_square": False,
    "use_square_size": False,
}
SWITCHES = ("do_pad", "do_center_crop", "do_rescale", "do_normalize")  # true or false


@dataclass(frozen=True)
class ImageConfig:
    """How an image becomes the square that the vision tower sees.

    `size` is the side of the square in pixels. `mode` says what happens to an oblong image: "crop"
    cuts out the center square; "pad" first extends the image to a square with the mean color.
    Before the crop, the short side is resized to `short_side` (None: to `size`), or the image to
    `stretch` (height, width) regardless of its proportions.
    """

    size: int = 224
    mode: str = "crop"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    rescale_factor: float = 1 / 255  # from 0..255 to the range of mean and std
    short_side: int | None = None
    stretch: tuple[int, int] | None = None

    def __post_init__(self):
        if self.mode not in ("crop", "pad"):
            raise UserError(f"{self}: expected mode 'crop' or 'pad'")
        sides = [self.size]
        if self.short_side is not None:
            sides.append(self.short_side)
        if self.stretch is not None:
            sides += self.stretch
        for side in sides:
            if not isinstance(side, int) or not 1 <= side <= MAX_CONFIG_SIDE:
                raise UserError(f"{self}: expected a size in pixels, at most {MAX_CONFIG_SIDE}")
        for color in (self.mean, self.std):
            if len(color) != 3 or not all(is_usable(value) for value in color):
                raise UserError(f"{self}: expected mean and std of three colors")
        if min(self.std) < SMALLEST:
            raise UserError(f"{self}: expected std above 0, because it divides")
        if not is_usable(self.rescale_factor) or self.rescale_factor < SMALLEST:
            raise UserError(f"{self}: expected a rescale_factor above 0")
        if self.mode == "pad" and (min(self.mean) < 0 or max(self.mean) > 1):
            raise UserError(f"{self}: expected a mean in 0..1, because it is the padding's color")

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        mode: str = "crop",
        size: int | None = None,
        vision: str | Path | None = None,
    ) -> "ImageConfig":
        """Reads the preprocessing that a model directory describes.

        `mode` is for files that do not ask for padding. `size` is what the vision tower takes:
        another size in the file is an error, as is any option that is not supported. `vision` is
        the directory of the vision tower, which an original LLaVA processes images for.
        """
        config = parse_image_config(read_values(Path(path), size, vision), mode, str(path))
        if size is not None and config.size != size:
            raise UserError(
                f"{path}: crop_size or size = {config.size}, but the vision tower takes {size} "
                "pixels"
            )
        return config

    def save_pretrained(self, path: str | Path) -> None:
        """Writes the preprocessor_config.json that transformers reads."""
        write_json(Path(path) / "preprocessor_config.json", self.to_json())

    def to_json(self) -> dict:
        """The options of transformers' LlavaImageProcessor, which pads, or CLIPImageProcessor."""
        size = {"shortest_edge": self.size}
        if self.short_side is not None:
            size = {"shortest_edge": self.short_side}
        if self.stretch is not None:
            height, width = self.stretch
            size = {"height": height, "width": width}
        do_pad = self.mode == "pad"
        processors = LLAVA_PROCESSORS if do_pad else CLIP_PROCESSORS
        return {
            "image_processor_type": processors[0],
            "do_pad": do_pad,
            "do_convert_rgb": True,
            "do_resize": True,
            "resample": 3,
            "size": size,
            "do_center_crop": True,
            "crop_size": {"height": self.size, "width": self.size},
            "do_rescale": True,
            "rescale_factor": self.rescale_factor,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    def scaled(self, size: int) -> "ImageConfig":
        """The same part of an image, as a square of another size."""
        short_side = None
        stretch = None
        if self.short_side is not None:
            short_side = round(self.short_side * size / self.size)
        if self.stretch is not None:
            height, width = self.stretch
            stretch = (round(height * size / self.size), round(width * size / self.size))
        return replace(self, size=size, short_side=short_side, stretch=stretch)


def is_usable(value) -> bool:
    """Is this a number that pixels can be computed with in float32?"""
    return isinstance(value, int | float) and abs(value) <= LARGEST  # False for NaN


# ---- preprocessor_config.json ----


def read_values(path: Path, size: int | None, vision: str | Path | None) -> dict:
    """The options of a model directory; see `ImageConfig.from_pretrained`."""
    config_file = path / "config.json"
    values = read_processor(path)
    if size is not None and config_file.is_file():
        config = read_json(config_file)
        if is_original(config):
            return values_of_original(values, config, size, vision)
    if values is None:
        raise UserError(
            f"{path / 'preprocessor_config.json'}: no such file; it says how images become pixels"
        )
    return values


def read_processor(path: Path) -> dict | None:
    """The options in a directory's `processor_config.json`, where transformers 5 puts them, or
    else in its `preprocessor_config.json`. None if there are none."""
    processor_file = path / "processor_config.json"
    preprocessor_file = path / "preprocessor_config.json"
    if processor_file.is_file():
        values = optional(read_json(processor_file), "image_processor", dict, str(processor_file))
        if values is not None:
            return values
    if preprocessor_file.is_file():
        return read_json(preprocessor_file)
    return None


def values_of_original(
    values: dict | None, config: dict, size: int, vision: str | Path | None
) -> dict:
    """The options of an original LLaVA: its own, those of its vision tower, or CLIP's.

    Its config.json says whether images are padded.
    """
    tower = vision or config["mm_vision_tower"]
    if values is None and isinstance(tower, str | Path):
        values = read_processor(Path(tower))
    if values is None:
        values = {"size": size, "crop_size": size}
    do_pad = config.get("image_aspect_ratio") == "pad"
    return values | {"image_processor_type": LLAVA_PROCESSORS[0], "do_pad": do_pad}


def parse_image_config(values: dict, mode: str, where: str) -> ImageConfig:
    """The options of CLIPImageProcessor or LlavaImageProcessor. A missing one has their default.

    An option that changes the pixels and is not supported is a UserError that names it. As in
    transformers, null switches an option off.
    """
    check_values(values, where)
    if values.get("do_pad", False):
        mode = "pad"
    sides = parse_sides(values, "size", {"shortest_edge": 224}, where)
    short_side = sides.get("shortest_edge")
    stretch = None
    if short_side is None:
        stretch = (sides["height"], sides["width"])
        if mode == "pad" and stretch[0] != stretch[1]:
            raise UserError(f"{where}: size = {sides!r} is not supported together with padding")
    if values.get("do_center_crop", True):
        size = cropped_side(values, where)
    else:
        size = uncropped_side(sides, mode, where)
    if short_side == size:
        short_side = None  # the usual case, which ImageConfig's default says
    rescale_factor = 1.0
    if values.get("do_rescale", True):
        rescale_factor = values.get("rescale_factor", 1 / 255)
        check_value(rescale_factor, float, f"{where}: rescale_factor")
    mean = color_of(values, "image_mean", MEAN, where)
    std = color_of(values, "image_std", STD, where)
    if not values.get("do_normalize", True):
        mean = (0.0, 0.0, 0.0)
        std = (1.0, 1.0, 1.0)
    try:
        return ImageConfig(size, mode, mean, std, rescale_factor, short_side, stretch)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def cropped_side(values: dict, where: str) -> int:
    """The side of the square that is cut out."""
    crop = parse_sides(values, "crop_size", {"height": 224, "width": 224}, where)
    if "height" not in crop or crop["height"] != crop["width"]:
        raise UserError(f"{where}: crop_size = {crop!r} is not supported; expected a square")
    return crop["height"]


def uncropped_side(sides: dict, mode: str, where: str) -> int:
    """The side of the square that resizing makes, without a crop."""
    if "height" in sides and sides["height"] == sides["width"]:
        return sides["height"]
    if "shortest_edge" in sides and mode == "pad":
        return sides["shortest_edge"]
    raise UserError(
        f"{where}: do_center_crop = False with size = {sides!r} is not supported, because the "
        "vision tower takes a square"
    )


def parse_sides(values: dict, key: str, default: dict, where: str) -> dict:
    """A size as {"shortest_edge"} or {"height", "width"}. A number is the short side for `size`,
    and both sides for `crop_size`; two numbers are height and width."""
    sides = values.get(key, default)
    if isinstance(sides, list) and len(sides) == 2:
        sides = {"height": sides[0], "width": sides[1]}
    elif not isinstance(sides, dict) and key == "size":
        sides = {"shortest_edge": sides}
    elif not isinstance(sides, dict):
        sides = {"height": sides, "width": sides}
    sides = {name: side for name, side in sides.items() if side is not None}
    if set(sides) not in ({"shortest_edge"}, {"height", "width"}):
        raise UserError(
            f"{where}: {key} = {short(values.get(key))} is not supported; expected a number, "
            "{shortest_edge} or {height, width}"
        )
    for side in sides.values():
        check_value(side, int, f"{where}: {key}", 1, MAX_CONFIG_SIDE)
    return sides


def check_values(values: dict, where: str) -> None:
    """A UserError if an option has a value that is not supported."""
    for key, supported_value in SUPPORTED_VALUES.items():
        value = values.get(key, supported_value)
        is_off = value is None and supported_value is False
        # 3.0 equals 3, and 1 equals True, but transformers tells them apart.
        is_supported = value == supported_value and type(value) is type(supported_value)
        if not is_supported and not is_off:
            raise UserError(
                f"{where}: {key} = {short(value)} is not supported; expected {supported_value!r}"
            )
    for key in SWITCHES:
        optional(values, key, bool, where)
    old_type = values.get("feature_extractor_type", LLAVA_PROCESSORS[0])  # transformers before 4.27
    processor_type = values.get("image_processor_type", old_type)
    if processor_type not in CLIP_PROCESSORS + LLAVA_PROCESSORS:
        raise UserError(
            f"{where}: image_processor_type = {short(processor_type)} is not supported; expected "
            f"{CLIP_PROCESSORS[0]} or {LLAVA_PROCESSORS[0]}"
        )
    do_pad = values.get("do_pad", False)
    if do_pad and processor_type in CLIP_PROCESSORS:
        raise UserError(
            f"{where}: do_pad = True has no effect in {processor_type}; for a model trained on "
            f"padded images, set image_processor_type to {LLAVA_PROCESSORS[0]}"
        )
    if do_pad and not values.get("do_normalize", True):
        raise UserError(f"{where}: do_normalize = False is not supported together with do_pad")


def color_of(values: dict, key: str, default: tuple, where: str) -> tuple:
    """A list of three numbers; `ImageConfig` checks what is in it."""
    color = values.get(key, list(default))
    return tuple(check_value(color, list[float], f"{where}: {key}"))
