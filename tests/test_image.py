"""Image preprocessing, compared with transformers' PIL-based CLIP processor."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import CLIPImageProcessorPil

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


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG file with one chunk more, after its header of 33 bytes."""
    checksum = zlib.crc32(kind + content)
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return png[:33] + chunk + png[33:]


def image_with_broken_exif(kind: str) -> bytes:
    """A file whose pixels are sound and whose EXIF data is not."""
    content = io.BytesIO()
    garbage = b"\0\x08\0\x02\x01\x12\0\x03"
    if kind in ("eXIf.png", "profile.png"):
        random_image(80, 40).save(content, "PNG")
        if kind == "eXIf.png":
            return with_chunk(content.getvalue(), b"eXIf", garbage)
        profile = b"Raw profile type exif\0\nexif\n      20\nno hex\n"
        return with_chunk(content.getvalue(), b"tEXt", profile)
    random_image(80, 40).save(content, kind.split(".")[1], exif=b"Exif\0\0" + garbage)
    return content.getvalue()


BROKEN_EXIF = ["eXIf.png", "profile.png", "exif.webp", "exif.jpeg", "exif.tiff"]


@pytest.mark.parametrize("kind", BROKEN_EXIF)
def test_broken_exif_turns_nothing(tmp_path, kind):
    if kind == "exif.tiff":
        random_image(80, 40).save(tmp_path / kind)  # its EXIF data are the file's own tags
    else:
        (tmp_path / kind).write_bytes(image_with_broken_exif(kind))
    assert open_image(tmp_path / kind).size == (80, 40)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_unknown_orientation_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    random_image(80, 40).save(tmp_path / "odd.png", exif=exif)
    assert open_image(tmp_path / "odd.png").size == (80, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_that_of_pillow(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    random_image(80, 40).save(tmp_path / "turned.png", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "turned.png"))
    assert np.array_equal(np.array(open_image(tmp_path / "turned.png")), np.array(expected))


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


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ImageError, match="not a readable image .not a regular file, but a folder"):
        open_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file, but a pipe or a device"):
        open_image(tmp_path / "pipe.png")


@pytest.mark.parametrize("size", [(20_000, 8_000), (30_000, 30_000), (200_000, 1)])
def test_a_huge_image_is_an_error_before_it_is_decoded(tmp_path, size):
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    png += struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "bomb.png").write_bytes(png + struct.pack(">I", 9) + b"IDAT" + b"x" * 13)
    with pytest.raises(ImageError, match=r"bomb.png: not a readable image .*pixels"):
        open_image(tmp_path / "bomb.png")


def test_pillows_warnings_are_not_shown(tmp_path):
    """Of a large image and of broken EXIF data, in a program of its own."""
    Image.new("1", (10_000, 9_500)).save(tmp_path / "large.png")
    (tmp_path / "exif.png").write_bytes(image_with_broken_exif("eXIf.png"))
    program = (
        "import sys; from nanollava.image import open_image; [open_image(f) for f in sys.argv[1:]]"
    )
    files = [tmp_path / "large.png", tmp_path / "exif.png"]
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["image.unknown", "read-only.psd", "nowhere/image.png"])
def test_an_image_that_cannot_be_written_is_an_error(tmp_path, name):
    with pytest.raises(ImageError, match=f"{name}: this image cannot be written"):
        save_image(random_image(8, 8), str(tmp_path / name))


# Long images

CONFIGS = [
    ImageConfig(32),
    ImageConfig(32, "pad"),
    ImageConfig(32, short_side=50),
    ImageConfig(32, short_side=20),
    ImageConfig(32, stretch=(40, 70)),
    ImageConfig(32, "pad", stretch=(60, 60)),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("size", [*SIZES, (1, 1500), (1500, 1), (7, 1201)])
def test_computing_only_the_crop_gives_the_same_pixels(monkeypatch, config, size):
    image = random_image(*size)
    expected = np.array(fit(image, config))
    monkeypatch.setattr("nanollava.image.MAX_FIT_PIXELS", 0)
    assert np.array_equal(np.array(fit(image, config)), expected)


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("size", [(1, 60_000), (20_000, 1), (3, 50_001)])
def test_a_long_image_makes_no_large_one(monkeypatch, mode, size):
    """Pillow would make an image of up to 600 million pixels."""
    sizes = []
    new_image = Image.Image._new

    def record_size(self, core):
        sizes.append(core.size)
        return new_image(self, core)

    monkeypatch.setattr(Image.Image, "_new", record_size)
    assert fit(random_image(*size), ImageConfig(100, mode)).size == (100, 100)
    assert max(width * height for width, height in sizes) <= 150_003
