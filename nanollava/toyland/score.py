"""Scores a LLaVA on Toyland's held-out scenes.

Short questions are counted as right or wrong by type: in plain language, in wordings that are
trained on, in wordings that are not, and on scenes with unseen combinations of kind and color.
Descriptions are measured by precision and recall of the facts they state, dialogues by the answers
to their later turns.
"""

import random
from functools import lru_cache
from math import nan
from statistics import fmean

from PIL import Image

from ..assistant import dialogue_turns
from ..errors import exit_with
from ..image import ImageConfig
from ..llava import LLaVA
from ..streaming import answer_dialogues
from ..tokenizer import Tokenizer
from .dialogues import description, follow_ups
from .draw import draw
from .grammar import WORDING_SPLITS
from .overlap import in_plain_language
from .plain import plain_instructions, plain_questions
from .qa import QA
from .questions import TYPES, questions
from .scenes import Scene, scenes
from .teacher import facts_from_captions, stated_facts

IMAGE_SIZE = 200  # pixels, as in the data set
TEMPLATE = "vicuna_v1"  # the prompt of toy-llava
BATCH = 64  # questions that are drawn and answered together
PLAIN = "plain"  # the few forms of plain.py, besides the splits of all wordings
SECOND_TURN = "second turn"  # descriptions that are asked for after a question
ABOUT_A_THING = ("color", "position", "distance")  # types of questions about things that are there


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


@lru_cache(maxsize=1024)
def image_of(scene: Scene) -> Image.Image:
    """The drawing of a scene; about thirty questions share it."""
    return draw(scene, IMAGE_SIZE)


def ask(
    model: LLaVA,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    dialogues: list[tuple[Scene, list[str]]],
    max_new_tokens: int,
    template: str = TEMPLATE,
) -> list[list[str]]:
    """Greedy answers to all questions of dialogues about one image each, computed in batches.

    Later turns see the model's own answers."""
    histories: list[list[tuple[str, str]]] = [[] for _ in dialogues]
    num_turns = max((len(texts) for _, texts in dialogues), default=0)
    for turn in range(num_turns):
        active = [i for i, (_, texts) in enumerate(dialogues) if turn < len(texts)]
        for start in range(0, len(active), BATCH):
            batch = active[start : start + BATCH]
            prompts = []
            for i in batch:
                scene, texts = dialogues[i]
                turns = dialogue_turns(1, texts[turn], histories[i])
                prompts.append(([image_of(scene)], turns))
            answers = answer_dialogues(
                model,
                tokenizer,
                image_config,
                prompts,
                template,
                batch_size=BATCH,
                max_new_tokens=max_new_tokens,
            )
            for i, answer in zip(batch, answers, strict=True):
                _, texts = dialogues[i]
                histories[i].append((texts[turn], answer))
    return [[answer for _, answer in history] for history in histories]


def choose_questions(pool: list[Scene], rng: random.Random, split: str) -> list[tuple[Scene, QA]]:
    """For every scene one question of every type that it allows.

    An unseen one is never a form of plain language, which the decoder learned before."""
    chosen = []
    for scene in pool:
        facts = facts_from_captions(scene, rng)
        if split == PLAIN:
            by_type = plain_questions(facts, rng)
        else:
            by_type = questions(facts, rng, split)
        for qas in by_type.values():
            if split == "unseen":
                qas = [qa for qa in qas if not in_plain_language(qa.question)]
            if qas:
                chosen.append((scene, rng.choice(qas)))
    return chosen


def choose_description(facts: Scene, rng: random.Random, split: str) -> QA:
    """A description, asked for in a form of the split; an unseen one is not plain language."""
    if split == PLAIN:
        (qa,) = plain_instructions(facts, rng, "detail")
        return qa
    qa = description(facts, rng, split)
    while split == "unseen" and in_plain_language(qa.question):
        qa = description(facts, rng, split)
    return qa


class Scorer:
    """Asks one model; all questions come from one stream of random numbers."""

    def __init__(
        self,
        model: LLaVA,
        tokenizer: Tokenizer,
        image_config: ImageConfig,
        rng: random.Random,
        template: str = TEMPLATE,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.image_config = image_config
        self.rng = rng
        self.template = template
        self.num_questions = 0  # that have been asked
        # For every question in `short_questions` about a thing that is there: was it denied?
        self.denials: list[bool] = []
        # Was the answer right where `short_questions` asked for one word or for a sentence?
        self.requests: dict[str, list[bool]] = {"word": [], "sentence": []}

    def ask(
        self, dialogues: list[tuple[Scene, list[str]]], max_new_tokens: int = 48
    ) -> list[list[str]]:
        self.num_questions += sum(len(texts) for _, texts in dialogues)
        parts = (self.model, self.tokenizer, self.image_config)
        return ask(*parts, dialogues, max_new_tokens, self.template)

    def short_questions(self, pool: list[Scene], split: str) -> dict[str, list[bool]]:
        """Whether each answer is exactly right, by type of question."""
        chosen = choose_questions(pool, self.rng, split)
        answers = self.ask([(scene, [qa.question]) for scene, qa in chosen])
        right: dict[str, list[bool]] = {}
        for (_, qa), (text,) in zip(chosen, answers, strict=True):
            is_right = normal(text) == normal(qa.answer)
            right.setdefault(qa.type, []).append(is_right)
            if qa.request:
                self.requests[qa.request].append(is_right)
            if qa.type in ABOUT_A_THING:
                self.denials.append(text.startswith(("There is no ", "There are no ")))
        return right

    def descriptions(
        self, pool: list[Scene], split: str, first_type: str | None = None
    ) -> dict[str, float]:
        """`precision`: the share of the stated facts that are true; `recall`: the true ones stated.

        Both count the facts of all descriptions together. With `first_type` each description is
        asked for as the second turn, after a question of this type."""
        references = []
        dialogues = []
        for scene in pool:
            facts = facts_from_captions(scene, self.rng)
            qa = choose_description(facts, self.rng, split)
            texts = [qa.question]
            if first_type is not None:
                first = self.rng.choice(questions(facts, self.rng, split)[first_type])
                texts.insert(0, first.question)
            dialogues.append((scene, texts))
            references.append(qa.answer)
        answers = self.ask(dialogues, max_new_tokens=128)
        stated = facts_of_texts([texts[-1] for texts in answers])
        true = facts_of_texts(references)
        correct = len(stated & true)
        return {
            "precision": correct / max(1, len(stated)),
            "recall": correct / max(1, len(true)),
        }

    def follow_ups(self, pool: list[Scene], split: str) -> float:
        """The share of right answers to the later turns of dialogues of three turns."""
        talks = []
        for scene in pool:
            talk = follow_ups(facts_from_captions(scene, self.rng), self.rng, 3, split)
            talks.append((scene, talk))
        dialogues = [(scene, [qa.question for qa in talk]) for scene, talk in talks]
        is_right = []
        for (_, talk), texts in zip(talks, self.ask(dialogues), strict=True):
            for qa, text in zip(talk[1:], texts[1:], strict=True):
                is_right.append(normal(text) == normal(qa.answer))
        return fmean(is_right)


def facts_of_texts(texts: list[str]) -> set[tuple]:
    """The facts that the texts state, each with the index of its text."""
    facts = set()
    for i, text in enumerate(texts):
        for fact in stated_facts(text):
            facts.add((i, fact))
    return facts


def score(
    model: LLaVA,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    count: int = 300,
    seed: int = 0,
    template: str = TEMPLATE,
) -> dict:
    """Scores a model on `count` test scenes, and half as many with unseen combinations.

    Returns shares of exact answers: `overall` and by `types`; the same in `plain` language, in
    `unseen_wordings` and on `unseen_combinations`, each with "overall". `denials` is, among the
    answers about a thing that is there, the share that denies it. `requests` is the share of right
    answers to questions that ask for one "word" or a "sentence" (left out if none does). `detail`
    has `precision` and `recall` of the facts in descriptions, and `follow_ups` the share of right
    later turns, each by split of the wordings, on a third of the scenes; "second turn" in `detail`
    are descriptions after a question about a color. `questions` is how many were asked.
    """
    rng = random.Random(f"score/{seed}")
    scorer = Scorer(model, tokenizer, image_config, rng, template)
    pool = list(scenes("test", count, seed, unseen=False))
    unseen_pool = list(scenes("test", max(1, count // 2), seed, unseen=True))
    part = pool[: max(1, count // 3)]
    types = shares(scorer.short_questions(pool, "trained"))
    unseen_wordings = shares(scorer.short_questions(pool, "unseen"))
    unseen_combinations = shares(scorer.short_questions(unseen_pool, "trained"))
    details = {split: scorer.descriptions(part, split) for split in WORDING_SPLITS}
    later_turns = {split: scorer.follow_ups(part, split) for split in WORDING_SPLITS}
    requests = {}  # a form that no question asked for is left out
    for request, is_right in scorer.requests.items():
        if is_right:
            requests[request] = fmean(is_right)
    plain = shares(scorer.short_questions(pool, PLAIN))
    details[PLAIN] = scorer.descriptions(part, PLAIN)
    details[SECOND_TURN] = scorer.descriptions(part, "trained", first_type="color")
    return {
        "overall": types.pop("overall"),
        "types": types,
        "plain": plain,
        "unseen_wordings": unseen_wordings,
        "unseen_combinations": unseen_combinations,
        "denials": fmean(scorer.denials),
        "requests": requests,
        "detail": details,
        "follow_ups": later_turns,
        "questions": scorer.num_questions,
    }


def plain_score(
    model: LLaVA,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    count: int,
    seed: int = 0,
    template: str = TEMPLATE,
) -> dict[str, float]:
    """Shares of exact answers in plain language on `count` test scenes, by type and "overall".

    The questions are not those of `plain` in `score`: the random numbers differ.
    """
    rng = random.Random(f"plain score/{seed}")
    scorer = Scorer(model, tokenizer, image_config, rng, template)
    return shares(scorer.short_questions(list(scenes("test", count, seed, unseen=False)), PLAIN))


def plain_table(result: dict[str, float]) -> str:
    """The shares of `plain_score` as lines of text, in percent, for the types that were asked."""
    lines = ["exact answers, % (plain language)"]
    for type in (*TYPES, "overall"):
        if type in result:
            lines.append(f"{type:18} {100 * result[type]:9.1f}")
    return "\n".join(lines)


def table(result: dict) -> str:
    """The score as lines of text, in percent; nan where a type was never asked."""
    columns = (
        result["plain"],
        {"overall": result["overall"], **result["types"]},
        result["unseen_wordings"],
        result["unseen_combinations"],
    )
    lines = [
        f"{'exact answers, %':18} {'plain':>9} {'trained':>9} {'unseen':>9} {'unseen':>13}",
        f"{'':18} {'language':>9} {'wordings':>9} {'wordings':>9} {'combinations':>13}",
    ]
    for type in (*TYPES, "overall"):
        plain, trained, unseen, combinations = (100 * column.get(type, nan) for column in columns)
        lines.append(f"{type:18} {plain:9.1f} {trained:9.1f} {unseen:9.1f} {combinations:13.1f}")
    trained_follow_ups = 100 * result["follow_ups"]["trained"]
    unseen_follow_ups = 100 * result["follow_ups"]["unseen"]
    lines.append(f"{'follow-ups':18} {'':9} {trained_follow_ups:9.1f} {unseen_follow_ups:9.1f}")
    for name in (PLAIN, *WORDING_SPLITS, SECOND_TURN):
        precision = result["detail"][name]["precision"]
        recall = result["detail"][name]["recall"]
        where = "as a second turn" if name == SECOND_TURN else f"{name} wordings"
        lines.append(
            f"descriptions, {where}: {precision:.1%} of the stated facts are true, "
            f"{recall:.1%} of the true facts are stated"
        )
    word = result["requests"].get("word", nan)
    sentence = result["requests"].get("sentence", nan)
    lines.append(f"asked for one word: {word:.1%}, for a sentence: {sentence:.1%}")
    lines.append(f"things that are there and are denied: {result['denials']:.1%}")
    lines.append(f"questions: {result['questions']:,}")
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.toyland score --help")
