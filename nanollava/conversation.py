"""Chat templates: a conversation to token ids and labels in one pass, each stretch of text encoded exactly once."""

from pathlib import Path

from .errors import UserError
from .files import read_json
from .tokenizer import Tokenizer

IMAGE = "<image>"
IMAGE_INDEX = -200  # stands for one picture until it is expanded to its places
IGNORE_INDEX = -100  # label of a place that is not trained
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_file = read_json(Path(__file__).with_name("templates.json"))
VICUNA_SYSTEM, DEMO_SYSTEM, LLAMA_2_SYSTEM = _file[
    "systems"
]  # DEMO: of v0, and of v1's published demo
SYSTEMS = {
    "vicuna_v1": VICUNA_SYSTEM,
    "llava_v1": DEMO_SYSTEM,
    "v0": DEMO_SYSTEM,
    "llama_2": LLAMA_2_SYSTEM,
}
TEMPLATES = (*SYSTEMS, "plain")
FORMS = _file["forms"] | {
    "llava_v1": _file["forms"]["vicuna_v1"]
}  # as the published demo speaks it
STOP = {"v0": ("###",)}  # what ends an answer where no end token does


class ConversationError(UserError):
    """Turns that do not form a conversation."""


def check(turns: list[dict]) -> list[tuple[str, str]]:
    """The turns as (role, text): human and gpt in alternation, human first, no empty answer."""
    if not isinstance(turns, list) or not turns:
        raise ConversationError("conversations: expected a list of turns, got none")
    found = []
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise ConversationError(
                f"turn {i}: expected an object with 'from' and the text 'value'"
            )
        role = ROLES.get(str(turn.get("from")))
        expected = ("human", "gpt")[i % 2]
        if role != expected:
            raise ConversationError(
                f"turn {i}: comes from {turn.get('from')!r}, expected {expected!r}"
            )
        if role == "gpt" and not turn["value"].strip():
            raise ConversationError(f"turn {i}: the answer is empty")
        if role == "gpt" and IMAGE in turn["value"]:
            raise ConversationError(f"turn {i}: an answer holds {IMAGE}")
        found.append((role, turn["value"]))
    return found


def pieces(turns: list[tuple[str, str]], template: str):
    """What the template writes: (text, trained) pairs, `<image>`, "</s>" for a trained end token and "<s>". v0 is trained
    as it was released: with "###" and "### Assistant:" themselves."""
    if template not in TEMPLATES:
        raise ConversationError(
            f"unknown template {template!r}: expected one of {', '.join(TEMPLATES)}"
        )
    told = [("start", SYSTEMS.get(template, ""))]
    for i, (role, text) in enumerate(turns):
        if template == "plain" and role == "human":  # stage 1 does not show the instruction
            text = IMAGE * text.count(IMAGE)
        told += [("again", "")] * (role == "human" and i > 0) + [(role, text)]
    told.append(("prompt" if turns[-1][0] == "human" else "end", ""))
    for place, text in told:
        for part in FORMS[template].get(place, ()):
            if isinstance(part, str):
                yield part
                continue
            first, *rest = part[0].format(text).split(IMAGE)
            yield first, part[1]
            for stretch in rest:
                yield IMAGE
                yield stretch, part[1]


def encode(
    turns: list[dict], tokenizer: Tokenizer, template="vicuna_v1"
) -> tuple[list[int], list[int]]:
    """Token ids and labels of one conversation in the data set's form; -200 stands once for each picture. Labels repeat the
    ids of the answers and their end tokens, and are -100 elsewhere. What ends with a human turn is a prompt: it ends where
    the answer begins. Stretches of text are encoded once; a token belongs to where it begins."""
    special = {IMAGE: IMAGE_INDEX, "<s>": tokenizer.bos_token_id, "</s>": tokenizer.eos_token_id}
    ids, labels = [tokenizer.bos_token_id], [IGNORE_INDEX]
    text, trained = "", []  # the stretch so far, and which characters of it are trained
    for piece in (*pieces(check(turns), template), None):
        if isinstance(piece, tuple):
            text += piece[0]
            trained += [piece[1]] * len(piece[0])
            continue
        after_special = len(ids) > 1 and ids[-1] != IMAGE_INDEX
        tokens, starts = tokenizer.encode_with_starts(text, after_special)
        ids += tokens
        labels += [
            t if trained[start] else IGNORE_INDEX for t, start in zip(tokens, starts, strict=True)
        ]
        text, trained = "", []
        if piece is not None:
            ids.append(special[piece])
            labels.append(ids[-1] if piece == "</s>" else IGNORE_INDEX)
    return ids, labels


def expand(
    ids: list[int], labels: list[int], image_token_id: int, places: int
) -> tuple[list, list]:
    """Replaces every -200 by `places` image tokens, unlabelled."""
    out, marks = [], []
    for token, label in zip(ids, labels, strict=True):
        count = places if token == IMAGE_INDEX else 1
        out += [image_token_id if token == IMAGE_INDEX else token] * count
        marks += [label] * count
    return out, marks
