"""The check of all records before a training, and the lists of bad ones."""

import json

import pytest

from nanollava.data import DataError, InstructionData
from nanollava.files import shipped
from nanollava.image import ImageConfig
from nanollava.tokenizer import Tokenizer
from nanollava.training import datasets, distributed
from nanollava.training.arguments import TrainConfig

TURNS = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi."}]


@pytest.fixture(autouse=True)
def process_group():
    distributed.start("cpu")
    yield
    distributed.finish()


def check(folder, name: str, records: list[dict], report: str, **settings) -> None:
    """Checks a data file with these records."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(records))
    tokenizer = Tokenizer.from_pretrained(shipped("checkpoints/toy-llava"))
    data = InstructionData(path, folder, tokenizer, ImageConfig(20), 704, 4)
    datasets.check_records(data, report, TrainConfig(out=str(folder), **settings))


def test_training_and_validation_data_have_lists_of_their_own(tmp_path):
    records = [{"conversations": TURNS}, {"conversations": []}]
    for name, report in (
        ("train", datasets.BAD_RECORDS),
        ("validation", datasets.BAD_VALIDATION_RECORDS),
    ):
        check(tmp_path, name, records, report, skip_bad=True)
    assert "train.json, record 1" in (tmp_path / datasets.BAD_RECORDS).read_text()
    text = (tmp_path / datasets.BAD_VALIDATION_RECORDS).read_text()
    assert "validation.json, record 1" in text


def test_good_data_remove_the_list_of_an_earlier_run(tmp_path):
    with pytest.raises(DataError):
        check(tmp_path, "train", [{"conversations": []}], datasets.BAD_RECORDS)
    assert (tmp_path / datasets.BAD_RECORDS).is_file()
    check(tmp_path, "train", [{"conversations": TURNS}], datasets.BAD_RECORDS)
    assert not (tmp_path / datasets.BAD_RECORDS).exists()


def test_half_a_character_in_a_name_is_listed(tmp_path):
    turns = [{"from": "human", "value": "<image>"}, TURNS[1]]
    with pytest.raises(DataError, match=r"\\ud800.png: no such image"):
        records = [{"image": "\ud800.png", "conversations": turns}]
        check(tmp_path, "train", records, datasets.BAD_RECORDS)
    assert r"\ud800.png" in (tmp_path / datasets.BAD_RECORDS).read_text()
