"""Records in LLaVA's JSON form: samples, batches, and every kind of bad record."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_archives import png, write_archive

from nanollava.data import DataError, InstructionData, collate
from nanollava.image import ImageConfig
from nanollava.toyland.pretrain import make_tokenizer

IMAGE_TOKEN = 704
TOKENIZER = cache(lambda: make_tokenizer(0).with_image_token(IMAGE_TOKEN))

QUESTION = {"from": "human", "value": "<image>\nWhat is it?"}
ANSWER = {"from": "gpt", "value": "a cat"}
TURNS = [QUESTION, ANSWER]
GOOD = {"id": "a", "image": "a.png", "conversations": TURNS}
TEXT_ONLY = {
    "id": "b",
    "conversations": [{"from": "human", "value": "Hi"}, {"from": "assistant", "value": "Hello."}],
}


def human(text) -> dict:
    return {"from": "human", "value": text}


def gpt(text) -> dict:
    return {"from": "gpt", "value": text}


@pytest.fixture
def make(tmp_path):
    """Writes records to data.json, next to the image a.png, and reads them."""
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.png")

    def make_data(records, images=tmp_path, **options) -> InstructionData:
        path = tmp_path / "data.json"
        path.write_text(records if isinstance(records, str) else json.dumps(records))
        return InstructionData(
            path, images, TOKENIZER(), ImageConfig(20), IMAGE_TOKEN, num_image_tokens=4, **options
        )

    return make_data


def errors_of(data: InstructionData) -> dict[int, str]:
    """What `check` finds. Reading such a record must fail, too."""
    errors = data.check(range(len(data)), open_images=True, threads=2)
    for index in errors:
        with pytest.raises((DataError, TypeError, AttributeError)):
            data[index]
    return errors


# Samples and batches


def test_a_sample_has_an_image_token_per_patch(make):
    sample = make([GOOD])[0]
    assert (sample["input_ids"] == IMAGE_TOKEN).sum() == 4
    assert sample["pixel_values"].shape == (1, 3, 20, 20)
    assert sample["labels"].shape == sample["input_ids"].shape


def test_a_record_may_have_several_images(make):
    record = {
        "image": ["a.png", "a.png"],
        "conversations": [human("<image><image>\nSame?"), ANSWER],
    }
    sample = make([record])[0]
    assert sample["pixel_values"].shape[0] == 2
    assert (sample["input_ids"] == IMAGE_TOKEN).sum() == 8


def test_a_record_may_have_no_image(make):
    assert "pixel_values" not in make([TEXT_ONLY])[0]


def test_the_image_stands_where_image_position_says(make):
    behind = {"image": "a.png", "conversations": [human("What is it?\n<image>"), ANSWER]}
    expected = make([GOOD])[0]["input_ids"]
    assert torch.equal(make([behind])[0]["input_ids"], expected)
    as_written = make([behind], image_position="as_written")[0]["input_ids"]
    assert not torch.equal(as_written, expected)


def test_plain_refuses_records_that_are_no_captions(make):
    several_turns = {"image": "a.png", "conversations": [*TURNS, human("Where?"), gpt("left")]}
    data = make([GOOD, several_turns, TEXT_ONLY], template="plain")
    errors = errors_of(data)
    assert sorted(errors) == [1, 2]
    assert "4 turns" in errors[1]
    assert "0 <image>" in errors[2]
    with pytest.raises(
        DataError, match=r"record 1: 4 turns; [^\n]*\n.*record 2: turn 0: 0 <image>"
    ):
        data.leave_out(errors, skip_bad=False)


def test_collate_pads_on_the_right_without_labels(make):
    data = make([GOOD, TEXT_ONLY])
    batch = collate([data[0], data[1]])
    length = len(data[1]["input_ids"])
    assert length < batch["input_ids"].shape[1] == len(data[0]["input_ids"])
    assert torch.equal(batch["input_ids"][1, :length], data[1]["input_ids"])
    assert batch["labels"][1, length:].eq(-100).all()
    assert batch["labels"].shape == batch["input_ids"].shape


def test_collate_joins_the_images(make):
    data = make([GOOD, TEXT_ONLY, GOOD])
    assert collate([data[0], data[1], data[2]])["pixel_values"].shape == (2, 3, 20, 20)
    assert collate([data[1]])["pixel_values"] is None


def test_truncation_keeps_the_beginning(make):
    records = [{"image": "a.png", "conversations": [QUESTION, gpt("a cat " * 50)]}]
    whole = make(records)[0]
    cut = make(records, max_length=60)[0]
    assert len(cut["input_ids"]) == 60
    assert torch.equal(cut["input_ids"], whole["input_ids"][:60])


def test_worker_processes_read_archives(make, tmp_path):
    archive = write_archive(tmp_path / "a.zip", {"x/a.png": png("red")})
    record = {"image": "y/x/a.png", "conversations": TURNS}
    data = make([record], images=[f"y={archive}"])
    loader = torch.utils.data.DataLoader(data, 1, num_workers=1, collate_fn=collate)
    assert torch.equal(next(iter(loader))["pixel_values"], data[0]["pixel_values"])


# The published data sets: CC-595K and LCS-558K (captions), LLaVA-Instruct-158K (numbers as ids),
# the mix of v1.5 (a key "model", text without images)

CAPTION = {
    "id": "GCC_1",
    "image": "a.png",
    "conversations": [human("Give a brief description.\n<image>"), gpt("olive oil")],
}
PUBLISHED = [CAPTION, GOOD | {"id": 33471}, TEXT_ONLY | {"model": ""}]


def test_published_forms_have_no_errors(make):
    assert errors_of(make(PUBLISHED)) == {}
    assert errors_of(make([CAPTION], template="plain")) == {}


def test_the_plain_template_drops_the_question_before_or_after_the_image(make):
    other = CAPTION | {"conversations": [human("<image>\nProvide one."), gpt("olive oil")]}
    data = make([CAPTION, other], template="plain")
    assert torch.equal(data[0]["input_ids"], data[1]["input_ids"])


def test_groups_tell_images_and_an_upper_bound_of_the_length(make):
    data = make(PUBLISHED)
    assert [has_images for has_images, _ in data.groups()] == [True, True, False]
    for index, (_, max_tokens) in enumerate(data.groups()):
        assert len(data[index]["input_ids"]) <= max_tokens


@pytest.mark.parametrize("template", ["vicuna_v1", "v0", "llama_2"])
@pytest.mark.parametrize("text", ["a", "猫" * 400])
def test_the_upper_bound_holds_for_every_template_and_script(make, template, text):
    data = make([{"conversations": [human(text), gpt(text)]}], template=template)
    ((_, bound),) = data.groups()
    assert len(data[0]["input_ids"]) <= bound


def test_a_long_record_in_another_script_is_found_before_the_training(make):
    data = make([{"conversations": [human("猫" * 400), gpt("a cat")]}], max_length=1000)
    assert list(data.check([0])) == [0]  # three bytes each, and so three tokens


# Bad files and records


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not valid JSON"),
        ('{"a": 1}\n{"a": 2}\n', "not valid JSON .one record per line"),
        ("{}", "expected a list of records"),
        ("[]", "expected a list"),
    ],
)
def test_a_file_that_is_not_a_list_is_refused(make, text, message):
    with pytest.raises(DataError, match=f"data.json: {message}"):
        make(text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="none.json: no such data file"):
        InstructionData(tmp_path / "none.json", tmp_path, TOKENIZER(), ImageConfig(20), 704, 4)


BAD_RECORDS = {
    "expected an object, got int": 3,
    "conversations: expected a list of turns, got none": GOOD | {"conversations": []},
    "turn 0: comes from 'gpt', expected 'human'": GOOD | {"conversations": TURNS[::-1]},
    "1 <image> in the text, but 2 images named": GOOD | {"image": ["a.png", "a.png"]},
    "1 <image> in the text, but 0 images named": {"id": 7, "conversations": TURNS},
    "the last turn has no answer": GOOD | {"conversations": [QUESTION]},
    "turn 0: comes from ['human'], expected 'human'": GOOD
    | {"conversations": [{"from": ["human"], "value": "<image>"}, ANSWER]},
    "'utf-8' codec can't encode character '\\ud800' in position 13: surrogates not allowed": GOOD
    | {"conversations": [human("<image> What \ud800"), ANSWER]},
    "\\ud800.png: no such image in {folder}": GOOD | {"image": "\ud800.png"},
    "turn 1: the answer is empty": GOOD | {"conversations": [QUESTION, gpt(" ")]},
    "turn 0: expected an object with 'from' and the text 'value'": GOOD
    | {"conversations": [human(3)]},
    "image is 3; expected a file name or a list of them": GOOD | {"image": 3},
    "b.png: no such image in {folder}": GOOD | {"image": "b.png"},
    "{folder}/data.json: not a readable image (cannot identify image file '{folder}/data.json')": (
        GOOD | {"image": "data.json"}
    ),
    "an image extends beyond 100 tokens; raise --max-length, up to the language model's positions, "
    "or shorten the record": GOOD
    | {"conversations": [human("Hi " * 99), ANSWER, human("<image>"), ANSWER]},
    "no answer begins within 100 tokens; raise --max-length, up to the language model's positions, "
    "or shorten the record": GOOD | {"conversations": [human("<image>" + "Hi " * 99), ANSWER]},
}


@pytest.mark.parametrize("message", BAD_RECORDS)
def test_a_bad_record_is_named_with_file_index_and_reason(make, message, tmp_path):
    data = make([GOOD, BAD_RECORDS[message]], max_length=100)
    errors = errors_of(data)
    reason = message.format(folder=tmp_path)
    assert errors == {1: reason}
    with pytest.raises(DataError) as error:
        data.leave_out(errors, skip_bad=False)
    expected = f"{data.path}, record 1: {reason}; --skip-bad leaves bad records out"
    assert str(error.value) == expected


@pytest.mark.parametrize("message", BAD_RECORDS)
def test_what_is_wrong_with_a_record_can_be_written_to_a_file(make, message):
    data = make([GOOD, BAD_RECORDS[message]], max_length=100)
    assert "\n".join(data.describe(errors_of(data))).encode()


def test_all_bad_records_are_described(make):
    data = make([3] * 30 + [GOOD])
    lines = data.describe(errors_of(data))
    assert lines == [f"{data.path}, record {i}: expected an object, got int" for i in range(30)]


def test_the_error_shows_the_first_bad_records_and_where_all_are(make):
    data = make([3] * 30 + [GOOD])
    with pytest.raises(DataError) as error:
        data.leave_out(errors_of(data), skip_bad=False, report=Path("out/bad_records.txt"))
    *lines, counts = str(error.value).splitlines()
    assert lines == data.describe(errors_of(data))[:10]
    assert counts == (
        f"{data.path}: 30 of 31 records cannot be used; --skip-bad leaves bad records out; "
        "the first 10 are above, all are in out/bad_records.txt"
    )


def test_skip_bad_does_not_help_where_all_records_are_bad(make):
    data = make([3, 3])
    with pytest.raises(
        DataError, match="2 of 2 records cannot be used; no record is left to train"
    ):
        data.leave_out(errors_of(data), skip_bad=True)


def test_skip_bad_leaves_the_bad_records_out(make):
    data = make([GOOD, *BAD_RECORDS.values(), TEXT_ONLY], max_length=100)
    summary = data.leave_out(errors_of(data), skip_bad=True)
    bad = len(BAD_RECORDS)
    assert summary.startswith(f"{data.path}, record 1: ")
    assert f"left out {bad} of {bad + 2} records" in summary.splitlines()[-1]
    assert [data.record(i) for i in range(len(data))] == [GOOD, TEXT_ONLY]


def test_skip_bad_needs_a_good_record(make):
    data = make([3])
    with pytest.raises(DataError, match="record 0"):
        data.leave_out(errors_of(data), skip_bad=True)


def test_good_records_need_no_summary(make):
    assert make([GOOD]).leave_out({}, skip_bad=False) == ""


def test_images_are_not_decoded_unless_asked(make):
    data = make([GOOD | {"image": "data.json"}])
    assert data.check([0]) == {}
    assert list(data.check([0], open_images=True)) == [0]


def test_a_record_with_too_many_images_is_refused_before_they_are_opened(make, monkeypatch):
    turns = [human(1000 * "<image>"), gpt("a cat")]
    data = make([{"image": 1000 * ["a.png"], "conversations": turns}], max_length=100)
    monkeypatch.setattr(data.images, "open", None)  # not to be called
    assert "an image extends beyond 100 tokens" in data.check([0], open_images=True)[0]
