"""A rule-based teacher in place of the paper's GPT-4 (section 3).

It sees captions and boxes, never the image or the scene, and writes conversations, detailed
descriptions and complex reasoning as if it had seen the image.
"""

import random
import re
from dataclasses import dataclass
from itertools import permutations

from ..errors import UserError
from .captions import NUMBERS, WEATHER_WORDS, WORDS, boxes, captions, plural, with_article
from .scenes import COLORS, DISTANCES, KINDS, PLACES, SIDES, WEATHERS, Scene, Thing, near_first
from .wordings import REASONS, WORDINGS

TYPES = (
    "color",
    "count",
    "position",
    "distance",
    "what",
    "presence",
    "relation",
    "weather",
    "place",
    "reason",
)

# "on the left" -> "left", and so on: the inverse of WORDS.
NAMES = {words: name for name, words in WORDS.items()}


def any_of(words: list[str] | tuple[str, ...]) -> str:
    """A regular expression, with one group, that matches any of the words."""
    return f"({'|'.join(words)})"


COLOR = any_of(COLORS)
KIND = any_of(KINDS)
DISTANCE_WORDS = any_of([WORDS[distance] for distance in DISTANCES])
SIDE_WORDS = any_of([WORDS[side] for side in SIDES])
# As the captions name a thing ("a red cat in front on the left"), and as `detail` does.
THING_IN_CAPTION = re.compile(rf"an? {COLOR} {KIND} {DISTANCE_WORDS} {SIDE_WORDS}")
THING_IN_DETAIL = re.compile(rf"{DISTANCE_WORDS} {SIDE_WORDS} there is an? (\w+) (\w+)")
COUNT_IN_DETAIL = re.compile(rf"there (?:is|are) {any_of(NUMBERS)} things?")


@dataclass(frozen=True)
class QA:
    """A question with its answer."""

    type: str  # one of TYPES, or "detail"
    question: str
    answer: str


# Reading captions and boxes


def places_in(text: str) -> list[str]:
    return [place for place in PLACES if WORDS[place] in text]


def weathers_in(text: str) -> list[str]:
    weathers = []
    for weather in WEATHERS:
        if any(words in text for words in WEATHER_WORDS[weather]):
            weathers.append(weather)
    return weathers


def read(texts: list[str], kinds_and_boxes: list[tuple[str, tuple]]) -> Scene:
    """The facts that captions and boxes state.

    Place, weather and colors come from the captions; kinds, sides and distances from the boxes. A
    thing whose color no caption states has the color None. Raises UserError for captions that name
    no place or weather of Toyland.
    """
    text = " ".join(texts).lower()
    places = places_in(text)
    weathers = weathers_in(text)
    if not places or not weathers:
        raise UserError(
            "these captions name no place or no weather of Toyland; "
            "Toyland's teacher reads only Toyland's captions"
        )
    colors = {}  # of the things that the captions name, by kind, side and distance
    for color, kind, distance_words, side_words in THING_IN_CAPTION.findall(text):
        colors[kind, NAMES[side_words], NAMES[distance_words]] = color
    things = []
    for kind, box in kinds_and_boxes:
        x1, _, x2, y2 = box
        center = (x1 + x2) / 2
        side = SIDES[min(2, int(center * 3))]
        distance = "near" if y2 > 0.75 else "far"
        color = colors.get((kind, side, distance))
        things.append(Thing(kind, color, side, distance, tuple(box)))
    return Scene(places[0], weathers[0], tuple(things))


def facts_from_captions(scene: Scene, rng: random.Random) -> Scene:
    """The teacher's view of a scene: what its captions and boxes state."""
    return read(captions(scene, rng), boxes(scene))


# Short questions


def unique_name(facts: Scene, thing: Thing) -> str | None:
    """The shortest name that fits this thing only: "the cat", "the red cat", or None."""
    same_kind = facts.of_kind(thing.kind)
    if len(same_kind) == 1:
        return f"the {thing.kind}"
    same_color = [other for other in same_kind if other.color == thing.color]
    if len(same_color) == 1:
        return f"the {thing.color} {thing.kind}"
    return None


def make_question(
    type: str, answer: str, rng: random.Random, wording: str | None = None, **words: str
) -> QA:
    """A question in one of its wordings: those under `wording`, by default those of the type."""
    if wording is None:
        wording = type
    template = rng.choice(WORDINGS[wording])
    return QA(type, template.format(**words), answer)


def yes_or_no(is_true: bool) -> str:
    return "yes" if is_true else "no"


def questions_about(thing: Thing, facts: Scene, rng: random.Random) -> list[QA]:
    """Color, position and distance of a thing, and what stands on its side."""
    qas = []
    kind = thing.kind
    side = WORDS[thing.side]
    name = unique_name(facts, thing)
    kinds_on_side = [other.kind for other in facts.things if other.side == thing.side]
    if len(facts.of_kind(kind)) == 1:
        qas.append(make_question("color", thing.color, rng, kind=kind))
    elif kinds_on_side.count(kind) == 1:
        qas.append(make_question("color", thing.color, rng, "color of one", kind=kind, side=side))
    if name is not None:
        qas.append(make_question("position", side, rng, name=name))
        qas.append(make_question("distance", WORDS[thing.distance], rng, name=name))
    if len(kinds_on_side) == 1:
        qas.append(make_question("what", with_article(thing.color, kind), rng, side=side))
    return qas


def count_questions(
    facts: Scene, present: list[str], absent: list[str], rng: random.Random
) -> list[QA]:
    """How many there are of every kind, of one kind that is absent, and of all things."""
    qas = []
    for kind in [*present, rng.choice(absent)]:
        number = NUMBERS[len(facts.of_kind(kind))]
        qas.append(make_question("count", number, rng, kinds=plural(kind)))
    qas.append(make_question("count", NUMBERS[len(facts.things)], rng, "count of all"))
    return qas


def presence_questions(
    facts: Scene, present: list[str], absent: list[str], rng: random.Random
) -> list[QA]:
    """Whether a kind is there, half of them absent, and whether it is there in some color."""
    qas = []
    for kind in [*present, *rng.sample(absent, len(present))]:
        answer = yes_or_no(kind in present)
        qas.append(make_question("presence", answer, rng, a_kind=with_article(kind)))
    for thing in facts.things:
        colors = [other.color for other in facts.of_kind(thing.kind)]
        color = thing.color
        if rng.random() >= 0.5:
            color = rng.choice([other for other in COLORS if other not in colors])
        answer = yes_or_no(color in colors)
        a_kind = with_article(color, thing.kind)
        qas.append(make_question("presence", answer, rng, "presence of color", a_kind=a_kind))
    return qas


def relation_questions(facts: Scene, rng: random.Random) -> list[QA]:
    """Two things compared: which is further left or right, and which is closer."""
    named = []
    for thing in facts.things:
        name = unique_name(facts, thing)
        if name is not None:
            named.append((thing, name))
    qas = []
    for (first, first_name), (second, second_name) in permutations(named, 2):
        names = {"name": first_name, "other": second_name}
        if first.side != second.side:
            way = rng.choice(("left", "right"))
            is_left_of = SIDES.index(first.side) < SIDES.index(second.side)
            answer = yes_or_no(is_left_of == (way == "left"))
            qas.append(make_question("relation", answer, rng, "side of other", way=way, **names))
        if first.distance != second.distance:
            closer = first_name if first.distance == "near" else second_name
            qas.append(make_question("relation", closer, rng, "closer", **names))
    return qas


def reasons(facts: Scene, rng: random.Random) -> list[QA]:
    """Complex reasoning: for every question the first answer whose words all hold here."""
    kinds = [thing.kind for thing in facts.things]
    words = {facts.place, facts.weather, *kinds}
    if kinds.count("person") > 1:
        words.add("people")
    qas = []
    for wording, answers in REASONS.items():
        true_answers = [reason.answer for reason in answers if reason.needs <= words]
        if true_answers:
            qas.append(make_question("reason", true_answers[0], rng, wording))
    return qas


def questions(facts: Scene, rng: random.Random) -> dict[str, list[QA]]:
    """All short questions with one definite answer, by type, each in one of its wordings."""
    present = list(dict.fromkeys(thing.kind for thing in facts.things))  # each kind once
    absent = [kind for kind in KINDS if kind not in present]
    qas = []
    for thing in facts.things:
        qas += questions_about(thing, facts, rng)
    qas += count_questions(facts, present, absent, rng)
    qas += presence_questions(facts, present, absent, rng)
    qas += relation_questions(facts, rng)
    weather = "a clear night" if facts.weather == "night" else facts.weather
    qas.append(make_question("weather", weather, rng))
    qas.append(make_question("place", WORDS[facts.place], rng))
    qas += reasons(facts, rng)

    by_type: dict[str, list[QA]] = {type: [] for type in TYPES}
    for qa in qas:
        by_type[qa.type].append(qa)
    return by_type


# The detailed description


def detail(facts: Scene) -> str:
    """The detailed description: place, weather, number of things, and every thing with its spot."""
    sky = "at night" if facts.weather == "night" else f"on a {facts.weather} day"
    count = "is one thing"
    if len(facts.things) > 1:
        count = f"are {NUMBERS[len(facts.things)]} things"
    text = f"This picture was taken {WORDS[facts.place]} {sky}. There {count}."
    for thing in sorted(facts.things, key=near_first):
        spot = f"{WORDS[thing.distance].capitalize()} {WORDS[thing.side]}"
        text += f" {spot} there is {with_article(thing.color, thing.kind)}."
    return text


def stated_facts(text: str) -> set[tuple]:
    """The facts that a description states, as tuples; `detail` states all that there are."""
    text = text.lower()
    facts: set[tuple] = set()
    for place in places_in(text):
        facts.add(("place", place))
    for weather in weathers_in(text):
        facts.add(("weather", weather))
    count = COUNT_IN_DETAIL.search(text)
    if count is not None:
        facts.add(("count", NUMBERS.index(count[1])))
    for distance_words, side_words, color, kind in THING_IN_DETAIL.findall(text):
        side = NAMES[side_words]
        distance = NAMES[distance_words]
        facts.add(("kind", side, distance, kind))
        facts.add(("color", side, distance, color))
    return facts


# Conversations


def kinds_in(qa: QA) -> set[str]:
    """The kinds of things that question and answer mention."""
    words = set(re.findall(r"\w+", f"{qa.question} {qa.answer}".lower()))
    return {kind for kind in KINDS if kind in words or plural(kind) in words}


def gives_away(earlier: QA, qa: QA) -> bool:
    """Whether an earlier turn states part of the answer: that a kind is there, its color or spot.

    A question of the same type about the same kinds counts as asked already."""
    earlier_kinds = kinds_in(earlier)
    kinds = kinds_in(qa)
    if earlier.type == qa.type:
        return earlier_kinds == kinds
    if not earlier_kinds & kinds:
        return False
    if qa.type == "color":
        return qa.answer in f"{earlier.question} {earlier.answer}"
    if qa.type in ("position", "distance"):
        return earlier.type in ("what", "relation")
    return True


def question_types(facts: Scene, rng: random.Random, turns: int, inventory: float) -> list[str]:
    """The types of questions that a conversation tries to ask, in order.

    With probability `inventory` it only asks what is there and how many, otherwise about facts of
    all types.
    """
    if rng.random() < inventory:
        kinds = {thing.kind for thing in facts.things}
        mixed = rng.sample(("presence", "count") * 4, min(8, 2 * len(kinds)))
        return rng.choice((mixed, ["count"] * turns))
    types = []
    if rng.random() < 0.6:
        types = rng.sample(("presence", "count", "what"), 3)
    look_ups = ("color", "position", "distance")
    other = rng.choice(("relation", "weather", "place"))
    types += rng.sample((*look_ups, "relation", other), 5)
    types += rng.sample(look_ups, 3)
    return types


def conversation(
    facts: Scene, rng: random.Random, turns: int = 8, inventory: float = 0.35
) -> list[QA]:
    """At most `turns` short questions, none of which the turns before it answer.

    So every answer must be looked up in the image."""
    by_type = questions(facts, rng)
    chosen: list[QA] = []
    for type in question_types(facts, rng, turns, inventory):
        if len(chosen) == turns:
            break
        fresh = []
        for qa in by_type[type]:
            if not any(gives_away(earlier, qa) for earlier in chosen):
                fresh.append(qa)
        if not fresh:
            continue
        # First the answer, then the question: "two" is as frequent as "none". A "yes" gets double
        # weight, because earlier turns rule out more of the questions with that answer.
        answers = sorted({qa.answer for qa in fresh})
        if type == "presence" and "yes" in answers:
            answers.append("yes")
        answer = rng.choice(answers)
        chosen.append(rng.choice([qa for qa in fresh if qa.answer == answer]))
    if not chosen:
        return by_type["weather"]
    return chosen


def instructions(
    facts: Scene, rng: random.Random, response_type: str, inventory: float = 0.35
) -> list[QA]:
    """One sample of instruction data, of the type "conversation", "detail" or "complex".

    `inventory` is the share of conversations that only ask what is there and how many. Raises
    ValueError for another type.
    """
    if response_type == "conversation":
        return conversation(facts, rng, inventory=inventory)
    if response_type == "detail":
        return [make_question("detail", detail(facts), rng)]
    if response_type == "complex":
        qas = reasons(facts, rng)
        return rng.sample(qas, min(3, len(qas)))
    raise ValueError(
        f"instruction data {response_type!r}: expected 'conversation', 'detail' or 'complex'"
    )


def dialogue(context: str, qas: list[QA]) -> list[dict]:
    """Questions and answers in LLaVA's form, `context` on a line before the first question.

    The context is the image token, or for a language model a description of the scene."""
    turns = []
    for i, qa in enumerate(qas):
        question = qa.question
        if i == 0:
            question = f"{context}\n{question}"
        turns.append({"from": "human", "value": question})
        turns.append({"from": "gpt", "value": qa.answer})
    return turns
