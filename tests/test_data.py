"""The data set in LLaVA's JSON form, and every malformed record."""

import json

import pytest
import torch
from PIL import Image

from nanollava.data import DataError, InstructionData, collate, read_records
from nanollava.image import ImageConfig
from nanollava.toyland.vicuna import make_tokenizer

GOOD = {
    "id": "a",
    "image": "a.png",
    "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a cat"}],
}


def write(tmp_path, records) -> str:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.png")
    (tmp_path / "data.json").write_text(records if isinstance(records, str) else json.dumps(records))
    return tmp_path / "data.json"


def make(path, **options):
    tokenizer = make_tokenizer(0).with_image_token(704)
    return InstructionData(path, path.parent, tokenizer, ImageConfig(20), 704, 4, **options)


def test_batch(tmp_path):
    text_only = {
        "id": "b",
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "assistant", "value": "Hello."}],
    }
    data = make(write(tmp_path, [GOOD, text_only]))
    batch = collate([data[0], data[1]])
    assert batch["input_ids"].shape == batch["labels"].shape
    assert (batch["input_ids"] == 704).sum(1).tolist() == [4, 0]
    assert batch["pixel_values"].shape == (1, 3, 20, 20)
    ends = [int((labels != -100).nonzero().max()) for labels in batch["labels"]]
    assert ends[1] < ends[0] == batch["labels"].shape[1] - 1, "the shorter row is padded on the right"
    assert batch["labels"][1, ends[1] + 1 :].eq(-100).all()
    assert collate([data[1]])["pixel_values"] is None


def test_two_pictures(tmp_path):
    two = json.loads(json.dumps(GOOD))
    two["image"] = ["a.png", "a.png"]
    two["conversations"][0]["value"] = "<image><image>\nSame?"
    sample = make(write(tmp_path, [two]))[0]
    assert sample["pixel_values"].shape[0] == 2 and (sample["input_ids"] == 704).sum() == 8


def edited(**changes):
    record = json.loads(json.dumps(GOOD))
    record.update(changes)
    return record


@pytest.mark.parametrize(
    "records, message",
    [
        ("{", "data.json: not valid JSON"),
        ({}, "data.json: expected a list of records"),
        ([GOOD, 3], "data.json, record 1: expected an object, got int"),
        ([GOOD, edited(conversations=[])], "record 1: conversations: expected a list of turns"),
        ([GOOD, edited(conversations=GOOD["conversations"][:1])], "record 1: the last turn has no answer"),
        ([GOOD, edited(conversations=GOOD["conversations"][::-1])], "record 1: turn 0: comes from 'gpt'"),
        ([edited(image=["a.png", "a.png"])], "record 0: 1 <image> in the text, but 2 pictures named"),
        ([{"conversations": GOOD["conversations"]}], "record 0: 1 <image> in the text, but 0 pictures named"),
    ],
)
def test_malformed_records(tmp_path, records, message):
    with pytest.raises(DataError, match=message):
        read_records(write(tmp_path, records))


def test_bad_samples(tmp_path):
    path = write(tmp_path, [edited(image="b.png")])
    with pytest.raises(DataError, match="record 0: .*b.png: no such picture"):
        make(path)[0]
    path = write(tmp_path, [GOOD])
    with pytest.raises(DataError, match="no answer begins within max length 45"):
        make(path, max_length=45)[0]
    with pytest.raises(DataError, match="the picture reaches past max length 10"):
        make(path, max_length=10)[0]
    with pytest.raises(DataError, match="no such data file"):
        make(tmp_path / "none.json")


def test_truncation_keeps_the_beginning(tmp_path):
    path = write(
        tmp_path, [edited(conversations=[GOOD["conversations"][0], {"from": "gpt", "value": "a cat " * 50}])]
    )
    whole, cut = make(path)[0], make(path, max_length=60)[0]
    assert len(cut["input_ids"]) == 60 and torch.equal(cut["input_ids"], whole["input_ids"][:60])
