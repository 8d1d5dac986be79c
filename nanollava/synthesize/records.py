"""From a teacher's answer to a record of instruction data, or the reason why it is unusable."""

import re

from ..conversation import ConversationError, checked_turns
from ..errors import UserError
from ..evals.answers import Rejected
from ..schema import require
from ..toyland.data import record
from ..toyland.qa import QA

# Answers must read as if the teacher saw the image, and contain no markup of their own.
UNUSABLE = {
    "mentions captions or boxes": (
        r"\bcaptions?\b|\bbounding box|\bbbox|\bcoordinates?\b|\bannotat|\[\s*[01]?\.\d+\s*,"
        r"|\b(the|these|given|provided) (sentences|descriptions|lists? of objects)\b"
    ),
    "contains reserved markup": r"<image>|</?s>|###|^(question|answer):",
    "speaks as a language model": (
        r"\bas an ai\b|\blanguage model\b|\bi (can(no|')t|am unable to) (see|view)\b"
    ),
}
# A conversation asks only what has a certain answer.
UNCERTAIN = (
    r"\b(can ?not|can't|could not|impossible to|not possible to|hard to|difficult to) "
    r"(be )?(determined?|tell|told|say|see|know|identify)\b"
    r"|\b(unclear|uncertain|unknown)\b|\bnot (mentioned|specified|visible enough|clear)\b"
    r"|\b(might|may be|perhaps|possibly|probably|presumably|do you think|would you guess)\b"
)


def parse(job: dict, text: str) -> dict:
    """Turn a language model's answer into a record: id, image, conversations. Raises Rejected."""
    turns = read_answer(job, text)
    check_content(job["kind"], turns)
    return make_record(job, turns)


def parse_unchecked(job: dict, text: str) -> dict:
    """The same for the rule-based teacher. What it says is true of the image by construction, and
    it may speak of captions: "Give this photo a caption." is one of its questions."""
    return make_record(job, read_answer(job, text))


def read_answer(job: dict, text: str) -> list[str]:
    """The texts of questions and answers in turn. Raises Rejected.

    The answer's form is "Question: ... === Answer: ... === ..."; a detailed description may be the
    answer alone, to the job's question.
    """
    blocks = split_blocks(text)
    if job["kind"] == "detail" and len(blocks) == 1:
        blocks = [f"Question: {job['question']}", f"Answer: {blocks[0]}"]
    return read_turns(blocks)


def make_record(job: dict, turns: list[str]) -> dict:
    """The record of a job with these texts. Raises Rejected if it would be no conversation."""
    qas = []
    for i in range(0, len(turns), 2):
        qas.append(QA(job["kind"], turns[i], turns[i + 1]))
    result = record(job["id"], job["image"], qas)
    try:
        checked_turns(result["conversations"])
    except ConversationError as error:
        raise Rejected(str(error)) from None
    return result


def check_record(job: dict, row: dict, where: str) -> None:
    """Check a record that was read from the answers file."""
    require(row, "id", str, where, choices=(job["id"],))
    require(row, "image", str, where, choices=(job["image"],))
    for turn in require(row, "conversations", list[dict], where):
        require(turn, "from", str, f"{where}: conversations")
        require(turn, "value", str, f"{where}: conversations")
    try:
        checked_turns(row["conversations"])
    except ConversationError as error:
        raise UserError(f"{where}: {error}") from None


def split_blocks(text: str) -> list[str]:
    """The parts of an answer between its === lines."""
    blocks = [block.strip() for block in re.split(r"^\s*={3,}\s*$", text, flags=re.MULTILINE)]
    return [block for block in blocks if block]


def read_turns(blocks: list[str]) -> list[str]:
    """The texts of questions and answers in turn."""
    turns = []
    for i, block in enumerate(blocks):
        role = "Question" if i % 2 == 0 else "Answer"
        if not block.startswith(f"{role}:"):
            raise Rejected(f"part {i + 1} is not '{role}: ...'")
        turns.append(block.removeprefix(f"{role}:").strip())
    if len(turns) % 2 == 1 or "" in turns:
        raise Rejected("a question without an answer, or an empty one")
    return turns


def check_content(kind: str, turns: list[str]) -> None:
    """Raise Rejected if the texts match a pattern of unusable answers."""
    patterns = dict(UNUSABLE)
    if kind == "conversation":
        patterns["is uncertain"] = UNCERTAIN
    for reason, pattern in patterns.items():
        match = re.search(pattern, "\n".join(turns), re.IGNORECASE | re.MULTILINE)
        if match is not None:
            raise Rejected(f"{reason}: {match[0]!r}")
