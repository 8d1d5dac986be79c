"""ScienceQA, from its own files: training file, prompts, accuracy by group, and GPT-4 as complement and judge (section 5.2).

python -m nanollava.evals.scienceqa --data ScienceQA/data --images ScienceQA/images --split train --make sqa_train.json
python -m nanollava.evals.scienceqa --data ScienceQA/data --images ScienceQA/images --model M --out out/sqa
"""

import json
import re
from pathlib import Path
from string import ascii_uppercase as LETTERS

from .. import cli
from ..config import UserError, read_json, write_json
from ..conversation import IMAGE
from ..endpoint import BROKEN, Endpoint, arguments, request, run_jobs
from ..image import open_image
from . import ask_llava, llava_job

SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
COLUMNS = (*SUBJECTS.values(), "TXT", "IMG", "NO", "G1-6", "G7-12", "Average")


def parse_answer(text: str, n_options: int) -> int | None:
    """The option that an answer names: a bare letter, "X. ...", or exactly one "The answer is X."; else None."""
    found = re.match(r"([A-Z])(?:\. |\.?$)", text.strip())
    letters = [found[1]] if found else re.findall(r"The answer is ([A-Z])\.", text)
    index = LETTERS.index(letters[0]) if len(letters) == 1 else n_options
    return index if index < n_options else None


def read_problems(data: Path, split: str) -> dict[str, dict]:
    """The problems of a split with their `prompt`, `letter`, `columns` they count in, and `image` as a path or None."""
    problems, splits = read_json(data / "problems.json"), read_json(data / "pid_splits.json")
    if split not in splits:
        raise UserError(f"--split {split}: {data / 'pid_splits.json'} has {', '.join(splits)}")
    found = {}
    for pid in map(str, splits[split]):
        try:
            p, context = problems[pid], (problems[pid]["hint"] or "").strip()
            letters = LETTERS[: len(p["choices"])]
            options = " ".join(
                f"({letter}) {choice}" for letter, choice in zip(letters, p["choices"], strict=True)
            )
            seen = [name for name, there in (("TXT", context), ("IMG", p["image"])) if there] or ["NO"]
            grade = "G1-6" if int(p["grade"][5:]) <= 6 else "G7-12"
            found[pid] = p | {
                "prompt": f"Context: {context or 'N/A'}\nQuestion: {p['question']}\nOptions: {options}",
                "letter": letters[p["answer"]],
                "columns": [SUBJECTS[p["subject"]], *seen, grade, "Average"],
                "image": p["image"] and f"{p['split']}/{pid}/{p['image']}",
            }
        except BROKEN as error:
            where = f"{data / 'problems.json'}, problem {pid}"
            raise UserError(f"{where}: {type(error).__name__} {error}") from None
    return found


def accuracy(problems: dict[str, dict], answers: dict[str, int | None]) -> dict[str, float]:
    """Right answers in percent by group; an answer that cannot be read (None) is wrong."""
    right = {
        c: [answers[n] == p["answer"] for n, p in problems.items() if c in p["columns"]] for c in COLUMNS
    }
    return {column: 100 * sum(r) / len(r) for column, r in right.items() if r}


def make(args) -> None:
    """Writes the split as LLaVA's JSON: prompt, then lecture, solution and answer."""
    records = []
    for pid, p in read_problems(Path(args.data), args.split).items():
        told = [f"LECTURE: {p.get('lecture')}"] * bool(p.get("lecture") and not args.no_lecture)
        told += [f"SOLUTION: {p.get('solution')}"] * bool(p.get("solution"))
        told.insert(0 if args.answer_first else len(told), f"The answer is {p['letter']}.")
        turns = [("human", f"{IMAGE}\n" * bool(p["image"]) + p["prompt"]), ("gpt", "\n".join(told))]
        turns = [{"from": role, "value": text} for role, text in turns]
        records.append({"id": pid, **({"image": p["image"]} if p["image"] else {}), "conversations": turns})
    Path(args.make).parent.mkdir(parents=True, exist_ok=True)
    write_json(args.make, records)
    print(f"{len(records)} records; next: train_instruct.py --data {args.make} --images {args.images}")


def score(args) -> None:
    """Asks the model, and GPT-4 if there is one, for what OUT lacks; writes and prints the accuracies."""
    problems = read_problems(Path(args.data), args.split)

    def run(name: str, jobs: dict[str, dict], ask) -> tuple[dict[str, str], dict[str, int | None]]:
        path = Path(args.out) / f"{name}.jsonl"
        rows = run_jobs(path, "question_id", jobs, ask, tries=args.tries, price=args.price)
        if len(rows) < len(jobs):
            raise UserError(f"{path}: {len(jobs) - len(rows)} questions have no answer; run it again")
        texts = {n: row["text"] for n, row in rows.items()}
        return texts, {n: parse_answer(text, len(problems[n]["choices"])) for n, text in texts.items()}

    jobs = {n: llava_job(args, p["prompt"], p["image"]) for n, p in problems.items()}
    ours, mine = run("answers", jobs, ask_llava(args, lambda image: open_image(Path(args.images) / image)))
    table = {"LLaVA": mine}
    if args.judge:
        ask = Endpoint(args)
        jobs = {n: request(args, args.judge, "scienceqa", question=p["prompt"]) for n, p in problems.items()}
        theirs, other = run("gpt4", jobs, ask)
        jobs = {}
        for n in (n for n in problems if mine[n] != other[n]):
            texts = dict(question=problems[n]["prompt"], ours=ours[n], theirs=theirs[n])
            jobs[n] = request(args, args.judge, "scienceqa_judge", **texts)
        final = other | run("judge", jobs, ask)[1]
        table |= {args.judge: other, "judge": final}
        table["complement"] = {n: mine[n] if option is None else option for n, option in other.items()}
    result = {name: accuracy(problems, answers) for name, answers in table.items()}
    for name, answers in table.items():
        result[name]["unreadable"] = sum(option is None for option in answers.values())
    write_json(Path(args.out) / "score.json", result)
    print(json.dumps(result, indent=2))


def main() -> None:
    args = arguments(__doc__, "scienceqa", "model", "endpoint")
    make(args) if args.make else score(args)


if __name__ == "__main__":
    cli.run(main)
