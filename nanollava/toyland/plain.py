"""Plain questions: every one asks for one fact, in one of a few forms.

toy-vicuna practices looking up with them: among the many forms of `wordings.py` it takes longer.
"""

import random
from itertools import permutations

from .captions import NUMBERS, WORDS, plural, with_article
from .questions import QA, TYPES, kinds_absent, kinds_present, yes_or_no
from .scenes import COLORS, SIDES, Scene, Thing

# Words in braces are filled in: `kinds` is "cats", `name` "the red cat", `side` "on the left".
FORMS: dict[str, tuple[str, ...]] = {
    "color": (
        "What color is {name}?",
        "Which color does {name} have?",
        "Tell me the color of {name}.",
        "{name} is of what color?",
    ),
    "position": (
        "Where is {name}?",
        "On which side is {name}?",
        "In which part of the picture is {name}?",
        "Where can I see {name}?",
    ),
    "distance": (
        "Is {name} in front or far away?",
        "How far away is {name}?",
        "Is {name} far away or in front?",
    ),
    "what": (
        "What is {side}?",
        "What do you see {side}?",
        "Which thing is {side} of the picture?",
        "Name the thing {side}.",
    ),
    "count": (
        "How many {kinds} are there?",
        "How many {kinds} do you see?",
        "Count the {kinds}.",
    ),
    "presence": (
        "Is there {a_kind}?",
        "Do you see {a_kind}?",
        "Does the picture show {a_kind}?",
    ),
    "side of other": (
        "Is {name} to the {way} of {other}?",
        "Is {name} more to the {way} than {other}?",
    ),
    "closer": (
        "Which is closer, {name} or {other}?",
        "What is closer to us, {name} or {other}?",
    ),
    "weather": (
        "What is the weather like?",
        "How is the weather?",
        "Which weather do you see?",
        "Describe the weather.",
    ),
    "place": (
        "Where was this picture taken?",
        "Which place is this?",
        "Where are we?",
        "What place does the picture show?",
    ),
}


def ask(type: str, answer: str, rng: random.Random, form: str = "", **words: str) -> QA:
    """A question in one of the forms under `form`, by default those of its type."""
    question = rng.choice(FORMS[form or type]).format(**words)
    return QA(type, question[0].upper() + question[1:], answer)


def unique_name(facts: Scene, thing: Thing) -> str | None:
    """The shortest name that fits this thing only: "the cat", "the red cat", or None."""
    same_kind = facts.of_kind(thing.kind)
    if len(same_kind) == 1:
        return f"the {thing.kind}"
    same_color = [other for other in same_kind if other.color == thing.color]
    if len(same_color) == 1:
        return f"the {thing.color} {thing.kind}"
    return None


def questions_about(thing: Thing, facts: Scene, rng: random.Random) -> list[QA]:
    """Color, position and distance of a thing, and what stands on its side."""
    qas = []
    side = WORDS[thing.side]
    on_side = [other for other in facts.things if other.side == thing.side]
    same_kind_on_side = [other for other in on_side if other.kind == thing.kind]
    name = unique_name(facts, thing)
    if len(facts.of_kind(thing.kind)) == 1:
        qas.append(ask("color", thing.color, rng, name=f"the {thing.kind}"))
    elif len(same_kind_on_side) == 1:
        qas.append(ask("color", thing.color, rng, name=f"the {thing.kind} {side}"))
    if name is not None:
        qas.append(ask("position", side, rng, name=name))
        qas.append(ask("distance", WORDS[thing.distance], rng, name=name))
    if len(on_side) == 1:
        qas.append(ask("what", with_article(thing.color, thing.kind), rng, side=side))
    return qas


def count_questions(facts: Scene, rng: random.Random) -> list[QA]:
    """How many there are of every kind, of one kind that is absent, and of all things."""
    qas = []
    for kind in [*kinds_present(facts), rng.choice(kinds_absent(facts))]:
        number = NUMBERS[len(facts.of_kind(kind))]
        qas.append(ask("count", number, rng, kinds=plural(kind)))
    qas.append(ask("count", NUMBERS[len(facts.things)], rng, kinds="things"))
    return qas


def presence_questions(facts: Scene, rng: random.Random) -> list[QA]:
    """Whether a kind is there, half of them absent, and whether it is there in some color."""
    present = kinds_present(facts)
    absent = rng.sample(kinds_absent(facts), len(present))
    qas = []
    for kind in [*present, *absent]:
        answer = yes_or_no(kind in present)
        qas.append(ask("presence", answer, rng, a_kind=with_article(kind)))
    for thing in facts.things:
        colors = [other.color for other in facts.of_kind(thing.kind)]
        color = thing.color
        if rng.random() < 0.5:
            color = rng.choice([other for other in COLORS if other not in colors])
        a_kind = with_article(color, thing.kind)
        qas.append(ask("presence", yes_or_no(color in colors), rng, a_kind=a_kind))
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
            qas.append(ask("relation", answer, rng, "side of other", way=way, **names))
        if first.distance != second.distance:
            closer = first_name if first.distance == "near" else second_name
            qas.append(ask("relation", closer, rng, "closer", **names))
    return qas


def plain_questions(facts: Scene, rng: random.Random) -> dict[str, list[QA]]:
    """All plain questions about a scene, by type."""
    qas = []
    for thing in facts.things:
        qas += questions_about(thing, facts, rng)
    qas += count_questions(facts, rng)
    qas += presence_questions(facts, rng)
    qas += relation_questions(facts, rng)
    weather = "a clear night" if facts.weather == "night" else facts.weather
    qas.append(ask("weather", weather, rng))
    qas.append(ask("place", WORDS[facts.place], rng))

    by_type: dict[str, list[QA]] = {type: [] for type in TYPES}
    for qa in qas:
        by_type[qa.type].append(qa)
    return by_type
