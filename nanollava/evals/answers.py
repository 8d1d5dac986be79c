"""The answers file: one JSON line per answer, so that a rerun asks only for what is missing."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from ..errors import ConfigError, UserError
from ..files import naming, parse_object, read_json_lines
from ..schema import check_value, has_type, optional, require, short


class Rejected(Exception):
    """No usable answer; the message says why. The job is asked again."""


class Refused(Rejected):
    """No usable answer, and asking again in this run would not help."""


@dataclass(frozen=True)
class Reply:
    """What came back for one job. The token counts are zero where they cost nothing."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


Ask = Callable[[dict[str, dict]], Iterable[tuple[str, Reply | Rejected]]]

# The text of an answer that was made elsewhere: in answers, and in the original LLaVA's reviews.
TEXT_KEYS = ("text", "content")
SHOWN_NAMES = 20  # of the missing answers, for each reason


def keep_text(job: dict, text: str) -> dict:
    """Accept every answer as it is."""
    return {"text": text}


def check_text(job: dict, row: dict, where: str) -> None:
    """Check the row of an answer that `keep_text` accepted."""
    require(row, "text", str, where)


def collect(
    path: Path,
    key: str,
    jobs: dict[str, dict],
    ask: Ask,
    parse: Callable[[dict, str], dict] = keep_text,
    check_row: Callable[[dict, dict, str], None] = check_text,
    tries: int = 1,
    wait: float = 0.0,
    price: tuple[float, float] = (0.0, 0.0),
) -> dict[str, dict]:
    """Return one row per job, by name; ask for those that the JSONL file `path` does not hold yet.

    `jobs` are JSON objects by name; a row stores its job's name under `key`. `ask(jobs)` yields
    (name, Reply or Rejected) in any order. `parse(job, text)` returns the row's content, or raises
    Rejected: then the text goes to *.rejects.jsonl and the job is asked again after `wait` seconds,
    `tries` times in all. `check_row(job, row, where)` raises a UserError if a row of the file lacks
    the content that `parse` returns. Jobs without a usable answer are listed on stderr and have
    no row. `price` is in dollars per million prompt and completion tokens.
    """
    rejects_path = path.with_suffix(".rejects.jsonl")
    with open_to_append(path) as answers_file, open_to_append(rejects_path) as rejects_file:
        rows, reasons = read_answers(path, key, jobs, parse, check_row)
        rejects = read_rejects(rejects_path)
        # The names that are not asked again. Rows made elsewhere are not ours to replace.
        final = set(reasons)
        for attempt in range(max(1, tries)):
            missing = {n: job for n, job in jobs.items() if n not in rows and n not in final}
            if not missing:
                break
            if attempt > 0:
                time.sleep(wait)
            for name, reply in tqdm(ask(missing), path.stem, len(missing)):
                if isinstance(reply, Rejected):
                    reasons[name] = str(reply)
                    if isinstance(reply, Refused):
                        final.add(name)
                    continue
                row = {key: name, "tokens": [reply.prompt_tokens, reply.completion_tokens]}
                try:
                    content = parse(jobs[name], reply.text)
                except Rejected as error:
                    reasons[name] = str(error)
                    rejects.append({**row, "why": str(error), "text": reply.text})
                    append(rejects_file, rejects[-1])
                    continue
                rows[name] = {**row, **content, "of": fingerprint(jobs[name])}
                append(answers_file, rows[name])
    print_summary(path, jobs, rows, rejects, reasons, price)
    return {name: rows[name] for name in jobs if name in rows}


def fingerprint(job: dict) -> str:
    """Identify what was asked, so that an answer to another prompt is never taken for this one."""
    return hashlib.sha256(json.dumps(job).encode()).hexdigest()[:16]


def read_answers(
    path: Path,
    key: str,
    jobs: dict[str, dict],
    parse: Callable[[dict, str], dict],
    check_row: Callable[[dict, dict, str], None],
) -> tuple[dict[str, dict], dict[str, str]]:
    """Read the rows of an answers file by name, and the reasons why some are unusable.

    Rows without a fingerprint were made elsewhere: their text is parsed like a new answer. A file
    with answers to other questions is a UserError.
    """
    rows = {}
    reasons = {}
    for name, row in read_rows(path, key).items():
        where = f"{path}: {key} {name}"
        advice = "remove the file or choose another --out"
        if name not in jobs:
            raise UserError(f"{where} is not asked for here; {advice}")
        read_tokens(row, where)
        if "of" not in row:
            try:
                rows[name] = {**row, **parse(jobs[name], foreign_text(row, where))}
            except Rejected as error:
                reasons[name] = str(error)
        elif row["of"] != fingerprint(jobs[name]):
            problem = "was asked in another way (other prompt, model or settings)"
            raise UserError(f"{where} {problem}; {advice}")
        else:
            check_row(jobs[name], row, where)
            rows[name] = row
    return rows, reasons


def read_rejects(path: Path) -> list[dict]:
    """Read the rows of unusable answers; only what they cost counts."""
    rows = []
    for where, row in read_json_lines(path):
        read_tokens(row, where)
        rows.append(row)
    return rows


def foreign_text(row: dict, where: str) -> str:
    """The text of a row that was made elsewhere."""
    for key in TEXT_KEYS:
        if has_type(row.get(key), str):
            return row[key]
    raise UserError(f"{where} has no 'text'; remove the file or choose another --out")


def read_tokens(row: dict, where: str) -> tuple[int, int]:
    """The numbers of prompt and completion tokens of a row; 0 where they are not known."""
    tokens = optional(row, "tokens", list, where, default=[0, 0])
    if len(tokens) != 2:
        raise UserError(f"{where}: tokens = {short(tokens)}; expected two counts")
    counts = []
    for i, count in enumerate(tokens):
        if count is None:
            count = 0
        counts.append(check_value(count, int, f"{where}: tokens[{i}]", minimum=0))
    return counts[0], counts[1]


def read_rows(path: str | Path, key: str) -> dict[str, dict]:
    """Read a JSONL file as rows by the text of their `key`, which must be unique."""
    rows: dict[str, dict] = {}
    for where, row in read_json_lines(path):
        name = row.get(key)
        if has_type(name, int):
            name = str(name)
        if not has_type(name, str) or not name.isprintable():  # it is part of text lines
            problem = f"expected a JSON object with {key!r}, a printable text or a whole number"
            raise UserError(f"{where}: {problem}; {key} = {short(name)}")
        if name in rows:
            raise UserError(f"{where}: a second row with {key} {name}")
        rows[name] = row
    return rows


@contextmanager
def open_to_append(path: Path) -> Iterator[BinaryIO]:
    """Open a JSONL file for appending; drop the half-written last line of a killed run."""
    file = open_locked(path)
    try:
        drop_unfinished_line(file)
        yield file
    finally:
        with naming(path):  # closing writes what did not fit on a full disk before
            file.close()


def open_locked(path: Path) -> BinaryIO:
    """Open a file for reading and appending. A UserError if another run has it open."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise OSError("not a regular file")
        file = path.open("a+b")
        lock(file)
    except OSError as error:
        problem = f"cannot be written, or another run is writing it ({error})"
        raise UserError(f"{path}: {problem}") from None
    return file


def drop_unfinished_line(file: BinaryIO) -> None:
    """Cut off an incomplete last line, which a killed run has left.

    Anything else at the end stays: somebody wrote it, and reading it gives an error that names it.
    """
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    last_line = content[start:]
    if is_object(last_line):
        file.write(b"\n")  # a whole line; some programs write the last one without its end
        file.flush()
    elif is_unfinished_object(last_line):
        file.truncate(start)


def is_object(line: bytes) -> bool:
    """Whether a line is a whole JSON object. The beginning of an object never is one."""
    try:
        parse_object(line, "")
    except ConfigError:
        return False
    return True


def is_unfinished_object(line: bytes) -> bool:
    """Whether a line is the beginning of a JSON object, without its end."""
    text = line.decode(errors="ignore")
    if not text.startswith("{"):
        return False
    try:
        json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:  # at its end, or in a text that has no end
        return error.pos >= len(text) or error.msg.startswith("Unterminated string")
    except RecursionError:
        return False
    return False


def lock(file: BinaryIO) -> None:
    """Raise OSError if another process has the file open here. Windows has no flock.

    Not lockf, which training/output.py takes: that lock ends as soon as this process closes the
    file once, and `read_answers` does."""
    with suppress(ImportError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def append(file: BinaryIO, row: dict) -> None:
    """Write one line at once: a killed run loses at most the line it is writing."""
    with naming(Path(file.name)):
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
        prompt_count, completion_count = read_tokens(row, str(path))
        prompt_tokens += prompt_count
        completion_tokens += completion_count
    summary = f"{path}: {len(rows)} of {len(jobs)} answers, {len(rejects)} unusable"
    if prompt_tokens + completion_tokens > 0:
        dollars = (prompt_tokens * price[0] + completion_tokens * price[1]) / 1e6
        tokens = f"{prompt_tokens} prompt + {completion_tokens} completion tokens"
        summary += f"; {tokens}, ${dollars:.2f}"
    print(summary, file=sys.stderr)
    print_missing({name: reason for name, reason in reasons.items() if name not in rows})


def print_missing(reasons: dict[str, str]) -> None:
    """Print the names without an answer and why; of names with one reason, the first ones."""
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names_by_reason.setdefault(reason, []).append(name)
    for reason, names in names_by_reason.items():
        for name in names[:SHOWN_NAMES]:
            print(f"missing: {name} ({reason})", file=sys.stderr)
        if len(names) > SHOWN_NAMES:
            print(f"missing: {len(names) - SHOWN_NAMES} more ({reason})", file=sys.stderr)
