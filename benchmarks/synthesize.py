"""Instruction data from captions and boxes: a text-only teacher writes it as if it saw the picture (paper, section 3).

python -m nanollava.synthesize --pictures data/toyland/captions.jsonl --out out/toyland  # Toyland's own teacher
python -m nanollava.synthesize --pictures captions_val2014.json instances_val2014.json --model gpt-4o --out out/coco
"""

import json
import random
import re
from pathlib import Path

from benchmarks.endpoint import (
    Endpoint,
    Rejected,
    arguments,
    read_pictures,
    request,
    run_jobs,
    told,
)
from nanollava.conversation import ConversationError, check
from nanollava.errors import UserError, run
from nanollava.files import read_json
from nanollava.toyland.data import record
from nanollava.toyland.teacher import QA, instructions, read

RULES = read_json(Path(__file__).parent / "prompts" / "rules.json")


def parse(job: dict, text: str) -> dict:
    """The record of an answer: "Question: ... === Answer: ... ===", or, for a detailed description, the answer alone."""
    blocks = [
        block.strip() for block in re.split(r"^\s*={3,}\s*$", text, flags=re.M) if block.strip()
    ]
    if job["kind"] == "detail" and len(blocks) == 1:
        blocks = [f"Question: {job['question']}", f"Answer: {blocks[0]}"]
    turns = []
    for i, block in enumerate(blocks):
        role = ("Question", "Answer")[i % 2]
        if not block.startswith(f"{role}:"):
            raise Rejected(f"part {i + 1} is not '{role}: ...'")
        turns.append(block.removeprefix(f"{role}:").strip())
    if len(turns) % 2 or not all(turns):
        raise Rejected("a question without an answer, or an empty one")
    for why, rule in {**RULES["all"], **RULES.get(job["kind"], {})}.items():
        if found := re.search(rule, "\n".join(turns), re.I):
            raise Rejected(f"{why}: {found[0]!r}")
    turns = [QA(job["kind"], *pair) for pair in zip(turns[::2], turns[1::2], strict=True)]
    row = record(job["id"], job["image"], turns)
    try:
        check(row["conversations"])
    except ConversationError as error:
        raise Rejected(str(error)) from None
    return row


def toyland(jobs: dict):
    """Toyland's rule-based teacher in the place of an endpoint."""
    for name, job in jobs.items():
        try:
            facts = read(job["captions"], job["boxes"])
        except UserError:
            raise UserError(
                f"{name}: Toyland's teacher reads Toyland's captions alone; give --model"
            ) from None
        turns = instructions(facts, random.Random(name), job["kind"])
        blocks = (f"Question: {qa.question}\n===\nAnswer: {qa.answer}" for qa in turns)
        yield name, "\n===\n".join(blocks), [0, 0]


def main() -> None:
    args = arguments(__doc__, "synthesize", "endpoint")
    jobs, out = {}, Path(args.out)
    for name, picture in list(read_pictures(args.pictures).items())[: args.limit or None]:
        for kind in args.kinds:
            job = {"id": f"{name}_{kind}", "image": picture["image"], "kind": kind}
            job["question"] = random.Random(job["id"]).choice(RULES["detail questions"])
            asked = request(args, args.model, kind, told=told(picture), question=job["question"])
            jobs[job["id"]] = job | (asked if args.model else picture)
            if args.dry_run:
                print(f"##### {job['id']}")
                print(
                    *(f"[{m['role']}]\n{m['content']}\n" for m in asked["request"]["messages"]),
                    sep="\n",
                )
    if args.dry_run:
        return
    ask = Endpoint(args) if args.model else toyland
    rows = run_jobs(out / "answers.jsonl", "id", jobs, ask, parse, args.tries, args.price)
    records = [{key: row[key] for key in ("id", "image", "conversations")} for row in rows.values()]
    (out / "instruct.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    print(f"{len(records)} records in {out / 'instruct.json'}")
    if len(rows) < len(jobs):
        raise UserError(
            f"{len(jobs) - len(rows)} records are missing; the same command asks for them again"
        )


if __name__ == "__main__":
    run(main)
