"""Preprocessing against transformers' PIL-based CLIP processor."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from nanollava.image import ImageConfig, ImageError, open_image, preprocess


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(1, height // 7), max(1, width // 7), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.mark.parametrize(
    "size", [(100, 100), (224, 224), (320, 200), (199, 301), (640, 64), (37, 500), (1000, 999)]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_crop(size, mode):
    image = picture(*size, mode)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 100}, crop_size={"height": 100, "width": 100})
    expected = torch.from_numpy(np.stack(processor(image)["pixel_values"]))[0]
    ours = preprocess(image, ImageConfig(size=100))
    assert ours.shape == (3, 100, 100)
    assert (ours - expected).abs().max() <= 1e-6


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


def test_broken_pictures(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere.jpg: no such picture"):
        open_image(tmp_path / "nowhere.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"text.jpg: not a readable picture"):
        open_image(tmp_path / "text.jpg")
    picture(64, 64).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut.jpg: not a readable picture"):
        open_image(tmp_path / "cut.jpg")
