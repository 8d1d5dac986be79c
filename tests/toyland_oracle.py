"""Reads Toyland's questions independently of the code that asks them: which things do they name?

Only the tables of names and the plural are shared."""

import re

from nanollava.toyland.captions import plural
from nanollava.toyland.scenes import COLORS, KINDS, Scene, Thing
from nanollava.toyland.wordings import GROUPS, OTHER_NAMES

SIDES = ("left", "middle", "right")
NUMBERS = ("none", "one", "two", "three", "four")


def named_kinds(text: str) -> list[str]:
    """The kinds that a question names, in order; an oracle of its own."""
    found = []
    for kind in KINDS:
        for word in (kind, *OTHER_NAMES.get(kind, ())):
            # "the doggys location" has lost its apostrophe.
            match = re.search(rf"\b({word}s?|{plural(word)})\b", text.lower())
            if match:
                found.append((match.start(), kind))
    return list(dict.fromkeys(kind for _, kind in sorted(found)))  # "sailing boat" is a boat, too


def things_named(scene: Scene, text: str) -> list[Thing]:
    """The things of the kind that a question names first, or of the group: "the animal"."""
    kinds = named_kinds(text)[:1]
    if not kinds:
        (kinds,) = [GROUPS[group] for group in GROUPS if group.removesuffix("s") in text.lower()]
    return [thing for thing in scene.things if thing.kind in kinds]


# The words by which questions name a spot.
SPOT_PATTERNS = {
    "left": r"\bleft\b",
    "middle": r"\b(middle|center|centre)\b",
    "right": r"\bright\b",
    "near": r"\b(front|foreground|near|close)",
    "far": r"\b(far away|background|back|distance)\b",
}


def at_named_spot(things: list[Thing], text: str) -> list[Thing]:
    """Those of the things that are at the spot which a question names, if it names one."""
    for spot, words in SPOT_PATTERNS.items():
        if re.search(words, text.lower()):
            things = [thing for thing in things if spot in (thing.side, thing.distance)]
    return things


def named_colors(text: str) -> list[str]:
    return re.findall(rf"\b({'|'.join(COLORS)})\b", text.lower())


def matching(scene: Scene, text: str) -> list[Thing]:
    """The things of a scene that a question names by kind, color and side."""
    things = list(scene.things)
    named = named_kinds(text)
    if named:
        things = [thing for thing in things if thing.kind == named[0]]
    for group, kinds in GROUPS.items():
        if group in text.lower():
            things = [thing for thing in things if thing.kind in kinds]
    for color in named_colors(text):
        things = [thing for thing in things if thing.color == color]
    return things
