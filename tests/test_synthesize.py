"""Instruction data from captions and boxes: what is rejected, and the program over real HTTP."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_endpoint import endpoint_flags
from jsonl import read_rows, write_rows

from nanollava.conversation import checked_turns
from nanollava.data import read_records
from nanollava.errors import UserError
from nanollava.evals.answers import Rejected
from nanollava.synthesize import __main__ as synthesize
from nanollava.synthesize.prompts import KINDS, messages
from nanollava.synthesize.records import parse
from nanollava.toyland.captions import boxes, captions
from nanollava.toyland.scenes import scenes

DOGS = {
    "image": "000000000007.jpg",
    "captions": ["Two dogs on a sofa.", "Dogs asleep."],
    "instances": [{"category": "dog", "bbox": [0.1, 0.25, 0.5, 1.0]}],
}


def write_images(path: Path, count: int) -> Path:
    rows = [{"image": f"{i:06d}.jpg", "captions": [f"A cat, number {i}."]} for i in range(count)]
    return write_rows(path, *rows)


def flags(images: Path, out: Path, *kinds: str) -> list:
    """Flags that ask the teacher for some kinds of data."""
    return ["--pictures", images, "--out", out, "--kinds", *kinds, "--model", "teacher"]


def values(record: dict) -> list[str]:
    return [turn["value"] for turn in record["conversations"]]


# From answer to record

DETAIL_JOB = {"id": "1", "image": "1.jpg", "kind": "detail", "question": "Describe it."}


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("conversation", "Question: Who?\n===\nAnswer: As the caption says, a dog.", "captions or"),
        ("conversation", "Question: Who?\n===\nAnswer: A dog in the bounding box.", "captions or"),
        ("complex", "Question: Who?\n===\nAnswer: A dog at [0.1, 0.2, 0.3, 0.4].", "captions or"),
        ("conversation", "The captions say a dog.", "part 1 is not 'Question: ...'"),
        ("conversation", "Question: Who?\n===\nQuestion: Who else?", "part 2 is not 'Answer: ...'"),
        ("conversation", "Question: A?\n===\nAnswer: A.\n===\nQuestion: B?", "without an answer"),
        ("conversation", "Question: Who?\n===\nAnswer:", "without an answer, or an empty one"),
        ("conversation", "Question: Who?\n===\nAnswer: It cannot be determined.", "is uncertain"),
        ("conversation", "Question: Who might it be?\n===\nAnswer: A dog.", "is uncertain"),
        ("detail", "I see <image> here.", "contains reserved markup"),
        ("detail", "Question: What?\nAnswer: A cat.", "contains reserved markup"),
        ("complex", "Question: A?\n===\nAnswer: A.\nQuestion: B?", "contains reserved markup"),
        ("detail", "As an AI I cannot see it.", "speaks as a language model"),
        ("complex", "===", "got none"),
    ],
)
def test_unusable_answers_are_rejected(kind, text, reason):
    with pytest.raises(Rejected, match=reason):
        parse({**DETAIL_JOB, "kind": kind}, text)


def test_a_description_answers_the_question_of_its_job():
    record = parse(DETAIL_JOB, "A dog.\n\nIt sleeps.")
    assert values(record) == ["<image>\nDescribe it.", "A dog.\n\nIt sleeps."]


def test_a_conversation_of_two_turns():
    text = (
        "Question:\nWho?\n===\nAnswer:\nA dog, with boxes around.\n===\n"
        "Question: Color?\n===\nAnswer: Red.\n==="
    )
    record = parse({**DETAIL_JOB, "kind": "conversation"}, text)
    assert values(record) == ["<image>\nWho?", "A dog, with boxes around.", "Color?", "Red."]


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_in_a_prompt_obeys_the_rules(kind):
    example = messages(kind, "A dog.")[2]
    assert example["role"] == "assistant"
    checked_turns(parse({**DETAIL_JOB, "kind": kind}, example["content"])["conversations"])


# The program


def test_a_failing_endpoint_and_a_kill_lose_nothing(tmp_path, server, call):
    """After a kill in mid-line, the next run keeps every whole line and asks for the others."""
    endpoint = server(failing=0.3, seconds=0.03)
    out = tmp_path / "out"
    answers = out / "answers.jsonl"
    images = write_images(tmp_path / "images.jsonl", 40)
    command = [*flags(images, out, "detail"), *endpoint_flags(endpoint)]
    program = [sys.executable, "-m", "nanollava.synthesize", *map(str, command)]
    process = subprocess.Popen(program, stderr=subprocess.DEVNULL)
    while not answers.exists() or answers.read_bytes().count(b"\n") < 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    content = answers.read_bytes()
    whole_lines = content[: content.rfind(b"\n") + 1]
    answers.write_bytes(whole_lines + b'{"id": "000039_detail", "image": "0000')
    requests_before = len(endpoint.prompts)

    call(synthesize, *command)
    assert answers.read_bytes().startswith(whole_lines)
    ids = [f"{i:06d}_detail" for i in range(40)]
    assert sorted(row["id"] for row in read_rows(answers)) == ids
    asked_again = {prompt[-1]["content"] for prompt in endpoint.prompts[requests_before:]}
    for line in whole_lines.splitlines():
        number = int(json.loads(line)["id"][:6])
        assert f"A cat, number {number}." not in asked_again
    assert all(endpoint.outcomes[way] for way in ("429", "500", "cut", "broken", "empty"))
    assert [record["id"] for record in read_records(out / "instruct.json")[0]] == ids


def test_the_records_can_be_trained_on(tmp_path, server, call):
    images = write_rows(tmp_path / "images.jsonl", DOGS)
    call(synthesize, *flags(images, tmp_path, "detail"), *endpoint_flags(server()))
    (record,) = read_records(tmp_path / "instruct.json")[0]
    assert record["image"] == DOGS["image"]
    checked_turns(record["conversations"])


def test_a_rejected_answer_is_asked_for_again(tmp_path, server, call):
    texts = iter(["The captions say a dog.", "Question: Who?\n===\nAnswer: A dog."])
    endpoint = server(answer=lambda prompt: next(texts))
    images = write_rows(tmp_path / "images.jsonl", DOGS)
    output = call(synthesize, *flags(images, tmp_path, "conversation"), *endpoint_flags(endpoint))
    (reject,) = read_rows(tmp_path / "answers.rejects.jsonl")
    assert reject["text"] == "The captions say a dog." and "1 unusable" in output
    (record,) = read_records(tmp_path / "instruct.json")[0]
    assert values(record)[0] == "<image>\nWho?"


def test_the_next_run_asks_for_what_is_missing(tmp_path, server, call):
    endpoint = server(answer=lambda prompt: "It is unclear.")
    images = write_rows(tmp_path / "images.jsonl", DOGS)
    command = [*flags(images, tmp_path, "conversation"), *endpoint_flags(endpoint)]
    with pytest.raises(UserError, match="1 records are missing; run the same command again"):
        call(synthesize, *command, "--tries", 2)
    endpoint.answer = lambda prompt: "Question: Who?\n===\nAnswer: A dog."
    assert "missing:" not in call(synthesize, *command)


def test_one_refused_prompt_does_not_end_the_run(tmp_path, server, call, capsys):
    """The others are written, that one is named, and the exit code is that of an error."""
    rows = [{"image": f"{i}.jpg", "captions": [f"A cat, number {i}."]} for i in range(4)]
    rows[1]["captions"] = ["FORBIDDEN"]
    images = write_rows(tmp_path / "images.jsonl", *rows)
    endpoint = server()
    command = [*flags(images, tmp_path, "complex"), *endpoint_flags(endpoint), "--threads", 1]
    for requests in (4, 5):  # the second run asks only for the refused one
        with pytest.raises(UserError, match="1 records are missing"):
            call(synthesize, *command)
        assert len(endpoint.prompts) == requests
        assert "missing: 1_complex (refused: HTTP 400: The prompt was" in capsys.readouterr().err
        records = read_records(tmp_path / "instruct.json")[0]
        assert [record["id"] for record in records] == ["0_complex", "2_complex", "3_complex"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversations": "Hello"}, "conversations = 'Hello'; expected a list"),
        ({"conversations": [{"from": "human"}]}, "conversations: no 'value'"),
        ({"conversations": [{"from": "gpt", "value": "A"}]}, ""),
        ({"image": "other.jpg"}, "image = 'other.jpg'; expected one of '0.jpg'"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, server, call, change, message):
    images = write_rows(tmp_path / "images.jsonl", {"image": "0.jpg", "captions": ["A cat."]})
    command = [*flags(images, tmp_path, "detail"), *endpoint_flags(server())]
    call(synthesize, *command)
    (row,) = read_rows(tmp_path / "answers.jsonl")
    write_rows(tmp_path / "answers.jsonl", {**row, **change})
    with pytest.raises(UserError, match=f"answers.jsonl: id 0_detail.*{message}"):
        call(synthesize, *command)


def test_another_temperature_does_not_mix_with_old_answers(tmp_path, server, call):
    images = write_rows(tmp_path / "images.jsonl", DOGS)
    command = [*flags(images, tmp_path, "detail"), *endpoint_flags(server())]
    call(synthesize, *command)
    with pytest.raises(UserError, match="was asked in another way"):
        call(synthesize, *command, "--temperature", 0.5)


def test_an_answer_at_the_token_limit_stays_missing(tmp_path, server, call):
    endpoint = server()
    endpoint.finish_reason = "length"
    images = write_rows(tmp_path / "images.jsonl", DOGS)
    with pytest.raises(UserError, match="1 records are missing"):
        call(
            synthesize, *flags(images, tmp_path, "detail"), *endpoint_flags(endpoint), "--tries", 2
        )
    assert (tmp_path / "answers.jsonl").read_bytes() == b"" and len(endpoint.prompts) == 2


def test_dry_run_prints_the_prompts_and_asks_nothing(tmp_path, call, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    images = write_rows(tmp_path / "images.jsonl", DOGS)
    output = call(synthesize, "--pictures", images, "--out", tmp_path / "out", "--dry-run")
    assert output.count("#####") == 3 and not (tmp_path / "out").exists()
    assert output.count("Two dogs on a sofa.\nDogs asleep.\n\ndog: [0.1, 0.25, 0.5, 1.0]\n") == 3


def test_a_file_that_it_has_not_written_stays(tmp_path, call):
    images = write_images(tmp_path / "images.jsonl", 2)
    (tmp_path / "instruct.json").write_text("another program's")
    with pytest.raises(UserError, match="instruct.json: is not of this program; choose another"):
        call(synthesize, "--pictures", images, "--out", tmp_path)
    assert (tmp_path / "instruct.json").read_text() == "another program's"


def test_limit_takes_the_first_images(tmp_path, call):
    images = write_images(tmp_path / "images.jsonl", 5)
    output = call(synthesize, "--pictures", images, "--limit", 2, "--kinds", "detail", "--dry-run")
    assert output.count("#####") == 2 and "##### 000001_detail" in output


def test_a_negative_limit_is_refused(tmp_path, call):
    with pytest.raises(UserError, match="--limit -1: expected at least 0"):
        call(synthesize, "--limit", -1, "--out", tmp_path)


@pytest.mark.parametrize("flag", ["--pictures", "--out", "--model", "--base-url"])
def test_an_empty_flag_is_refused(call, flag):
    with pytest.raises(UserError, match=f"{flag} '': expected a value"):
        call(synthesize, flag, "")


def test_toylands_teacher(tmp_path, call):
    caption = "A picture taken at the beach on a sunny day: a red cat in front on the left."
    row = {
        "image": "images/a.jpg",
        "captions": [caption],
        "boxes": [["cat", [0.1, 0.5, 0.3, 0.95]]],
    }
    images = write_rows(tmp_path / "images.jsonl", row)
    call(synthesize, "--pictures", images, "--out", tmp_path)
    records = {record["id"]: record for record in read_records(tmp_path / "instruct.json")[0]}
    assert set(records) == {"a_conversation", "a_detail", "a_complex"}
    assert records["a_detail"]["image"] == "images/a.jpg"
    assert "In front on the left there is a red cat." in values(records["a_detail"])[1]


def test_toylands_teacher_writes_every_record(tmp_path, call):
    """Its questions may have words that are unusable in a language model's: "caption"."""
    rng = random.Random(0)
    rows = []
    for i, scene in enumerate(scenes("train", 60)):
        rows.append({"image": f"{i}.jpg", "captions": captions(scene, rng), "boxes": boxes(scene)})
    images = write_rows(tmp_path / "images.jsonl", *rows)
    call(synthesize, "--pictures", images, "--out", tmp_path)
    text = (tmp_path / "instruct.json").read_text()
    assert len(json.loads(text)) == 3 * 60
    assert "caption" in text and "Question: " in text


def test_toylands_teacher_refuses_other_captions(tmp_path, call):
    images = write_rows(tmp_path / "images.jsonl", DOGS)
    with pytest.raises(UserError, match="Toyland's captions; give --model for other captions"):
        call(synthesize, "--pictures", images, "--out", tmp_path)


def test_errors_of_the_endpoint_end_the_program(tmp_path, server, call, monkeypatch):
    images = write_rows(tmp_path / "images.jsonl", DOGS)
    command = [*flags(images, tmp_path, "detail"), *endpoint_flags(server())]
    with pytest.raises(UserError, match="404.*does not exist"):
        call(synthesize, *command, "--model", "other")
    with pytest.raises(UserError, match="--base-url nowhere"):
        call(synthesize, *command, "--base-url", "nowhere")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        call(synthesize, *command)
