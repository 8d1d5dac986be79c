"""ScienceQA, from its own files: training file, prompts, accuracy by group, and GPT-4 as complement and judge (section 5.2).

python -m nanollava.evals.scienceqa --data ScienceQA/data --images ScienceQA/images --split train --make sqa_train.json
python -m nanollava.evals.scienceqa --data ScienceQA/data --images ScienceQA/images --model M --out out/sqa
"""

import re
from pathlib import Path
from string import ascii_uppercase as LETTERS

from .. import cli
from ..config import UserError, read_json, write_json
from ..conversation import IMAGE
from ..endpoint import Endpoint, Rejected, arguments, read_rows, request, run_jobs
from ..image import open_image
from . import ask_llava, llava_job

SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}


def parse_answer(text: str, n_options: int) -> int | None:
    """The option that an answer names: a bare letter, "X. ...", or exactly one "The answer is X."; else None."""
    found = re.match(r"([A-Z])(?:\. |\.?$)", text.strip())
    letters = [found[1]] if found else re.findall(r"The answer is ([A-Z])\.", text)
    index = LETTERS.index(letters[0]) if len(letters) == 1 else n_options
    return index if index < n_options else None


def read_problems(data: Path, split: str) -> dict[str, dict]:
    """The problems of a split, each whole, with `image` as a path below the images' directory, or None."""
    problems, splits = read_json(data / "problems.json"), read_json(data / "pid_splits.json")
    if split not in splits:
        raise UserError(f"--split {split}: {data / 'pid_splits.json'} has {', '.join(splits)}")
    found = {}
    for pid in map(str, splits[split]):
        try:
            p = problems[pid]
            image = f"{p['split']}/{pid}/{p['image']}" if p["image"] else None
            found[pid] = {**p, "image": image, "hint": p["hint"] or "", "group": SUBJECTS[p["subject"]]}
            p["question"], LETTERS[p["answer"]], found[pid]["choices"][p["answer"]], int(p["grade"][5:])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"{data / 'problems.json'}, problem {pid}: {type(error).__name__} {error}"
            ) from None
    return found


def question(p: dict) -> str:
    """The prompt of a problem: context, question and lettered choices."""
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, p["choices"], strict=False))
    return f"Context: {p['hint'].strip() or 'N/A'}\nQuestion: {p['question']}\nOptions: {options}"


def target(p: dict, lecture: bool, answer_first: bool) -> str:
    parts = [f"LECTURE: {p.get('lecture')}"] * bool(lecture and p.get("lecture"))
    parts += [f"SOLUTION: {p.get('solution')}"] * bool(p.get("solution"))
    parts.insert(0 if answer_first else len(parts), f"The answer is {LETTERS[p['answer']]}.")
    return "\n".join(parts)


def groups(p: dict) -> list[str]:
    """The columns of the paper's table that a problem counts in."""
    context = ["TXT"] * bool(p["hint"]) + ["IMG"] * bool(p["image"])
    return [p["group"], *(context or ["NO"]), "G1-6" if int(p["grade"][5:]) <= 6 else "G7-12", "Average"]


def accuracy(problems: dict[str, dict], answers: dict[str, int | None]) -> dict[str, float]:
    """Right answers in percent by group; an answer that cannot be read (None) is wrong."""
    columns = [*SUBJECTS.values(), "TXT", "IMG", "NO", "G1-6", "G7-12", "Average"]
    right = {c: [answers[n] == p["answer"] for n, p in problems.items() if c in groups(p)] for c in columns}
    return {column: 100 * sum(r) / len(r) for column, r in right.items() if r}


def make(args) -> None:
    records = []
    for pid, p in read_problems(Path(args.data), args.split).items():
        value = f"{IMAGE}\n" * bool(p["image"]) + question(p)
        said = target(p, not args.no_lecture, args.answer_first)
        turns = [{"from": "human", "value": value}, {"from": "gpt", "value": said}]
        records.append({"id": pid} | ({"image": p["image"]} if p["image"] else {}) | {"conversations": turns})
    write_json(args.make, records)
    print(
        f"{len(records)} records in {args.make}; next: train_instruct.py --data {args.make} --images {args.images}"
    )


def score(args) -> None:
    problems, out, table = read_problems(Path(args.data), args.split), Path(args.out), {}

    def run(name: str, jobs: dict[str, dict], ask, whole: bool = True) -> dict[str, int | None]:
        """The options chosen, from the answers that OUT/NAME.jsonl holds or `ask` gives; not `whole`: one must be named."""

        def parse(job: dict, text: str) -> dict:
            if not whole and parse_answer(text, job["options"]) is None:
                raise Rejected("names no option")
            return {"text": text}

        jobs = {n: {**job, "options": len(problems[n]["choices"])} for n, job in jobs.items()}
        rows = run_jobs(out / f"{name}.jsonl", "question_id", jobs, ask, parse, args.tries, args.price)
        if whole and len(rows) < len(jobs):
            raise UserError(
                f"{out / name}.jsonl: {len(jobs) - len(rows)} questions have no answer; run it again"
            )
        return {n: parse_answer(row["text"], jobs[n]["options"]) for n, row in rows.items()}

    jobs = {n: llava_job(args, question(p), p["image"]) for n, p in problems.items()}
    ours = run("answers", jobs, ask_llava(args, lambda image: open_image(Path(args.images) / image)))
    table["LLaVA"] = ours
    if args.judge:
        ask = Endpoint(args)
        jobs = {n: request(args, args.judge, "scienceqa", question=question(p)) for n, p in problems.items()}
        theirs = run("gpt4", {n: {"request": job} for n, job in jobs.items()}, ask)
        texts = [read_rows(out / f"{name}.jsonl", "question_id") for name in ("answers", "gpt4")]
        table[args.judge] = theirs
        table["complement"] = {n: ours[n] if theirs[n] is None else theirs[n] for n in problems}
        jobs = {}
        for n in problems:
            if ours[n] != theirs[n]:
                told = dict(
                    ours=texts[0][n]["text"], theirs=texts[1][n]["text"], question=question(problems[n])
                )
                jobs[n] = {"request": request(args, args.judge, "scienceqa_judge", **told)}
        table["judge"] = ours | run("judge", jobs, ask, whole=False)
    result = {name: accuracy(problems, options) for name, options in table.items()}
    for name, options in table.items():
        result[name]["unreadable"] = sum(option is None for option in options.values())
    write_json(out / "score.json", result)
    print(" " * 16 + "".join(f"{column:>11}" for column in result["LLaVA"]))
    for name, row in result.items():
        print(f"{name:16}" + "".join(f"{value:11.2f}" for value in row.values()))


def main() -> None:
    args = arguments(__doc__, "scienceqa", "model", "endpoint")
    make(args) if args.make else score(args)


if __name__ == "__main__":
    cli.run(main)
