"""ScienceQA: training file, accuracy by group, and GPT-4 as complement and judge (section 5.2).

python -m nanollava.evals.scienceqa --split train --make sqa_train.json
python -m nanollava.evals.scienceqa --model M --out out/sqa
"""

import argparse
import json
import re
import shlex
from functools import partial
from pathlib import Path
from string import ascii_uppercase as LETTERS

from ..conversation import IMAGE
from ..errors import UserError, run
from ..files import check_not_input, read_json, write_json
from ..flags import HelpFormatter, check_texts
from ..image import open_image
from ..schema import has_type, optional, require, short
from . import ask, endpoint
from .answers import Ask, collect
from .endpoint import Endpoint, make_request
from .prompts import scienceqa_judge_messages, scienceqa_messages

SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
SOURCE = "https://github.com/lupantech/ScienceQA"
# Rows of score.json. GPT-4 alone is a further one, under the name given to --judge.
LLAVA = "LLaVA"
JUDGE = "judge"
COMPLEMENT = "complement"
Options = dict[str, int | None]  # by problem: the option that an answer names, None if unreadable
# The columns of the paper's table 7: subject, kind of context, grade.
COLUMNS = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", "Average")


# ---------------------------------------------------------------------------------------------
# Problems, answers, accuracy


def parse_answer(text: str, n_options: int) -> int | None:
    """The index of the option that an answer names, or None.

    It names one by a bare letter ("B" or "B."), by "B. text", or by "The answer is B.", once.
    """
    letters = re.findall(r"The answer is ([A-Z])\.", text)
    match = re.match(r"([A-Z])(?:\. |\.?$)", text.strip())
    if match is not None:
        letters = [match[1]]
    if len(letters) != 1:
        return None
    index = LETTERS.index(letters[0])
    if index >= n_options:
        return None
    return index


def read_problems(data: Path, split: str) -> dict[str, dict]:
    """Read the problems of a split from problems.json and pid_splits.json, by id.

    Each has `question`, `hint` ("" if there is none), `choices`, the right one's index `answer` and
    `letter`, `lecture`, `solution`, `prompt`, the `columns` it counts in, and `image`, a path below
    the image directory or None.
    """
    problems_path = data / "problems.json"
    splits_path = data / "pid_splits.json"
    for path in (problems_path, splits_path):
        if not path.exists():
            advice = f"--data is the directory with this file, from {SOURCE}"
            raise UserError(f"{path}: no such file; {advice}")
    problems = read_json(problems_path)
    splits = read_json(splits_path)
    if split not in splits:
        available = ", ".join(splits)
        raise UserError(f"--split {split}: {splits_path} has {available}")
    result = {}
    for i, pid in enumerate(require(splits, split, list, str(splits_path))):
        if not has_type(pid, str) and not has_type(pid, int):
            raise UserError(
                f"{splits_path}: {split}[{i}] = {short(pid)}; expected the id of a problem"
            )
        problem = require(problems, str(pid), dict, str(problems_path))
        result[str(pid)] = describe_problem(str(pid), problem, f"{problems_path}, problem {pid}")
    if not result:
        raise UserError(f"{splits_path}: {split} is empty")
    return result


def describe_problem(pid: str, problem: dict, where: str) -> dict:
    """Check a problem of problems.json, and return what the evaluation needs of it."""
    question = require(problem, "question", str, where)
    choices = require(problem, "choices", list[str], where)
    if not 1 <= len(choices) <= len(LETTERS):
        raise UserError(f"{where}: {len(choices)} choices; expected 1 to {len(LETTERS)}")
    check_problem_text(question, f"{where}: question")
    for i, choice in enumerate(choices):
        check_problem_text(choice, f"{where}: choices[{i}]")
    answer = require(problem, "answer", int, where, minimum=0, maximum=len(choices) - 1)
    hint = optional(problem, "hint", str, where, default="").strip()
    if hint:
        check_problem_text(hint, f"{where}: hint")
    image = optional(problem, "image", str, where, default="")
    subject = require(problem, "subject", str, where, choices=SUBJECTS)
    grade = read_grade(require(problem, "grade", str, where), where)

    letters = LETTERS[: len(choices)]
    options = [f"({letter}) {choice}" for letter, choice in zip(letters, choices, strict=True)]
    context = hint or "N/A"
    prompt = f"Context: {context}\nQuestion: {question}\nOptions: {' '.join(options)}"

    image_path = None
    if image:
        image_path = f"{require(problem, 'split', str, where)}/{pid}/{image}"
    return {
        "question": question,
        "hint": hint,
        "choices": choices,
        "answer": answer,
        "letter": letters[answer],
        "lecture": optional(problem, "lecture", str, where, default=""),
        "solution": optional(problem, "solution", str, where, default=""),
        "prompt": prompt,
        "columns": table_columns(subject, hint, image, grade),
        "image": image_path,
    }


def table_columns(subject: str, hint: str, image: str, grade: int) -> list[str]:
    """The COLUMNS that a problem counts in."""
    columns = [SUBJECTS[subject]]
    if hint:
        columns.append("TXT")
    if image:
        columns.append("IMG")
    if not hint and not image:
        columns.append("NO")
    columns.append("G1-6" if grade <= 6 else "G7-12")
    columns.append("Average")
    return columns


def check_problem_text(text: str, where: str) -> None:
    """Raise a UserError for a text that is empty, or that would stand for an image."""
    if not text.strip():
        raise UserError(f"{where} is empty")
    if IMAGE in text:
        raise UserError(f"{where} contains {IMAGE}, which stands for the image of a prompt")


def read_grade(text: str, where: str) -> int:
    """The school grade of "grade7"."""
    match = re.fullmatch(r"grade ?(\d{1,2})", text)
    if match is None or not 1 <= int(match[1]) <= 12:
        raise UserError(f"{where}: grade = {short(text)}; expected 'grade1' to 'grade12'")
    return int(match[1])


def accuracy(problems: dict[str, dict], answers: dict[str, int | None]) -> dict[str, float]:
    """Correct answers in percent, by column. An answer without an option (None) is wrong; problems
    without an answer do not count."""
    result = {}
    for column in COLUMNS:
        names = [name for name in answers if column in problems[name]["columns"]]
        if names:
            correct = [name for name in names if answers[name] == problems[name]["answer"]]
            result[column] = 100 * len(correct) / len(names)
    return result


# ---------------------------------------------------------------------------------------------
# The program


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m nanollava.evals.scienceqa",
        description=__doc__.split("\n")[0],
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data",
        default="ScienceQA/data/scienceqa",
        help="directory of problems.json and pid_splits.json",
    )
    parser.add_argument(
        "--images",
        default="ScienceQA/data/scienceqa/images",
        help="directory of SPLIT/NUMBER/image.png",
    )
    parser.add_argument("--split", default="test", help="split of pid_splits.json")
    parser.add_argument(
        "--out", default="out/scienceqa", help="directory for answers and score.json"
    )
    parser.add_argument(
        "--make", help="write the split as a training file to this path, and do nothing else"
    )
    parser.add_argument(
        "--no-lecture", action="store_true", help="leave the lecture out of the training file"
    )
    parser.add_argument(
        "--answer-first",
        action="store_true",
        help="put the answer before lecture and solution in the training file",
    )
    parser.add_argument(
        "--judge", help="model that answers alone, as complement and as judge, such as GPT-4"
    )
    ask.add_arguments(parser)
    endpoint.add_arguments(parser)
    args = parser.parse_args()
    check_texts(args, "data", "images", "split", "out", "make", "judge")
    if args.judge in (LLAVA, JUDGE, COMPLEMENT):
        raise UserError(
            f"--judge {args.judge}: score.json has another row of this name; choose another"
        )
    ask.check_arguments(args)
    endpoint.check_arguments(args)
    return args


def make_training_file(args: argparse.Namespace) -> None:
    """Write the split as LLaVA's JSON: the prompt, then lecture, solution and answer."""
    inputs = [Path(args.data) / "problems.json", Path(args.data) / "pid_splits.json"]
    check_not_input("--make", args.make, inputs)
    records = []
    for pid, problem in read_problems(Path(args.data), args.split).items():
        question = problem["prompt"]
        if problem["image"]:
            question = f"{IMAGE}\n{question}"
        reasons = []
        if problem["lecture"] and not args.no_lecture:
            reasons.append(f"LECTURE: {problem['lecture']}")
        if problem["solution"]:
            reasons.append(f"SOLUTION: {problem['solution']}")
        verdict = f"The answer is {problem['letter']}."
        if args.answer_first:
            answer = "\n".join([verdict, *reasons])
        else:
            answer = "\n".join([*reasons, verdict])
        record = {"id": pid}
        if problem["image"]:
            record["image"] = problem["image"]
        record["conversations"] = [
            {"from": "human", "value": question},
            {"from": "gpt", "value": answer},
        ]
        records.append(record)
    write_json(args.make, records)
    next_command = ["python", "train_instruct.py", "--data", args.make, "--images", args.images]
    print(f"{len(records)} records; next: {shlex.join(map(str, next_command))}")


def collect_texts(
    args: argparse.Namespace, name: str, jobs: dict[str, dict], ask_jobs: Ask
) -> dict[str, str]:
    """Ask for what OUT/name.jsonl lacks; return all answers there are, by question."""
    rows = collect(
        Path(args.out) / f"{name}.jsonl",
        "question_id",
        jobs,
        ask_jobs,
        tries=args.tries,
        wait=args.wait,
        price=args.price,
    )
    return {question: row["text"] for question, row in rows.items()}


def parse_answers(problems: dict[str, dict], texts: dict[str, str]) -> Options:
    """The option that each answer names, or None."""
    options = {}
    for name, text in texts.items():
        options[name] = parse_answer(text, len(problems[name]["choices"]))
    return options


def ask_llava(args: argparse.Namespace, problems: dict[str, dict]) -> dict[str, str]:
    """The answers of the model under evaluation."""
    jobs = {}
    for name, problem in problems.items():
        jobs[name] = ask.make_job(args, problem["prompt"], problem["image"])

    def open_problem_image(image: str):
        return open_image(Path(args.images) / image)

    ask_model = partial(ask.ask_model, args, open_problem_image)
    return collect_texts(args, "answers", jobs, ask_model)


def ask_gpt4(
    args: argparse.Namespace, client: Endpoint, problems: dict[str, dict]
) -> dict[str, str]:
    """The answers of GPT-4, which reads the text alone."""
    jobs = {}
    for name, problem in problems.items():
        messages = scienceqa_messages(problem["prompt"])
        jobs[name] = {"request": make_request(args.judge, messages, args.temperature)}
    return collect_texts(args, "gpt4", jobs, client.ask)


def judge_options(
    args: argparse.Namespace,
    client: Endpoint,
    problems: dict[str, dict],
    llava_texts: dict[str, str],
    gpt4_texts: dict[str, str],
) -> Options:
    """The option on which both agree; where they differ, the one that GPT-4 names as judge."""
    llava = parse_answers(problems, llava_texts)
    gpt4 = parse_answers(problems, gpt4_texts)
    jobs = {}
    options = {}
    for name, option in gpt4.items():
        if name not in llava:
            continue
        if llava[name] == option:
            options[name] = option
            continue
        messages = scienceqa_judge_messages(
            problems[name]["prompt"], llava_texts[name], gpt4_texts[name]
        )
        jobs[name] = {"request": make_request(args.judge, messages, args.temperature)}
    judge_texts = collect_texts(args, "judge", jobs, client.ask)
    return options | parse_answers(problems, judge_texts)


def complement(llava: Options, gpt4: Options) -> Options:
    """GPT-4's option; LLaVA's where GPT-4 names none."""
    options = {}
    for name, option in gpt4.items():
        if option is not None:
            options[name] = option
        elif name in llava:
            options[name] = llava[name]
    return options


def score(args: argparse.Namespace) -> None:
    """Ask the model, and the judge if there is one; write and print the accuracies."""
    problems = read_problems(Path(args.data), args.split)
    client = None
    if args.judge:
        client = Endpoint.from_arguments(args)  # before the model runs: is there a key?
    llava_texts = ask_llava(args, problems)
    llava = parse_answers(problems, llava_texts)
    table = {LLAVA: llava}
    if client is not None:
        gpt4_texts = ask_gpt4(args, client, problems)
        gpt4 = parse_answers(problems, gpt4_texts)
        table[args.judge] = gpt4
        table[JUDGE] = judge_options(args, client, problems, llava_texts, gpt4_texts)
        table[COMPLEMENT] = complement(llava, gpt4)
    result = {}
    missing = 0
    for name, options in table.items():
        result[name] = accuracy(problems, options)
        result[name]["unreadable"] = list(options.values()).count(None)
        if len(options) < len(problems):
            result[name]["missing"] = len(problems) - len(options)
            missing = max(missing, result[name]["missing"])
    write_json(Path(args.out) / "score.json", result)
    print(json.dumps(result, indent=2))
    if missing:
        raise UserError(
            f"up to {missing} answers of a row are missing and not in its accuracy, so the rows "
            "differ in their questions; the same command asks for the missing ones again, except "
            "for those that are always refused"
        )


def main() -> None:
    args = parse_arguments()
    if args.make:
        make_training_file(args)
    else:
        score(args)


if __name__ == "__main__":
    run(main)
