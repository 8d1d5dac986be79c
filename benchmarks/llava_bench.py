"""LLaVA-Bench: a judge scores a model's answers beside reference answers, on COCO, In-the-Wild or Toyland (section 5.1).

python -m nanollava.evals.llava_bench --model checkpoints/toy-llava  # Toyland, and its exact judge
python -m nanollava.evals.llava_bench --model M --questions Q.jsonl --references R.jsonl --context C.jsonl --images DIR --judge gpt-4
"""

import random
from pathlib import Path

from benchmarks.ask_llava import ask_llava, llava_job
from benchmarks.endpoint import (
    Endpoint,
    Rejected,
    arguments,
    read_pictures,
    read_rows,
    request,
    run_jobs,
    told,
)
from nanollava.errors import UserError, run
from nanollava.evals.llava_bench import parse_scores, relative_scores
from nanollava.files import write_json
from nanollava.image import open_image
from nanollava.toyland.captions import boxes, captions
from nanollava.toyland.draw import draw
from nanollava.toyland.scenes import scenes
from nanollava.toyland.score import PICTURE, normal
from nanollava.toyland.teacher import instructions, read, stated

CATEGORIES = {"conv": "conversation", "detail": "detail", "complex": "complex"}


def claims(category: str, text: str) -> set:
    """What an answer in Toyland states: a description's facts, or a short answer and its reason in either order."""
    parts = (part.removeprefix("because ") for part in normal(text).split(", "))
    return stated(text) if category == "detail" else set(parts)


def exact(jobs: dict):
    """Toyland's judge: the F1 of an answer's claims against the reference's, from 1 to 10."""
    for name, job in jobs.items():
        true, said = (claims(job["category"], job[key]) for key in ("reference", "answer"))
        score = 1 + 18 * len(true & said) / (len(true) + len(said))
        yield (
            name,
            f"10 {score:.4g}\ntrue: {sorted(true & said)}, wrong: {sorted(said - true)}",
            [0, 0],
        )


def toyland(count: int, seed: int) -> tuple[dict[str, dict], dict]:
    """Three questions about each of `count` test scenes, with the teacher's answers; and the scenes."""
    questions, pool = {}, dict(enumerate(scenes("test", count, seed, unseen=False)))
    for i, scene in pool.items():
        rng = random.Random(f"bench/{seed}/{i}")
        texts, found = captions(scene, rng), boxes(scene)
        for category, kind in CATEGORIES.items():
            qa = rng.choice(instructions(read(texts, found), rng, kind))
            row = {
                "image": str(i),
                "text": qa.question,
                "category": category,
                "reference": qa.answer,
            }
            questions[f"{i}-{category}"] = row | {
                "context": told({"captions": texts, "boxes": found})
            }
    return questions, pool


def real(args) -> dict[str, dict]:
    """Questions from LLaVA's files, each with its reference answer and what is told of its picture."""
    questions, references = (
        read_rows(path, "question_id") for path in (args.questions, args.references)
    )
    if odd := questions.keys() ^ references.keys():
        where = f"{args.references}: question {min(odd)}"
        raise UserError(f"{where} has no answer, or is none of {args.questions}")
    pictures = read_pictures([args.context])
    for name, row in questions.items():
        try:
            kept = {"text": row["text"], "category": row["category"], "image": row["image"]}
            context = told(pictures[Path(row["image"]).stem])
            questions[name] = kept | {"context": context, "reference": references[name]["text"]}
        except KeyError as error:
            raise UserError(
                f"question {name}: no {error} in {args.questions} or {args.context}"
            ) from None
    return questions


def main() -> None:
    args = arguments(__doc__, "llava_bench", "model", "endpoint")
    given = [args.questions, args.references, args.context, args.images]
    if any(given) and not all([*given, args.judge]):
        raise UserError(
            "real questions need --questions, --references, --context, --images and --judge"
        )
    questions, pool = (real(args), {}) if any(given) else toyland(args.count, args.seed)

    def look(image: str):
        return draw(pool[int(image)], PICTURE) if pool else open_image(Path(args.images) / image)

    def review(job: dict, text: str) -> dict:
        if parse_scores(text) is None:
            raise Rejected("no two scores from 1 to 10 in the first line")
        return {"category": job["category"], "score": parse_scores(text), "text": text}

    out, ask = Path(args.out), Endpoint(args) if args.judge else exact
    jobs = {n: llava_job(args, q["text"], q["image"]) for n, q in questions.items()}
    answers = run_jobs(out / "answers.jsonl", "question_id", jobs, ask_llava(args, look))
    for name, q in questions.items():
        jobs[name] = q | {"answer": answers[name]["text"]}
        if args.judge:
            jobs[name] |= request(args, args.judge, "judge", **jobs[name])
    reviews = run_jobs(
        out / "reviews.jsonl", "question_id", jobs, ask, review, args.tries, args.price
    )
    result = relative_scores(list(reviews.values()))
    write_json(out / "score.json", result)
    for category, (score, low, high) in result.items():
        print(f"{category:8} {score:6.1f}  95% interval {low:.1f} to {high:.1f}")
    if len(reviews) < len(jobs):
        count = len(jobs) - len(reviews)
        raise UserError(f"{count} questions have no review that obeys, and do not count above")


if __name__ == "__main__":
    run(main)
