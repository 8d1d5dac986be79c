"""Targets: the files of evaluation and synthesis, and the replies of an endpoint."""

import json
import math

from benchmarks.fuzz.case import Case, expect
from benchmarks.fuzz.mutate import changed_bytes, changed_json
from nanollava.conversation import IMAGE, checked_turns
from nanollava.evals import llava_bench, scienceqa
from nanollava.evals.answers import Rejected, Reply, collect, fingerprint
from nanollava.evals.context import read_contexts
from nanollava.evals.replies import read_reply
from nanollava.synthesize import records as synthesize_records

JOBS = {
    "1": {"category": "conv", "text": "What is it?"},
    "2": {"category": "detail", "text": "Describe it."},
    "3": {"category": "complex", "text": "Why?"},
}
ANSWER_ROWS = [
    {"question_id": "1", "text": "a cat", "tokens": [5, 2], "of": fingerprint(JOBS["1"])},
    {"question_id": 2, "text": "A cat on a mat.", "tokens": [5, 7], "of": fingerprint(JOBS["2"])},
    {"question_id": 3, "text": "It is a cat.", "model_id": "gpt-4"},
]
REVIEW_ROWS = [
    {"question_id": "1", "category": "conv", "score": [9, 8.5], "text": "9 8.5\nGood."},
    {"question_id": "2", "category": "detail", "score": [10, 3], "text": "10 3"},
    {"question_id": "3", "content": "8 8\nEqual."},
]
for row in REVIEW_ROWS[:2]:
    row |= {"tokens": [50, 20], "of": fingerprint(JOBS[row["question_id"]])}


def changed_lines(case: Case, rows: list[dict]) -> bytes:
    """A JSONL file in which some lines are damaged."""
    lines = []
    for row in rows:
        if case.rng.random() < 0.2:
            lines.append(changed_json(case.rng, row))
        else:
            lines.append(json.dumps(row).encode())
    end = b"\n"
    if case.rng.random() < 0.2:
        end = case.rng.choice((b"", b"\n{", b'\n{"question_id": "3', b"\n\xff}\n"))
    return b"\n".join(lines) + end


def ask_no_one(jobs: dict[str, dict]):
    """Answers of a model for what a file lacks."""
    for name, job in jobs.items():
        yield name, Reply(f"9 8\n{job['text']}")


def answers(case: Case) -> None:
    """answers.jsonl and its rejects, read by a run that continues."""
    path = case.write("answers.jsonl", changed_lines(case, ANSWER_ROWS))
    if case.rng.random() < 0.3:
        reject = {"question_id": "1", "tokens": [5, 2], "why": "no text", "text": ""}
        (case.folder / "answers.rejects.jsonl").write_bytes(changed_lines(case, [reject]))
    rows = collect(path, "question_id", JOBS, ask_no_one)
    for name in JOBS:
        expect(isinstance(rows[name]["text"], str), "an answer that is no text")
    again = collect(path, "question_id", JOBS, ask_no_one)
    expect(again.keys() == rows.keys(), "a second run finds other answers")


def reviews(case: Case) -> None:
    """reviews.jsonl, and the scores that are computed from it."""
    path = case.write("reviews.jsonl", changed_lines(case, REVIEW_ROWS))
    rows = collect(
        path,
        "question_id",
        JOBS,
        ask_no_one,
        llava_bench.parse_review,
        llava_bench.check_review,
    )
    for scores in llava_bench.relative_scores(list(rows.values())).values():
        for score in scores:
            expect(math.isfinite(score) and 10 <= score <= 1000, "a score that cannot be")


COCO_CAPTIONS = {
    "images": [{"id": 1, "file_name": "1.jpg", "width": 640, "height": 480}],
    "annotations": [{"image_id": 1, "caption": "A cat."}, {"image_id": 1, "caption": "A mat."}],
}
COCO_INSTANCES = {
    "categories": [{"id": 7, "name": "cat"}],
    "annotations": [{"image_id": 1, "category_id": 7, "bbox": [10, 20.5, 100, 200]}],
}
CONTEXT_ROWS = [
    {
        "image": "1.jpg",
        "captions": ["A cat.", "A mat."],
        "boxes": [["cat", [0.1, 0.2, 0.3, 0.4]]],
    },
    {"image": "2.jpg", "caption": "A dog."},
    {
        "image": "3.jpg",
        "captions": ["x"],
        "instances": [{"category": "cat", "bbox": [0.1, 0.2, 0.3, 0.4]}],
    },
]


def captions(case: Case) -> None:
    """Captions and boxes: JSONL, or COCO's two files."""
    if case.rng.random() < 0.5:
        case.note = "JSONL"
        paths = [case.write("context.jsonl", changed_lines(case, CONTEXT_ROWS))]
    else:
        case.note = "COCO"
        second = case.write("instances.json", changed_json(case.rng, COCO_INSTANCES))
        first = case.write("captions.json", changed_json(case.rng, COCO_CAPTIONS))
        paths = [first, second]
    contexts = read_contexts([str(path) for path in paths])
    for context in contexts.values():
        expect(len(context.captions) > 0, "no caption")
        for _, corners in context.boxes:
            is_finite = all(math.isfinite(corner) for corner in corners)
            expect(len(corners) == 4 and is_finite, "a box without four finite corners")
        str(context).encode()


PROBLEMS = {
    "1": {
        "question": "What is it?",
        "choices": ["a cat", "a dog"],
        "answer": 1,
        "hint": "It barks.",
        "image": "image.png",
        "task": "closed choice",
        "grade": "grade2",
        "subject": "natural science",
        "split": "test",
        "lecture": "Dogs bark.",
        "solution": "It barks.",
    },
    "2": {
        "question": "Where?",
        "choices": ["here", "there", "nowhere"],
        "answer": 0,
        "hint": "",
        "image": None,
        "task": "closed choice",
        "grade": "grade8",
        "subject": "language science",
        "split": "test",
        "lecture": "",
        "solution": "",
    },
}
SPLITS = {"test": ["1", "2"], "train": ["2"]}


def science_questions(case: Case) -> None:
    """problems.json and pid_splits.json of ScienceQA, and the training records made of them."""
    splits = json.dumps(SPLITS).encode()
    if case.rng.random() < 0.3:
        splits = changed_json(case.rng, SPLITS)
    (case.folder / "pid_splits.json").write_bytes(splits)
    case.note = repr(splits[:60])
    case.write("problems.json", changed_json(case.rng, PROBLEMS))
    problems = scienceqa.read_problems(case.folder, "test")
    for problem in problems.values():
        expect(0 <= problem["answer"] < len(problem["choices"]), "no such option")
        expect(IMAGE not in problem["prompt"] or problem["image"] is not None, "no image")
    scienceqa.accuracy(problems, dict.fromkeys(problems, 0))


QUESTIONS = [
    {"question_id": 1, "image": "1.jpg", "text": "What is it?", "category": "conv"},
    {"question_id": 2, "image": "2.jpg", "text": "Describe it.", "category": "detail"},
]
REFERENCES = [{"question_id": 1, "text": "A cat."}, {"question_id": 2, "text": "A dog."}]


def questions(case: Case) -> None:
    """The questions, references and contexts of LLaVA-Bench."""
    contents = {
        "references.jsonl": changed_lines(case, REFERENCES),
        "context.jsonl": changed_lines(case, CONTEXT_ROWS),
        "questions.jsonl": changed_lines(case, QUESTIONS),
    }
    paths = []
    for name in ("questions.jsonl", "references.jsonl", "context.jsonl"):
        paths.append(str(case.write(name, contents[name])))
    for question in llava_bench.read_questions(*paths).values():
        for key in ("image", "text", "category", "reference", "context"):
            question[key].encode()


REPLY = {
    "id": "x",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "9 8"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
}


def replies(case: Case) -> None:
    """What an endpoint sends back."""
    content = changed_json(case.rng, REPLY)
    if case.rng.random() < 0.1:
        content = changed_bytes(case.rng, content)
    case.content = content
    reply = read_reply(content)
    expect(len(reply.text.strip()) > 0, "an empty answer")
    expect(type(reply.prompt_tokens) is int and reply.prompt_tokens >= 0, "tokens")
    reply.text.encode()


WORDS = (
    *("9", " 8", "10", ".", ",", "\n", "A", ". ", "The answer is B.", "nan", "Question:"),
    *("\n===\n", "Answer:", "x", "<image>", "\ud800", "٣", "=", "e5", "USER", "日本"),
)


def texts(case: Case) -> None:
    """What judges, teachers and models write."""
    text = "".join(case.rng.choices(WORDS, k=case.rng.randint(0, 12)))
    case.content = text.encode("utf-8", "surrogatepass")
    scores = llava_bench.parse_scores(text)
    if scores is not None:
        expect(min(scores) >= 1 and max(scores) <= 10, "scores outside of 1..10")
    option = scienceqa.parse_answer(text, 3)
    expect(option is None or 0 <= option < 3, "no such option")
    kind = case.rng.choice(("conversation", "detail", "complex"))
    job = {"id": "1", "image": "1.jpg", "kind": kind, "question": "q"}
    try:
        record = synthesize_records.parse(job, text)
    except Rejected:
        return
    checked_turns(record["conversations"])


TARGETS = {
    "answers": answers,
    "reviews": reviews,
    "captions": captions,
    "science_questions": science_questions,
    "questions": questions,
    "replies": replies,
    "texts": texts,
}
