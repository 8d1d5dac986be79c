"""LLaVA-Bench: scores read from reviews, relative scores, judges, and files that do not fit together."""

import json

import pytest
from local_endpoint import arguments, call, rows_of, server, write  # noqa: F401
from PIL import Image

from nanollava.errors import UserError
from nanollava.evals import ask, llava_bench
from nanollava.evals.answers import Reply
from nanollava.evals.llava_bench import claims, exact, parse_scores, relative_scores


@pytest.mark.parametrize(
    ("review", "scores"),
    [
        ("9 8.5\nBoth are good.", (9, 8.5)),
        ("9, 8\nBoth", (9, 8)),
        ("10,1", (10, 1)),
        ("\n7 7 \nBoth", (7, 7)),
        ("First, I will solve it myself.\n9 8", None),
        ("Assistant 1: 9\nAssistant 2: 8", None),
        ("9/10 8/10", None),
        ("9 8 7", None),
        ("9", None),
        ("0 11", None),
        ("-1 -1", None),
        ("", None),
    ],
)
def test_parse_scores(review, scores):
    assert parse_scores(review) == scores


def test_relative_score_of_a_hand_made_review_file():
    """conv: model 6 + 9 of reference 8 + 10; detail: 5 of 10; all: 20 of 28."""
    rows = [("conv", [8, 6]), ("conv", [10, 9]), ("detail", [10, 5])]
    found = relative_scores([{"category": category, "score": score} for category, score in rows])
    assert {name: values[0] for name, values in found.items()} == {
        "conv": 100 * 15 / 18,
        "detail": 50.0,
        "all": 100 * 20 / 28,
    }
    assert found["detail"] == [50.0, 50.0, 50.0]
    assert found["conv"][1:] == [75.0, 90.0]  # two questions: each alone, or both
    assert found["all"][1] == 50.0 and found["all"][2] == 90.0


def test_bootstrap_interval_covers_the_truth():
    """Of 200 samples of 50 scores with mean 6.5 against 10, about 95% of the intervals hold 65."""
    import numpy as np

    rng, held = np.random.default_rng(1), 0
    for _ in range(200):
        scores = np.stack([np.full(50, 10.0), rng.uniform(4, 9, 50)], 1)
        _, low, high = relative_scores([{"category": "conv", "score": row} for row in scores])[
            "all"
        ]
        held += low <= 65 <= high
    assert 180 <= held <= 199


def test_toylands_judge():
    def judged(category: str, reference: str, answer: str) -> tuple:
        job = {"category": category, "reference": reference, "answer": answer}
        ((_, review),) = exact({"1": job})
        return parse_scores(review.text)

    assert judged("conv", "a red cat", "A red cat.") == (10, 10)
    assert judged("conv", "a red cat", "a blue cat") == (10, 1)
    assert judged("complex", "yes, because it is raining.", "because it is raining, yes.") == (
        10,
        10,
    )
    assert judged("complex", "yes, because it is raining.", "no, because it is raining.") == (
        10,
        5.5,
    )
    whole = "This picture was taken in the park on a sunny day. There is one thing. In front on the left there is a red cat."
    assert judged("detail", whole, whole) == (10, 10)
    assert len(claims("detail", whole)) == 5
    assert judged("detail", whole, whole.replace("red", "blue")) == (10, pytest.approx(1 + 9 * 0.8))
    assert judged("detail", whole, "") == (10, 1)


def test_toyland_from_end_to_end(tmp_path, call):  # noqa: F811
    text = call(llava_bench, "--count", 3, "--out", tmp_path)
    reviews = rows_of(tmp_path / "reviews.jsonl")
    assert [row["question_id"] for row in reviews] == [
        f"{i}-{c}" for i in range(3) for c in ("conv", "detail", "complex")
    ]
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["all"][0] > 80, text  # the shipped model
    assert set(score) == {"conv", "detail", "complex", "all"}
    (tmp_path / "reviews.jsonl").unlink()
    answers = (tmp_path / "answers.jsonl").read_bytes()
    call(llava_bench, "--count", 3, "--out", tmp_path)
    assert (
        rows_of(tmp_path / "reviews.jsonl") == reviews
        and (tmp_path / "answers.jsonl").read_bytes() == answers
    )


def test_the_shipped_model_is_found_from_any_directory(tmp_path, call, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    call(llava_bench, "--count", 1, "--out", "bench", "--max-new-tokens", 2)
    assert len(rows_of(tmp_path / "bench" / "answers.jsonl")) == 3


QUESTIONS = [
    {"question_id": i, "image": "a.jpg", "text": f"What {i}?", "category": category}
    for i, category in enumerate(("conv", "detail", "complex"))
]


@pytest.fixture
def files(tmp_path, monkeypatch):
    write(tmp_path / "q.jsonl", *QUESTIONS)
    write(tmp_path / "r.jsonl", *({"question_id": i, "text": f"That {i}."} for i in range(3)))
    boxes = [{"category": "dog", "bbox": [0.1, 0.2, 0.3, 0.4]}]
    write(
        tmp_path / "c.jsonl",
        {"id": "a", "image": "a.jpg", "captions": ["A dog."], "instances": boxes},
    )
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.jpg")

    def answer(args, open_image, jobs):
        for name in jobs:
            yield name, Reply(f"This {name}.")

    monkeypatch.setattr(ask, "ask_model", answer)
    flags = {
        "questions": "q.jsonl",
        "references": "r.jsonl",
        "context": "c.jsonl",
        "images": "",
        "out": "out",
    }
    return [part for name, file in flags.items() for part in (f"--{name}", tmp_path / file)]


def test_coco_with_a_judge(tmp_path, server, call, files):  # noqa: F811
    """The judge sees all parts; a review that does not obey is asked again, and named when it never does."""
    seen = []

    def judge(messages) -> str:
        seen.append(messages[-1]["content"])
        if "What 0?" in seen[-1]:
            return "8 6\nWell."
        return (
            "10 5\nYes."
            if "What 1?" in seen[-1] and len(seen) > 3
            else "Assistant 1 is better: 9 to 8."
        )

    one = server(answer=judge)
    with pytest.raises(
        UserError, match="1 questions have no usable review and are not in the scores above"
    ):
        call(
            llava_bench, *files, "--judge", "teacher", *arguments(one), "--tries", 3, "--threads", 1
        )
    wanted = "[Image]\nA dog.\n\ndog: [0.1, 0.2, 0.3, 0.4]\n\n[Question]\nWhat 0?\n\n[Assistant 1]\nThat 0."
    assert seen[0] == f"{wanted}\n\n[Assistant 2]\nThis 0."
    assert {
        row["question_id"]: row["score"] for row in rows_of(tmp_path / "out" / "reviews.jsonl")
    } == {
        "0": [8.0, 6.0],
        "1": [10.0, 5.0],
    }
    assert json.loads((tmp_path / "out" / "score.json").read_text())["all"][0] == 100 * 11 / 18
    rejects = rows_of(tmp_path / "out" / "reviews.rejects.jsonl")
    assert [row["question_id"] for row in rejects].count("2") == 3
    one.answer = lambda messages: "10 10\n"
    before = len(one.prompts)
    call(llava_bench, *files, "--judge", "teacher", *arguments(one))
    assert len(one.prompts) == before + 1 and "What 2?" in one.prompts[-1][-1]["content"]


def test_in_the_wild(tmp_path, server, call, files):  # noqa: F811
    write(tmp_path / "c.jsonl", {"id": 1, "image": "a.jpg", "caption": "A red wall in Rome."})
    one = server(answer=lambda messages: "5 10\nWell.")
    assert "all       200.0" in call(llava_bench, *files, "--judge", "teacher", *arguments(one))
    assert "[Image]\nA red wall in Rome.\n\n[Question]" in one.prompts[0][-1]["content"]


def test_files_that_do_not_fit(tmp_path, call, files):  # noqa: F811
    common = [*files, "--judge", "teacher"]
    with pytest.raises(UserError, match="real questions need"):
        call(llava_bench, *files)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        call(llava_bench, *common)
    write(tmp_path / "r.jsonl", *({"question_id": i, "text": "That."} for i in (0, 1, 3)))
    with pytest.raises(UserError, match="question 2 is in only one of the two files"):
        call(llava_bench, *common)
    write(tmp_path / "r.jsonl", *({"question_id": i, "text": "That."} for i in (0, 1, 2, 2)))
    with pytest.raises(UserError, match="a second row with question_id 2"):
        call(llava_bench, *common)
    write(tmp_path / "r.jsonl", *({"question_id": i, "text": "That."} for i in range(3)))
    write(tmp_path / "c.jsonl", {"image": "b.jpg", "caption": "A dog."})
    with pytest.raises(UserError, match="question 0: no 'a' in"):
        call(llava_bench, *common)
