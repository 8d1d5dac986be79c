"""Five captions and the boxes of a scene: all that the teacher ever sees of it, as with COCO."""

import random
from collections import Counter
from collections.abc import Callable

from .scenes import Scene, Thing

# The words for sides, distances and places; no two facts share words, so `teacher.read` can tell
# them apart.
WORDS = {
    "left": "on the left",
    "middle": "in the middle",
    "right": "on the right",
    "near": "in front",
    "far": "far away",
    "park": "in the park",
    "beach": "at the beach",
    "street": "on the street",
    "snow": "in the snow",
}
WEATHER_WORDS = {
    "sunny": ("on a sunny day", "in bright sunshine", "under the sun"),
    "rainy": ("on a rainy day", "in the rain", "under rain clouds"),
    "cloudy": ("on a cloudy day", "under a cloudy sky", "under gray clouds"),
    "night": ("at night", "under the moon", "on a dark night"),
}
NUMBERS = ("none", "one", "two", "three", "four")


# Plurals that take no "s", or more than that.
PLURALS = {
    "person": "people",
    "sheep": "sheep",
    "fish": "fish",
    "mouse": "mice",
    "bus": "buses",
    "bench": "benches",
    "puppy": "puppies",
    "doggy": "doggies",
    "kitty": "kitties",
}


def plural(kind: str) -> str:
    return PLURALS.get(kind, kind + "s")


def with_article(*words: str) -> str:
    """Words with their article: "an orange cat"."""
    phrase = " ".join(words)
    if phrase[0] in "aeiou":
        return f"an {phrase}"
    return f"a {phrase}"


def listing(parts: list[str]) -> str:
    """One phrase from several: "a cat, a dog and a bird"."""
    if len(parts) == 1:
        return parts[0]
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def name(thing: Thing) -> str:
    return with_article(thing.color, thing.kind)


def name_and_spot(thing: Thing) -> str:
    return f"{name(thing)} {WORDS[thing.distance]} {WORDS[thing.side]}"


def name_and_side(thing: Thing) -> str:
    return f"{name(thing)} {WORDS[thing.side]}"


def spot_and_name(thing: Thing) -> str:
    return f"{WORDS[thing.side]} {WORDS[thing.distance]} there is {name(thing)}"


def describe(things: list[Thing], phrase: Callable[[Thing], str]) -> str:
    return listing([phrase(thing) for thing in things])


def count_kinds(things: list[Thing]) -> str:
    """The number of things of every kind: "one dog and two cats"."""
    parts = []
    for kind, count in Counter(thing.kind for thing in things).items():
        if count > 1:
            parts.append(f"{NUMBERS[count]} {plural(kind)}")
        else:
            parts.append(f"{NUMBERS[count]} {kind}")
    return listing(parts)


def captions(scene: Scene, rng: random.Random) -> list[str]:
    """Five captions in different words; the first three name every thing with color and side."""
    count = len(scene.things)
    place = WORDS[scene.place]
    weather_words = WEATHER_WORDS[scene.weather]

    things = rng.sample(scene.things, count)
    weather = rng.choice(weather_words)
    first = f"a picture taken {place} {weather}: {describe(things, name_and_spot)}."

    shuffled = rng.sample(things, count)
    weather = rng.choice(weather_words)
    second = f"{describe(shuffled, name_and_side)}, {place} {weather}."

    weather = rng.choice(weather_words)
    shuffled = rng.sample(things, count)
    third = f"{place} {weather}, {describe(shuffled, spot_and_name)}."

    others = ""
    if count > 1:
        others = f", with {describe(things[1:], name)} around"
    fourth = f"{name(things[0])} {place} {rng.choice(weather_words)}{others}."

    fifth = f"{count_kinds(things)} {place} {rng.choice(weather_words)}."

    texts = [first, second, third, fourth, fifth]
    return [text[0].upper() + text[1:] for text in texts]


def boxes(scene: Scene) -> list[tuple[str, tuple[float, float, float, float]]]:
    """(kind, (x1, y1, x2, y2)) of every thing, in fractions of the image, without its color."""
    return [(thing.kind, thing.box) for thing in scene.things]
