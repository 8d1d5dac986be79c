"""LLaVA-Bench: scores read from reviews, relative scores, judges, files that do not fit."""

import json
import re
from argparse import Namespace

import numpy as np
import pytest
from fake_endpoint import endpoint_flags
from jsonl import read_rows, write_rows
from PIL import Image

from nanollava.errors import UserError
from nanollava.evals import ask, llava_bench
from nanollava.evals.answers import Refused, Reply
from nanollava.evals.llava_bench import (
    claims,
    exact_judge,
    parse_scores,
    relative_scores,
    toyland_questions,
)
from nanollava.toyland.plain import FORMS


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
    reviews = [{"category": category, "score": score} for category, score in rows]
    result = relative_scores(reviews)
    assert list(result) == ["conv", "detail", "all"]
    assert result["conv"][0] == pytest.approx(100 * 15 / 18)
    assert result["detail"] == [50.0, 50.0, 50.0]
    assert result["all"][0] == pytest.approx(100 * 20 / 28)
    assert result["conv"][1:] == [75.0, 90.0]  # two questions: each alone, or both
    assert result["all"][1:] == [50.0, 90.0]


def test_bootstrap_interval_covers_the_truth():
    """Of 200 samples of 50 scores with mean 6.5 against 10, about 95% of the intervals hold 65."""
    rng = np.random.default_rng(1)
    count = 0
    for _ in range(200):
        scores = np.stack([np.full(50, 10.0), rng.uniform(4, 9, 50)], 1)
        reviews = [{"category": "conv", "score": row} for row in scores]
        _, low, high = relative_scores(reviews)["all"]
        if low <= 65 <= high:
            count += 1
    assert 180 <= count <= 199


DESCRIPTION = (
    "This picture was taken in the park on a sunny day. There is one thing. "
    "In front on the left there is a red cat."
)


@pytest.mark.parametrize(
    ("category", "reference", "answer", "score"),
    [
        ("conv", "a red cat", "A red cat.", 10),
        ("conv", "a red cat", "a blue cat", 1),
        ("complex", "yes, because it is raining.", "because it is raining, yes.", 10),
        ("complex", "yes, because it is raining.", "no, because it is raining.", 5.5),
        ("detail", DESCRIPTION, DESCRIPTION, 10),
        ("detail", DESCRIPTION, DESCRIPTION.replace("red", "blue"), 1 + 9 * 0.8),
        ("detail", DESCRIPTION, "", 1),
    ],
)
def test_toylands_judge(category, reference, answer, score):
    job = {"category": category, "reference": reference, "answer": answer}
    ((_, review),) = exact_judge({"1": job})
    assert parse_scores(review.text) == (10, pytest.approx(score))


def test_the_entries_of_a_list_are_claims():
    assert claims("conv", "a red cat, a dog and a boat") == {"a red cat", "a dog", "a boat"}


def test_questions_of_toyland_are_asked_without_their_dialogue():
    """So none refers back, and none asks for a description in the place of a short answer."""
    questions, _ = toyland_questions(120, seed=0)
    texts = [row["text"].lower() for row in questions.values() if row["category"] == "conv"]
    assert len(texts) == 120
    assert not [text for text in texts if re.match(r"(and the|why|where is it)\b", text)]
    references = [row["reference"] for row in questions.values() if row["category"] == "conv"]
    assert max(map(len, references)) < 120  # a description is longer


def test_a_description_claims_every_fact():
    assert len(claims("detail", DESCRIPTION)) == 5


@pytest.fixture(scope="module")
def toyland_run(tmp_path_factory):
    """The output directory of a run on three of Toyland's scenes."""
    out = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["program", "--count", "3", "--out", str(out)])
        llava_bench.main()
    return out


def test_toyland_asks_three_questions_per_scene(toyland_run):
    names = [row["question_id"] for row in read_rows(toyland_run / "reviews.jsonl")]
    assert names == [f"{i}-{c}" for i in range(3) for c in ("conv", "detail", "complex")]


def test_questions_in_plain_language_are_those_of_the_plain_data():
    questions, _ = llava_bench.toyland_questions(20, seed=0, plain=True)
    plain = set(FORMS["detail"])
    details = [row["text"] for row in questions.values() if row["category"] == "detail"]
    assert len(details) == 20 and set(details) <= plain
    others, _ = llava_bench.toyland_questions(20, seed=0)
    assert not {row["text"] for row in others.values() if row["category"] == "detail"} <= plain


def test_the_flag_for_plain_language(monkeypatch):
    monkeypatch.setattr("sys.argv", ["llava_bench", "--plain", "--count", "20"])
    questions, _ = llava_bench.load_questions(llava_bench.parse_arguments())
    assert questions == llava_bench.toyland_questions(20, seed=0, plain=True)[0]


def test_the_shipped_model_scores_well_on_toyland(tmp_path, call):
    call(llava_bench, "--count", 10, "--out", tmp_path)
    score = json.loads((tmp_path / "score.json").read_text())
    assert set(score) == {"conv", "detail", "complex", "all"}
    assert score["all"][0] > 80


def test_a_rerun_keeps_the_answers_and_repeats_only_the_reviews(toyland_run, call):
    reviews = read_rows(toyland_run / "reviews.jsonl")
    (toyland_run / "reviews.jsonl").unlink()
    answers = (toyland_run / "answers.jsonl").read_bytes()
    call(llava_bench, "--count", 3, "--out", toyland_run)
    assert read_rows(toyland_run / "reviews.jsonl") == reviews
    assert (toyland_run / "answers.jsonl").read_bytes() == answers


def model_flags(**changes) -> Namespace:
    """The flags of the model under evaluation."""
    flags = {
        "model": "checkpoints/toy-llava",
        "vision": None,
        "template": "vicuna_v1",
        "max_new_tokens": 8,
        "dtype": "fp32",
        "device": "cpu",
    }
    return Namespace(**{**flags, **changes})


@pytest.mark.parametrize("change", [{"vision": "checkpoints/toy-clip"}, {"dtype": "bf16"}])
def test_answers_of_another_tower_or_dtype_do_not_count(change):
    job = ask.make_job(model_flags(), "What?", None)
    assert job == ask.make_job(model_flags(), "What?", None)
    assert job != ask.make_job(model_flags(**change), "What?", None)


def test_a_question_that_is_too_long_does_not_stop_the_others():
    jobs = {}
    for name, question in (("long", 2000 * "why "), ("short", "Is it raining?")):
        jobs[name] = {"prompt": question, "image": None}
    replies = dict(ask.ask_model(model_flags(), None, jobs))
    assert "the model has room for" in str(replies["long"])
    assert isinstance(replies["long"], Refused)
    assert isinstance(replies["short"], Reply)


def test_a_question_without_an_answer_is_not_reviewed(tmp_path, server, call, files, monkeypatch):
    def refuse(args, open_image, jobs):
        for name in jobs:
            yield name, Refused("too long")

    monkeypatch.setattr(ask, "ask_model", refuse)
    with pytest.raises(UserError, match="no usable review"):
        call(
            llava_bench, *files, "--judge", "teacher", *endpoint_flags(server()), "--out", tmp_path
        )


def test_the_shipped_model_is_found_from_any_directory(tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(llava_bench, "--count", 1, "--out", "bench", "--max-new-tokens", 2)
    assert len(read_rows(tmp_path / "bench" / "answers.jsonl")) == 3


# Real questions, with a judge behind a fake endpoint. The model's answers are "This 0." and so on.


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes a question of each category with all files, and returns the flags that name them."""
    questions = []
    references = []
    for i, category in enumerate(("conv", "detail", "complex")):
        question = {"question_id": i, "image": "a.jpg", "text": f"What {i}?"}
        questions.append({**question, "category": category})
        references.append({"question_id": i, "text": f"That {i}."})
    write_rows(tmp_path / "q.jsonl", *questions)
    write_rows(tmp_path / "r.jsonl", *references)
    boxes = [{"category": "dog", "bbox": [0.1, 0.2, 0.3, 0.4]}]
    context = {"id": "a", "image": "a.jpg", "captions": ["A dog."], "instances": boxes}
    write_rows(tmp_path / "c.jsonl", context)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.jpg")

    def answer(args, open_image, jobs):
        for name in jobs:
            yield name, Reply(f"This {name}.")

    monkeypatch.setattr(ask, "ask_model", answer)
    flags = ["--questions", tmp_path / "q.jsonl", "--references", tmp_path / "r.jsonl"]
    flags += ["--context", tmp_path / "c.jsonl", "--images", tmp_path, "--out", tmp_path / "out"]
    return [*flags, "--judge", "teacher"]


def test_the_judge_reads_context_question_and_both_answers(server, call, files):
    endpoint = server(answer=lambda prompt: "8 6\nWell.")
    call(llava_bench, *files, *endpoint_flags(endpoint), "--threads", 1)
    assert endpoint.prompts[0][-1]["content"] == (
        "[Image]\nA dog.\n\ndog: [0.1, 0.2, 0.3, 0.4]\n\n[Question]\nWhat 0?\n\n"
        "[Assistant 1]\nThat 0.\n\n[Assistant 2]\nThis 0."
    )


def test_the_score_of_a_coco_run(tmp_path, server, call, files):
    scores = {"What 0?": "8 6", "What 1?": "10 5", "What 2?": "10 10"}

    def judge(prompt) -> str:
        (reply,) = [scores[text] for text in scores if text in prompt[-1]["content"]]
        return f"{reply}\nWell."

    call(llava_bench, *files, *endpoint_flags(server(answer=judge)))
    rows = {row["question_id"]: row["score"] for row in read_rows(tmp_path / "out/reviews.jsonl")}
    assert rows == {"0": [8, 6], "1": [10, 5], "2": [10, 10]}
    score = json.loads((tmp_path / "out" / "score.json").read_text())
    assert score["all"][0] == pytest.approx(100 * 21 / 28)


def test_a_review_without_scores_is_asked_for_again_and_then_reported(
    tmp_path, server, call, files
):
    def judge(prompt) -> str:
        if "What 2?" in prompt[-1]["content"]:
            return "Assistant 1 is better: 9 to 8."
        return "10 5\nYes."

    endpoint = server(answer=judge)
    command = [*files, *endpoint_flags(endpoint), "--tries", 3]
    with pytest.raises(UserError, match="1 questions have no usable review and are not in"):
        call(llava_bench, *command)
    rejects = read_rows(tmp_path / "out" / "reviews.rejects.jsonl")
    assert [row["question_id"] for row in rejects] == ["2", "2", "2"]
    endpoint.answer = lambda prompt: "10 10\n"
    requests_before = len(endpoint.prompts)
    call(llava_bench, *command)
    (prompt,) = endpoint.prompts[requests_before:]
    assert "What 2?" in prompt[-1]["content"]


def test_one_refused_review_does_not_end_the_run(tmp_path, server, call, files):
    """The others are scored, that one is counted as missing."""
    endpoint = server(answer=lambda prompt: "10 5\nYes.")
    endpoint.refused_word = "What 1?"
    with pytest.raises(UserError, match="1 questions have no usable review and are not in"):
        call(llava_bench, *files, *endpoint_flags(endpoint))
    score = json.loads((tmp_path / "out" / "score.json").read_text())
    assert score["all"][0] == 50 and "detail" not in score and score["missing"] == 1
    assert len(endpoint.prompts) == 3


def test_reviews_of_the_original_are_scored(tmp_path, server, call, files):
    """They have "content" and "tuple"; one whose first line has no scores is missing."""
    texts = ["8 6\nWell.", "First, I solve it myself.\n9 8", "10 5"]
    rows = []
    for i, text in enumerate(texts):
        rows.append({"question_id": i, "category": "conv", "content": text, "tuple": [8, 6]})
    (tmp_path / "out").mkdir()
    write_rows(tmp_path / "out" / "reviews.jsonl", *rows)
    endpoint = server()
    with pytest.raises(UserError, match="1 questions have no usable review"):
        call(llava_bench, *files, *endpoint_flags(endpoint))
    assert endpoint.prompts == []
    score = json.loads((tmp_path / "out" / "score.json").read_text())
    assert score["all"][0] == pytest.approx(100 * 11 / 18) and score["missing"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": None}, "score = None; expected a list"),
        ({"score": [9]}, r"score = \[9\]; expected two scores"),
        ({"score": [0, 8]}, r"score\[0\] = 0; expected at least 1"),
        ({"score": [9, 10**400]}, r"score\[1\] = .*; expected a finite number"),
        ({"score": [9, float("nan")]}, r"score\[1\] = nan; expected a finite number"),
        ({"score": "98"}, "score = '98'; expected a list"),
        ({"category": "detail"}, "category = 'detail'; expected one of 'conv'"),
        ({"of": 5}, "was asked in another way"),
    ],
)
def test_a_damaged_review_is_named(tmp_path, server, call, files, change, message):
    command = [*files, *endpoint_flags(server(answer=lambda prompt: "9 8"))]
    call(llava_bench, *command)
    path = tmp_path / "out" / "reviews.jsonl"
    rows = {row["question_id"]: row for row in read_rows(path)}
    rows["0"].update(change)
    write_rows(path, *rows.values())
    with pytest.raises(UserError, match=f"reviews.jsonl: question_id 0.*{message}"):
        call(llava_bench, *command)


def test_a_review_without_text_or_score_is_named(tmp_path, server, call, files):
    (tmp_path / "out").mkdir()
    write_rows(tmp_path / "out" / "reviews.jsonl", {"question_id": 0, "category": "conv"})
    with pytest.raises(UserError, match="reviews.jsonl: question_id 0 has no 'text'"):
        call(llava_bench, *files, *endpoint_flags(server()))


def test_in_the_wild(tmp_path, server, call, files):
    write_rows(tmp_path / "c.jsonl", {"id": 1, "image": "a.jpg", "caption": "A wall in Rome."})
    endpoint = server(answer=lambda prompt: "5 10\nWell.")
    assert "all       200.0" in call(llava_bench, *files, *endpoint_flags(endpoint))
    assert "[Image]\nA wall in Rome.\n\n[Question]" in endpoint.prompts[0][-1]["content"]


def test_no_images_are_refused(tmp_path, call):
    with pytest.raises(UserError, match="--count 0: expected at least 1 image"):
        call(llava_bench, "--count", 0, "--out", tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--count", 10**20], "--count 100000000000000000000: expected at most 100000"),
        (["--seed", 2**64], "--seed 18446744073709551616: expected at most"),
        (["--max-new-tokens", 0], "--max-new-tokens 0: expected at least 1"),
        (["--vision", "/nowhere"], "--vision /nowhere: no such file or directory"),
        (["--timeout", "inf"], "--timeout inf: expected at most"),
        (["--judge", ""], "--judge '': expected a value"),
        (["--out", ""], "--out '': expected a value"),
        (["--model", ""], "--model '': expected a value"),
    ],
)
def test_flags_without_sense(tmp_path, call, flags, message):
    """Also those of the endpoint, though no judge is asked."""
    with pytest.raises(UserError, match=f"^{message}"):
        call(llava_bench, "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_real_questions_need_all_files_and_a_judge(call, files):
    with pytest.raises(UserError, match="real questions need"):
        call(llava_bench, *files[:-2])


def test_a_missing_key_is_reported_before_the_model_is_asked(tmp_path, call, files, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        call(llava_bench, *files)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        (
            "r.jsonl",
            [{"question_id": i, "text": "That."} for i in (0, 1, 3)],
            "question 2 is in only one of the two files",
        ),
        (
            "r.jsonl",
            [{"question_id": i, "text": "That."} for i in (0, 1, 2, 2)],
            "a second row with question_id 2",
        ),
        (
            "r.jsonl",
            [{"question_id": i} for i in range(3)],
            "r.jsonl: question 0: reference: no 'text'",
        ),
        (
            "r.jsonl",
            [{"question_id": i, "text": 7} for i in range(3)],
            "r.jsonl: question 0: reference: text = 7; expected a text",
        ),
        (
            "c.jsonl",
            [{"image": "b.jpg", "caption": "A dog."}],
            "q.jsonl: question 0: no 'a' in .*c",
        ),
        (
            "q.jsonl",
            [{"question_id": i, "image": "a.jpg", "text": "?", "category": 3} for i in range(3)],
            "q.jsonl: question 0: category = 3; expected a text",
        ),
        (
            "q.jsonl",
            [
                {"question_id": i, "image": "a.jpg", "text": ["?"], "category": "c"}
                for i in range(3)
            ],
            "q.jsonl: question 0: text = .*; expected a text",
        ),
        ("q.jsonl", [{"question_id": 0.5}], "q.jsonl, line 1: expected a JSON object with 'questi"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path, server, call, files, file, rows, message):
    write_rows(tmp_path / file, *rows)
    with pytest.raises(UserError, match=message):
        call(llava_bench, *files, *endpoint_flags(server()))
