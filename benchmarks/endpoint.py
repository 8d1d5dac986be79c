"""A text-only language model behind an OpenAI-compatible endpoint, asked many things at once, and the JSONL file that
keeps every answer, so that a later run asks only for what is missing.

Over urllib: the `openai` package retries neither broken JSON nor empty answers, and would be one thing more to install.
"""

import argparse
import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from nanollava.errors import UserError
from nanollava.files import read_json

FLAGS = read_json(Path(__file__).parent / "flags.json")
BROKEN = (OSError, http.client.HTTPException, LookupError, TypeError, ValueError, AttributeError)


class Rejected(Exception):
    """An answer that did not come, or cannot be used; says why."""


def arguments(doc: str, *groups: str) -> argparse.Namespace:
    """The flags of some groups of flags.json, each [default, help, choices ...]: the default tells its type and, of a
    list of numbers, how many."""
    form = dict(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    spec = sys.modules["__main__"].__spec__  # None, if it was not started by `python -m`
    program = spec and f"python -m {spec.name}"  # as it was typed
    parser = argparse.ArgumentParser(program, description=doc.split("\n")[0], **form)
    for flag, (default, help, *choices) in (
        item for group in groups for item in FLAGS[group].items()
    ):
        several = isinstance(default, list)
        kind = str if default is None else type(default[0] if several else default)
        count = len(default) if several and kind is not str else "+" if several else None
        more = dict(type=kind, nargs=count, choices=choices or None)
        more = {"action": "store_true"} if kind is bool else more
        parser.add_argument(flag, default=default, help=help, **more)
    return parser.parse_args()


def request(args, model: str, name: str, **values: str) -> dict:
    """A job that sends prompts/NAME.md (its parts `# system`, `# user`, `# assistant`) with {places} filled by `values`."""
    text = (Path(__file__).parent / "prompts" / f"{name}.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^# (system|user|assistant)\n", text, flags=re.M)
    told = [part.strip().format(**values) for part in parts[1::2]]
    messages = [
        {"role": role, "content": text} for role, text in zip(parts[::2], told, strict=True)
    ]
    sampling = {} if args.temperature < 0 else {"temperature": args.temperature}
    return {"request": {"model": model, "messages": messages, **sampling}}


def in_threads(do, jobs: dict, threads: int):
    """Yields (name, *do(job)) as they come; when the reader stops, what has not begun is dropped."""
    with ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(do, job): name for name, job in jobs.items()}
        try:
            yield from ((futures[future], *future.result()) for future in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)


class Endpoint:
    """`POST BASE_URL/chat/completions` at a pace that all threads share: each failure holds them back."""

    def __init__(self, args):
        key = os.environ.get("OPENAI_API_KEY")
        if not key:
            raise UserError(
                "OPENAI_API_KEY is not set; for a server that needs no key set it to any word"
            )
        if not re.match(r"https?://[^/]", args.base_url):
            raise UserError(f"--base-url {args.base_url}: expected http://... or https://...")
        if min(args.threads, args.tries, args.per_minute, args.timeout, args.wait) <= 0:
            raise UserError(
                "--threads, --tries, --per-minute, --timeout, --wait: expected more than 0"
            )
        self.url, self.args = f"{args.base_url.rstrip('/')}/chat/completions", args
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.lock, self.free_at, self.failures = (
            threading.Lock(),
            0.0,
            0,
        )  # failures: since the last answer

    def __call__(self, jobs: dict):
        """Yields (name, text or Rejected, [tokens asked, answered]); a job's "request" is what to send."""
        return in_threads(self.chat, jobs, self.args.threads)

    def chat(self, job: dict) -> tuple[str | Rejected, list[int]]:
        """One try. A wrong key, model or request, and an endpoint that answers nothing any more, are UserErrors."""
        with self.lock:
            start = self.free_at = max(self.free_at, time.monotonic())
            self.free_at += 60 / self.args.per_minute
        time.sleep(max(0.0, start - time.monotonic()))
        post = urllib.request.Request(self.url, json.dumps(job["request"]).encode(), self.headers)
        status, after = 0, ""
        try:
            try:
                reply = urllib.request.urlopen(post, timeout=self.args.timeout)
            except urllib.error.HTTPError as error:  # a reply as well
                reply = error
            with reply:
                status, after, text = (
                    reply.status,
                    reply.headers.get("Retry-After") or "",
                    reply.read(),
                )
            problem = f"HTTP {status}: {' '.join(text.decode(errors='replace').split())[:300]}"
            if status == 200:
                answer = json.loads(text)
                choice, usage = answer["choices"][0], answer.get("usage") or {}
                said, end = choice["message"]["content"], choice.get("finish_reason")
                if said.strip() and end != "length":
                    self.failures = 0
                    return said, [usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)]
                problem = f"no whole answer, finish_reason {end!r}"
        except BROKEN as error:
            problem = f"{type(error).__name__}: {error}"
        with self.lock:
            self.failures += 1
            hold = min(60, self.args.wait * 2 ** (self.failures // self.args.threads))
            hold = max(hold, float(after) if re.fullmatch(r"\d+(\.\d+)?", after) else 0)
            self.free_at = max(self.free_at, time.monotonic() + hold * random.uniform(1, 1.5))
        dead = self.failures > 6 * self.args.threads + 2
        if dead or (300 <= status < 500 and status not in (408, 409, 429)):
            raise UserError(f"{self.url}, model {job['request']['model']}: {problem}")
        return Rejected(problem), [0, 0]


def read_rows(path: str | Path, key: str) -> dict[str, dict]:
    """The rows of a JSONL file by their `key`, as text. A broken line, or two rows of one key, is an error."""
    number, rows = 0, []
    try:
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):  # noqa: B007
            if line.strip():
                row = json.loads(line)
                rows.append((str(row[key]), row))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except BROKEN as error:
        where = f"{path}, line {number}: expected JSON objects with {key!r}"
        raise UserError(f"{where} ({type(error).__name__}: {error})") from None
    name, count = Counter(name for name, _ in rows).most_common(1)[0] if rows else ("", 0)
    if count > 1:
        raise UserError(f"{path}: {count} rows for {key} {name}")
    return dict(rows)


def read_pictures(paths: list[str]) -> dict[str, dict]:
    """What is told of pictures, by id: image, captions, and boxes as (category, [x1, y1, x2, y2] in fractions of 1).

    From one JSONL file with `boxes` (Toyland), `instances` (LLaVA) or a `caption` alone (In-the-Wild), or from COCO's
    captions_*.json and instances_*.json.
    """
    row, found = {}, {}
    try:
        if len(paths) == 1:
            rows = read_rows(paths[0], "image")
        else:
            told, seen = map(read_json, paths)
            names = {row["id"]: row["name"] for row in seen["categories"]}
            rows = {row["id"]: {**row, "captions": [], "boxes": []} for row in told["images"]}
            for row in told["annotations"]:
                rows[row["image_id"]]["captions"].append(row["caption"].strip())
            for row in (row for row in seen["annotations"] if row["image_id"] in rows):
                image, (x, y, w, h) = rows[row["image_id"]], row["bbox"]
                W, H = image["width"], image["height"]
                box = [round(v, 3) for v in (x / W, y / H, (x + w) / W, (y + h) / H)]
                image["boxes"].append((names[row["category_id"]], box))
        for row in rows.values():
            name = row["image"] if len(paths) == 1 else row["file_name"]
            boxes = row.get("boxes") or [
                (i["category"], i["bbox"]) for i in row.get("instances", ())
            ]
            texts = [
                text for text in row.get("captions") or [row.get("caption") or ""] if text.strip()
            ]
            if not texts or Path(name).stem in found:
                raise ValueError("no captions, or a second picture of one name")
            for _, (x1, y1, x2, y2) in boxes:
                if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
                    raise ValueError(
                        f"a box {x1, y1, x2, y2}, expected 0 <= x1 <= x2 <= 1 and the same of y"
                    )
            found[Path(name).stem] = {"image": name, "captions": texts, "boxes": boxes}
    except UserError:
        raise
    except BROKEN as error:
        problem = f"{type(error).__name__} {error}"
        raise UserError(f"{' '.join(paths)}: {problem} in {json.dumps(row)[:200]}") from None
    return found


def told(picture: dict) -> str:
    """Captions and boxes as the teacher and the judge read them."""
    lines = [f"{category}: {list(box)}" for category, box in picture["boxes"]]
    return "\n".join([*picture["captions"], *([""] if lines else []), *lines])


def open_rows(path: Path):
    """A JSONL file for appending, locked, rid of the half-written last line of a run that was killed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written, or another run is writing it ({error})"
        ) from None
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    return file


def run_jobs(
    path: Path, key: str, jobs: dict, ask, parse=None, tries=1, price=(0, 0)
) -> dict[str, dict]:
    """Asks for every job (name -> JSON object) that the JSONL file `path` has no row of; returns the rows by name.

    `ask(jobs)` yields (name, text, tokens) as `Endpoint` does, `parse(job, text)` makes the row (by default the text itself)
    or raises Rejected: then the text goes to *.rejects.jsonl, and the job is asked again. What stays missing is named.
    """
    marks = {
        name: hashlib.sha256(json.dumps(job).encode()).hexdigest()[:16]
        for name, job in jobs.items()
    }
    with open_rows(path) as file, open_rows(path.with_suffix(".rejects.jsonl")) as aside:
        rows = read_rows(path, key)
        for name, row in rows.items():
            if name not in jobs or row.get("of", marks[name]) != marks[name]:
                what = "was asked otherwise than now" if name in jobs else "is not asked for here"
                raise UserError(
                    f"{path}: {key} {name} {what}; remove the file or choose another place"
                )
        for _ in range(max(1, tries)):
            missing, why = {name: job for name, job in jobs.items() if name not in rows}, {}
            for name, text, tokens in (
                tqdm(ask(missing), path.stem, len(missing)) if missing else ()
            ):
                if isinstance(text, Rejected):
                    why[name] = str(text)
                    continue
                row, kept = {key: name, "tokens": tokens}, file
                try:
                    row |= parse(jobs[name], text) if parse else {"text": text}
                    rows[name] = row = row | {"of": marks[name]}
                except Rejected as error:
                    why[name] = str(error)
                    row, kept = row | {"why": str(error), "text": text}, aside
                kept.write(json.dumps(row).encode() + b"\n")
                kept.flush()
        aside.seek(0)
        rejects = [json.loads(line) for line in aside]
    asked, said = (
        sum(row.get("tokens", (0, 0))[i] for row in [*rows.values(), *rejects]) for i in (0, 1)
    )
    cost = f"{asked} + {said} tokens, ${(asked * price[0] + said * price[1]) / 1e6:.2f}"
    told = f"{path}: {len(rows)} of {len(jobs)}, {len(rejects)} unusable answers; {cost}"
    print(
        told,
        *(f"missing: {name} ({reason})" for name, reason in why.items()),
        sep="\n",
        file=sys.stderr,
    )
    return {name: rows[name] for name in jobs if name in rows}
