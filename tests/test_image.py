"""Preprocessing against transformers' PIL-based CLIP processor."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from nanollava.errors import UserError
from nanollava.image import ImageConfig, ImageError, open_image, preprocess


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(1, height // 7), max(1, width // 7), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


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


def deep(dtype, top: float):
    return lambda width, height: Image.fromarray(
        (np.random.default_rng(0).random((height, width)) * top).astype(dtype)
    )


MODES = {
    mode: lambda w, h, mode=mode: picture(w, h, mode)
    for mode in "RGB L P LA RGBA CMYK 1 YCbCr HSV".split()
}
MODES |= {"PA": lambda w, h: picture(w, h, "P").convert("PA"), "I;16": deep(np.uint16, 65535)}
MODES |= {"I": deep(np.int32, 70000), "F": deep(np.float32, 300)}


@pytest.mark.parametrize("mode", MODES)
def test_crop(mode):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 100}, crop_size={"height": 100, "width": 100}
    )
    for size in SIZES:
        image = MODES[mode](*size)
        if mode in ("LA", "RGBA"):
            image.putalpha(picture(*size, "L", seed=1))
        expected = torch.from_numpy(np.stack(processor(image)["pixel_values"]))[0]
        ours = preprocess(image, ImageConfig(size=100))
        assert ours.shape == (3, 100, 100) and torch.equal(ours, expected), size


def test_transparency_is_white():
    white = preprocess(Image.new("RGB", (9, 9), "white"), ImageConfig(8))
    clear = Image.new("P", (9, 9), 0)
    clear.info["transparency"] = 0
    for image in (Image.new("RGBA", (9, 9), (9, 9, 9, 0)), Image.new("LA", (9, 9), (9, 0)), clear):
        assert torch.equal(preprocess(image, ImageConfig(8)), white)


def test_files_are_turned_as_exif_says_and_animations_show_their_first_frame(tmp_path):
    upright = picture(80, 40)
    exif = upright.getexif()
    exif[0x0112] = 6  # stored lying on its side
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(np.array(open_image(tmp_path / "turned.png")), np.array(upright))
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "two.gif").convert("RGB").getpixel((5, 5)) == (255, 0, 0)


def test_pad():
    """Pad mode shows the whole picture, centred on CLIP's mean colour."""
    image = picture(300, 150)
    square = Image.new("RGB", (300, 300), (122, 116, 104))
    square.paste(image, (0, 75))
    ours = preprocess(image, ImageConfig(size=100, mode="pad"))
    assert torch.equal(ours, preprocess(square, ImageConfig(size=100)))
    assert ours[:, :10].abs().max() < 0.02


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_config_round_trip(tmp_path, mode):
    """A model trained on padded pictures is asked with padded pictures."""
    ImageConfig(336, mode).save_pretrained(tmp_path)
    assert ImageConfig.from_pretrained(tmp_path) == ImageConfig(336, mode)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"do_normalize": False}, "do_normalize = False is not supported; expected True"),
        ({"resample": 0}, "resample = 0"),
        (
            {"crop_size": {"height": 50, "width": 50}},
            "crop_size = 50 is not supported; expected 100",
        ),
        ({"size": 224, "crop_size": 224}, "size = 224, but the vision tower takes 100 pixels"),
        ({"size": "big"}, "size = 'big', but the vision tower takes 100"),
        ({"image_mean": [0.5]}, "three colors"),
    ],
)
def test_what_is_not_computed_is_an_error(tmp_path, changes, message):
    ImageConfig(100).save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        ImageConfig.from_pretrained(tmp_path, size=100)


def test_broken_pictures(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere.jpg: no such image"):
        open_image(tmp_path / "nowhere.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"text.jpg: not a readable image"):
        open_image(tmp_path / "text.jpg")
    picture(64, 64).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut.jpg: not a readable image"):
        open_image(tmp_path / "cut.jpg")
