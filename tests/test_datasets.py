"""The check of all records before a training, and the lists of bad ones."""

import json

import pytest
from PIL import Image

from nanollava.conversation import encode, expand
from nanollava.data import DataError, InstructionData
from nanollava.files import read_json, shipped
from nanollava.hf.config import parse_llava_config
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


# What a training reads: the flags reach the data

CONFIG = parse_llava_config(read_json(shipped("checkpoints/toy-llava") / "config.json"))
TOKENIZER = Tokenizer.from_pretrained(shipped("checkpoints/toy-llava"))
CAPTION = [{"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": "a cat"}]


def load(folder, turns: list[dict], **settings) -> InstructionData:
    """The training data of a run with one record."""
    Image.new("RGB", (30, 30)).save(folder / "a.png")
    path = folder / "train.json"
    path.write_text(json.dumps([{"image": "a.png", "conversations": turns}]))
    config = TrainConfig(out=str(folder), data=str(path), **settings)
    data, _ = datasets.load_datasets(config, TOKENIZER, ImageConfig(100), CONFIG)
    return data


@pytest.mark.parametrize(
    ("template", "position"), [("plain", "front"), ("v0", "as_written"), ("llama_2", "front")]
)
def test_records_are_written_as_the_flags_say(tmp_path, template, position):
    sample = load(tmp_path, CAPTION, template=template, image_position=position)[0]
    ids, labels = encode(CAPTION, TOKENIZER, template, position)
    ids, labels = expand(ids, labels, CONFIG.image_token_id, CONFIG.num_image_tokens)
    assert sample["input_ids"].tolist() == ids
    assert sample["labels"].tolist() == labels


@pytest.mark.parametrize(("flag", "longest"), [(200, 200), (5000, 1024)])  # the model has 1024
def test_a_sample_is_as_long_as_the_flag_and_the_model_allow(tmp_path, flag, longest):
    turns = [CAPTION[0], {"from": "gpt", "value": "a cat " * 2000}]
    assert len(load(tmp_path, turns, max_length=flag)[0]["input_ids"]) == longest
