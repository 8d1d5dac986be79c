"""What a resumed run compares: settings, and the contents of everything it reads."""

import json
import os
import shutil
import zipfile

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from nanollava.data import InstructionData
from nanollava.image import ImageConfig
from nanollava.tokenizer import Tokenizer
from nanollava.training import distributed
from nanollava.training.arguments import TrainConfig
from nanollava.training.fingerprint import fingerprint

LLM = "checkpoints/toy-vicuna"


@pytest.fixture(scope="module", autouse=True)
def process_group():
    distributed.start("cpu")
    yield
    distributed.finish()


@pytest.fixture
def world(tmp_path):
    """Three records with images in a folder, and copies of the models."""
    records = []
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    for i in range(3):
        Image.new("RGB", (30, 30), (i, 0, 0)).save(tmp_path / f"{i}.png")
        records.append({"image": f"{i}.png", "conversations": turns})
    (tmp_path / "data.json").write_text(json.dumps(records))
    for name in ("toy-clip", "toy-vicuna"):
        shutil.copytree(f"checkpoints/{name}", tmp_path / name)
    return tmp_path


def take(world, images=None, without=(), model=None, **settings) -> dict:
    """The fingerprint of a run on these files; `without` lists records that are left out."""
    data = InstructionData(
        world / "data.json",
        images or world,
        Tokenizer.from_pretrained(LLM),
        ImageConfig(32),
        image_token_id=704,
        num_image_tokens=4,
    )
    data.leave_out(dict.fromkeys(without, "bad"), skip_bad=True)
    config = TrainConfig(vision=str(world / "toy-clip"), llm=str(world / "toy-vicuna"), **settings)
    return fingerprint(config, model or nn.Linear(2, 2), data, torch.device("cpu"))


def changed_keys(before: dict, after: dict) -> list[str]:
    assert before.keys() == after.keys()
    return [name for name in before if before[name] != after[name]]


def test_nothing_changed(world):
    assert take(world) == take(world)


def test_an_image_of_the_same_size_and_another_time(world):
    before = take(world)
    image = world / "1.png"
    status = image.stat()
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert changed_keys(before, take(world)) == ["checksum of images"]


def test_an_image_that_is_not_in_use_does_not_matter(world):
    before = take(world, without=[1])
    (world / "1.png").write_bytes(b"")
    assert take(world, without=[1]) == before


def pack(world, color: int):
    """The images in a zip."""
    with zipfile.ZipFile(world / "images.zip", "w") as archive:
        for i in range(3):
            Image.new("RGB", (30, 30), (i, color, 0)).save(world / "image.bmp")
            archive.write(world / "image.bmp", f"{i}.png")
    return world / "images.zip"


def test_a_zip_that_was_packed_again_is_the_same(world):
    before = take(world, pack(world, color=5))
    os.utime(world / "images.zip", (1, 1))
    assert take(world, pack(world, color=5)) == before


def test_a_zip_with_another_image_of_the_same_size(world):
    before = take(world, pack(world, color=5))
    assert changed_keys(before, take(world, pack(world, color=6))) == ["checksum of images"]


def test_other_rows_are_left_out(world):
    keys = changed_keys(take(world, without=[0]), take(world, without=[2]))
    assert "crc32 of records in use" in keys
    assert "samples" not in keys


@pytest.mark.parametrize("name", ["toy-clip", "toy-vicuna"])
def test_frozen_weights_of_the_same_path_and_size(world, name):
    before = take(world)
    file = world / name / "model.safetensors"
    tensors = load_file(file)
    first = next(iter(tensors))
    tensors[first] = -tensors[first]
    size = file.stat().st_size
    save_file(tensors, file, metadata={"format": "pt"})
    assert file.stat().st_size == size
    assert changed_keys(before, take(world)) == ["checksum of model files"]


@pytest.mark.parametrize("name", ["toy-vicuna/tokenizer.json", "toy-clip/config.json"])
def test_a_config_or_tokenizer_that_changed(world, name):
    before = take(world)
    with open(world / name, "a") as file:
        file.write(" ")
    assert changed_keys(before, take(world)) == ["checksum of model files"]


def test_the_sizes_beside_a_connectors_file_changed(world):
    shutil.copy("checkpoints/toy-projector/mm_projector.safetensors", world / "W.safetensors")
    (world / "connector.json").write_text('{"sees": "last"}')
    before = take(world, projector=str(world / "W.safetensors"))
    (world / "connector.json").write_text('{"sees": "all"}')
    after = take(world, projector=str(world / "W.safetensors"))
    assert changed_keys(before, after) == ["checksum of model files"]


def test_a_copy_of_the_files_is_the_same(world):
    before = take(world)
    for name in ("toy-clip", "toy-vicuna"):
        for file in (world / name).iterdir():
            file.touch()
    assert take(world) == before


def test_the_other_stage_trains_other_parameters(world):
    keys = changed_keys(take(world), take(world, model=nn.Linear(3, 3)))
    assert keys == ["trained parameters"]


def test_data_that_is_no_instruction_data_has_no_files():
    values = fingerprint(TrainConfig(), nn.Linear(2, 2), [1, 2], torch.device("cpu"))
    assert values["samples"] == 2
    assert "crc32 of data" not in values
