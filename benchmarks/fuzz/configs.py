"""Targets: config.json of every kind, and the two files that describe the image processing."""

import torch

from benchmarks.fuzz.case import Case, expect
from benchmarks.fuzz.mutate import changed_json
from benchmarks.fuzz.world import IMAGE_SIZE, logits
from nanollava.image import ImageConfig, preprocess
from nanollava.llava import LLaVA
from nanollava.tokenizer import Tokenizer

DIFFERENCE = 1e-4  # of pixels that are equal to those of transformers


def config(case: Case) -> None:
    """config.json of a llava-hf model, an original LLaVA, a CLIP or a Llama."""
    kind = case.rng.choice(("llava", "original", "clip", "llama"))
    case.note = kind
    case.link(case.world.path / kind, "config.json")
    values = case.world.read_json(f"{kind}/config.json")
    case.write("config.json", changed_json(case.rng, values))
    model = load_model(case, kind)
    tokenizer = Tokenizer.from_pretrained(case.world.path / "llava")
    tokenizer.with_special_ids(model.config, case.folder)
    image_size = model.config.vision_config.image_size
    pixel_values = torch.zeros(1, 3, image_size, image_size)
    result = logits(model, tokenizer, pixel_values)
    expect(bool(torch.isfinite(result).all()), "logits are not finite")


def load_model(case: Case, kind: str) -> LLaVA:
    """The model of the case's folder, completed from the world."""
    if kind in ("llava", "original"):
        return LLaVA.from_pretrained(case.folder)
    clip = case.world.path / "clip"
    llama = case.world.path / "llama"
    projector = case.world.path / "mm_projector.safetensors"
    image_token_id = case.world.tokenizer.image_token_id
    if kind == "clip":
        clip = case.folder
    else:
        llama = case.folder
    return LLaVA.compose(clip, llama, projector, image_token_id)


def image_processing(case: Case) -> None:
    """preprocessor_config.json, or the same inside of processor_config.json."""
    values = case.world.read_json("llava/preprocessor_config.json")
    name = "preprocessor_config.json"
    if case.rng.random() < 0.3:
        name = "processor_config.json"
        values = {"processor_class": "LlavaProcessor", "image_processor": values}
    content = changed_json(case.rng, values)
    case.write(name, content)
    image_size = case.rng.choice((IMAGE_SIZE, IMAGE_SIZE, None))
    image_config = ImageConfig.from_pretrained(case.folder, size=image_size)
    pixels = preprocess(case.world.image, image_config)
    expect(pixels.shape == (3, image_config.size, image_config.size), "pixels of another shape")
    expect(bool(torch.isfinite(pixels).all()), "pixels are not finite")
    expected = pixels_of_transformers(case)
    if expected is not None and image_config.size == IMAGE_SIZE:
        expect(expected.shape == pixels.shape, "another shape than transformers'")
        largest = max(1.0, expected.abs().max().item())  # a rescale_factor can be 255
        difference = (expected - pixels).abs().max().item()
        expect(difference <= DIFFERENCE * largest, "other pixels than transformers'")


def pixels_of_transformers(case: Case) -> torch.Tensor | None:
    """What transformers makes of the same file; None where it refuses it."""
    from transformers import AutoImageProcessor

    if case.rng.random() < 0.7:  # it is slow
        return None
    try:
        processor = AutoImageProcessor.from_pretrained(case.folder, use_fast=False)
        return torch.as_tensor(processor(case.world.image, return_tensors="pt")["pixel_values"])[0]
    except Exception:  # whatever it does not like
        return None


TARGETS = {"config": config, "image_processing": image_processing}
