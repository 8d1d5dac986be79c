"""The answers file: one JSON line per answer, so that a rerun asks only for what is missing."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from ..errors import UserError


class Rejected(Exception):
    """No usable answer; the message says why. The job is asked again."""


@dataclass(frozen=True)
class Reply:
    """What came back for one job. The token counts are zero where they cost nothing."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


Ask = Callable[[dict[str, dict]], Iterable[tuple[str, Reply | Rejected]]]


def keep_text(job: dict, text: str) -> dict:
    """Accept every answer as it is."""
    return {"text": text}


def collect(
    path: Path,
    key: str,
    jobs: dict[str, dict],
    ask: Ask,
    parse: Callable[[dict, str], dict] = keep_text,
    tries: int = 1,
    wait: float = 0.0,
    price: tuple[float, float] = (0.0, 0.0),
) -> dict[str, dict]:
    """Return one row per job, by name; ask for those that the JSONL file `path` does not hold yet.

    `jobs` are JSON objects by name; a row stores its job's name under `key`. `ask(jobs)` yields
    (name, Reply or Rejected) in any order. `parse(job, text)` returns the row's content, or raises
    Rejected: then the text goes to *.rejects.jsonl and the job is asked again after `wait` seconds,
    `tries` times in all. Jobs without a usable answer are listed on stderr and have no row.
    `price` is in dollars per million prompt and completion tokens.
    """
    fingerprints = {name: fingerprint(job) for name, job in jobs.items()}
    rejects_path = path.with_suffix(".rejects.jsonl")
    with open_to_append(path) as answers_file, open_to_append(rejects_path) as rejects_file:
        rows = read_rows(path, key)
        check_rows(path, key, rows, fingerprints)
        reasons: dict[str, str] = {}
        for attempt in range(max(1, tries)):
            missing = {name: job for name, job in jobs.items() if name not in rows}
            if not missing:
                break
            if attempt > 0:
                time.sleep(wait)
            for name, reply in tqdm(ask(missing), path.stem, len(missing)):
                if isinstance(reply, Rejected):
                    reasons[name] = str(reply)
                    continue
                row = {key: name, "tokens": [reply.prompt_tokens, reply.completion_tokens]}
                try:
                    content = parse(jobs[name], reply.text)
                except Rejected as error:
                    reasons[name] = str(error)
                    append(rejects_file, {**row, "why": str(error), "text": reply.text})
                    continue
                rows[name] = {**row, **content, "of": fingerprints[name]}
                append(answers_file, rows[name])
        rejects_file.seek(0)
        rejects = [json.loads(line) for line in rejects_file]
    print_summary(path, jobs, rows, rejects, reasons, price)
    return {name: rows[name] for name in jobs if name in rows}


def fingerprint(job: dict) -> str:
    """Identify what was asked, so that an answer to another prompt is never taken for this one."""
    return hashlib.sha256(json.dumps(job).encode()).hexdigest()[:16]


def check_rows(path: Path, key: str, rows: dict[str, dict], fingerprints: dict[str, str]) -> None:
    """Refuse a file with answers to other questions. Rows made elsewhere have no fingerprint."""
    for name, row in rows.items():
        if name not in fingerprints:
            problem = "is not asked for here"
        elif row.get("of", fingerprints[name]) != fingerprints[name]:
            problem = "was asked in another way (other prompt, model or settings)"
        elif "of" not in row and not isinstance(row.get("text"), str):
            problem = "has no 'text'"
        else:
            continue
        raise UserError(f"{path}: {key} {name} {problem}; remove the file or choose another --out")


def read_rows(path: str | Path, key: str) -> dict[str, dict]:
    """Read a JSONL file as rows by the text of their `key`, which must be unique."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a UTF-8 text file ({error})") from None
    rows: dict[str, dict] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = str(row[key])
        except (ValueError, LookupError, TypeError) as error:
            problem = f"expected a JSON object with {key!r} ({type(error).__name__}: {error})"
            raise UserError(f"{path}, line {number}: {problem}") from None
        if name in rows:
            raise UserError(f"{path}, line {number}: a second row with {key} {name}")
        rows[name] = row
    return rows


def open_to_append(path: Path) -> BinaryIO:
    """Open a JSONL file for appending; drop the half-written last line of a killed run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
        lock(file)
    except OSError as error:
        problem = f"cannot be written, or another run is writing it ({error})"
        raise UserError(f"{path}: {problem}") from None
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    return file


def lock(file: BinaryIO) -> None:
    """Raise OSError if another process has the file open here. Windows has no such lock."""
    with suppress(ImportError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def append(file: BinaryIO, row: dict) -> None:
    """Write one line at once: a killed run loses at most the line it is writing."""
    file.write(json.dumps(row).encode() + b"\n")
    file.flush()


def print_summary(
    path: Path,
    jobs: dict[str, dict],
    rows: dict[str, dict],
    rejects: list[dict],
    reasons: dict[str, str],
    price: tuple[float, float],
) -> None:
    """Print how many answers there are, what they cost, and why the others are missing."""
    prompt_tokens = 0
    completion_tokens = 0
    for row in [*rows.values(), *rejects]:
        tokens = row.get("tokens", (0, 0))
        prompt_tokens += tokens[0]
        completion_tokens += tokens[1]
    summary = f"{path}: {len(rows)} of {len(jobs)} answers, {len(rejects)} unusable"
    if prompt_tokens + completion_tokens > 0:
        dollars = (prompt_tokens * price[0] + completion_tokens * price[1]) / 1e6
        tokens = f"{prompt_tokens} prompt + {completion_tokens} completion tokens"
        summary += f"; {tokens}, ${dollars:.2f}"
    print(summary, file=sys.stderr)
    for name, reason in reasons.items():
        if name not in rows:
            print(f"missing: {name} ({reason})", file=sys.stderr)
