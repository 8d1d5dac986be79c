"""A rule-based teacher in place of the paper's GPT-4 (section 3).

It sees captions and boxes, never the image or the scene. Here it reads them and writes the detailed
description; `questions.py` and `dialogues.py` write short questions and conversations, as if the
teacher had seen the image.
"""

import random
import re

from ..errors import UserError
from .captions import (
    NUMBERS,
    WEATHER_WORDS,
    WORDS,
    boxes,
    captions,
    describe,
    name_and_spot,
    with_article,
)
from .scenes import (
    COLORS,
    DISTANCES,
    KINDS,
    MAX_THINGS,
    PLACES,
    SIDES,
    WEATHERS,
    Scene,
    Thing,
    near_first,
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
# As the first caption names a thing ("a red cat in front on the left"; `captions.name_and_spot`),
# and as `detail` does. There any two words may name it: an answer can invent a thing.
THING_IN_CAPTION = re.compile(rf"an? {COLOR} {KIND} {DISTANCE_WORDS} {SIDE_WORDS}")
THING_IN_DETAIL = re.compile(rf"{DISTANCE_WORDS} {SIDE_WORDS} there is an? (\w+) (\w+)")
COUNT_IN_TEXT = re.compile(rf"(?:there is|there are|with) {any_of(NUMBERS)} things?")


# Reading captions and boxes


READS_ONLY = "Toyland's teacher reads only Toyland's captions"


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
    thing whose color no caption states has the color None (`check_colors`). Raises UserError for
    captions that name no place or weather of Toyland, and for too many boxes.
    """
    text = " ".join(texts).lower()
    places = places_in(text)
    weathers = weathers_in(text)
    if not places or not weathers:
        raise UserError(f"these captions name no place or no weather of Toyland; {READS_ONLY}")
    if not 1 <= len(kinds_and_boxes) <= MAX_THINGS:
        count = len(kinds_and_boxes)
        raise UserError(f"{count} boxes; expected 1 to {MAX_THINGS}; {READS_ONLY}")
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


def check_colors(facts: Scene) -> None:
    """A UserError if no caption names a thing that has a box with its color and its spot."""
    for thing in facts.things:
        if thing.color is None:
            raise UserError(
                f"no caption states color, distance and side of the {thing.kind} together; "
                f"{READS_ONLY}"
            )


def facts_from_captions(scene: Scene, rng: random.Random) -> Scene:
    """The teacher's view of a scene: what its captions and boxes state."""
    return read(captions(scene, rng), boxes(scene))


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


def one_sentence(facts: Scene) -> str:
    """Every fact in one sentence, for those who ask for a short description."""
    sky = "at night" if facts.weather == "night" else f"on a {facts.weather} day"
    things = sorted(facts.things, key=near_first)
    count = "one thing" if len(things) == 1 else f"{NUMBERS[len(things)]} things"
    return f"A picture {WORDS[facts.place]} {sky} with {count}: {describe(things, name_and_spot)}."


def stated_facts(text: str) -> set[tuple]:
    """The facts that a description states, as tuples; `detail` states all that there are."""
    text = text.lower()
    facts: set[tuple] = set()
    for place in places_in(text):
        facts.add(("place", place))
    for weather in weathers_in(text):
        facts.add(("weather", weather))
    count = COUNT_IN_TEXT.search(text)
    if count is not None:
        facts.add(("count", NUMBERS.index(count[1])))
    things = THING_IN_DETAIL.findall(text)
    for color, kind, distance_words, side_words in THING_IN_CAPTION.findall(text):
        things.append((distance_words, side_words, color, kind))
    for distance_words, side_words, color, kind in things:
        side = NAMES[side_words]
        distance = NAMES[distance_words]
        facts.add(("kind", side, distance, kind))
        facts.add(("color", side, distance, color))
    return facts
