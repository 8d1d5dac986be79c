"""LLaVA-Bench: a judge scores a model's answers against reference answers (section 5.1).

python -m nanollava.evals.llava_bench --model checkpoints/toy-llava  # Toyland, with an exact judge
python -m nanollava.evals.llava_bench --model M --questions Q.jsonl --references R.jsonl \
    --context C.jsonl --images DIR --judge gpt-4   # COCO or In-the-Wild
"""

import argparse
import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError, run
from ..files import write_json
from ..flags import MAX_SEED, HelpFormatter, check_number, check_texts
from ..image import open_image
from ..schema import require, short
from ..toyland.captions import boxes, captions
from ..toyland.dialogues import instructions
from ..toyland.draw import draw
from ..toyland.plain import plain_instructions
from ..toyland.scenes import Scene, scenes
from ..toyland.score import IMAGE_SIZE, normal
from ..toyland.teacher import read, stated_facts
from . import ask, endpoint
from .answers import Ask, Rejected, Reply, collect, read_rows
from .context import Context, read_contexts
from .endpoint import Endpoint, make_request
from .prompts import judge_messages

# The benchmark's names of the three kinds of question, and Toyland's teacher's.
CATEGORIES = {"conv": "conversation", "detail": "detail", "complex": "complex"}
RESAMPLES = 2000  # of the bootstrap
MAX_IMAGES = 100_000  # Toyland scenes are drawn in memory

OpenImage = Callable[[str], Image.Image]


# ---------------------------------------------------------------------------------------------
# Scores


def parse_scores(review: str) -> tuple[float, float] | None:
    """Read the two scores from 1 to 10 in a review's first line: "9 8.5" or "9, 8.5".

    Returns (score of the reference, score of the model), or None if the line is anything else.
    """
    first_line = review.strip().split("\n")[0].strip()
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(number + r"(?:\s*,\s*|\s+)" + number, first_line)
    if match is None:
        return None
    reference = float(match[1])
    model = float(match[2])
    if not (1 <= reference <= 10 and 1 <= model <= 10):
        return None
    return reference, model


def relative_scores(reviews: list[dict]) -> dict[str, list[float]]:
    """The relative score by category and over "all": [score, low, high], in percent.

    Low and high are the ends of the bootstrap 95% interval. A review has a "category" and a
    "score": (of the reference, of the model).
    """
    rng = np.random.default_rng(0)
    by_category: dict[str, list] = {}
    for review in reviews:
        by_category.setdefault(review["category"], []).append(review["score"])
    if reviews:
        by_category["all"] = [review["score"] for review in reviews]
    return {category: relative_score(pairs, rng) for category, pairs in by_category.items()}


def relative_score(pairs: list, rng: np.random.Generator) -> list[float]:
    """100 * sum_i s_i^model / sum_i s_i^reference, and the ends of its bootstrap 95% interval."""
    scores = np.array(pairs)  # (N, 2): of the reference, of the model
    N = len(scores)
    reference_sum, model_sum = scores.sum(0)
    samples = rng.integers(N, size=(RESAMPLES, N))  # questions drawn with replacement
    sums = scores[samples].sum(1)  # (RESAMPLES, 2)
    low, high = np.percentile(100 * sums[:, 1] / sums[:, 0], (2.5, 97.5))
    return [float(100 * model_sum / reference_sum), float(low), float(high)]


# ---------------------------------------------------------------------------------------------
# Toyland: questions about test scenes, and a judge that knows every fact


def toyland_questions(
    count: int, seed: int, plain: bool = False
) -> tuple[dict[str, dict], dict[int, Scene]]:
    """Three questions about each of `count` test scenes, with the teacher's answers as reference.

    With `plain` they are asked in plain language. Returns the questions by name, and the scenes by
    number.
    """
    write_instructions = plain_instructions if plain else instructions
    pool = dict(enumerate(scenes("test", count, seed, unseen=False)))
    questions = {}
    for number, scene in pool.items():
        rng = random.Random(f"bench/{seed}/{number}")
        context = Context(str(number), captions(scene, rng), boxes(scene))
        facts = read(context.captions, context.boxes)
        for category, kind in CATEGORIES.items():
            qas = write_instructions(facts, rng, kind)
            if category == "conv":  # each is asked alone, and judged as a short answer
                qas = [qa for qa in qas if qa.type not in ("follow-up", "detail")]
            qa = rng.choice(qas)
            questions[f"{number}-{category}"] = {
                "image": str(number),
                "text": qa.question,
                "category": category,
                "reference": qa.answer,
                "context": str(context),
            }
    return questions, pool


def claims(category: str, text: str) -> set:
    """What an answer states: the facts of a description, a short answer and its reason, or the
    entries of a list."""
    if category == "detail":
        return set(stated_facts(text))
    separator = r", | and " if category == "conv" else ", "  # "a red cat, a dog and a boat"
    return {part.removeprefix("because ") for part in re.split(separator, normal(text))}


def exact_judge(jobs: dict[str, dict]) -> Iterator[tuple[str, Reply]]:
    """Toyland's judge: 1 + 9 F1 of an answer's claims against those of the reference."""
    for name, job in jobs.items():
        reference = claims(job["category"], job["reference"])
        answer = claims(job["category"], job["answer"])
        true = reference & answer
        F1 = 2 * len(true) / (len(reference) + len(answer))
        score = 1 + 9 * F1
        explanation = f"true: {sorted(true)}, wrong: {sorted(answer - reference)}"
        yield name, Reply(f"10 {score:.4g}\n{explanation}")


# ---------------------------------------------------------------------------------------------
# Real questions: COCO or In-the-Wild


def read_questions(questions_path: str, references_path: str, context_path: str) -> dict[str, dict]:
    """Read questions from LLaVA's files, each with its reference answer and its image's context."""
    rows = read_rows(questions_path, "question_id")
    references = read_rows(references_path, "question_id")
    unmatched = rows.keys() ^ references.keys()
    if unmatched:
        problem = f"question {min(unmatched)} is in only one of the two files"
        raise UserError(f"{questions_path}, {references_path}: {problem}")
    contexts = read_contexts([context_path])
    questions = {}
    for name, row in rows.items():
        where = f"{questions_path}: question {name}"
        question = {key: require(row, key, str, where) for key in ("image", "text", "category")}
        reference_where = f"{references_path}: question {name}: reference"
        question["reference"] = require(references[name], "text", str, reference_where)
        image_name = Path(question["image"]).stem
        if image_name not in contexts:
            raise UserError(f"{where}: no {short(image_name)} in {context_path}")
        question["context"] = str(contexts[image_name])
        questions[name] = question
    return questions


# ---------------------------------------------------------------------------------------------
# The program


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m nanollava.evals.llava_bench",
        description=__doc__.split("\n")[0],
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out", default="out/llava_bench", help="directory for answers, reviews and score.json"
    )
    parser.add_argument("--questions", help="LLaVA-Bench's questions; without them, Toyland's")
    parser.add_argument("--references", help="reference answers")
    parser.add_argument(
        "--context", help="captions and boxes (COCO) or descriptions (In-the-Wild) of the images"
    )
    parser.add_argument("--images", help="directory of the images")
    parser.add_argument("--judge", help="model that judges; without it, Toyland's exact judge")
    parser.add_argument(
        "--count", type=int, default=30, help="Toyland's test images, three questions each"
    )
    parser.add_argument(
        "--plain", action="store_true", help="Toyland's questions in plain language only"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of Toyland's questions")
    ask.add_arguments(parser)
    endpoint.add_arguments(parser)
    args = parser.parse_args()
    check_texts(args, "out", "questions", "references", "context", "images", "judge")
    check_number(args, "count", 1, MAX_IMAGES, "images")
    check_number(args, "seed", 0, MAX_SEED)
    ask.check_arguments(args)
    endpoint.check_arguments(args)
    return args


def load_questions(args: argparse.Namespace) -> tuple[dict[str, dict], OpenImage]:
    """The questions by name, and a function that opens what a question calls "image"."""
    files = [args.questions, args.references, args.context, args.images]
    if not any(files):
        questions, pool = toyland_questions(args.count, args.seed, args.plain)
        return questions, lambda image: draw(pool[int(image)], IMAGE_SIZE)
    if not all(files) or not args.judge:
        needed = "--questions, --references, --context, --images and --judge"
        raise UserError(f"real questions need {needed}")
    questions = read_questions(args.questions, args.references, args.context)
    return questions, lambda image: open_image(Path(args.images) / image)


def collect_answers(
    args: argparse.Namespace, questions: dict[str, dict], open_question_image: OpenImage
) -> dict[str, dict]:
    """Ask the model what OUT/answers.jsonl lacks; return all answers."""
    jobs = {}
    for name, question in questions.items():
        jobs[name] = ask.make_job(args, question["text"], question["image"])
    ask_model = partial(ask.ask_model, args, open_question_image)
    return collect(Path(args.out) / "answers.jsonl", "question_id", jobs, ask_model)


def collect_reviews(
    args: argparse.Namespace, judge: Ask, questions: dict[str, dict], answers: dict[str, dict]
) -> dict[str, dict]:
    """Ask the judge what OUT/reviews.jsonl lacks; return the reviews that can be read."""
    jobs = {}
    for name, question in questions.items():
        if name not in answers:  # `collect` has said why
            continue
        job = {**question, "answer": answers[name]["text"]}
        if args.judge:
            messages = judge_messages(job["context"], job["text"], job["reference"], job["answer"])
            job["request"] = make_request(args.judge, messages, args.temperature)
        jobs[name] = job
    return collect(
        Path(args.out) / "reviews.jsonl",
        "question_id",
        jobs,
        judge,
        parse_review,
        check_review,
        tries=args.tries,
        wait=args.wait,
        price=args.price,
    )


def parse_review(job: dict, text: str) -> dict:
    """The row of a review, or Rejected."""
    scores = parse_scores(text)
    if scores is None:
        raise Rejected("no two scores from 1 to 10 in the first line")
    return {"category": job["category"], "score": scores, "text": text}


def check_review(job: dict, row: dict, where: str) -> None:
    """Check the row of a review that was read from the answers file."""
    require(row, "category", str, where, choices=(job["category"],))
    scores = require(row, "score", list[float], where, minimum=1, maximum=10)
    if len(scores) != 2:
        raise UserError(f"{where}: score = {short(scores)}; expected two scores")


def main() -> None:
    args = parse_arguments()
    questions, open_question_image = load_questions(args)
    judge = exact_judge
    if args.judge:
        judge = Endpoint.from_arguments(args).ask  # before the model runs: is there a key?
    answers = collect_answers(args, questions, open_question_image)
    reviews = collect_reviews(args, judge, questions, answers)
    scores = relative_scores(list(reviews.values()))
    missing = len(questions) - len(reviews)
    content = dict(scores)
    if missing:
        content["missing"] = missing
    write_json(Path(args.out) / "score.json", content)
    for category, (score, low, high) in scores.items():
        print(f"{category:8} {score:6.1f}  95% interval {low:.1f} to {high:.1f}")
    if missing:
        raise UserError(
            f"{missing} questions have no usable review and are not in the scores above"
        )


if __name__ == "__main__":
    run(main)
