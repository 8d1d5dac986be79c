"""Toyland's data set on disk: the same bytes for the same seed, and complete or absent."""

import hashlib
import json

import pytest
from PIL import Image

from nanollava.conversation import checked_turns
from nanollava.errors import UserError
from nanollava.toyland import data

# Of 200 training and 50 validation scenes: the shipped weights were trained on these texts.
DIGESTS = {
    0: {
        "align.json": "5e766eb15c48fc7b",
        "plain.json": "2e761e21f9638b02",
        "instruct.json": "d273c88009c61a1c",
        "validation.json": "2b0b853fd0479827",
        "captions.jsonl": "50845ee85e59e31d",
    },
    1: {
        "align.json": "cd47e9bfcefabf20",
        "plain.json": "07a887763c9a7778",
        "instruct.json": "593fefc6710066d9",
        "validation.json": "54c7ca05023c2a10",
        "captions.jsonl": "0072c5b92f1ed69d",
    },
}


@pytest.fixture(scope="module", params=[0, 1], ids=["seed 0", "seed 1"])
def written(request, tmp_path_factory):
    """(seed, directory of a data set of this seed)"""
    out = tmp_path_factory.mktemp("data") / "toyland"
    data.write(out, train=200, validation=50, seed=request.param, size=64)
    return request.param, out


@pytest.mark.parametrize("name", DIGESTS[0])
def test_files_of_a_seed_stay_the_same(written, name):
    seed, out = written
    digest = hashlib.sha256((out / name).read_bytes()).hexdigest()
    assert digest[:16] == DIGESTS[seed][name]


def test_every_record_is_valid_and_has_its_image(written):
    _, out = written
    for name in ("align", "plain", "instruct", "validation"):
        for record in json.loads((out / f"{name}.json").read_text()):
            checked_turns(record["conversations"])
            assert (out / record["image"]).is_file()


def test_images_have_the_given_size(written):
    _, out = written
    files = sorted((out / "images").iterdir())
    assert len(files) == 250
    assert Image.open(files[0]).size == (64, 64)


def test_an_existing_directory_is_an_error(tmp_path):
    with pytest.raises(UserError, match="exists already"):
        data.write(tmp_path, train=1, validation=1)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(jobs, size):
        raise OSError("disk full")

    monkeypatch.setattr(data, "write_images", fail)
    out = tmp_path / "toyland"
    with pytest.raises(OSError):
        data.write(out, train=2, validation=1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    data.write(out, train=2, validation=1, size=64)
    assert sorted(path.name for path in (out / "images").iterdir()) == [
        "train_000000.jpg",
        "train_000001.jpg",
        "validation_000000.jpg",
    ]
