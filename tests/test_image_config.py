"""preprocessor_config.json and processor_config.json: the pixels of transformers, or an error."""

import json
import re

import pytest
import torch
from test_image import random_image
from transformers import AutoImageProcessor, LlavaImageProcessor

from nanollava.errors import UserError
from nanollava.image import preprocess
from nanollava.image_config import ImageConfig


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_a_config_comes_back(tmp_path, mode):
    """A model that was trained on padded images is asked with padded images."""
    ImageConfig(336, mode).save_pretrained(tmp_path)
    assert ImageConfig.from_pretrained(tmp_path) == ImageConfig(336, mode)


CLIP_JSON = ImageConfig(100).to_json()
LLAVA_JSON = ImageConfig(100, "pad").to_json()


def write_options(path, base: dict, changes: dict) -> None:
    """A preprocessor_config.json. A change to "left out" removes the key."""
    values = {key: value for key, value in (base | changes).items() if value != "left out"}
    (path / "preprocessor_config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    "base, changes",
    [
        (CLIP_JSON, {}),
        (LLAVA_JSON, {}),
        (CLIP_JSON, {"size": 100, "crop_size": 100}),
        (CLIP_JSON, {"size": {"shortest_edge": 120}}),
        (CLIP_JSON, {"size": 60}),
        (CLIP_JSON, {"size": {"height": 100, "width": 100}}),
        (CLIP_JSON, {"size": {"height": 130, "width": 110}}),
        (CLIP_JSON, {"size": {"height": 60, "width": 140}}),
        (CLIP_JSON, {"size": [120, 110], "crop_size": [100, 100]}),
        (CLIP_JSON, {"size": {"height": 100, "width": 100}, "do_center_crop": False}),
        (CLIP_JSON, {"rescale_factor": 1 / 127.5}),
        (CLIP_JSON, {"do_rescale": False}),
        (CLIP_JSON, {"do_rescale": False, "rescale_factor": 7}),
        (CLIP_JSON, {"do_normalize": False}),
        (CLIP_JSON, {"do_normalize": False, "do_rescale": False}),
        (CLIP_JSON, {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.4, 0.3]}),
        (CLIP_JSON, {"size": {"height": 100, "width": 100}, "do_center_crop": None}),
        (CLIP_JSON, {"do_rescale": None, "rescale_factor": None}),
        (CLIP_JSON, {"do_normalize": None, "do_pad": None, "default_to_square": None}),
        (LLAVA_JSON, {"do_center_crop": False}),
        (LLAVA_JSON, {"do_center_crop": "left out", "resample": "left out"}),
        (LLAVA_JSON, {"size": {"height": 120, "width": 100}, "do_pad": False}),
        (LLAVA_JSON, {"size": {"height": 120, "width": 120}}),
        (LLAVA_JSON, {"image_mean": [0.5, 0.4, 0.3]}),
        (LLAVA_JSON, {"do_rescale": False}),
    ],
)
def test_every_option_gives_the_pixels_of_transformers(tmp_path, base, changes):
    write_options(tmp_path, base, changes)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    config = ImageConfig.from_pretrained(tmp_path, size=100)
    for size in ((150, 60), (60, 150), (100, 100), (333, 200), (31, 30)):
        image = random_image(*size)
        expected = processor(image, return_tensors="pt")["pixel_values"][0].float()
        pixel_values = preprocess(image, config)
        assert pixel_values.shape == expected.shape
        tolerance = 1e-6 * max(1.0, float(expected.abs().max()))
        assert (pixel_values - expected).abs().max() <= tolerance, size


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("size", [24, 224])
def test_missing_options_have_the_defaults_of_transformers(tmp_path, mode, size):
    values = {"crop_size": size, "size": size} if size != 224 else {}
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(values | {"do_pad": mode == "pad"})
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    processor = LlavaImageProcessor.from_pretrained(tmp_path)
    image = random_image(90, 40)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    config = ImageConfig.from_pretrained(tmp_path, size=size)
    assert config.mode == mode
    assert torch.equal(preprocess(image, config), expected)


def test_a_nested_config_wins_as_in_transformers(tmp_path):
    """transformers 5 writes the image processor into processor_config.json."""
    nested = {"image_processor": LLAVA_JSON | {"image_std": [0.5, 0.5, 0.5]}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    write_options(tmp_path, CLIP_JSON, {})
    config = ImageConfig.from_pretrained(tmp_path, size=100)
    assert config == ImageConfig(100, "pad", std=(0.5, 0.5, 0.5))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    image = random_image(150, 60)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(preprocess(image, config), expected)


def test_a_processor_config_without_an_image_processor_says_nothing(tmp_path):
    (tmp_path / "processor_config.json").write_text(json.dumps({"patch_size": 14}))
    write_options(tmp_path, LLAVA_JSON, {})
    assert ImageConfig.from_pretrained(tmp_path) == ImageConfig(100, "pad")


@pytest.mark.parametrize("aspect_ratio, mode", [("pad", "pad"), ("square", "crop")])
def test_an_original_llava_says_whether_it_pads(tmp_path, aspect_ratio, mode):
    values = {"mm_vision_tower": "openai/clip", "image_aspect_ratio": aspect_ratio}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert ImageConfig.from_pretrained(tmp_path, size=336) == ImageConfig(336, mode)


def test_an_original_llava_may_have_other_options(tmp_path):
    values = {"mm_vision_tower": "openai/clip", "image_aspect_ratio": "pad"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    write_options(tmp_path, CLIP_JSON, {"image_std": [0.5, 0.5, 0.5]})
    config = ImageConfig.from_pretrained(tmp_path, size=100)
    assert config == ImageConfig(100, "pad", std=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("named", ["in the config", "by the user"])
def test_an_original_llava_processes_images_as_its_tower_does(tmp_path, named):
    tower = tmp_path / "tower"
    tower.mkdir()
    write_options(tower, CLIP_JSON, {"image_std": [0.5, 0.5, 0.5]})
    name = str(tower) if named == "in the config" else "openai/clip"
    values = {"mm_vision_tower": name, "image_aspect_ratio": "pad"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    vision = tower if named == "by the user" else None
    config = ImageConfig.from_pretrained(tmp_path, size=100, vision=vision)
    assert config == ImageConfig(100, "pad", std=(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    "base, changes, message",
    [
        (CLIP_JSON, {"do_resize": False}, "do_resize = False is not supported; expected True"),
        (CLIP_JSON, {"resample": 0}, "resample = 0 is not supported; expected 3"),
        (CLIP_JSON, {"resample": 3.0}, "resample = 3.0 is not supported; expected 3"),
        (CLIP_JSON, {"do_resize": 1}, "do_resize = 1 is not supported; expected True"),
        (CLIP_JSON, {"do_convert_rgb": False}, "do_convert_rgb = False is not supported"),
        (CLIP_JSON, {"default_to_square": True}, "default_to_square = True is not supported"),
        (CLIP_JSON, {"do_center_crop": False}, "do_center_crop = False with size = .* is not"),
        (CLIP_JSON, {"do_center_crop": "no"}, "do_center_crop = 'no'; expected true or false"),
        (CLIP_JSON, {"do_rescale": 1}, "do_rescale = 1; expected true or false"),
        (CLIP_JSON, {"do_pad": True}, "do_pad = True has no effect in CLIPImageProcessor; for a"),
        (CLIP_JSON, {"do_resize": None}, "do_resize = None is not supported; expected True"),
        (CLIP_JSON, {"size": None}, "size = None is not supported; expected a number"),
        (CLIP_JSON, {"rescale_factor": None}, "rescale_factor = None; expected a finite number"),
        (CLIP_JSON, {"image_mean": None}, "image_mean = None; expected a list"),
        (LLAVA_JSON, {"size": {"height": 120, "width": 100}}, "size = .* together with padding"),
        (LLAVA_JSON, {"do_normalize": False}, "do_normalize = False is not supported together"),
        (
            CLIP_JSON,
            {"image_processor_type": "SiglipImageProcessor"},
            "image_processor_type = 'SiglipImageProcessor' is not supported; expected CLIPImage",
        ),
        (CLIP_JSON, {"crop_size": 50}, "crop_size or size = 50, but the vision tower takes 100"),
        (CLIP_JSON, {"crop_size": "left out"}, "crop_size or size = 224, but the vision tower"),
        (
            CLIP_JSON,
            {"crop_size": {"height": 100, "width": 90}},
            "crop_size = .* expected a square",
        ),
        (CLIP_JSON, {"size": "big"}, "size = 'big'; expected a whole number"),
        (CLIP_JSON, {"size": True}, "size = True; expected a whole number"),
        (CLIP_JSON, {"size": 0}, "size = 0; expected at least 1"),
        (CLIP_JSON, {"size": 10**9}, "size = 1000000000; expected at most 4096"),
        (
            CLIP_JSON,
            {"size": {"shortest_edge": 100, "longest_edge": 200}},
            "size = .*not supported",
        ),
        (CLIP_JSON, {"size": {"longest_edge": 200}}, "size = .*not supported; expected a number"),
        (CLIP_JSON, {"size": [1, 2, 3]}, "size = .1, 2, 3.; expected a whole number"),
        (CLIP_JSON, {"rescale_factor": 0}, "expected a rescale_factor above 0"),
        (
            CLIP_JSON,
            {"rescale_factor": float("nan")},
            "rescale_factor = nan; expected a finite number",
        ),
        (CLIP_JSON, {"image_mean": [0.5]}, "expected mean and std of three colors"),
        (
            CLIP_JSON,
            {"image_mean": [0.5, float("nan"), 0.5]},
            "image_mean.1. = nan; expected a finite number",
        ),
        (CLIP_JSON, {"image_std": 0.5}, "image_std = 0.5; expected a list"),
        (CLIP_JSON, {"image_std": [0.5, 0.5, 0]}, "expected std above 0"),
        (CLIP_JSON, {"image_std": [0.5, 0.5, 1e-320]}, "expected std above 0"),
        (CLIP_JSON, {"image_mean": [0.5, 0.5, 1e300]}, "expected mean and std of three colors"),
        (CLIP_JSON, {"rescale_factor": 1e300}, "expected a rescale_factor above 0"),
        (LLAVA_JSON, {"image_mean": [127, 127, 127]}, "expected a mean in 0..1"),
    ],
)
def test_an_option_that_is_not_supported_is_an_error(tmp_path, base, changes, message):
    write_options(tmp_path, base, changes)
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}: .*{message}"):
        ImageConfig.from_pretrained(tmp_path, size=100)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match="preprocessor_config.json: no such file"):
        ImageConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "config, scaled",
    [
        (ImageConfig(100, "pad"), ImageConfig(300, "pad")),
        (ImageConfig(100, short_side=110), ImageConfig(300, short_side=330)),
        (ImageConfig(100, stretch=(100, 120)), ImageConfig(300, stretch=(300, 360))),
    ],
)
def test_a_config_scales(config, scaled):
    assert config.scaled(300) == scaled


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "stretch"},
        {"size": 0},
        {"short_side": 0},
        {"stretch": (224, 0)},
        {"mean": (0.5, "a", 0.5)},
    ],
)
def test_a_config_checks_its_values(arguments):
    with pytest.raises(UserError, match="expected"):
        ImageConfig(**arguments)
