"""Image preprocessing, compared with transformers' PIL-based CLIP processor."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from nanollava.errors import UserError
from nanollava.image import (
    ImageConfig,
    ImageError,
    fit,
    normalize,
    open_image,
    preprocess,
    save_image,
)

SIZES = (
    (100, 100),
    (320, 200),
    (199, 301),
    (640, 64),
    (1, 50),
    (50, 1),
    (1, 1),
    (37, 500),
    (1000, 999),
    (3000, 10),
)


def random_image(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(1, height // 7), max(1, width // 7), 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return image.convert(mode)


def random_values(width: int, height: int, dtype, maximum: float) -> Image.Image:
    """An image of more than 8 bits per value."""
    values = np.random.default_rng(0).random((height, width)) * maximum
    return Image.fromarray(values.astype(dtype))


def image_of_mode(mode: str, width: int, height: int) -> Image.Image:
    """A random image in any of Pillow's modes, with transparency where the mode has it."""
    if mode == "I;16":
        return random_values(width, height, np.uint16, 65535)
    if mode == "I":
        return random_values(width, height, np.int32, 70000)
    if mode == "F":
        return random_values(width, height, np.float32, 300)
    if mode == "PA":
        return random_image(width, height, "P").convert("PA")
    image = random_image(width, height, mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(random_image(width, height, "L", seed=1))
    return image


@pytest.mark.parametrize(
    "mode",
    ["RGB", "L", "P", "LA", "RGBA", "CMYK", "1", "YCbCr", "HSV", "PA", "I;16", "I", "F"],
)
def test_pixel_values_equal_transformers(mode):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 100}, crop_size={"height": 100, "width": 100}
    )
    for width, height in SIZES:
        image = image_of_mode(mode, width, height)
        expected = torch.from_numpy(np.stack(processor(image)["pixel_values"]))[0]
        pixel_values = preprocess(image, ImageConfig(size=100))
        assert pixel_values.shape == (3, 100, 100)
        assert torch.equal(pixel_values, expected), (width, height)


def test_normalize_is_the_formula():
    config = ImageConfig(mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 2.0))
    pixels = torch.tensor([0.0, 255.0, 51.0]).view(3, 1, 1)
    assert normalize(pixels, config).flatten().tolist() == pytest.approx([-1.0, 1.5, 0.1])


@pytest.mark.parametrize("mode, color", [("RGBA", (9, 9, 9, 0)), ("LA", (9, 0))])
def test_transparent_pixels_are_white(mode, color):
    clear = Image.new(mode, (9, 9), color)
    assert fit(clear, ImageConfig(8)).getcolors() == [(64, (255, 255, 255))]


def test_a_transparent_palette_color_is_white():
    clear = Image.new("P", (9, 9), 0)
    clear.info["transparency"] = 0
    assert fit(clear, ImageConfig(8)).getcolors() == [(64, (255, 255, 255))]


def test_crop_cuts_the_center_square():
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    assert fit(image, ImageConfig(100, "crop")).getpixel((2, 50)) == (0, 0, 255)
    assert fit(image, ImageConfig(100, "crop")).getpixel((97, 50)) == (0, 0, 255)


def test_pad_extends_the_image_with_the_mean_color():
    image = random_image(300, 150)
    square = Image.new("RGB", (300, 300), (122, 116, 104))
    square.paste(image, (0, 75))
    padded = preprocess(image, ImageConfig(size=100, mode="pad"))
    assert torch.equal(padded, preprocess(square, ImageConfig(size=100)))


def test_the_padding_normalizes_to_about_zero():
    padded = preprocess(random_image(300, 150), ImageConfig(size=100, mode="pad"))
    assert padded[:, :10].abs().max() < 0.02


# Files


def test_images_are_turned_as_exif_says(tmp_path):
    upright = random_image(80, 40)
    exif = upright.getexif()
    exif[0x0112] = 6  # stored lying on its side
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(np.array(open_image(tmp_path / "turned.png")), np.array(upright))


def test_an_animation_shows_its_first_frame(tmp_path):
    red = Image.new("RGB", (20, 20), "red")
    blue = Image.new("RGB", (20, 20), "blue")
    red.save(tmp_path / "two.gif", save_all=True, append_images=[blue])
    assert open_image(tmp_path / "two.gif").convert("RGB").getpixel((5, 5)) == (255, 0, 0)


def test_a_missing_image_is_an_error(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere.jpg: no such image"):
        open_image(tmp_path / "nowhere.jpg")


def test_a_file_that_is_no_image_is_an_error(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"text.jpg: not a readable image"):
        open_image(tmp_path / "text.jpg")


def test_an_image_cut_in_half_is_an_error(tmp_path):
    random_image(64, 64).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut.jpg: not a readable image"):
        open_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("name", ["image.unknown", "nowhere/image.png"])
def test_an_image_that_cannot_be_written_is_an_error(tmp_path, name):
    with pytest.raises(ImageError, match=f"{name}: this image cannot be written"):
        save_image(random_image(8, 8), str(tmp_path / name))


# preprocessor_config.json


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_a_config_comes_back(tmp_path, mode):
    """A model that was trained on padded images is asked with padded images."""
    ImageConfig(336, mode).save_pretrained(tmp_path)
    assert ImageConfig.from_pretrained(tmp_path) == ImageConfig(336, mode)


@pytest.mark.parametrize("size", [{"shortest_edge": 50}, {"height": 50, "width": 50}, 50])
def test_a_size_is_a_number_or_an_object(tmp_path, size):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    assert ImageConfig.from_pretrained(tmp_path).size == 50


def test_processor_config_json_is_read_where_there_is_no_other(tmp_path):
    values = {"image_processor": {"size": {"shortest_edge": 50}, "do_pad": True}}
    (tmp_path / "processor_config.json").write_text(json.dumps(values))
    assert ImageConfig.from_pretrained(tmp_path) == ImageConfig(50, "pad")


@pytest.mark.parametrize("aspect_ratio, mode", [("pad", "pad"), ("square", "crop")])
def test_an_original_llava_says_whether_it_pads(tmp_path, aspect_ratio, mode):
    values = {"mm_vision_tower": "openai/clip", "image_aspect_ratio": aspect_ratio}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert ImageConfig.from_pretrained(tmp_path, size=336) == ImageConfig(336, mode)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"do_normalize": False}, "do_normalize = False is not supported; expected True"),
        ({"resample": 0}, "resample = 0 is not supported; expected 3"),
        ({"crop_size": {"height": 50, "width": 50}}, "crop_size = 50 is not supported"),
        ({"size": 224, "crop_size": 224}, "size = 224, but the vision tower takes 100 pixels"),
        ({"size": "big"}, "size = 'big', but the vision tower takes 100"),
        ({"image_mean": [0.5]}, "expected mean and std of three colors"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "expected mean and std of three colors"),
        ({"image_std": 0.5}, "image_std = 0.5; expected three numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "expected std above 0"),
    ],
)
def test_an_option_that_is_not_supported_is_an_error(tmp_path, changes, message):
    ImageConfig(100).save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        ImageConfig.from_pretrained(tmp_path, size=100)


@pytest.mark.parametrize("arguments", [{"mode": "stretch"}, {"size": 0}, {"mean": (0.5, "a", 0.5)}])
def test_a_config_checks_its_values(arguments):
    with pytest.raises(UserError, match="expected"):
        ImageConfig(**arguments)
