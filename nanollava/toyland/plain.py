"""Plain language: questions in a few forms each, and conversations of them.

toy-vicuna learns it first, and looks facts up with it; the many forms in which people ask
(`wordings.py`) come later.
"""

import random
from functools import partial
from itertools import permutations

from .captions import NUMBERS, WORDS, plural, with_article
from .dialogues import choose_turns
from .qa import QA, kinds_absent, kinds_in, kinds_present, yes_or_no
from .questions import TYPES, true_reasons
from .scenes import COLORS, SIDES, Scene, Thing
from .teacher import detail

# Words in braces are filled in: `kind` is "cat", `a_kind` "a cat", `kinds` "cats", `name` "the red
# cat", `other` the name of a second thing, `side` "on the left", `way` "left".
FORMS: dict[str, tuple[str, ...]] = {
    # One thing and its color; the second when the kind occurs more than once.
    "color": (
        "What color is the {kind}?",
        "Which color does the {kind} have?",
        "Tell me the color of the {kind}.",
        "The {kind} is of what color?",
    ),
    "color of one": (
        "What color is the {kind} {side}?",
        "Tell me the color of the {kind} {side}.",
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
    "count of all": (
        "How many things are there?",
        "How many things do you see in all?",
    ),
    "presence": (
        "Is there {a_kind}?",
        "Do you see {a_kind}?",
        "Does the picture show {a_kind}?",
        "Is {a_kind} in the picture?",
    ),
    "presence of color": (
        "Is there {a_kind}?",
        "Do you see {a_kind}?",
        "Does the picture show {a_kind}?",
    ),
    # Two things compared.
    "side of other": (
        "Is {name} to the {way} of {other}?",
        "Is {name} more to the {way} than {other}?",
    ),
    "closer": (
        "Which is closer, {name} or {other}?",
        "What is closer to us, {name} or {other}?",
    ),
    # The whole image.
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
    # Questions that need reasoning.
    "who needs an umbrella": (
        "Who needs an umbrella and why?",
        "Who should take an umbrella and why?",
    ),
    "umbrella": (
        "Does anyone need an umbrella?",
        "Is an umbrella of use now?",
    ),
    "boat": (
        "Can the boat sail here?",
        "Is this a good place for sailing the boat?",
    ),
    "bicycle": (
        "Is it a good time to ride the bicycle?",
        "Would you ride the bicycle now?",
    ),
    "car": (
        "Should the car turn on its lights?",
        "Does the car need its lights?",
    ),
    "dog and ball": (
        "Can a dog play with a ball here?",
        "Could a dog chase a ball here?",
    ),
    "bird": (
        "Can the bird sit in a tree?",
        "Is there a tree for the bird?",
    ),
    "sunglasses": (
        "Would sunglasses help?",
        "Is it good to wear sunglasses?",
    ),
    "snowman": (
        "Can we build a snowman here?",
        "Is there snow for a snowman?",
    ),
    "sea": (
        "Can we build a sand castle?",
        "Could we swim in the sea here?",
    ),
    # The detailed description.
    "detail": (
        "Describe the picture in detail.",
        "What do you see in this picture? Tell me everything.",
        "Give a detailed description of the picture.",
        "Tell me all about this picture.",
        "Describe everything that you see.",
    ),
}


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
    """A question in one of the forms under `wording`, by default those of the type."""
    if wording is None:
        wording = type
    template = rng.choice(FORMS[wording])
    return QA(type, template.format(**words), answer)


def questions_about(thing: Thing, facts: Scene, rng: random.Random) -> list[QA]:
    """Color, position and distance of a thing, and what is on its side of the image."""
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
    """Two things compared: whether one is left or right of the other, and which is closer."""
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


def plain_reasons(facts: Scene, rng: random.Random) -> list[QA]:
    """Complex reasoning: for every question the first answer whose words all hold here."""
    qas = []
    for wording, reason in true_reasons(facts).items():
        if wording == "umbrella" and facts.weather == "rainy":
            continue  # then "who needs an umbrella" asks the same, if somebody is there
        qas.append(make_question("reason", reason.answer, rng, wording))
    return qas


def plain_questions(facts: Scene, rng: random.Random) -> dict[str, list[QA]]:
    """All short questions with one definite answer, by type, each in one of its forms."""
    present = kinds_present(facts)
    absent = kinds_absent(facts)
    qas = []
    for thing in facts.things:
        qas += questions_about(thing, facts, rng)
    qas += count_questions(facts, present, absent, rng)
    qas += presence_questions(facts, present, absent, rng)
    qas += relation_questions(facts, rng)
    weather = "a clear night" if facts.weather == "night" else facts.weather
    qas.append(make_question("weather", weather, rng))
    qas.append(make_question("place", WORDS[facts.place], rng))
    qas += plain_reasons(facts, rng)

    by_type: dict[str, list[QA]] = {type: [] for type in TYPES}
    for qa in qas:
        by_type[qa.type].append(qa)
    return by_type


# Conversations


def gives_away(earlier: QA, qa: QA) -> bool:
    """Whether an earlier turn states part of the answer: that a kind is there, its color or spot.

    A question of the same type about the same kinds counts as asked already. Plain questions need
    less than `dialogues.gives_away`: hardly any but "what" and "relation" speak of spots."""
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
    types += rng.sample((*look_ups, "relation", other), 5)  # all, shuffled
    types += rng.sample(look_ups, 3)
    return types


def pick_by_answer(qas: list[QA], rng: random.Random) -> QA:
    """First the answer, then the question: so "two" is as frequent as "none".

    A "yes" gets double weight: earlier turns rule out more of the questions with that answer."""
    answers = sorted({qa.answer for qa in qas})
    if qas[0].type == "presence" and "yes" in answers:
        answers.append("yes")
    answer = rng.choice(answers)
    return rng.choice([qa for qa in qas if qa.answer == answer])


def plain_conversation(
    facts: Scene, rng: random.Random, turns: int = 8, inventory: float = 0.35
) -> list[QA]:
    """At most `turns` short questions, none of which the turns before it answer."""
    by_type = plain_questions(facts, rng)
    types = question_types(facts, rng, turns, inventory)
    return choose_turns(by_type, types, turns, gives_away, partial(pick_by_answer, rng=rng))


def plain_instructions(
    facts: Scene, rng: random.Random, response_type: str, inventory: float = 0.35
) -> list[QA]:
    """One sample of instruction data, of the type "conversation", "detail" or "complex".

    `inventory` is the share of conversations that only ask what is there and how many. Raises
    ValueError for another type.
    """
    if response_type == "conversation":
        return plain_conversation(facts, rng, inventory=inventory)
    if response_type == "detail":
        return [make_question("detail", detail(facts), rng)]
    if response_type == "complex":
        qas = plain_reasons(facts, rng)
        return rng.sample(qas, min(3, len(qas)))
    raise ValueError(
        f"instruction data {response_type!r}: expected 'conversation', 'detail' or 'complex'"
    )
