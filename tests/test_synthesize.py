"""Instruction data from captions and boxes: prompts, parsing, and a teacher behind real HTTP that fails."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_endpoint import arguments, call, rows_of, server, write  # noqa: F401

from nanollava.conversation import check
from nanollava.data import read_records
from nanollava.errors import UserError
from nanollava.evals.answers import Rejected, collect, open_to_append, read_rows
from nanollava.evals.context import read_contexts
from nanollava.synthesize import __main__ as synthesize
from nanollava.synthesize.records import parse

PICTURE = {
    "id": "7",
    "image": "000000000007.jpg",
    "captions": ["Two dogs on a sofa.", "Dogs asleep."],
}
PICTURE["instances"] = [
    {"category": "dog", "bbox": [0.1, 0.25, 0.5, 1.0]},
    {"category": "dog", "bbox": [0, 0, 1, 1]},
]


def write_images(path: Path, count: int) -> None:
    rows = [{"image": f"{i:06d}.jpg", "captions": [f"A cat, number {i}."]} for i in range(count)]
    write(path, *rows)


def asked(place: Path, *kinds: str, out: Path | None = None) -> list:
    """The flags that have the teacher asked for some kinds of data about `place`/p.jsonl."""
    return [
        "--pictures",
        place / "p.jsonl",
        "--out",
        out or place,
        "--kinds",
        *kinds,
        "--model",
        "teacher",
    ]


def test_a_failing_endpoint_and_a_kill_lose_nothing(tmp_path, server, call):  # noqa: F811
    """Killed in the middle, the last line cut: the next run keeps every whole line and asks for the others only."""
    one, out = server(failing=0.3, seconds=0.03), tmp_path / "out"
    write_images(tmp_path / "p.jsonl", 40)
    command = [*asked(tmp_path, "detail", out=out), *arguments(one)]
    program = [sys.executable, "-m", "nanollava.synthesize", *map(str, command)]
    process = subprocess.Popen(program, stderr=subprocess.DEVNULL)
    answers = out / "answers.jsonl"
    while not answers.exists() or answers.read_bytes().count(b"\n") < 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = rows_of(answers)
    with answers.open("ab") as file:
        file.write(b'{"id": "000039_detail", "image": "0000')
    before = len(one.prompts)
    call(synthesize, *command)
    after = rows_of(answers)
    assert after[: len(kept)] == kept
    assert sorted(row["id"] for row in after) == [f"{i:06d}_detail" for i in range(40)]
    asked_again = [messages[-1]["content"] for messages in one.prompts[before:]]
    assert not any(
        told in asked_again for told in (f"A cat, number {int(row['id'][:6])}." for row in kept)
    )
    assert all(one.outcomes[way] for way in ("429", "500", "cut", "broken", "empty"))
    records = read_records(out / "instruct.json")[0]
    assert all(check(record["conversations"]) for record in records)  # trains as it is
    assert [record["id"] for record in records] == [f"{i:06d}_detail" for i in range(40)]
    assert records[3]["image"] == "000003.jpg"
    before = len(one.prompts)
    call(synthesize, *command)
    assert len(one.prompts) == before


def test_rejects_are_kept_aside_and_asked_again(tmp_path, server, call):  # noqa: F811
    said = iter(
        [
            "The captions say a dog.",
            "Question: A?\n===\nAnswer:",
            "Question: Who?\n===\nAnswer: A dog.\n===",
        ]
    )
    one = server(answer=lambda messages: next(said))
    write(tmp_path / "p.jsonl", PICTURE)
    common = asked(tmp_path, "conversation")
    text = call(synthesize, *common, *arguments(one), "--price", 10, 1000)
    rejects = rows_of(tmp_path / "answers.rejects.jsonl")
    assert [row["why"] for row in rejects] == [
        "part 1 is not 'Question: ...'",
        "a question without an answer, or an empty one",
    ]
    assert rejects[0]["text"] == "The captions say a dog." and "2 unusable" in text
    assert "300 prompt + 30 completion tokens, $0.03" in text  # (300 * 10 + 30 * 1000) / 1e6
    record = read_records(tmp_path / "instruct.json")[0][0]
    assert (
        record["conversations"][0]["value"] == "<image>\nWho?"
        and record["image"] == PICTURE["image"]
    )


def test_what_stays_missing_is_named_and_asked_by_the_next_run(tmp_path, server, call):  # noqa: F811
    good = [False]
    one = server(
        answer=lambda messages: (
            "Question: Who?\n===\nAnswer: A dog." if good[0] else "It is unclear."
        )
    )
    write(tmp_path / "p.jsonl", PICTURE)
    common = asked(tmp_path, "conversation")
    with pytest.raises(UserError, match="1 records are missing; run the same command again"):
        call(synthesize, *common, *arguments(one), "--tries", 2)
    good[0] = True
    assert "missing:" not in call(synthesize, *common, *arguments(one))
    with pytest.raises(
        UserError, match="was asked in another way"
    ):  # not the answers of another prompt
        call(synthesize, *common, *arguments(one), "--temperature", 0.5)


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        (
            "conversation",
            "Question: Who?\n===\nAnswer: As the caption says, a dog.",
            "captions or boxes",
        ),
        (
            "conversation",
            "Question: Who?\n===\nAnswer: A dog in the bounding box.",
            "captions or boxes",
        ),
        (
            "complex",
            "Question: Who?\n===\nAnswer: A dog at [0.1, 0.2, 0.3, 0.4].",
            "captions or boxes",
        ),
        ("conversation", "Question: Who?\n===\nQuestion: Who else?", "part 2 is not 'Answer: ...'"),
        (
            "conversation",
            "Question: Who?\n===\nAnswer: A dog.\n===\nQuestion: Who?",
            "without an answer",
        ),
        ("conversation", "Question: Who?\n===\nAnswer: It cannot be determined.", "is uncertain"),
        ("conversation", "Question: Who might it be?\n===\nAnswer: A dog.", "is uncertain"),
        ("detail", "I see <image> here.", "contains reserved markup"),
        ("detail", "As an AI I cannot see it.", "speaks as a language model"),
        ("complex", "===", "got none"),
    ],
)
def test_answers_that_are_rejected(kind, text, why):
    with pytest.raises(Rejected, match=why):
        parse({"id": "1", "image": "1.jpg", "kind": kind, "question": "Describe it."}, text)


def test_answers_that_pass():
    job = {"id": "1", "image": "1.jpg", "kind": "detail", "question": "Describe it."}
    turns = parse(job, "A dog.\n\nIt sleeps.")["conversations"]
    assert [turn["value"] for turn in turns] == ["<image>\nDescribe it.", "A dog.\n\nIt sleeps."]
    text = "Question:\nWho?\n===\nAnswer:\nA dog, with boxes around.\n===\nQuestion: Color?\n===\nAnswer: Red.\n==="
    turns = parse({**job, "kind": "conversation"}, text)["conversations"]
    assert [t["value"] for t in turns] == [
        "<image>\nWho?",
        "A dog, with boxes around.",
        "Color?",
        "Red.",
    ]


def test_dry_run_shows_the_prompts_and_asks_nothing(tmp_path, call, monkeypatch):  # noqa: F811
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write(tmp_path / "p.jsonl", PICTURE)
    text = call(
        synthesize, "--pictures", tmp_path / "p.jsonl", "--out", tmp_path / "out", "--dry-run"
    )
    assert text.count("#####") == 3 and not (tmp_path / "out").exists()
    assert (
        text.count(
            "Two dogs on a sofa.\nDogs asleep.\n\ndog: [0.1, 0.25, 0.5, 1.0]\ndog: [0, 0, 1, 1]\n"
        )
        == 3
    )


def test_coco_files(tmp_path):
    """COCO's pixels, x and y of a corner with width and height, become corners in fractions."""
    images = [{"id": 7, "file_name": "COCO_val2014_000000000007.jpg", "width": 640, "height": 480}]
    captions = [
        {"image_id": 7, "caption": " Two dogs on a sofa. "},
        {"image_id": 7, "caption": "Dogs asleep."},
    ]
    boxes = [
        {"image_id": 7, "category_id": 18, "bbox": [64, 120, 256, 360]},
        {"image_id": 8, "category_id": 18},
    ]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": captions}))
    seen = {"images": images, "annotations": boxes, "categories": [{"id": 18, "name": "dog"}]}
    (tmp_path / "i.json").write_text(json.dumps(seen))
    found = read_contexts([str(tmp_path / "c.json"), str(tmp_path / "i.json")])
    assert list(found) == ["COCO_val2014_000000000007"]
    text = str(found["COCO_val2014_000000000007"])
    assert text == "Two dogs on a sofa.\nDogs asleep.\n\ndog: [0.1, 0.25, 0.5, 1.0]"


def test_toylands_teacher(tmp_path, call):  # noqa: F811
    boxes = [["cat", [0.1, 0.5, 0.3, 0.95]]]
    line = "A picture taken at the beach on a sunny day: a red cat in front on the left."
    write(tmp_path / "p.jsonl", {"image": "images/a.jpg", "captions": [line], "boxes": boxes})
    call(synthesize, "--pictures", tmp_path / "p.jsonl", "--out", tmp_path)
    records = {r["id"]: r for r in read_records(tmp_path / "instruct.json")[0]}
    assert set(records) == {"a_conversation", "a_detail", "a_complex"}
    assert records["a_detail"]["image"] == "images/a.jpg"
    assert (
        "In front on the left there is a red cat."
        in records["a_detail"]["conversations"][1]["value"]
    )
    write(tmp_path / "p.jsonl", PICTURE)
    with pytest.raises(UserError, match="only Toyland's captions; give --model"):
        call(synthesize, "--pictures", tmp_path / "p.jsonl", "--out", tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captions": []}, "no captions"),
        ({"captions": ["", " "]}, "no captions"),
        (
            {"instances": [{"category": "dog", "bbox": [0.1, 0.2, 1.3, 0.4]}]},
            "expected 0 <= x1 <= x2 <= 1",
        ),
        (
            {"instances": [{"category": "dog", "bbox": [0.5, 0.2, 0.3, 0.4]}]},
            "expected 0 <= x1 <= x2 <= 1",
        ),
        ({"instances": [{"category": "dog", "bbox": [0.5, 0.2]}]}, "ValueError"),
        ({"image": None}, "TypeError|KeyError"),
    ],
)
def test_bad_pictures_are_refused_before_anything_is_asked(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_contexts([str(write(tmp_path / "p.jsonl", {**PICTURE, **change}))])


def test_files_of_pictures_that_are_not_there(tmp_path):
    for paths in (["none.jsonl"], ["none.json", "nor.json"]):
        with pytest.raises(UserError, match=rf"^{paths[0]}: (cannot be read|no such file)"):
            read_contexts(paths)


def test_keys_models_and_places(tmp_path, server, call, monkeypatch):  # noqa: F811
    one = server()
    write(tmp_path / "p.jsonl", PICTURE)
    common = ["--pictures", tmp_path / "p.jsonl", "--out", tmp_path / "out", *arguments(one)]
    with pytest.raises(UserError, match="404.*does not exist"):
        call(synthesize, *common, "--model", "other")
    monkeypatch.setenv("OPENAI_API_KEY", "bad")
    with pytest.raises(UserError, match="401.*Incorrect API key"):
        call(synthesize, *common, "--model", "teacher")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        call(synthesize, *common, "--model", "teacher")
    monkeypatch.setenv("OPENAI_API_KEY", "good")
    with pytest.raises(UserError, match="--base-url nowhere"):
        call(synthesize, *common, "--model", "teacher", "--base-url", "nowhere")
    with pytest.raises(UserError, match="cannot be written"):
        call(synthesize, *common, "--model", "teacher", "--out", tmp_path / "p.jsonl")
    kept = open_to_append(tmp_path / "out" / "answers.jsonl")
    with pytest.raises(UserError, match="another run is writing it"):
        call(synthesize, *common, "--model", "teacher")
    kept.close()


def test_pace(tmp_path, server, call):  # noqa: F811
    """600 requests a minute: 100 ms between any two, whatever the number of threads."""
    one = server()
    write_images(tmp_path / "p.jsonl", 8)
    common = asked(tmp_path, "detail")
    call(synthesize, *common, *arguments(one), "--per-minute", 600)
    assert one.times[-1] - one.times[0] > 0.65


def test_an_answer_cut_off_at_its_limit_of_tokens_is_none(tmp_path, server, call):  # noqa: F811
    one = server()
    one.finish_reason = "length"
    write_images(tmp_path / "p.jsonl", 1)
    common = asked(tmp_path, "detail")
    with pytest.raises(UserError, match="1 records are missing"):
        call(synthesize, *common, *arguments(one), "--tries", 2)
    assert (tmp_path / "answers.jsonl").read_bytes() == b"" and len(one.prompts) == 2


def test_rows(tmp_path):
    """Two rows of one name, and a broken line inside, are errors; a second half-written end is cut."""
    with pytest.raises(UserError, match="a second row with id 1"):
        read_rows(write(tmp_path / "a.jsonl", {"id": 1}, {"id": "1"}), "id")
    (tmp_path / "b.jsonl").write_text('{"id": 1}\n{"id": \n{"id": 3}\n')
    with pytest.raises(UserError, match="line 2: expected a JSON object with 'id'"):
        read_rows(tmp_path / "b.jsonl", "id")
    (tmp_path / "c.jsonl").write_text('{"id": 1}\n{"id": {"a": 2}')
    open_to_append(tmp_path / "c.jsonl").close()
    assert (tmp_path / "c.jsonl").read_text() == '{"id": 1}\n'
    with pytest.raises(UserError, match="is not asked for here"):
        collect(tmp_path / "c.jsonl", "id", {"2": {}}, None)
