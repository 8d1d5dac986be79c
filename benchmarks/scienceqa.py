"""ScienceQA, from its own files: training file, prompts, accuracy by group, and GPT-4 as complement and judge (section 5.2).

python -m nanollava.evals.scienceqa --data ScienceQA/data --images ScienceQA/images --split train --make sqa_train.json
python -m nanollava.evals.scienceqa --data ScienceQA/data --images ScienceQA/images --model M --out out/sqa
"""

import json
from pathlib import Path

from benchmarks.ask_llava import ask_llava, llava_job
from benchmarks.endpoint import Endpoint, arguments, request, run_jobs
from nanollava.conversation import IMAGE
from nanollava.errors import UserError, run
from nanollava.evals.scienceqa import accuracy, parse_answer, read_problems
from nanollava.files import write_json
from nanollava.image import open_image


def make(args) -> None:
    """Writes the split as LLaVA's JSON: prompt, then lecture, solution and answer."""
    records = []
    for pid, p in read_problems(Path(args.data), args.split).items():
        told = [f"LECTURE: {p.get('lecture')}"] * bool(p.get("lecture") and not args.no_lecture)
        told += [f"SOLUTION: {p.get('solution')}"] * bool(p.get("solution"))
        told.insert(0 if args.answer_first else len(told), f"The answer is {p['letter']}.")
        turns = [("human", f"{IMAGE}\n" * bool(p["image"]) + p["prompt"]), ("gpt", "\n".join(told))]
        turns = [{"from": role, "value": text} for role, text in turns]
        records.append(
            {"id": pid, **({"image": p["image"]} if p["image"] else {}), "conversations": turns}
        )
    Path(args.make).parent.mkdir(parents=True, exist_ok=True)
    write_json(args.make, records)
    print(
        f"{len(records)} records; next: train_instruct.py --data {args.make} --images {args.images}"
    )


def score(args) -> None:
    """Asks the model, and GPT-4 if there is one, for what OUT lacks; writes and prints the accuracies."""
    problems = read_problems(Path(args.data), args.split)

    def run(name: str, jobs: dict[str, dict], ask) -> tuple[dict[str, str], dict[str, int | None]]:
        path = Path(args.out) / f"{name}.jsonl"
        rows = run_jobs(path, "question_id", jobs, ask, tries=args.tries, price=args.price)
        if len(rows) < len(jobs):
            raise UserError(
                f"{path}: {len(jobs) - len(rows)} questions have no answer; run it again"
            )
        texts = {n: row["text"] for n, row in rows.items()}
        return texts, {
            n: parse_answer(text, len(problems[n]["choices"])) for n, text in texts.items()
        }

    jobs = {n: llava_job(args, p["prompt"], p["image"]) for n, p in problems.items()}
    ours, mine = run(
        "answers", jobs, ask_llava(args, lambda image: open_image(Path(args.images) / image))
    )
    table = {"LLaVA": mine}
    if args.judge:
        ask = Endpoint(args)
        jobs = {
            n: request(args, args.judge, "scienceqa", question=p["prompt"])
            for n, p in problems.items()
        }
        theirs, other = run("gpt4", jobs, ask)
        jobs = {}
        for n in (n for n in problems if mine[n] != other[n]):
            texts = dict(question=problems[n]["prompt"], ours=ours[n], theirs=theirs[n])
            jobs[n] = request(args, args.judge, "scienceqa_judge", **texts)
        final = other | run("judge", jobs, ask)[1]
        table |= {args.judge: other, "judge": final}
        table["complement"] = {
            n: mine[n] if option is None else option for n, option in other.items()
        }
    result = {name: accuracy(problems, answers) for name, answers in table.items()}
    for name, answers in table.items():
        result[name]["unreadable"] = sum(option is None for option in answers.values())
    write_json(Path(args.out) / "score.json", result)
    print(json.dumps(result, indent=2))


def main() -> None:
    args = arguments(__doc__, "scienceqa", "model", "endpoint")
    make(args) if args.make else score(args)


if __name__ == "__main__":
    run(main)
