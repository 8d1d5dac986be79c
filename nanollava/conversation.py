"""Chat templates: a conversation to token ids and labels in one pass, each stretch of text encoded exactly once."""

from .config import UserError
from .tokenizer import Tokenizer

IMAGE = "<image>"
IMAGE_INDEX = -200  # stands for one picture until it is expanded to its places
IGNORE_INDEX = -100  # label of a place that is not trained
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
DEMO_SYSTEM = VICUNA_SYSTEM.replace("user", "human")  # of v0, and of v1's published demo
LLAMA_2_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
SYSTEMS = {"vicuna_v1": VICUNA_SYSTEM, "llava_v1": DEMO_SYSTEM, "v0": DEMO_SYSTEM, "llama_2": LLAMA_2_SYSTEM}
TEMPLATES = (*SYSTEMS, "plain")  # llava_v1 is vicuna_v1 as the published demo speaks it
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
            raise ConversationError(f"turn {i}: expected an object with 'from' and the text 'value'")
        role = ROLES.get(turn.get("from"))
        expected = ("human", "gpt")[i % 2]
        if role != expected:
            raise ConversationError(f"turn {i}: comes from {turn.get('from')!r}, expected {expected!r}")
        if role == "gpt" and not turn["value"].strip():
            raise ConversationError(f"turn {i}: the answer is empty")
        if role == "gpt" and IMAGE in turn["value"]:
            raise ConversationError(f"turn {i}: an answer holds {IMAGE}")
        found.append((role, turn["value"]))
    return found


def pieces(turns: list[tuple[str, str]], template: str):
    """What the template writes: (text, trained) pairs, None for a picture, True for a trained end token, False for BOS.

    v0 is trained as it was released: with "###" and "### Assistant:" themselves.
    """
    if template not in TEMPLATES:
        raise ConversationError(f"unknown template {template!r}: expected one of {', '.join(TEMPLATES)}")

    def question(text: str):
        first, *rest = text.split(IMAGE)
        yield first, False
        for part in rest:
            yield None
            yield part, False

    if template == "plain":  # stage 1: the picture, then the caption; the instruction is not shown
        for role, text in turns:
            yield from [None] * text.count(IMAGE) if role == "human" else [(text + "\n", True)]
        return
    system = SYSTEMS[template]
    if template == "llama_2":
        for i, (role, text) in enumerate(turns):
            if role == "human":
                yield from [False] * (i > 0)
                told = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if i == 0 else ""
                yield from question(f"[INST] {told}{text} [/INST]")
            else:
                yield f" {text} ", True
                yield True
        return
    v0 = template == "v0"
    yield system + ("\n\n" if v0 else " "), False
    for role, text in turns:
        if v0:
            yield "###", True
        if role == "human":
            yield from question(f" Human: {text}\n" if v0 else f"USER: {text} ")
        else:
            if not v0:
                yield "ASSISTANT:", False
            yield f" Assistant: {text}\n" if v0 else f" {text}", True
            yield from [True] * (not v0)
    if turns[-1][0] == "human":
        yield "### Assistant:" if v0 else "ASSISTANT:", False
    elif v0:
        yield "### ", True


def encode(turns: list[dict], tokenizer: Tokenizer, template="vicuna_v1") -> tuple[list[int], list[int]]:
    """Token ids and labels of one conversation in the data set's form; -200 stands once for each picture.

    Labels repeat the ids of the answers and their end tokens, and are -100 elsewhere. What ends with a human turn is a
    prompt: it ends where the answer begins. Stretches of text are encoded once; a token belongs to where it begins.
    """
    ids, labels = [tokenizer.bos_token_id], [IGNORE_INDEX]
    text, spans = "", []  # the stretch so far, and which characters of it are trained

    def flush() -> None:
        nonlocal text, spans
        if text:
            after_special = len(ids) > 1 and ids[-1] in (tokenizer.bos_token_id, tokenizer.eos_token_id)
            tokens, starts = tokenizer.encode_with_starts(text, after_special)
            ids.extend(tokens)
            trained = [any(begin <= start < end for begin, end in spans) for start in starts]
            labels.extend(t if own else IGNORE_INDEX for t, own in zip(tokens, trained, strict=True))
        text, spans = "", []

    for piece in pieces(check(turns), template):
        if piece is None:
            flush()
            ids.append(IMAGE_INDEX)
            labels.append(IGNORE_INDEX)
        elif isinstance(piece, bool):
            flush()
            ids.append(tokenizer.eos_token_id if piece else tokenizer.bos_token_id)
            labels.append(ids[-1] if piece else IGNORE_INDEX)
        else:
            if piece[1]:
                spans.append((len(text), len(text) + len(piece[0])))
            text += piece[0]
    flush()
    return ids, labels


def expand(ids: list[int], labels: list[int], image_token_id: int, places: int) -> tuple[list, list]:
    """Replaces every -200 by `places` image tokens, unlabelled."""
    out, marks = [], []
    for token, label in zip(ids, labels, strict=True):
        count = places if token == IMAGE_INDEX else 1
        out += [image_token_id if token == IMAGE_INDEX else token] * count
        marks += [label] * count
    return out, marks
