"""Scores a LLaVA on Toyland's held-out scenes: short questions by type, unseen combinations, detailed descriptions."""

import random

from ..conversation import IMAGE
from ..generate import answer
from ..image import ImageConfig
from ..llava import LLaVA
from ..tokenizer import Tokenizer
from .draw import draw
from .scenes import Scene, scenes
from .teacher import TYPES, WORDINGS, detail, facts_told, questions, shares, stated

PICTURE = 200  # px, as in the data set


def normal(text: str) -> str:
    """For comparison: case and final punctuation do not count."""
    return text.strip().lower().rstrip(".!?").strip()


def ask(
    model: LLaVA, tokenizer, image: ImageConfig, asked: list[tuple[Scene, str]], new: int
) -> list[str]:
    """Greedy answers to one question about one scene each, in batches."""
    answers = []
    for part in (asked[i : i + 64] for i in range(0, len(asked), 64)):
        pairs = [
            ([draw(s, PICTURE)], [{"from": "human", "value": f"{IMAGE}\n{q}"}]) for s, q in part
        ]
        answers += answer(model, tokenizer, image, pairs, batch=64, max_new_tokens=new)
    return answers


def short_questions(
    model, tokenizer, image, pool: list[Scene], rng: random.Random
) -> dict[str, list[bool]]:
    """Right or wrong by type: one question of every type that a scene allows."""
    chosen = [
        (s, rng.choice(q)) for s in pool for q in questions(facts_told(s, rng), rng).values() if q
    ]
    answers = ask(model, tokenizer, image, [(scene, qa.question) for scene, qa in chosen], 32)
    result: dict[str, list[bool]] = {}
    for (_, qa), said in zip(chosen, answers, strict=True):
        result.setdefault(qa.type, []).append(normal(said) == normal(qa.answer))
    return result


def score(
    model: LLaVA, tokenizer: Tokenizer, image: ImageConfig, count: int = 300, seed: int = 0
) -> dict:
    """`overall`, `types`, `unseen_combinations` (shares of exact answers) and `detail` (precision and recall of facts)."""
    rng = random.Random(f"score/{seed}")
    pools = [
        list(scenes("test", n, seed, unseen))
        for n, unseen in ((count, False), (count // 2 or 1, True))
    ]
    right = [short_questions(model, tokenizer, image, p, rng) for p in pools]
    asked = [(scene, rng.choice(WORDINGS["detail"])) for scene in pools[0][: count // 3]]
    texts = (
        ask(model, tokenizer, image, asked, 128),
        [detail(facts_told(scene, rng)) for scene, _ in asked],
    )
    said, known = (
        {(i, fact) for i, text in enumerate(part) for fact in stated(text)} for part in texts
    )
    precision, recall = (len(said & known) / max(1, len(part)) for part in (said, known))
    (seen, unseen), counts = (
        map(shares, right),
        [sum(map(len, by_type.values())) for by_type in right],
    )
    return {
        "overall": seen.pop("overall"),
        "types": seen,
        "unseen_combinations": unseen.pop("overall"),
        "unseen_types": unseen,
        "detail": {"precision": precision, "recall": recall},
        "questions": {"seen": counts[0], "unseen": counts[1]},
    }


def table(result: dict) -> str:
    """The score as lines of text."""
    lines = [f"{'type':14} {'test':>7} {'unseen':>7}   exact answers, %"]
    for kind in TYPES:
        seen, unseen = (
            100 * result[part].get(kind, float("nan")) for part in ("types", "unseen_types")
        )
        lines.append(f"{kind:14} {seen:7.1f} {unseen:7.1f}")
    lines.append(
        f"{'overall':14} {100 * result['overall']:7.1f} {100 * result['unseen_combinations']:7.1f}"
    )
    lines.append("{:14} {seen:7} {unseen:7}".format("questions", **result["questions"]))
    told = "detailed descriptions: {precision:.1%} of the facts stated are true, {recall:.1%} of the facts are stated"
    return "\n".join([*lines, told.format(**result["detail"])])
