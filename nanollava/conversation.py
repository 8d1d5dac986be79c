"""Chat templates: a conversation becomes token ids and labels in one pass.

A template says how turns are written as one text, and which parts of that text the model is
trained to write. The labels are the ids of those parts, and -100 (`IGNORE_INDEX`) everywhere else,
where the loss has no term. This is the label mask. For example, with tokens for ids ("▁" is a
space) and a dash for -100:

    ids      <s>  ▁A  ▁chat  ...  ▁US  ER  :  ▁  <image>  ▁  ...  ANT  :  ▁A  ▁cat  .  </s>
    labels    -    -    -    ...   -   -   -  -     -     -  ...   -   -  ▁A  ▁cat  .  </s>
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from .config import IGNORE_INDEX
from .errors import UserError
from .special_tokens import BOS, EOS, IMAGE
from .tokenizer import Tokenizer

IMAGE_INDEX = -200  # one image in the token ids, until `expand` makes room for its patches

# Where an image is in its turn. "front": it is moved to the front, as LLaVA's release does
# since v1. "as_written": it stays where the record has it, as in the paper's release. In about half
# of the records of LLaVA-Instruct the image comes after the question.
IMAGE_POSITIONS = ("front", "as_written")

# Who speaks, in the words of LLaVA's data files and in those of chat APIs.
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


class ConversationError(UserError):
    """Turns that do not form a conversation."""


class Span(NamedTuple):
    """A part of the prompt and whether the model is trained to write it."""

    text: str
    trained: bool


def context(text: str) -> Span:
    """Text that the model reads. `{text}` stands for the words of the turn."""
    return Span(text, trained=False)


def trained(text: str) -> Span:
    """Text that the model learns to write. `{text}` stands for the words of the turn."""
    return Span(text, trained=True)


Part = tuple[Span | str, ...]  # spans and special tokens: BOS or EOS


@dataclass(frozen=True)
class Template:
    """How a conversation is written.

    A conversation is written as

        start  question answer  new_round question answer  ...  end

    and a prompt, whose last question has no answer yet, as

        start  question answer  ...  new_round question  answer_prompt

    Every `BOS` is context, every `EOS` is trained: a model that is never trained to stop
    never stops.
    """

    question: Part
    answer: Part
    system: str = ""  # the system message, which is the `{text}` of `start`
    start: Part = ()
    new_round: Part = ()  # before every question except the first
    answer_prompt: Part = ()  # what makes the model answer; the part of `answer` before the words
    end: Part = ()
    shows_question: bool = True  # False: only the images of a question are shown, not its words
    stop: tuple[str, ...] = ()  # texts that end an answer, for models that were trained without EOS


VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
DEMO_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
LLAMA_2_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)

# Vicuna v1.1 and later, LLaVA v1 and v1.5:
#   system USER: question ASSISTANT: answer</s>USER: question ASSISTANT: answer</s>
VICUNA_V1 = Template(
    system=VICUNA_SYSTEM,
    start=(context("{text} "),),
    question=(context("USER: {text} "),),
    answer=(context("ASSISTANT:"), trained(" {text}"), EOS),
    answer_prompt=(context("ASSISTANT:"),),
)

# The same form with the system message of LLaVA v1's published demo, which says "human".
LLAVA_V1 = replace(VICUNA_V1, system=DEMO_SYSTEM)

# Vicuna v0 and the paper:
#   system\n\n### Human: question\n### Assistant: answer\n### Human: question\n### ...\n###
# "###" ends an answer here, so it is trained and not EOS. The release also trains the words
# "### Assistant:", although they are part of the prompt at inference; this keeps it that way.
V0 = Template(
    system=DEMO_SYSTEM,
    start=(context("{text}\n\n"),),
    question=(trained("###"), context(" Human: {text}\n")),
    answer=(trained("### Assistant: {text}\n"),),
    answer_prompt=(context("### Assistant:"),),
    end=(trained("### "),),
    stop=("###",),
)

# LLaMA-2 chat. Each round is a sequence of its own, and the system message is part of the first:
#   [INST] <<SYS>>\nsystem\n<</SYS>>\n\nquestion [/INST] answer </s><s>[INST] question [/INST] ...
LLAMA_2 = Template(
    system=LLAMA_2_SYSTEM,
    start=(context("[INST] <<SYS>>\n{text}\n<</SYS>>\n\n"),),
    question=(context("{text} [/INST]"),),
    answer=(trained(" {text} "), EOS),
    new_round=(BOS, context("[INST] ")),
)

# Stage 1 since v1: the image, then its caption. The instruction is left out, and a newline ends
# the caption:
#   <image>caption\n
PLAIN = Template(
    question=(context("{text}"),),
    answer=(trained("{text}\n"),),
    shows_question=False,
)

TEMPLATES = {
    "vicuna_v1": VICUNA_V1,
    "llava_v1": LLAVA_V1,
    "v0": V0,
    "llama_2": LLAMA_2,
    "plain": PLAIN,
}
# The templates that a model can be asked with: "plain" only writes captions.
CHAT_TEMPLATES = tuple(name for name in TEMPLATES if name != "plain")


def find_template(name: str) -> Template:
    """The template of this name, or a ConversationError that lists all names."""
    if name not in TEMPLATES:
        raise ConversationError(
            f"unknown template {name!r}: expected one of {', '.join(TEMPLATES)}"
        )
    return TEMPLATES[name]


def checked_turns(turns: list[dict]) -> list[tuple[str, str]]:
    """The turns as pairs (role, text), where role is "human" or "gpt".

    Turns alternate and begin with the human; no answer is empty or contains an image. Anything
    else is a ConversationError that names the turn.
    """
    if not isinstance(turns, list) or not turns:
        raise ConversationError("conversations: expected a list of turns, got none")
    pairs = []
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise ConversationError(
                f"turn {i}: expected an object with 'from' and the text 'value'"
            )
        speaker = turn.get("from")
        text = turn["value"]
        role = ROLES.get(str(speaker))
        expected_role = "human" if i % 2 == 0 else "gpt"
        if role != expected_role:
            raise ConversationError(f"turn {i}: comes from {speaker!r}, expected {expected_role!r}")
        if role == "gpt" and not text.strip():
            raise ConversationError(f"turn {i}: the answer is empty")
        if role == "gpt" and IMAGE in text:
            raise ConversationError(f"turn {i}: the answer contains {IMAGE}")
        pairs.append((role, text))
    return pairs


def check_caption(turns: list[tuple[str, str]], template: str) -> None:
    """A ConversationError if the template omits questions and the turns are not an image with its
    caption: without their questions, other answers make no sense."""
    if find_template(template).shows_question:
        return
    if len(turns) > 2:
        raise ConversationError(
            f"{len(turns)} turns; template {template!r} expects one image and its caption"
        )
    _, question = turns[0]
    num_images = question.count(IMAGE)
    if num_images != 1:
        raise ConversationError(
            f"turn 0: {num_images} {IMAGE}; template {template!r} expects one image and its caption"
        )


def place_image(turns: list[tuple[str, str]], image_position: str) -> list[tuple[str, str]]:
    """The turns with the image where `image_position` says, one of IMAGE_POSITIONS.

    "front" makes a turn `<image>`, a newline, and its other words without the white space around
    them. Several images stay as written: the words can refer to each by its position.
    """
    if image_position not in IMAGE_POSITIONS:
        expected = " or ".join(IMAGE_POSITIONS)
        raise ConversationError(f"image position {image_position!r}: expected {expected}")
    num_images = sum(text.count(IMAGE) for _, text in turns)
    if image_position == "as_written" or num_images != 1:
        return turns
    placed = []
    for role, text in turns:
        if IMAGE in text:
            words = text.replace(IMAGE, "").strip()
            text = f"{IMAGE}\n{words}".strip()
        placed.append((role, text))
    return placed


def pieces(turns: list[tuple[str, str]], template: str) -> Iterator[Span | str]:
    """The conversation as the template writes it, in order.

    Yields a `Span` for text, and the strings `IMAGE`, `BOS` and `EOS` for what is not text.
    """
    check_caption(turns, template)
    form = find_template(template)
    yield from fill(form.start, form.system)
    for i, (role, text) in enumerate(turns):
        if role == "gpt":
            yield from fill(form.answer, text)
            continue
        if i > 0:
            yield from fill(form.new_round)
        if not form.shows_question:
            text = IMAGE * text.count(IMAGE)
        yield from fill(form.question, text)
    last_role = turns[-1][0]
    if last_role == "human":
        yield from fill(form.answer_prompt)
    else:
        yield from fill(form.end)


def fill(part: Part, text: str = "") -> Iterator[Span | str]:
    """One part of a template with the words of a turn in it, cut at the images."""
    for piece in part:
        if not isinstance(piece, Span):
            yield piece  # BOS or EOS
            continue
        stretches = piece.text.format(text=text).split(IMAGE)
        yield Span(stretches[0], piece.trained)
        for stretch in stretches[1:]:
            yield IMAGE
            yield Span(stretch, piece.trained)


def encode(
    turns: list[dict],
    tokenizer: Tokenizer,
    template: str = "vicuna_v1",
    image_position: str = "front",
) -> tuple[list[int], list[int]]:
    """Token ids and labels of one conversation, both of length T.

    `turns` have the form of LLaVA's data: `{"from": "human" or "gpt", "value": text}`. Each
    `<image>` in a text becomes one id -200, which `expand` replaces. The labels repeat the ids
    where the model is trained and are -100 elsewhere; the loss compares the logits at position t
    with the label at t + 1. If the last turn is the human's, the result is a prompt: it ends where
    the answer begins. `image_position` is one of IMAGE_POSITIONS.

    Ids and labels are made together. Text is cut only at images and special tokens, and each
    stretch is encoded once, because a tokenizer does not add up: the ids of two halves of a text
    are not the ids of the whole. Counting the tokens of question and answer separately, as the
    original code does, can shift the mask.
    """
    id_of_piece = {IMAGE: IMAGE_INDEX, BOS: tokenizer.bos_token_id, EOS: tokenizer.eos_token_id}
    ids = [tokenizer.bos_token_id]
    labels = [IGNORE_INDEX]
    spans: list[Span] = []  # the text since the last image or special token
    after_special = False  # is this text preceded by a special token, other than the first <s>?

    placed_turns = place_image(checked_turns(turns), image_position)
    for piece in pieces(placed_turns, template):
        if isinstance(piece, Span):
            spans.append(piece)
            continue
        text_ids, text_labels = encode_spans(spans, tokenizer, after_special)
        token_id = id_of_piece[piece]
        ids += [*text_ids, token_id]
        labels += [*text_labels, token_id if piece == EOS else IGNORE_INDEX]
        spans = []
        # Text after an image is encoded like the start of a text, as the original code does.
        after_special = piece != IMAGE

    text_ids, text_labels = encode_spans(spans, tokenizer, after_special)
    return ids + text_ids, labels + text_labels


def encode_spans(
    spans: list[Span], tokenizer: Tokenizer, after_special: bool
) -> tuple[list[int], list[int]]:
    """Ids and labels of adjacent spans, encoded as one text.

    A token can reach over the border of two spans; it belongs to the span in which it begins.
    """
    text = "".join(span.text for span in spans)
    is_trained = []  # for each character of `text`
    for span in spans:
        is_trained += [span.trained] * len(span.text)
    ids, starts = tokenizer.encode_with_starts(text, after_special)
    labels = []
    for token_id, start in zip(ids, starts, strict=True):
        labels.append(token_id if is_trained[start] else IGNORE_INDEX)
    return ids, labels


def expand(
    ids: list[int], labels: list[int], image_token_id: int, num_image_tokens: int
) -> tuple[list[int], list[int]]:
    """Replace each -200 by `num_image_tokens` image tokens, one for each vector of H_v.

    Images are never trained, so their labels are -100.
    """
    expanded_ids = []
    expanded_labels = []
    for token_id, label in zip(ids, labels, strict=True):
        if token_id == IMAGE_INDEX:
            expanded_ids += [image_token_id] * num_image_tokens
            expanded_labels += [IGNORE_INDEX] * num_image_tokens
        else:
            expanded_ids.append(token_id)
            expanded_labels.append(label)
    return expanded_ids, expanded_labels
