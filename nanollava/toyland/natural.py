"""Questions about a scene as people type them, each with a judge of free answers.

The wordings (`natural_wordings.py`) were written without knowledge of the training data's grammar.
`overlap.in_grammar` finds those that it can produce all the same.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ..errors import exit_with
from . import judges
from . import natural_wordings as wordings
from .captions import NUMBERS, WORDS, listing, name, name_and_side, plural, with_article
from .scenes import COLORS, KINDS, PLACES, SIDES, Scene, Thing

CASUAL = 0.25  # share of questions without capital letters and final punctuation

OPENING = "opening"  # the first turn of a dialogue, which is not scored: other types measure it
FOLLOW_UP = "follow-up"


@dataclass(frozen=True)
class Question:
    type: str
    text: str
    judge: Callable[[str], bool]
    expected: str  # one of the right answers
    scene: Scene | None  # None: the facts of the answer are not compared with the scene

    def is_right(self, text: str) -> bool:
        if not text.strip() or not self.judge(text):
            return False
        return self.scene is None or not judges.has_false_fact(text, self.scene)


Dialogue = tuple[Question, ...]


# --- words ---


def fill(rng: random.Random, forms: tuple[str, ...], **words: str) -> str:
    """One of the wordings, with its words filled in; sometimes typed carelessly."""
    text = rng.choice(forms).format(**words)
    if rng.random() < CASUAL:
        return text.lower().rstrip("?.")
    return text


def kind_words(kind: str, rng: random.Random) -> dict[str, str]:
    """The words for a kind in a question: "dog", "dogs" and "a dog"."""
    word = kind
    if kind == "bicycle" and rng.random() < 0.5:
        word = "bike"
    return {"kind": word, "kinds": plural(word), "a_kind": with_article(word)}


def thing_words(scene: Scene, thing: Thing, rng: random.Random) -> dict[str, str]:
    """The words for one thing: those of its kind, with its color ("red dog") where the kind alone
    means several things, and sometimes where it does not."""
    words = kind_words(thing.kind, rng)
    if len(scene.of_kind(thing.kind)) == 1 and rng.random() < 0.85:
        return words
    phrase = f"{thing.color} {words['kind']}"
    return {"kind": phrase, "a_kind": with_article(phrase)}


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def lone_things(scene: Scene) -> list[Thing]:
    """The things that are the only one of their kind: "the cat" means one of them."""
    return [thing for thing in scene.things if len(scene.of_kind(thing.kind)) == 1]


def nameable_things(scene: Scene) -> list[Thing]:
    """The things that kind and color tell from all others."""
    names = [(thing.kind, thing.color) for thing in scene.things]
    return [thing for thing in scene.things if names.count((thing.kind, thing.color)) == 1]


def absent_kinds(scene: Scene) -> list[str]:
    return [kind for kind in KINDS if not scene.of_kind(kind)]


def other_value(values: tuple[str, ...], value: str, rng: random.Random) -> str:
    return rng.choice([other for other in values if other != value])


def asked_value(values: tuple[str, ...], value: str, rng: random.Random) -> str:
    """The value that a yes/no question names: right half of the time."""
    if rng.random() < 0.5:
        return value
    return other_value(values, value, rng)


def yes_or_no(is_yes: bool) -> str:
    if is_yes:
        return "Yes."
    return "No."


# --- questions about one thing ---


def describe_question(scene: Scene, rng: random.Random) -> Question:
    text = fill(rng, wordings.DESCRIBE)
    things = listing([name_and_side(thing) for thing in scene.things])
    weather = WEATHER_ANSWERS[scene.weather]
    expected = sentence(f"{things}, {WORDS[scene.place]}. {weather}")
    return Question("describe", text, partial(judges.describes, scene=scene), expected, scene)


def color_question(scene: Scene, rng: random.Random) -> Question | None:
    things = lone_things(scene)
    if not things:
        return group_color_question(scene, rng)
    thing = rng.choice(things)
    words = kind_words(thing.kind, rng)
    form = rng.random()
    if form < 0.6:
        text = fill(rng, wordings.COLOR, **words)
        return about(scene, "color", thing, "color", text)
    if form < 0.8:
        asked = asked_value(COLORS, thing.color, rng)
        text = fill(rng, wordings.COLOR_CHECK, color=asked, **words)
        return yes_no_question(scene, "color", thing, "color", asked, text)
    options = [thing.color, other_value(COLORS, thing.color, rng)]
    rng.shuffle(options)
    first, second = options
    text = fill(
        rng,
        wordings.COLOR_CHOICE,
        color=first,
        other_color=second,
        a_color_kind=with_article(first, words["kind"]),
        a_other_color=with_article(second),
        **words,
    )
    return about(scene, "color", thing, "color", text)


def group_color_question(scene: Scene, rng: random.Random) -> Question:
    """All things of the scene are of kinds that occur more than once."""
    kind = rng.choice(scene.things).kind
    colors = sorted({thing.color for thing in scene.of_kind(kind)})
    text = fill(rng, wordings.COLOR_OF_GROUP, **kind_words(kind, rng))
    judge = partial(judges.names, attribute="color", values=colors)
    return Question("color", text, judge, sentence(listing(colors)), scene)


def about(scene: Scene, type: str, thing: Thing, attribute: str, text: str) -> Question:
    """A question whose answer is one attribute of a thing."""
    value = getattr(thing, attribute)
    judge = partial(judges.names, attribute=attribute, values=[value])
    expected = sentence(f"the {thing.kind} is {WORDS.get(value, value)}")
    return Question(type, text, judge, expected, scene)


def yes_no_question(
    scene: Scene, type: str, thing: Thing, attribute: str, asked: str, text: str
) -> Question:
    """A yes/no question about one attribute of a thing."""
    value = getattr(thing, attribute)
    judge = partial(judges.checks, attribute=attribute, asked=asked, value=value)
    return Question(type, text, judge, yes_or_no(asked == value), scene)


def position_question(scene: Scene, rng: random.Random) -> Question | None:
    things = nameable_things(scene)
    if not things:
        return None
    thing = rng.choice(things)
    words = thing_words(scene, thing, rng)
    form = rng.random()
    if form < 0.7:
        return about(scene, "position", thing, "side", fill(rng, wordings.POSITION, **words))
    if form < 0.9:
        asked = asked_value(SIDES, thing.side, rng)
        on_side = rng.choice(wordings.ON_SIDE[asked])
        text = fill(rng, wordings.POSITION_CHECK, on_side=on_side, **words)
        return yes_no_question(scene, "position", thing, "side", asked, text)
    options = [thing.side, other_value(SIDES, thing.side, rng)]
    rng.shuffle(options)
    first, second = options
    text = fill(
        rng,
        wordings.POSITION_CHOICE,
        on_side=rng.choice(wordings.ON_SIDE[first]),
        on_other_side=rng.choice(wordings.ON_SIDE[second]),
        **words,
    )
    return about(scene, "position", thing, "side", text)


def distance_question(scene: Scene, rng: random.Random) -> Question | None:
    things = nameable_things(scene)
    if not things:
        return None
    thing = rng.choice(things)
    words = thing_words(scene, thing, rng)
    form = rng.random()
    if form < 0.7:
        return about(scene, "distance", thing, "distance", fill(rng, wordings.DISTANCE, **words))
    if form < 0.85:
        text = fill(rng, wordings.NEAR_CHECK, **words)
        return yes_no_question(scene, "distance", thing, "distance", "near", text)
    text = fill(rng, wordings.FAR_CHECK, **words)
    return yes_no_question(scene, "distance", thing, "distance", "far", text)


# --- what there is, and how many ---


def presence_question(scene: Scene, rng: random.Random) -> Question:
    thing = rng.choice(scene.things)
    forms = wordings.IS_THERE
    if rng.random() < 0.15:
        forms = wordings.IS_COLORED_THERE
    elif thing.kind == "person" and rng.random() < 0.3:
        forms = wordings.IS_ANYBODY_THERE
    words = kind_words(thing.kind, rng)
    a_color_kind = with_article(thing.color, words["kind"])
    text = fill(rng, forms, a_color_kind=a_color_kind, **words)
    judge = partial(judges.confirms, kind=thing.kind)
    return Question("presence", text, judge, f"Yes, there is {name(thing)}.", scene)


def absence_question(scene: Scene, rng: random.Random) -> Question:
    if rng.random() < 0.15:
        return absent_color_question(scene, rng)
    kind = rng.choice(absent_kinds(scene))
    text = fill(rng, wordings.IS_THERE, **kind_words(kind, rng))
    judge = partial(judges.denies, kind=kind)
    return Question("absence", text, judge, f"No, there is no {kind}.", scene)


def absent_color_question(scene: Scene, rng: random.Random) -> Question:
    """Asks for a kind that is there, in a color that it does not have."""
    kind = rng.choice(scene.things).kind
    taken = {thing.color for thing in scene.of_kind(kind)}
    color = rng.choice([color for color in COLORS if color not in taken])
    words = kind_words(kind, rng)
    a_color_kind = with_article(color, words["kind"])
    text = fill(rng, wordings.IS_COLORED_THERE, a_color_kind=a_color_kind)
    judge = partial(judges.says, yes=False)
    return Question("absence", text, judge, f"No, there is no {color} {kind}.", scene)


def count_question(scene: Scene, rng: random.Random) -> Question:
    kind = rng.choice(scene.things).kind
    number = len(scene.of_kind(kind))
    words = kind_words(kind, rng)
    form = rng.random()
    if form < 0.7:
        text = fill(rng, wordings.COUNT, **words)
        judge = partial(judges.counts, number=number)
        return Question("count", text, judge, sentence(NUMBERS[number]), scene)
    if form < 0.85:
        number = len(scene.things)
        text = fill(rng, wordings.COUNT_ALL)
        judge = partial(judges.counts, number=number)
        return Question("count", text, judge, sentence(NUMBERS[number]), scene)
    text = fill(rng, wordings.COUNT_CHECK, **words)
    judge = partial(judges.counts_several, number=number)
    return Question("count", text, judge, yes_or_no(number > 1), scene)


def what_question(scene: Scene, rng: random.Random) -> Question | None:
    """Asks for the kind of the only thing on a side, at a distance or of a color, or for the
    things besides one."""
    candidates = []
    for thing in scene.things:
        if is_only(scene, thing, "side"):
            on_side = rng.choice(wordings.ON_SIDE[thing.side])
            candidates.append((thing, fill(rng, wordings.WHAT_SIDE, on_side=on_side)))
        if is_only(scene, thing, "distance"):
            at_distance = rng.choice(wordings.AT_DISTANCE[thing.distance])
            candidates.append((thing, fill(rng, wordings.WHAT_DISTANCE, at_distance=at_distance)))
        if is_only(scene, thing, "color"):
            candidates.append((thing, fill(rng, wordings.WHAT_COLOR, color=thing.color)))
    lone = lone_things(scene)
    if lone and len(scene.things) > 1 and (not candidates or rng.random() < 0.2):
        return what_else_question(scene, rng.choice(lone), rng)
    if not candidates:
        return None
    thing, text = rng.choice(candidates)
    judge = partial(judges.names, attribute="kind", values=[thing.kind])
    return Question("what", text, judge, sentence(name(thing)), scene)


def is_only(scene: Scene, thing: Thing, attribute: str) -> bool:
    values = [getattr(other, attribute) for other in scene.things]
    return values.count(getattr(thing, attribute)) == 1


def what_else_question(scene: Scene, thing: Thing, rng: random.Random) -> Question:
    text = fill(rng, wordings.WHAT_ELSE, **kind_words(thing.kind, rng))
    others = [other for other in scene.things if other != thing]
    kinds = {other.kind for other in others}
    judge = partial(judges.names_others, kinds=kinds, besides=thing.kind)
    expected = sentence(listing([name(other) for other in others]))
    return Question("what", text, judge, expected, scene)


# --- place and weather ---


def place_question(scene: Scene, rng: random.Random) -> Question:
    form = rng.random()
    judge = partial(judges.names, attribute="place", values=[scene.place])
    expected = sentence(WORDS[scene.place])
    if form < 0.65:
        return Question("place", fill(rng, wordings.PLACE), judge, expected, scene)
    if form < 0.85:
        asked = asked_value(PLACES, scene.place, rng)
        in_place = rng.choice(wordings.IN_PLACE[asked])
        text = fill(rng, wordings.PLACE_CHECK, in_place=in_place)
        judge = partial(judges.checks, attribute="place", asked=asked, value=scene.place)
        return Question("place", text, judge, yes_or_no(asked == scene.place), scene)
    options = [scene.place, other_value(PLACES, scene.place, rng)]
    rng.shuffle(options)
    first, second = options
    text = fill(
        rng,
        wordings.PLACE_CHOICE,
        in_place=rng.choice(wordings.IN_PLACE[first]),
        in_other_place=rng.choice(wordings.IN_PLACE[second]),
    )
    return Question("place", text, judge, expected, scene)


WEATHER_ANSWERS = {
    "sunny": "It is sunny",
    "rainy": "It is raining",
    "cloudy": "It is cloudy",
    "night": "It is night",
}


def weather_question(scene: Scene, rng: random.Random) -> Question:
    form = rng.random()
    weather = scene.weather
    if form < 0.55:
        text = fill(rng, wordings.WEATHER)
        judge = partial(judges.names, attribute="weather", values=[weather])
        return Question("weather", text, judge, WEATHER_ANSWERS[weather] + ".", scene)
    if form < 0.75:
        return day_or_night_question(scene, rng)
    asked = weather
    if asked not in wordings.WEATHER_CHECK or rng.random() < 0.5:
        others = [other for other in wordings.WEATHER_CHECK if other != weather]
        asked = rng.choice(others)
    text = fill(rng, wordings.WEATHER_CHECK[asked])
    judge = partial(judges.checks, attribute="weather", asked=asked, value=weather)
    return Question("weather", text, judge, yes_or_no(asked == weather), scene)


def day_or_night_question(scene: Scene, rng: random.Random) -> Question:
    text = fill(rng, wordings.DAY_OR_NIGHT)
    judge = partial(judges.knows_day, weather=scene.weather)
    expected = "It is day."
    if scene.weather == "night":
        expected = "It is night."
    return Question("weather", text, judge, expected, scene)


# --- two things ---


def relation_question(scene: Scene, rng: random.Random) -> Question | None:
    things = lone_things(scene)
    if len(things) < 2:
        return None
    thing, other = rng.sample(things, 2)
    compares_sides = thing.side != other.side
    if compares_sides and thing.distance != other.distance:
        compares_sides = rng.random() < 0.5
    if compares_sides:
        return side_relation(thing, other, rng)
    if thing.distance != other.distance:
        return distance_relation(scene, thing, other, rng)
    return None


def pair_words(thing: Thing, other: Thing, rng: random.Random) -> dict[str, str]:
    words = kind_words(thing.kind, rng)
    words["other"] = kind_words(other.kind, rng)["kind"]
    return words


def side_relation(thing: Thing, other: Thing, rng: random.Random) -> Question:
    """Which of two things is further left or right. The facts of the answer are not compared with
    the scene: in "the cat is to the left", left is not its side of the image."""
    words = pair_words(thing, other, rng)
    direction = "right"
    if SIDES.index(thing.side) < SIDES.index(other.side):
        direction = "left"
    asked = rng.choice(("left", "right"))
    form = rng.random()
    if form < 0.4:
        text = fill(rng, wordings.SIDE_CHECK, direction=asked, **words)
        judge = partial(judges.says, yes=asked == direction)
        return Question("relation", text, judge, yes_or_no(asked == direction), None)
    if form < 0.7:
        text = fill(rng, wordings.SIDE_CHOICE, **words)
        judge = partial(judges.tells_side, direction=direction)
        return Question("relation", text, judge, f"To the {direction}.", None)
    text = fill(rng, wordings.SIDE_WHICH, direction=asked, **words)
    opposite = other_value(("left", "right"), asked, rng)
    if asked != direction:
        thing, other = other, thing
    return which(None, "relation", thing, other, (opposite,), text)


NEAR_WORDS = ("closer", "nearer", "near", "close", "front")
FAR_WORDS = ("farther", "further", "far", "behind", "distant", "back")


def distance_relation(scene: Scene, thing: Thing, other: Thing, rng: random.Random) -> Question:
    words = pair_words(thing, other, rng)
    is_nearer = thing.distance == "near"
    form = rng.random()
    if form < 0.35:
        text = fill(rng, wordings.NEARER_CHECK, **words)
        judge = partial(judges.says, yes=is_nearer)
        return Question("relation", text, judge, yes_or_no(is_nearer), scene)
    near, far = thing, other
    if not is_nearer:
        near, far = other, thing
    if form < 0.7:
        text = fill(rng, wordings.NEARER_WHICH, **words)
        return which(scene, "relation", near, far, FAR_WORDS, text)
    text = fill(rng, wordings.FARTHER_WHICH, **words)
    return which(scene, "relation", far, near, NEAR_WORDS, text)


def which(
    scene: Scene | None, type: str, thing: Thing, other: Thing, opposite: tuple[str, ...], text: str
) -> Question:
    """Which of two things? `thing` is right; in words of the `opposite` comparison, `other` is."""
    judge = partial(judges.tells_which, kind=thing.kind, other=other.kind, opposite=opposite)
    return Question(type, text, judge, f"The {thing.kind}.", scene)


# --- questions without an answer ---


def false_premise_question(scene: Scene, rng: random.Random) -> Question:
    kind = rng.choice(absent_kinds(scene))
    forms = (wordings.COLOR, wordings.POSITION, wordings.DISTANCE, wordings.COUNT)
    form = rng.choice(forms)
    text = fill(rng, form, **kind_words(kind, rng))
    judge = partial(judges.tells_none, kind=kind, is_count=form is wordings.COUNT)
    return Question("false premise", text, judge, f"There is no {kind}.", scene)


def outside_question(scene: Scene, rng: random.Random) -> Question:
    things = lone_things(scene)
    forms = wordings.OUTSIDE
    words: dict[str, str] = {}
    if things and rng.random() < 0.4:
        kind = rng.choice(things).kind
        words = kind_words(kind, rng)
        if kind in ("cat", "dog", "bird"):
            forms = wordings.OUTSIDE_ANIMAL
        elif kind == "person":
            forms = wordings.OUTSIDE_PERSON
        else:
            forms = wordings.OUTSIDE_OWNED
    text = fill(rng, forms, **words)
    expected = "I only know what is in the image."
    return Question("outside", text, judges.is_honest, expected, None)


# --- dialogues of three turns ---


def follow_up(scene: Scene, rng: random.Random) -> Dialogue:
    """A dialogue whose later turns refer to earlier ones."""
    writers = [place_dialogue, weather_dialogue]
    if lone_things(scene):
        writers += [presence_dialogue, count_dialogue, missing_dialogue] * 2
    if len(lone_things(scene)) > 1:
        writers += [two_things_dialogue, closer_dialogue] * 3
    return rng.choice(writers)(scene, rng)


def questions_about_it(scene: Scene, thing: Thing, rng: random.Random) -> list[Question]:
    """Two different questions about the thing that was named before."""
    color = about(scene, FOLLOW_UP, thing, "color", fill(rng, wordings.IT_COLOR))
    side = about(scene, FOLLOW_UP, thing, "side", fill(rng, wordings.IT_POSITION))
    distance = about(scene, FOLLOW_UP, thing, "distance", fill(rng, wordings.IT_DISTANCE))
    return rng.sample([color, side, distance], 2)


def presence_dialogue(scene: Scene, rng: random.Random) -> Dialogue:
    """For example: "Is there a cat?" "What color is it?" "Where is it?" """
    thing = rng.choice(lone_things(scene))
    text = fill(rng, wordings.IS_THERE, **kind_words(thing.kind, rng))
    judge = partial(judges.confirms, kind=thing.kind)
    first = Question(OPENING, text, judge, f"Yes, there is a {thing.kind}.", scene)
    return (first, *questions_about_it(scene, thing, rng))


def count_dialogue(scene: Scene, rng: random.Random) -> Dialogue:
    """For example: "How many cats are there?" "Which side is it on?" "And what color is it?" """
    thing = rng.choice(lone_things(scene))
    text = fill(rng, wordings.COUNT, **kind_words(thing.kind, rng))
    first = Question(OPENING, text, partial(judges.counts, number=1), "One.", scene)
    return (first, *questions_about_it(scene, thing, rng))


def missing_dialogue(scene: Scene, rng: random.Random) -> Dialogue:
    """For example: "Is there a dog?" "What about a cat?" "What color is it?" """
    kind = rng.choice(absent_kinds(scene))
    text = fill(rng, wordings.IS_THERE, **kind_words(kind, rng))
    judge = partial(judges.denies, kind=kind)
    first = Question(OPENING, text, judge, f"No, there is no {kind}.", scene)
    thing = rng.choice(lone_things(scene))
    text = fill(rng, wordings.AND_PRESENCE, **kind_words(thing.kind, rng))
    judge = partial(judges.confirms, kind=thing.kind)
    second = Question(FOLLOW_UP, text, judge, f"Yes, there is a {thing.kind}.", scene)
    return (first, second, rng.choice(questions_about_it(scene, thing, rng)))


def two_things_dialogue(scene: Scene, rng: random.Random) -> Dialogue:
    """For example: "What color is the cat?" "And the dog?" "Where is it?" """
    thing, other = rng.sample(lone_things(scene), 2)
    words = pair_words(thing, other, rng)
    if rng.random() < 0.5:
        first = about(scene, OPENING, thing, "color", fill(rng, wordings.COLOR, **words))
        second = about(scene, FOLLOW_UP, other, "color", fill(rng, wordings.AND_THING, **words))
        third = about(scene, FOLLOW_UP, other, "side", fill(rng, wordings.IT_POSITION))
    else:
        first = about(scene, OPENING, thing, "side", fill(rng, wordings.POSITION, **words))
        second = about(scene, FOLLOW_UP, other, "side", fill(rng, wordings.AND_THING, **words))
        third = about(scene, FOLLOW_UP, other, "color", fill(rng, wordings.IT_COLOR))
    return (first, second, third)


def closer_dialogue(scene: Scene, rng: random.Random) -> Dialogue:
    """For example: "Which is closer: cat or dog?" "What color is it?" "And the other one?" """
    thing, other = rng.sample(lone_things(scene), 2)
    if thing.distance == other.distance:
        return two_things_dialogue(scene, rng)
    text = fill(rng, wordings.NEARER_WHICH, **pair_words(thing, other, rng))
    near, far = thing, other
    if other.distance == "near":
        near, far = other, thing
    first = which(scene, OPENING, near, far, FAR_WORDS, text)
    second = about(scene, FOLLOW_UP, near, "color", fill(rng, wordings.IT_COLOR))
    third = about(scene, FOLLOW_UP, far, "color", fill(rng, wordings.OTHER_ONE))
    return (first, second, third)


def why_question(attribute: str, value: str, rng: random.Random) -> Question:
    judge = partial(judges.explains, attribute=attribute, value=value)
    evidence = judges.EVIDENCE[value][0]
    return Question(FOLLOW_UP, fill(rng, wordings.WHY), judge, f"I can see {evidence}.", None)


def place_dialogue(scene: Scene, rng: random.Random) -> Dialogue:
    """For example: "Where is this?" "How can you tell?" "And what's the weather like there?" """
    first = replace(place_question(scene, rng), type=OPENING)
    judge = partial(judges.names, attribute="weather", values=[scene.weather])
    expected = WEATHER_ANSWERS[scene.weather] + "."
    third = Question(FOLLOW_UP, fill(rng, wordings.WEATHER_THERE), judge, expected, scene)
    return (first, why_question("place", scene.place, rng), third)


def weather_dialogue(scene: Scene, rng: random.Random) -> Dialogue:
    """For example: "What's the weather like?" "Why do you think so?" "And where was it taken?" """
    text = fill(rng, wordings.WEATHER)
    judge = partial(judges.names, attribute="weather", values=[scene.weather])
    first = Question(OPENING, text, judge, WEATHER_ANSWERS[scene.weather] + ".", scene)
    judge = partial(judges.names, attribute="place", values=[scene.place])
    text = fill(rng, wordings.PLACE_THERE)
    third = Question(FOLLOW_UP, text, judge, sentence(WORDS[scene.place]), scene)
    return (first, why_question("weather", scene.weather, rng), third)


# --- all types ---

WRITERS = {
    "describe": describe_question,
    "color": color_question,
    "position": position_question,
    "distance": distance_question,
    "presence": presence_question,
    "absence": absence_question,
    "count": count_question,
    "what": what_question,
    "relation": relation_question,
    "place": place_question,
    "weather": weather_question,
    "false premise": false_premise_question,
    "outside": outside_question,
}
TYPES = (*WRITERS, FOLLOW_UP)


def dialogues(scene: Scene, rng: random.Random) -> list[Dialogue]:
    """One question of every type that the scene allows, and one dialogue of three turns."""
    result: list[Dialogue] = []
    for write in WRITERS.values():
        question = write(scene, rng)
        if question is not None:
            result.append((question,))
    result.append(follow_up(scene, rng))
    return result


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.toyland natural --help")
