"""Scores a LLaVA on questions as people type them, about test scenes.

The scenes are without the unseen combinations of kind and color: only the language is new. More
than two thirds of the questions only open a dialogue or happen to be ones that the grammar can
produce. They are not scored, and asked only inside a dialogue: later turns may depend on them.
"""

import random
from dataclasses import dataclass
from math import nan
from statistics import fmean

from ..errors import exit_with
from ..image import ImageConfig
from ..llava import LLaVA
from ..tokenizer import Tokenizer
from .judges import fact_shares
from .natural import OPENING, TYPES, Dialogue, Question, dialogues
from .overlap import in_grammar
from .scenes import Scene, scenes
from .score import TEMPLATE, ask

MAX_NEW_TOKENS = 128  # a description of four things


@dataclass(frozen=True)
class Reply:
    """A question that was asked, and the model's answer."""

    question: Question
    text: str


def last_type(pair: tuple[Scene, Dialogue]) -> str:
    return pair[1][-1].type


def replies(
    model: LLaVA,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    count: int,
    seed: int = 0,
    template: str = TEMPLATE,
) -> list[Reply]:
    """The model's answers to questions about `count` test scenes, dialogue by dialogue."""
    rng = random.Random(f"natural/{seed}")
    pairs = []
    for scene in scenes("test", count, seed, unseen=False):
        for dialogue in dialogues(scene, rng):
            if len(dialogue) > 1 or is_scored(dialogue[0]):
                pairs.append((scene, dialogue))
    pairs.sort(key=last_type)  # answers of similar length share a batch
    texts_of_pairs = [(scene, [question.text for question in talk]) for scene, talk in pairs]
    answers = ask(model, tokenizer, image_config, texts_of_pairs, MAX_NEW_TOKENS, template)
    result = []
    for (_, dialogue), texts in zip(pairs, answers, strict=True):
        for question, text in zip(dialogue, texts, strict=True):
            result.append(Reply(question, text))
    return result


def is_scored(question: Question) -> bool:
    """Whether the model cannot have been trained on these words. Openings are asked, not scored."""
    return question.type != OPENING and not in_grammar(question.text)


def summarize(answered: list[Reply]) -> dict:
    """`overall` and `types`: shares of right answers; `questions`: how many were scored by type;
    `descriptions`: the mean shares of `true` among stated and of `stated` among true facts. A share
    of no questions is None."""
    right: dict[str, list[bool]] = {type: [] for type in TYPES}
    true_shares = []
    stated_shares = []
    for reply in answered:
        question = reply.question
        if not is_scored(question):
            continue
        right[question.type].append(question.is_right(reply.text))
        if question.type == "describe":
            true_share, stated_share = fact_shares(reply.text, question.scene)
            true_shares.append(true_share)
            stated_shares.append(stated_share)
    every_answer = []
    for results in right.values():
        every_answer += results
    return {
        "overall": mean(every_answer),
        "types": {type: fmean(results) for type, results in right.items() if results},
        "questions": {type: len(results) for type, results in right.items()},
        "descriptions": {"true": mean(true_shares), "stated": mean(stated_shares)},
    }


def mean(values: list) -> float | None:
    return fmean(values) if values else None


def table(summary: dict) -> str:
    lines = [f"{'type':14} {'right':>7} {'scored':>7}   natural questions, %"]
    for type in TYPES:
        share = 100 * summary["types"].get(type, nan)
        lines.append(f"{type:14} {share:7.1f} {summary['questions'][type]:7}")
    total = sum(summary["questions"].values())
    if total > 0:
        lines.append(f"{'overall':14} {100 * summary['overall']:7.1f} {total:7}")
    descriptions = summary["descriptions"]
    if descriptions["true"] is not None:
        lines.append(
            f"descriptions: {descriptions['true']:.1%} of the stated facts are true, "
            f"{descriptions['stated']:.1%} of the true facts are stated"
        )
    return "\n".join(lines)


def wrong_answers(answered: list[Reply]) -> str:
    """One line per wrong answer: type, question, answer and a right answer."""
    lines = []
    for reply in answered:
        question = reply.question
        if is_scored(question) and not question.is_right(reply.text):
            parts = (question.type, question.text, reply.text, question.expected)
            lines.append(" | ".join(parts).replace("\n", " "))
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.toyland natural --help")
