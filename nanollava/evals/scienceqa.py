"""ScienceQA: prompts and options of the data set's own files, the option an answer names, accuracy by group (section 5.2)."""

import re
from pathlib import Path
from string import ascii_uppercase as LETTERS

from ..device import beside
from ..errors import UserError, run
from ..files import read_json

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
            p, hint = problems[pid], (problems[pid]["hint"] or "").strip()
            letters = LETTERS[: len(p["choices"])]
            options = [
                f"({letter}) {text}" for letter, text in zip(letters, p["choices"], strict=True)
            ]
            seen = [name for name, there in (("TXT", hint), ("IMG", p["image"])) if there] or ["NO"]
            grade = "G1-6" if int(p["grade"][5:]) <= 6 else "G7-12"
            found[pid] = p | {
                "prompt": f"Context: {hint or 'N/A'}\nQuestion: {p['question']}\nOptions: {' '.join(options)}",
                "letter": letters[p["answer"]],
                "columns": [SUBJECTS[p["subject"]], *seen, grade, "Average"],
                "image": p["image"] and f"{p['split']}/{pid}/{p['image']}",
            }
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            told = f"problem {pid}: {type(error).__name__} {error}"
            raise UserError(f"{data / 'problems.json'}, {told}") from None
    return found


def accuracy(problems: dict[str, dict], answers: dict[str, int | None]) -> dict[str, float]:
    """Right answers in percent by group; an answer that cannot be read (None) is wrong."""
    right = {name: answers[name] == p["answer"] for name, p in problems.items()}
    groups = {
        c: [right[name] for name, p in problems.items() if c in p["columns"]] for c in COLUMNS
    }
    return {column: 100 * sum(group) / len(group) for column, group in groups.items() if group}


if __name__ == "__main__":
    run(lambda: beside("benchmarks.scienceqa").main())
