"""Scores a LLaVA on Toyland's held-out scenes.

Short questions are counted as right or wrong by type, also on scenes with unseen combinations of
kind and color. Detailed descriptions are measured by precision and recall of the facts they state.
"""

import random
from statistics import fmean

from ..conversation import IMAGE
from ..errors import exit_with
from ..image import ImageConfig
from ..llava import LLaVA
from ..streaming import answer
from ..tokenizer import Tokenizer
from .draw import draw
from .questions import QA, TYPES, questions
from .scenes import Scene, scenes
from .teacher import detail, facts_from_captions, stated_facts
from .wordings import WORDINGS

IMAGE_SIZE = 200  # pixels, as in the data set
BATCH = 64  # questions that are drawn and answered together


def normal(text: str) -> str:
    """The text without what a comparison ignores: case, outer spaces and final punctuation."""
    return text.strip().lower().rstrip(".!?").strip()


def shares(right: dict[str, list[bool]]) -> dict[str, float]:
    """The share of right answers for every type, and under "overall" for all of them."""
    every_answer = []
    for answers in right.values():
        every_answer += answers
    result = {"overall": fmean(every_answer)}
    for type, answers in right.items():
        result[type] = fmean(answers)
    return result


def ask(
    model: LLaVA,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    scenes_and_questions: list[tuple[Scene, str]],
    max_new_tokens: int,
) -> list[str]:
    """Greedy answers to (scene, question) pairs, computed in batches."""
    answers = []
    for start in range(0, len(scenes_and_questions), BATCH):
        prompts = []
        for scene, question in scenes_and_questions[start : start + BATCH]:
            turn = {"from": "human", "value": f"{IMAGE}\n{question}"}
            prompts.append(([draw(scene, IMAGE_SIZE)], [turn]))
        answers += answer(
            model, tokenizer, image_config, prompts, batch=BATCH, max_new_tokens=max_new_tokens
        )
    return answers


def choose_questions(pool: list[Scene], rng: random.Random) -> list[tuple[Scene, QA]]:
    """For every scene one question of every type that it allows."""
    chosen = []
    for scene in pool:
        by_type = questions(facts_from_captions(scene, rng), rng)
        for qas in by_type.values():
            if qas:
                chosen.append((scene, rng.choice(qas)))
    return chosen


def short_questions(
    model: LLaVA,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    pool: list[Scene],
    rng: random.Random,
) -> dict[str, list[bool]]:
    """Whether each answer is exactly right, by type of question."""
    chosen = choose_questions(pool, rng)
    pairs = [(scene, qa.question) for scene, qa in chosen]
    answers = ask(model, tokenizer, image_config, pairs, max_new_tokens=32)
    right: dict[str, list[bool]] = {}
    for (_, qa), text in zip(chosen, answers, strict=True):
        is_right = normal(text) == normal(qa.answer)
        right.setdefault(qa.type, []).append(is_right)
    return right


def facts_of_texts(texts: list[str]) -> set[tuple]:
    """The facts that the texts state, each with the index of its text."""
    facts = set()
    for i, text in enumerate(texts):
        for fact in stated_facts(text):
            facts.add((i, fact))
    return facts


def detailed_descriptions(
    model: LLaVA,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    pool: list[Scene],
    rng: random.Random,
) -> dict[str, float]:
    """`precision`: the share of the stated facts that are true; `recall`: of the true ones stated.

    Both count the facts of all descriptions together."""
    pairs = [(scene, rng.choice(WORDINGS["detail"])) for scene in pool]
    answers = ask(model, tokenizer, image_config, pairs, max_new_tokens=128)
    references = [detail(facts_from_captions(scene, rng)) for scene in pool]
    claimed = facts_of_texts(answers)
    true = facts_of_texts(references)
    correct = len(claimed & true)
    return {
        "precision": correct / max(1, len(claimed)),
        "recall": correct / max(1, len(true)),
    }


def count_answers(right: dict[str, list[bool]]) -> int:
    return sum(len(answers) for answers in right.values())


def score(
    model: LLaVA, tokenizer: Tokenizer, image_config: ImageConfig, count: int = 300, seed: int = 0
) -> dict:
    """Scores a model on `count` test scenes, and half as many with unseen combinations.

    Returns `overall` and `types` (shares of exact answers), `unseen_combinations` and
    `unseen_types` (the same on unseen combinations), `detail` (`precision` and `recall` of facts,
    on a third of the scenes) and `questions` (how many were asked). Needs at least 3 scenes.
    """
    rng = random.Random(f"score/{seed}")
    pool = list(scenes("test", count, seed, unseen=False))
    unseen_pool = list(scenes("test", max(1, count // 2), seed, unseen=True))
    right = short_questions(model, tokenizer, image_config, pool, rng)
    unseen_right = short_questions(model, tokenizer, image_config, unseen_pool, rng)
    detail_pool = pool[: count // 3]
    detail_score = detailed_descriptions(model, tokenizer, image_config, detail_pool, rng)

    types = shares(right)
    overall = types.pop("overall")
    unseen_types = shares(unseen_right)
    unseen_overall = unseen_types.pop("overall")
    return {
        "overall": overall,
        "types": types,
        "unseen_combinations": unseen_overall,
        "unseen_types": unseen_types,
        "detail": detail_score,
        "questions": {"seen": count_answers(right), "unseen": count_answers(unseen_right)},
    }


def table(result: dict) -> str:
    """The score as lines of text, in percent; nan where a type was never asked."""
    lines = [f"{'type':14} {'test':>7} {'unseen':>7}   exact answers, %"]
    for type in TYPES:
        seen = 100 * result["types"].get(type, float("nan"))
        unseen = 100 * result["unseen_types"].get(type, float("nan"))
        lines.append(f"{type:14} {seen:7.1f} {unseen:7.1f}")
    seen = 100 * result["overall"]
    unseen = 100 * result["unseen_combinations"]
    lines.append(f"{'overall':14} {seen:7.1f} {unseen:7.1f}")
    questions = result["questions"]
    lines.append(f"{'questions':14} {questions['seen']:7} {questions['unseen']:7}")
    precision = result["detail"]["precision"]
    recall = result["detail"]["recall"]
    lines.append(
        f"detailed descriptions: {precision:.1%} of the stated facts are true, "
        f"{recall:.1%} of the true facts are stated"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.toyland score --help")
