"""A rule-based teacher in place of the paper's GPT-4: it sees captions and boxes, never the picture or the scene, and
writes conversations, detailed descriptions and complex reasoning as if it had seen the picture (paper, section 3)."""

import random
import re
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from ..config import read_json
from .captions import DISTANCE_WORDS, NUMBERS, PLACE_WORDS, SIDE_WORDS, WEATHER_WORDS, a, article, plural
from .scenes import COLORS, KINDS, SIDES, Thing

TYPES = tuple("color count position distance what presence relation weather place reason".split())

WORDINGS: dict[str, list[str]] = read_json(
    Path(__file__).parent / "wordings.json"
)  # of every kind of question
DETAIL_QUESTIONS = WORDINGS["detail"]
WEATHER_ANSWERS = {"sunny": "sunny", "rainy": "rainy", "cloudy": "cloudy", "night": "a clear night"}
WEATHER_REASONS = {"sunny": "the sun is shining", "rainy": "it is raining", "cloudy": "it is cloudy"}
WEATHER_REASONS |= {"night": "it is dark"}
PLACE_REASONS = {place: f"this is a {place}" for place in PLACE_WORDS} | {"snow": "there is snow here"}


@dataclass(frozen=True)
class Facts:
    """What captions and boxes tell. `color` is None for a thing whose colour the captions do not tell."""

    place: str
    weather: str
    things: tuple[Thing, ...]

    def of_kind(self, kind: str) -> list[Thing]:
        return [t for t in self.things if t.kind == kind]


def read(captions: list[str], boxes: list[tuple[str, tuple]]) -> Facts:
    """Reads the facts: places and weather from words, sides and distances from boxes, colours from captions."""
    text = " ".join(captions).lower()
    place = next(name for name, words in PLACE_WORDS.items() if words in text)
    weather = next(name for name, words in WEATHER_WORDS.items() if any(w in text for w in words))
    where = {(k, s, d): None for k, _ in boxes for s in SIDE_WORDS for d in DISTANCE_WORDS}
    names = {v: k for k, v in (SIDE_WORDS | DISTANCE_WORDS).items()}
    spot = f"({'|'.join(DISTANCE_WORDS.values())}) ({'|'.join(SIDE_WORDS.values())})"
    told = rf"an? ({'|'.join(COLORS)}) ({'|'.join(KINDS)}) {spot}"
    for color, kind, distance, side in re.findall(told, text):
        where[kind, names[side], names[distance]] = color
    things = []
    for kind, box in boxes:
        side = SIDES[min(2, int((box[0] + box[2]) / 2 * 3))]
        distance = "near" if box[3] > 0.75 else "far"
        things.append(Thing(kind, where.get((kind, side, distance)), side, distance, tuple(box)))
    return Facts(place, weather, tuple(things))


@dataclass(frozen=True)
class QA:
    type: str
    question: str
    answer: str


def name_of(facts: Facts, thing: Thing) -> str | None:
    """The shortest name that means this thing alone: "the cat", "the red cat", or None."""
    same = facts.of_kind(thing.kind)
    if len(same) == 1:
        return f"the {thing.kind}"
    return f"the {thing.color} {thing.kind}" if sum(t.color == thing.color for t in same) == 1 else None


def worded(type: str, rng: random.Random, answer: str, wording: str | None = None, **words: str) -> QA:
    """A question in one of its wordings; `words` fill the places in it."""
    return QA(type, rng.choice(WORDINGS[wording or type]).format(**words), answer)


def questions(facts: Facts, rng: random.Random) -> dict[str, list[QA]]:
    """All short questions with one definite answer, by type, each in one of several wordings."""
    found: dict[str, list[QA]] = {kind: [] for kind in TYPES}

    def ask(type: str, answer: str, wording: str | None = None, **words: str) -> None:
        found[type].append(worded(type, rng, answer, wording, **words))

    for thing in facts.things:
        name, kind, side = name_of(facts, thing), thing.kind, SIDE_WORDS[thing.side]
        if len(facts.of_kind(kind)) == 1:
            ask("color", thing.color, kind=kind)
        elif sum((t.side, t.kind) == (thing.side, kind) for t in facts.things) == 1:
            ask("color", thing.color, "color of one", kind=kind, side=side)
        if name:
            ask("position", side, name=name)
            ask("distance", DISTANCE_WORDS[thing.distance], name=name)
        if sum(t.side == thing.side for t in facts.things) == 1:
            ask("what", a(thing.color, kind), side=side)
    present = list(dict.fromkeys(t.kind for t in facts.things))
    absent = [k for k in KINDS if k not in present]
    for kind in (*present, rng.choice(absent)):
        ask("count", NUMBERS[len(facts.of_kind(kind))], kinds=plural(kind))
    ask("count", NUMBERS[len(facts.things)], "count of all")
    for kind in (*present, *rng.sample(absent, len(present))):
        ask("presence", "yes" if kind in present else "no", a_kind=article(kind))
    for thing in facts.things:  # the right kind in a right or a wrong colour
        colors = [t.color for t in facts.of_kind(thing.kind)]
        color = thing.color if rng.random() < 0.5 else rng.choice([c for c in COLORS if c not in colors])
        ask("presence", "yes" if color in colors else "no", "presence of color", a_kind=a(color, thing.kind))
    named = [(t, name_of(facts, t)) for t in facts.things if name_of(facts, t)]
    for (one, name), (other, second) in permutations(named, 2):
        if one.side != other.side:
            way = rng.choice(("left", "right"))
            right = (SIDES.index(one.side) < SIDES.index(other.side)) == (way == "left")
            ask("relation", "yes" if right else "no", "side of other", name=name, other=second, way=way)
        if one.distance != other.distance:
            ask("relation", name if one.distance == "near" else second, "closer", name=name, other=second)
    ask("weather", WEATHER_ANSWERS[facts.weather])
    ask("place", PLACE_WORDS[facts.place])
    found["reason"] = reasons(facts, rng)
    return found


def reasons(facts: Facts, rng: random.Random) -> list[QA]:
    """Complex reasoning: a question whose answer must be concluded, and the answer with its reason."""
    found = []

    def ask(wording: str, good: bool, reason: str) -> None:
        found.append(worded("reason", rng, f"{'yes' if good else 'no'}, because {reason}.", wording))

    rain, night, sky = facts.weather == "rainy", facts.weather == "night", WEATHER_REASONS[facts.weather]
    has, here = {t.kind for t in facts.things}, PLACE_REASONS[facts.place]
    people = len(facts.of_kind("person"))
    if rain and people:
        who = "the person" if people == 1 else "the people"
        found.append(worded("reason", rng, f"{who}, because it is raining.", "who needs an umbrella"))
    elif not rain:
        ask("umbrella", False, "it is not raining" if night else sky)
    if "boat" in has:
        water = facts.place == "beach"
        ask("boat", water, "there is the sea" if water else f"there is no water {PLACE_WORDS[facts.place]}")
    if "bicycle" in has:
        bad = {"snow": "the snow is slippery", "beach": "the sand is soft"}.get(facts.place)
        bad = sky if rain or night else bad
        ask("bicycle", bad is None, bad or "the way is dry and bright")
    if "car" in has:
        ask("car", night or rain, sky if night or rain else "it is bright")
    if "dog" in has or "ball" in has:
        lack = "there is no ball" if "dog" in has else "there is no dog"
        ask("dog and ball", {"dog", "ball"} <= has, "both are here" if {"dog", "ball"} <= has else lack)
    if "bird" in has:
        ask("bird", "tree" in has, "there is a tree" if "tree" in has else "there is no tree")
    ask("sunglasses", facts.weather == "sunny", sky)
    ask("snowman", facts.place == "snow", here)
    ask("sea", facts.place == "beach", here)
    return found


def detail(facts: Facts) -> str:
    """The detailed description: place, weather, number of things, and each thing with colour and spot, near ones first."""
    sky = "at night" if facts.weather == "night" else f"on a {facts.weather} day"
    total = len(facts.things)
    count = "There is one thing." if total == 1 else f"There are {NUMBERS[total]} things."
    lines = [
        f"{DISTANCE_WORDS[t.distance].capitalize()} {SIDE_WORDS[t.side]} there is {a(t.color, t.kind)}."
        for t in sorted(facts.things, key=lambda t: (t.distance == "far", SIDES.index(t.side)))
    ]
    place = PLACE_WORDS[facts.place]
    return f"This picture was taken {place} {sky}. {count} {' '.join(lines)}"


def stated(text: str) -> set[tuple]:
    """The facts that a description states, in the form of `facts_of`, to be compared with the truth."""
    text = text.lower()
    found = {("place", name) for name, words in PLACE_WORDS.items() if words in text}
    found |= {("weather", name) for name, words in WEATHER_WORDS.items() if any(w in text for w in words)}
    count = re.search(rf"there (?:is|are) ({'|'.join(NUMBERS)}) things?", text)
    found |= {("count", NUMBERS.index(count[1]))} if count else set()
    spots = f"({'|'.join(DISTANCE_WORDS.values())}) ({'|'.join(SIDE_WORDS.values())})"
    names = {v: k for k, v in (SIDE_WORDS | DISTANCE_WORDS).items()}
    for distance, side, color, kind in re.findall(rf"{spots} there is an? (\w+) (\w+)", text):
        spot = (names[side], names[distance])
        found |= {("kind", *spot, kind), ("color", *spot, color)}
    return found


def facts_of(facts: Facts) -> set[tuple]:
    """The facts of a scene that a detailed description should state."""
    found = {("place", facts.place), ("weather", facts.weather), ("count", len(facts.things))}
    for t in facts.things:
        found |= {("kind", t.side, t.distance, t.kind), ("color", t.side, t.distance, t.color)}
    return found


def kinds_in(qa: QA) -> set[str]:
    """The kinds that question and answer speak of."""
    words = set(re.findall(r"\w+", f"{qa.question} {qa.answer}".lower()))
    return {kind for kind in KINDS if words & {kind, plural(kind)}}


def tells(before: QA, qa: QA) -> bool:
    """Whether an earlier turn tells something of this one's answer: that a kind is there, its colour or its place."""
    if not kinds_in(before) & kinds_in(qa) or before.type == qa.type:
        return before.type == qa.type and kinds_in(before) == kinds_in(qa)  # asked already
    if qa.type == "color":
        return qa.answer in f"{before.question} {before.answer}"
    told_by = {"position": ("what", "relation"), "distance": ("what", "relation")}
    return before.type in told_by.get(qa.type, TYPES)


def conversation(facts: Facts, rng: random.Random, turns: int = 8, inventory: float = 0.35) -> list[QA]:
    """Short questions, of which none can be answered from the turns before it: each must be looked up."""
    found, chosen = questions(facts, rng), []
    if rng.random() < inventory:  # what is there and how often, half of it of things that are not there
        mixed = rng.sample(("presence", "count") * 4, min(8, 2 * len({t.kind for t in facts.things})))
        types = rng.choice((mixed, ["count"] * turns))
    else:
        several = ("color", "position", "distance")
        types = rng.sample(("presence", "count", "what"), 3) if rng.random() < 0.6 else []
        types += rng.sample((*several, "relation", rng.choice(("relation", "weather", "place"))), 5)
        types += rng.sample(several, 3)
    for type in types:
        fresh = [qa for qa in found[type] if not any(tells(c, qa) for c in chosen)]
        if fresh and len(chosen) < turns:
            # "two" as often as "none"; "yes" is told away oftener
            answers = sorted({qa.answer for qa in fresh})
            answer = rng.choice(answers + ["yes"] * (type == "presence" and "yes" in answers))
            chosen.append(rng.choice([qa for qa in fresh if qa.answer == answer]))
    return chosen or found["weather"]


def instructions(facts: Facts, rng: random.Random, kind: str) -> list[QA]:
    """One sample of instruction data: "conversation", "detail" or "complex"."""
    if kind == "conversation":
        return conversation(facts, rng)
    if kind == "detail":
        return [QA("detail", rng.choice(DETAIL_QUESTIONS), detail(facts))]
    if kind == "complex":
        found = reasons(facts, rng)
        return rng.sample(found, min(3, len(found)))
    raise ValueError(f"instruction data {kind!r}: expected 'conversation', 'detail' or 'complex'")
