"""Instruction data from captions and boxes, written by a text-only teacher (section 3).

python -m nanollava.synthesize --pictures data/toyland/captions.jsonl --out out/toyland
python -m nanollava.synthesize --pictures captions_val2014.json instances_val2014.json \
    --model gpt-4o --out out/coco

The first command uses Toyland's rule-based teacher, the second an OpenAI-compatible endpoint.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from ..errors import UserError, run
from ..evals import endpoint
from ..evals.answers import Reply, collect
from ..evals.context import Context, read_contexts
from ..evals.endpoint import Endpoint, make_request
from ..files import write_text
from ..flags import HelpFormatter, check_number, check_texts
from ..schema import LARGEST_INT
from ..toyland.dialogues import instructions
from ..toyland.teacher import check_colors, read
from .prompts import DETAIL_QUESTIONS, KINDS, messages
from .records import check_record, parse, parse_unchecked


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m nanollava.synthesize",
        description=__doc__.split("\n")[0],
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--pictures",
        nargs="+",
        default=["data/toyland/captions.jsonl"],
        help="JSONL of images with captions and boxes, or COCO's captions_*.json and "
        "instances_*.json",
    )
    parser.add_argument(
        "--out", default="out/synthesis", help="directory for answers, rejects and instruct.json"
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=KINDS,
        default=list(KINDS),
        help="kinds of instruction data",
    )
    parser.add_argument(
        "--limit", type=int, default=0, help="use only the first LIMIT images; 0 uses all"
    )
    parser.add_argument(
        "--model", help="the endpoint's model, as teacher; without it, Toyland's rule-based teacher"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the prompts and ask nothing")
    endpoint.add_arguments(parser)
    args = parser.parse_args()
    check_texts(args, "pictures", "out", "model")
    check_number(args, "limit", 0, LARGEST_INT)
    endpoint.check_arguments(args)
    return args


def make_job(args: argparse.Namespace, name: str, context: Context, kind: str) -> dict:
    """Describe one record to be written: for an endpoint the request, for Toyland the context."""
    job_id = f"{name}_{kind}"
    question = random.Random(job_id).choice(DETAIL_QUESTIONS)
    job = {"id": job_id, "image": context.image, "kind": kind, "question": question}
    if args.model:
        request = make_request(args.model, messages(kind, str(context)), args.temperature)
        return {**job, "request": request}
    return {**job, **asdict(context)}


def print_prompt(name: str, context: Context, kind: str) -> None:
    """Show what the teacher would be asked."""
    print(f"##### {name}_{kind}")
    for message in messages(kind, str(context)):
        print(f"[{message['role']}]\n{message['content']}\n")


def toyland_teacher(jobs: dict[str, dict]) -> Iterator[tuple[str, Reply]]:
    """Toyland's rule-based teacher in place of an endpoint; it reads Toyland's captions only."""
    for name, job in jobs.items():
        try:
            facts = read(job["captions"], job["boxes"])
            check_colors(facts)
        except UserError as error:
            raise UserError(f"{name}: {error}; give --model for other captions") from None
        blocks = []
        for qa in instructions(facts, random.Random(name), job["kind"]):
            blocks.append(f"Question: {qa.question}")
            blocks.append(f"Answer: {qa.answer}")
        yield name, Reply("\n===\n".join(blocks))


def main() -> None:
    args = parse_arguments()
    contexts = read_contexts(args.pictures)
    names = list(contexts)
    if args.limit:
        names = names[: args.limit]
    if args.dry_run:
        for name in names:
            for kind in args.kinds:
                print_prompt(name, contexts[name], kind)
        return

    jobs = {}
    for name in names:
        for kind in args.kinds:
            job = make_job(args, name, contexts[name], kind)
            jobs[job["id"]] = job
    if args.model:
        teacher = Endpoint.from_arguments(args).ask
        parse_reply = parse
    else:
        teacher = toyland_teacher
        parse_reply = parse_unchecked
    out = Path(args.out)
    if (out / "instruct.json").exists() and not (out / "answers.jsonl").exists():
        raise UserError(f"{out / 'instruct.json'}: is not of this program; choose another --out")
    rows = collect(
        out / "answers.jsonl",
        "id",
        jobs,
        teacher,
        parse_reply,
        check_record,
        tries=args.tries,
        wait=args.wait,
        price=args.price,
    )

    records = []
    for row in rows.values():
        records.append({key: row[key] for key in ("id", "image", "conversations")})
    write_text(out / "instruct.json", json.dumps(records, indent=1))
    print(f"{len(records)} records in {out / 'instruct.json'}")
    if len(rows) < len(jobs):
        missing = len(jobs) - len(rows)
        raise UserError(f"{missing} records are missing; run the same command again to get them")


if __name__ == "__main__":
    run(main)
