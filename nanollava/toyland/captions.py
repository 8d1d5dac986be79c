"""Five captions and the boxes of a scene: all that the teacher ever sees of it, as in COCO."""

import random
from collections import Counter
from pathlib import Path

from ..files import read_json
from .scenes import Scene, Thing

WORDS, WEATHER_WORDS = read_json(Path(__file__).parent / "words.json").values()
NUMBERS = ("none", "one", "two", "three", "four")


def plural(kind: str) -> str:
    return "people" if kind == "person" else kind + "s"


def a(*words: str) -> str:
    """Words with their article, "an orange cat"."""
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def listing(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def captions(scene: Scene, rng: random.Random) -> list[str]:
    """Five captions in different words. The first three name every thing with its colour and side."""

    def told(things: list[Thing], form: str) -> str:
        words = [
            dict(a=a(t.color, t.kind), far=WORDS[t.distance], side=WORDS[t.side]) for t in things
        ]
        return listing([form.format(**w) for w in words])

    place, sky = WORDS[scene.place], WEATHER_WORDS[scene.weather]
    things = rng.sample(scene.things, len(scene.things))
    counts = Counter(t.kind for t in things).items()
    first, *others = [a(t.color, t.kind) for t in things]
    rest = f", with {listing(others)} around" if others else ""
    texts = [
        f"a picture taken {place} {rng.choice(sky)}: {told(things, '{a} {far} {side}')}.",
        f"{told(rng.sample(things, len(things)), '{a} {side}')}, {place} {rng.choice(sky)}.",
        f"{place} {rng.choice(sky)}, {told(rng.sample(things, len(things)), '{side} {far} there is {a}')}.",
        f"{first} {place} {rng.choice(sky)}{rest}.",
        f"{listing([f'{NUMBERS[n]} {plural(k) if n > 1 else k}' for k, n in counts])} {place} {rng.choice(sky)}.",
    ]
    return [text[0].upper() + text[1:] for text in texts]


def boxes(scene: Scene) -> list[tuple[str, tuple[float, float, float, float]]]:
    """(category, (x1, y1, x2, y2)) of every thing, in fractions of the picture; colours are not told."""
    return [(t.kind, t.box) for t in scene.things]
