"""Target: image files of all formats."""

import io
import struct
import zlib
from contextlib import suppress
from functools import cache

import torch
from PIL import Image

from benchmarks.fuzz.case import Case, expect
from benchmarks.fuzz.mutate import changed_bytes
from nanollava.image import ImageConfig, open_image, preprocess

# (width, height) that are true, and that only a header claims.
ODD_SIZES = ((1, 20_000), (20_000, 1), (1, 65_000), (65_000, 1), (3, 40_000), (9000, 9000), (1, 1))
FALSE_SIZES = ((2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (0, 0), (0, 5), (60_000, 60_000))
MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "I;16")
FORMATS = ("TIFF", "PNG", "JPEG", "WEBP", "GIF", "BMP", "JPEG2000", "PPM")
SIZES = (
    (1, 1),
    (1, 7),
    (7, 1),
    (3, 2),
    (40, 40),
    (1, 900),
    (900, 1),
    (19, 21),
    (100, 99),
    (333, 64),
)
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the color type


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, depth: int, color: int, pixels: bytes) -> bytes:
    """A PNG with this header and these compressed pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def black_pixels(width: int, height: int, depth: int, color: int) -> bytes:
    """The compressed pixels of a black image."""
    row = bytes(1 + (width * PNG_CHANNELS[color] * depth + 7) // 8)
    compressor = zlib.compressobj(1)
    result = b""
    for _ in range(height):
        result += compressor.compress(row)
    return result + compressor.flush()


def image(case: Case) -> None:
    """A damaged image file: it gives pixels in their range, or one line."""
    content = changed_image(case)
    path = case.write("image", content)
    size = case.rng.choice((20, 100, 224, 336))
    image_config = ImageConfig(size, case.rng.choice(("crop", "pad")))
    case.note += f", {image_config.mode} {size}"
    with suppress(Exception), Image.open(io.BytesIO(content)) as claimed:
        if claimed.width * claimed.height <= Image.MAX_IMAGE_PIXELS:
            case.decoded_bytes = 4 * claimed.width * claimed.height
    opened = open_image(path)
    pixels = preprocess(opened, image_config)
    expect(pixels.shape == (3, size, size), "pixels of another shape")
    mean = torch.tensor(image_config.mean).view(3, 1, 1)
    std = torch.tensor(image_config.std).view(3, 1, 1)
    colors = pixels * std + mean
    expect(bool(((colors > -1e-4) & (colors < 1 + 1e-4)).all()), "colors outside of 0..1")
    is_small = max(opened.size) < 1000  # transformers' processor may need gigabytes for others
    if image_config.mode == "crop" and is_small and case.rng.random() < 0.3:
        difference = difference_from_transformers(opened, pixels)
        expect(difference < 1e-4, "other pixels than transformers'")


def difference_from_transformers(image: Image.Image, pixels: torch.Tensor) -> float:
    """The largest difference from the pixels of transformers' processor, where that has any."""
    size = pixels.shape[-1]
    processor = transformers_processor(size)
    try:
        expected = processor(image, return_tensors="pt")["pixel_values"][0]
    except Exception:  # whatever it cannot read
        return 0.0
    return (expected - pixels).abs().max().item()


@cache
def transformers_processor(size: int):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )


def changed_image(case: Case) -> bytes:
    rng = case.rng
    kind = rng.random()
    if kind < 0.02:
        width, height = rng.choice(ODD_SIZES)
        color = rng.choice(list(PNG_CHANNELS)) if width * height < 10**6 else 0
        case.note = f"{width} x {height}, color type {color}"
        return png(width, height, 8, color, black_pixels(width, height, 8, color))
    if kind < 0.06:
        width, height = rng.choice(FALSE_SIZES)
        case.note = f"claims {width} x {height}"
        depth = rng.choice((1, 8, 16))
        color = rng.choice(list(PNG_CHANNELS))
        return png(width, height, depth, color, zlib.compress(bytes(1000)))
    file = rng.choice(case.world.image_files)
    case.note = file.name
    content = file.read_bytes()
    if kind < 0.1:
        return content[: rng.randint(0, len(content))]
    if kind < 0.15:
        other = rng.choice(case.world.image_files).read_bytes()
        return content[: rng.randint(0, len(content))] + other[rng.randint(0, 200) :]
    return changed_bytes(rng, content)


def image_modes(case: Case) -> None:
    """A whole image of any mode, size and format that Pillow can write: finite pixels."""
    rng = case.rng
    mode = rng.choice(MODES)
    made = Image.new(mode, rng.choice(SIZES))
    made.frombytes(rng.randbytes(len(made.tobytes())))
    options = {}
    if rng.random() < 0.3:
        options["transparency"] = rng.choice((0, 3, (1, 2, 3), b"\0\1\2", 300))
    file_format = rng.choice(FORMATS)
    case.note = f"{mode}, {made.size}, {options}, {file_format}"
    content = io.BytesIO()
    try:
        made.save(content, format=file_format, **options)
    except Exception:  # not every format has every mode
        return
    path = case.write("image", content.getvalue())
    image_config = ImageConfig(rng.choice((20, 100, 224)), rng.choice(("crop", "pad")))
    pixels = preprocess(open_image(path), image_config)
    expect(bool(torch.isfinite(pixels).all()), "pixels are not finite")


TARGETS = {"image": image, "image_modes": image_modes}
