"""ScienceQA: parsing, prompts, training file, accuracy by group, GPT-4 as complement and judge."""

import json

import pytest
from fake_endpoint import endpoint_flags
from jsonl import read_rows, write_rows
from PIL import Image

from nanollava.data import read_records
from nanollava.errors import UserError
from nanollava.evals import ask, scienceqa
from nanollava.evals.answers import Refused, Reply
from nanollava.evals.scienceqa import parse_answer


@pytest.mark.parametrize(
    ("text", "options", "index"),
    [
        ("B", 4, 1),
        ("B.", 4, 1),
        ("C. Maine", 3, 2),
        (" A\n", 2, 0),
        ("Assistant: SOLUTION: It is cold.\n The answer is B.", 2, 1),
        ("The answer is D.", 2, None),  # question 3247 of the published answers, with two options
        ("The answer is A. No: the answer is B. The answer is B.", 4, None),
        ("The answer is A. The answer is A.", 4, None),
        ("The answer is B", 4, None),
        ("E", 4, None),
        ("b", 4, None),
        ("Because it rains", 4, None),
        ("", 4, None),
    ],
)
def test_parse_answer(text, options, index):
    assert parse_answer(text, options) == index


def problem(answer: int, subject: str, grade: int, **changes) -> dict:
    return {
        "question": "Which?",
        "choices": ["one", "two", "three"],
        "answer": answer,
        "hint": "",
        "image": None,
        "grade": f"grade{grade}",
        "subject": subject,
        "split": "test",
        "lecture": "L.",
        "solution": "S.",
        **changes,
    }


PROBLEMS = {
    "1": problem(0, "natural science", 2, image="image.png"),
    "2": problem(1, "natural science", 8, hint="It rains."),
    "3": problem(2, "social science", 6, hint="It snows.", image="image.png"),
    "4": problem(0, "language science", 12, lecture="", choices=["one", "two"]),
    "5": problem(1, "language science", 7),
}


@pytest.fixture
def data(tmp_path):
    """A small copy of ScienceQA's directory."""
    (tmp_path / "problems.json").write_text(json.dumps(PROBLEMS))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": list(PROBLEMS), "minitest": [4]}))
    for pid in ("1", "3"):
        directory = tmp_path / "images" / "test" / pid
        directory.mkdir(parents=True)
        Image.new("RGB", (40, 30), "red").save(directory / "image.png")
    return tmp_path


def flags(data) -> list:
    return ["--data", data, "--images", data / "images", "--out", data / "out"]


def training_records(data, call, *more) -> dict[str, dict]:
    path = data / "new" / "train.json"
    call(scienceqa, *flags(data), "--make", path, *more)
    return {record["id"]: record for record in read_records(path)[0]}


def test_training_record_with_an_image(data, call):
    record = training_records(data, call)["1"]
    human, gpt = (turn["value"] for turn in record["conversations"])
    assert human == "<image>\nContext: N/A\nQuestion: Which?\nOptions: (A) one (B) two (C) three"
    assert gpt == "LECTURE: L.\nSOLUTION: S.\nThe answer is A."
    assert record["image"] == "test/1/image.png"


def test_training_record_without_an_image(data, call):
    record = training_records(data, call)["2"]
    assert record["conversations"][0]["value"].startswith("Context: It rains.\n")
    assert "image" not in record


def test_training_records_of_the_ablations(data, call):
    (record,) = training_records(data, call, "--answer-first", "--split", "minitest").values()
    assert record["conversations"][1]["value"] == "The answer is A.\nSOLUTION: S."  # no lecture
    record = training_records(data, call, "--no-lecture")["1"]
    assert record["conversations"][1]["value"] == "SOLUTION: S.\nThe answer is A."


def test_accuracy_by_group(data):
    """By hand: 1 right, 2 wrong, 3 right, 4 without an option, 5 right."""
    problems = scienceqa.read_problems(data, "test")
    result = scienceqa.accuracy(problems, {"1": 0, "2": 0, "3": 2, "4": None, "5": 1})
    expected = {"NAT": 50, "SOC": 100, "LAN": 50, "TXT": 50, "IMG": 100, "NO": 50}
    expected |= {"G1-6": 100, "G7-12": 100 / 3, "Average": 60}
    assert result == pytest.approx(expected)


# GPT-4 as complement and judge. Correct are A, B, C, A, B.

LLAVA = ["The answer is A.", "The answer is B.", "The answer is A.", "Perhaps.", "The answer is B."]
GPT4 = ["I cannot answer.", "The answer is A.", "The answer is C.", "The answer is A."]
GPT4 += ["The answer is B."]


@pytest.fixture
def judged(data, server, call, monkeypatch):
    """Runs the evaluation; returns its scores, and what the judge was asked."""

    def llava_answer(args, open_image, jobs):
        for name in jobs:
            yield name, Reply(LLAVA[int(name) - 1])

    monkeypatch.setattr(ask, "ask_model", llava_answer)
    alone = iter(GPT4)
    judge_prompts = []

    def answer(prompt) -> str:
        text = prompt[-1]["content"]
        if "[Assistant 1]" not in text:
            return next(alone)
        judge_prompts.append(text)
        return "I am not sure." if len(judge_prompts) == 1 else "The answer is B."

    command = [*flags(data), "--judge", "teacher", *endpoint_flags(server(answer=answer))]
    call(scienceqa, *command, "--threads", 1)
    call(scienceqa, *command)  # asks nothing: all answers are in the files
    return json.loads((data / "out" / "score.json").read_text()), judge_prompts


def test_accuracies_of_model_gpt4_complement_and_judge(judged):
    score, _ = judged
    average = {name: row["Average"] for name, row in score.items()}
    assert average == {"LLaVA": 60, "teacher": 60, "complement": 80, "judge": 40}


def test_answers_without_an_option_are_counted(judged):
    score, _ = judged
    unreadable = {name: row["unreadable"] for name, row in score.items()}
    assert unreadable == {"LLaVA": 1, "teacher": 1, "complement": 0, "judge": 1}


def test_the_judge_decides_only_where_the_two_disagree(judged, data):
    _, judge_prompts = judged
    assert len(judge_prompts) == 4
    names = {row["question_id"] for row in read_rows(data / "out" / "judge.jsonl")}
    assert names == {"1", "2", "3", "4"}
    both = "[Assistant 1]\nThe answer is A.\n\n[Assistant 2]\nThe answer is C."
    assert both in "".join(judge_prompts)


def test_refused_questions_are_not_in_the_accuracies(data, server, call, monkeypatch):
    """GPT-4 refuses question 2: the other four are scored, and that one is counted."""

    def llava_answer(args, open_image, jobs):
        for name in jobs:
            yield name, Reply(LLAVA[int(name) - 1])

    monkeypatch.setattr(ask, "ask_model", llava_answer)
    names = iter(["1", "3", "4", "5"])  # the questions that GPT-4 answers alone

    def answer(prompt) -> str:
        if "[Assistant 1]" not in prompt[-1]["content"]:
            return GPT4[int(next(names)) - 1]
        return "The answer is A."

    endpoint = server(answer=answer)
    problems = json.loads((data / "problems.json").read_text())
    problems["2"]["hint"] += " FORBIDDEN"
    (data / "problems.json").write_text(json.dumps(problems))
    command = [*flags(data), "--judge", "teacher", *endpoint_flags(endpoint), "--threads", 1]
    with pytest.raises(UserError, match="up to 1 answers of a row are missing"):
        call(scienceqa, *command)
    score = json.loads((data / "out" / "score.json").read_text())
    assert "missing" not in score["LLaVA"] and score["LLaVA"]["Average"] == 60
    for name in ("teacher", "judge", "complement"):
        assert score[name]["missing"] == 1
    average = {name: row["Average"] for name, row in score.items()}
    # Right without question 2: GPT-4 3, 4, 5; the judge 1, 4, 5; the complement 1, 3, 4, 5.
    assert average == {"LLaVA": 60, "teacher": 75, "judge": 75, "complement": 100}


@pytest.mark.parametrize("name", ["judge", "complement", "LLaVA"])
def test_a_judge_with_the_name_of_another_row_is_refused(data, call, name):
    with pytest.raises(UserError, match=f"--judge {name}: score.json has another row of this name"):
        call(scienceqa, *flags(data), "--judge", name)


def test_a_question_that_llava_did_not_answer_is_not_judged(data, server, call, monkeypatch):
    """It is too long for the model, for example."""

    def llava_answer(args, open_image, jobs):
        for name in jobs:
            reply = Refused("too long") if name == "1" else Reply("The answer is B.")
            yield name, reply

    monkeypatch.setattr(ask, "ask_model", llava_answer)
    endpoint = server(answer=lambda prompt: "I cannot tell.")
    command = [*flags(data), "--judge", "teacher", *endpoint_flags(endpoint), "--threads", 1]
    with pytest.raises(UserError, match="answers of a row are missing"):
        call(scienceqa, *command)
    score = json.loads((data / "out" / "score.json").read_text())
    missing = {name: row.get("missing", 0) for name, row in score.items()}
    assert missing == {"LLaVA": 1, "teacher": 0, "judge": 1, "complement": 1}


def test_the_toy_model_answers(data, call):
    call(scienceqa, *flags(data), "--max-new-tokens", 4)
    answers = read_rows(data / "out" / "answers.jsonl")
    assert [row["question_id"] for row in answers] == list(PROBLEMS)
    assert "Average" in json.loads((data / "out" / "score.json").read_text())["LLaVA"]


def test_an_unknown_split(data, call):
    with pytest.raises(UserError, match="--split train: .* has test, minitest"):
        call(scienceqa, *flags(data), "--split", "train")


def test_answers_to_other_questions_are_refused(data, call):
    (data / "out").mkdir()
    write_rows(data / "out" / "answers.jsonl", {"question_id": "99", "text": "A"})
    with pytest.raises(UserError, match="question_id 99 is not asked for here"):
        call(scienceqa, *flags(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 7}, "answer = 7; expected at most 2"),
        ({"answer": -1}, "answer = -1; expected at least 0"),
        ({"answer": "1"}, "answer = '1'; expected a whole number"),
        ({"answer": True}, "answer = True; expected a whole number"),
        ({"choices": "one"}, "choices = 'one'; expected a list"),
        ({"choices": ["one", 2]}, r"choices\[1\] = 2; expected a text"),
        ({"choices": []}, "0 choices; expected 1 to 26"),
        ({"choices": ["x"] * 27}, "27 choices; expected 1 to 26"),
        ({"choices": ["one", " "]}, r"choices\[1\] is empty"),
        ({"question": ""}, "question is empty"),
        ({"question": "What is <image>?"}, "question contains <image>"),
        ({"hint": "See <image>."}, "hint contains <image>"),
        ({"question": None}, "question = None; expected a text"),
        ({"question": "half a character: \ud83d"}, "question = .*; expected a text"),
        ({"hint": 5}, "hint = 5; expected a text"),
        ({"hint": "See <image>."}, "hint contains <image>"),
        ({"image": ["image.png"]}, "image = .*; expected a text"),
        ({"image": "image.png", "split": None}, "split = None; expected a text"),
        ({"grade": 7}, "grade = 7; expected a text"),
        ({"grade": "grade13"}, "grade = 'grade13'; expected 'grade1' to 'grade12'"),
        ({"grade": "grade-1"}, "grade = 'grade-1'; expected 'grade1' to"),
        ({"subject": "art"}, "subject = 'art'; expected one of 'natural science', "),
        ({"subject": ["natural science"]}, "subject = .*; expected a text"),
        ({"lecture": {}}, "lecture = {}; expected a text"),
    ],
)
def test_a_broken_problem_is_named(data, call, change, message):
    broken = {**PROBLEMS, "5": {**PROBLEMS["5"], **change}}
    (data / "problems.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match=f"problems.json, problem 5: {message}") as error:
        call(scienceqa, *flags(data))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": "123"}, "pid_splits.json: test = '123'; expected a list"),
        ({"test": {"1": 2}}, "pid_splits.json: test = .*; expected a list"),
        ({"test": [[1]]}, r"pid_splits.json: test\[0\] = \[1\]; expected the id of a problem"),
        ({"test": [True]}, r"test\[0\] = True; expected the id of a problem"),
        ({"test": ["1", "99"]}, "problems.json: no '99'; expected an object"),
        ({"test": []}, "pid_splits.json: test is empty"),
    ],
)
def test_a_broken_split_is_named(data, call, splits, message):
    (data / "pid_splits.json").write_text(json.dumps(splits))
    with pytest.raises(UserError, match=message):
        call(scienceqa, *flags(data))


def test_a_missing_directory(data, call):
    with pytest.raises(UserError, match="no such file; --data is the directory with .*github.com"):
        call(scienceqa, "--data", data / "nowhere")
