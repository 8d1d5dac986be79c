"""The data set in LLaVA's JSON form, and every malformed record."""

import json
import tarfile
import zipfile
from functools import cache

import pytest
import torch
from PIL import Image

from nanollava.data import DataError, InstructionData, collate
from nanollava.image import ImageConfig
from nanollava.toyland.pretrain import make_tokenizer

TOKENIZER = cache(lambda: make_tokenizer(0))
GOOD = {
    "id": "a",
    "image": "a.png",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "a cat"},
    ],
}


def write(tmp_path, records) -> str:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.png")
    (tmp_path / "data.json").write_text(
        records if isinstance(records, str) else json.dumps(records)
    )
    return tmp_path / "data.json"


def edited(**changes):
    record = json.loads(json.dumps(GOOD))
    record.update(changes)
    return record


def make(path, images=None, **options):
    tokenizer = TOKENIZER().with_image_token(704)
    return InstructionData(
        path, images or path.parent, tokenizer, ImageConfig(20), 704, 4, **options
    )


def test_batch(tmp_path):
    text_only = {
        "id": "b",
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "assistant", "value": "Hello."},
        ],
    }
    data = make(write(tmp_path, [GOOD, text_only]))
    batch = collate([data[0], data[1]])
    assert batch["input_ids"].shape == batch["labels"].shape
    assert (batch["input_ids"] == 704).sum(1).tolist() == [4, 0]
    assert batch["pixel_values"].shape == (1, 3, 20, 20)
    ends = [int((labels != -100).nonzero().max()) for labels in batch["labels"]]
    assert ends[1] < ends[0] == batch["labels"].shape[1] - 1, (
        "the shorter row is padded on the right"
    )
    assert batch["labels"][1, ends[1] + 1 :].eq(-100).all()
    assert collate([data[1]])["pixel_values"] is None


def test_two_pictures(tmp_path):
    two = json.loads(json.dumps(GOOD))
    two["image"] = ["a.png", "a.png"]
    two["conversations"][0]["value"] = "<image><image>\nSame?"
    sample = make(write(tmp_path, [two]))[0]
    assert sample["pixel_values"].shape[0] == 2 and (sample["input_ids"] == 704).sum() == 8


def wrong(path, **options) -> list[str]:
    """What the check before the first step says, a line for every record, all of which it must meet at reading, too."""
    data = make(path, **options)
    found = data.check(range(len(data)), open_pictures=True, threads=2)
    for index in found:
        with pytest.raises((DataError, TypeError, AttributeError)):
            data[index]
    with pytest.raises(DataError) as told:
        data.leave_out(found, skip_bad=False)
    return str(told.value).splitlines()


@pytest.mark.parametrize(
    "text, message",
    [("{", "not valid JSON"), ("{}", "expected a list of records"), ("[]", "expected a list")],
)
def test_a_file_that_is_no_list(tmp_path, text, message):
    with pytest.raises(DataError, match=f"data.json: {message}"):
        make(write(tmp_path, text))


TURNS = GOOD["conversations"]
BAD = {
    "expected an object, got int": 3,
    "conversations: expected a list of turns, got none": edited(conversations=[]),
    "turn 0: comes from 'gpt', expected 'human'": edited(conversations=TURNS[::-1]),
    "1 <image> in the text, but 2 pictures named": edited(image=["a.png", "a.png"]),
    "1 <image> in the text, but 0 pictures named": {"id": 7, "conversations": TURNS},
    "the last turn has no answer": edited(conversations=TURNS[:1]),
    "turn 0: comes from ['human'], expected 'human'": edited(
        conversations=[{"from": ["human"], "value": "<image>"}, TURNS[1]]
    ),
    "'utf-8' codec can't encode character '\\ud800' in position 13: surrogates not allowed": edited(
        conversations=[{"from": "human", "value": "<image> What \ud800"}, TURNS[1]]
    ),
    "turn 1: the answer is empty": edited(conversations=[TURNS[0], {"from": "gpt", "value": " "}]),
    "turn 0: expected an object with 'from' and the text 'value'": edited(
        conversations=[{"from": "human", "value": 3}]
    ),
    "image is 3; expected a file name or a list of them": edited(image=3),
    "b.png: no such picture in {folder}": edited(image="b.png"),
    "{folder}/data.json: not a readable image (cannot identify image file '{folder}/data.json')": edited(
        image="data.json"
    ),
    "the picture reaches past max length 100; raise it": edited(
        conversations=[{"from": "human", "value": "Hi " * 99 + "<image>"}, TURNS[1]]
    ),
    "no answer begins within max length 100; raise it": edited(
        conversations=[{"from": "human", "value": "<image>" + "Hi " * 99}, TURNS[1]]
    ),
}


def test_every_wrong_record_is_told(tmp_path):
    """One file of them all: each by file and index, and what is wrong."""
    path = write(tmp_path, [GOOD, *BAD.values(), GOOD])
    *lines, counts = wrong(path, max_length=100)
    assert (
        counts
        == f"{path}: {len(BAD)} of {len(BAD) + 2} records are wrong; --skip-bad goes on without them"
    )
    expected = [
        f"{path}, record {i + 1}: {text.format(folder=tmp_path)}" for i, text in enumerate(BAD)
    ]
    assert lines == expected
    data = make(path, max_length=100)
    told = data.leave_out(data.check(range(len(data)), True), skip_bad=True)
    assert told.splitlines() == [
        f"left out {len(BAD)} of {len(BAD) + 2} records, the first:",
        *expected[:20],
    ]
    assert len(data) == 2
    assert torch.equal(data[0]["input_ids"], data[1]["input_ids"])
    assert wrong(write(tmp_path, [GOOD, 3])) == [f"{path}, record 1: expected an object, got int"]
    assert len(wrong(write(tmp_path, [3] * 30))) == 31  # every one is listed
    data = make(write(tmp_path, [3]))
    with pytest.raises(DataError, match="record 0"):  # nothing would remain
        data.leave_out(data.check([0]), skip_bad=True)
    with pytest.raises(DataError, match="no such data file"):
        make(tmp_path / "none.json")


def test_no_picture_is_opened_without_being_asked(tmp_path):
    data = make(write(tmp_path, [edited(image="data.json")]))
    assert data.check([0]) == {} and list(data.check([0], open_pictures=True)) == [0]


@pytest.mark.parametrize("kind", ["stored.zip", "deflated.zip", "plain.tar"])
def test_pictures_in_an_archive(tmp_path, kind):
    """The same samples as from the folder, in reader processes as well; what an archive lacks or holds broken is told."""
    records = [edited(image="x/a.png"), edited(image="x/none.png"), edited(image="x/broken.png")]
    path, archive = write(tmp_path, records), tmp_path / kind
    (tmp_path / "broken.png").write_bytes(b"no picture")
    if kind.endswith("zip"):
        with zipfile.ZipFile(
            archive, "w", zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED
        ) as file:
            for name in ("broken.png", "a.png"):
                file.write(tmp_path / name, name)
    else:
        with tarfile.open(archive, "w") as file:
            for name in ("broken.png", "a.png"):
                file.add(tmp_path / name, f"./{name}")
    data = make(path, [f"x={archive}"])
    assert data.check(range(3), True) == {
        1: f"x/none.png: no such picture in {archive}",
        2: f"{archive}, x/broken.png: not a readable picture",
    }
    data.leave_out(data.check(range(3), True), skip_bad=True)
    pixels = make(write(tmp_path, [GOOD]))[0]["pixel_values"]
    loader = torch.utils.data.DataLoader(data, 1, num_workers=1, collate_fn=collate)
    assert torch.equal(next(iter(loader))["pixel_values"], pixels)
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b")
    for bad in ("a.tar.gz", "nowhere"):
        with pytest.raises(
            DataError, match=f"{bad}: neither a folder nor a zip or uncompressed tar"
        ):
            make(path, [tmp_path / bad])


def test_published_forms(tmp_path):
    """CC-595K, LCS-558K, LLaVA-Instruct-158K and mix665k: captions, int ids, `model`, text without pictures, the
    question on either side of the picture; stage 1's plain template drops the question."""
    caption = {
        "id": "GCC_1",
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "Give a brief description.\n<image>"},
            {"from": "gpt", "value": "olive oil"},
        ],
    }
    text = {
        "id": "x_0",
        "model": "",
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
    }
    data = make(write(tmp_path, [caption, edited(id=33471), text]), template="plain")
    assert data.check(range(3), True) == {} and data.leave_out({}, False) == ""
    other = json.loads(json.dumps(caption))
    other["conversations"][0]["value"] = "<image>\nProvide one."
    assert torch.equal(
        data[0]["input_ids"], make(write(tmp_path, [other]), template="plain")[0]["input_ids"]
    )
    data = make(write(tmp_path, [caption, edited(id=33471), text]))
    kinds = [picture for picture, _ in data.groups()]
    assert kinds == [True, True, False] and "pixel_values" not in data[2]
    assert all(len(data[i]["input_ids"]) <= bound for i, (_, bound) in enumerate(data.groups()))


def test_truncation_keeps_the_beginning(tmp_path):
    path = write(
        tmp_path,
        [edited(conversations=[GOOD["conversations"][0], {"from": "gpt", "value": "a cat " * 50}])],
    )
    whole, cut = make(path)[0], make(path, max_length=60)[0]
    assert len(cut["input_ids"]) == 60 and torch.equal(cut["input_ids"], whole["input_ids"][:60])
