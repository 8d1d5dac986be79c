"""A rule-based teacher in place of the paper's GPT-4: it sees captions and boxes, never the picture or the scene, and
writes conversations, detailed descriptions and complex reasoning as if it had seen the picture (paper, section 3)."""

import random
import re
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from statistics import fmean

from ..files import read_json
from .captions import NUMBERS, WEATHER_WORDS, WORDS, a, boxes, captions, plural
from .scenes import COLORS, DISTANCES, KINDS, PLACES, SIDES, Scene, Thing

TYPES = tuple("color count position distance what presence relation weather place reason".split())

WORDINGS = read_json(Path(__file__).parent / "wordings.json")  # of every kind of question
REASONS = read_json(
    Path(__file__).parent / "reasons.json"
)  # the answers of each, by what must hold for them
SPOT = "({}) ({})".format(
    *("|".join(WORDS[name] for name in names) for names in (DISTANCES, SIDES))
)
NAMES = {words: name for name, words in WORDS.items()}


def read(texts: list[str], found: list[tuple[str, tuple]]) -> Scene:
    """Place and weather by the captions' words, sides and distances by boxes, colours by captions (or None)."""
    text = " ".join(texts).lower()
    place = next(place for place in PLACES if WORDS[place] in text)
    weather = next(name for name, words in WEATHER_WORDS.items() if any(w in text for w in words))
    told = re.findall(rf"an? ({'|'.join(COLORS)}) ({'|'.join(KINDS)}) {SPOT}", text)
    color_of = {(kind, NAMES[side], NAMES[far]): color for color, kind, far, side in told}
    slots = [
        (SIDES[min(2, int((b[0] + b[2]) / 2 * 3))], "near" if b[3] > 0.75 else "far")
        for _, b in found
    ]
    things = zip(found, slots, strict=True)
    things = [
        Thing(kind, color_of.get((kind, *slot)), *slot, tuple(box)) for (kind, box), slot in things
    ]
    return Scene(place, weather, tuple(things))


def facts_told(scene: Scene, rng: random.Random) -> Scene:
    """The teacher's view of a scene: what its captions and boxes tell."""
    return read(captions(scene, rng), boxes(scene))


@dataclass(frozen=True)
class QA:
    type: str
    question: str
    answer: str


def name_of(facts: Scene, thing: Thing) -> str | None:
    """The shortest name that means this thing alone: "the cat", "the red cat", or None."""
    same = facts.of_kind(thing.kind)
    if len(same) == 1:
        return f"the {thing.kind}"
    return (
        f"the {thing.color} {thing.kind}"
        if sum(t.color == thing.color for t in same) == 1
        else None
    )


def questions(facts: Scene, rng: random.Random) -> dict[str, list[QA]]:
    """All short questions with one definite answer, by type, each in one of several wordings."""
    found: dict[str, list[QA]] = {kind: [] for kind in TYPES}

    def ask(type: str, answer: str, wording: str | None = None, **words: str) -> None:
        found[type].append(QA(type, rng.choice(WORDINGS[wording or type]).format(**words), answer))

    for thing in facts.things:
        name, kind, side = name_of(facts, thing), thing.kind, WORDS[thing.side]
        beside = [t.kind for t in facts.things if t.side == thing.side]
        if len(facts.of_kind(kind)) == 1:
            ask("color", thing.color, kind=kind)
        elif beside.count(kind) == 1:
            ask("color", thing.color, "color of one", kind=kind, side=side)
        if name:
            ask("position", side, name=name)
            ask("distance", WORDS[thing.distance], name=name)
        if len(beside) == 1:
            ask("what", a(thing.color, kind), side=side)
    present = list(dict.fromkeys(t.kind for t in facts.things))
    absent = [k for k in KINDS if k not in present]
    for kind in (*present, rng.choice(absent)):
        ask("count", NUMBERS[len(facts.of_kind(kind))], kinds=plural(kind))
    ask("count", NUMBERS[len(facts.things)], "count of all")
    for kind in (*present, *rng.sample(absent, len(present))):
        ask("presence", "yes" if kind in present else "no", a_kind=a(kind))
    for thing in facts.things:  # the right kind in a right or a wrong colour
        colors = [t.color for t in facts.of_kind(thing.kind)]
        color = (
            thing.color
            if rng.random() < 0.5
            else rng.choice([c for c in COLORS if c not in colors])
        )
        ask(
            "presence",
            "yes" if color in colors else "no",
            "presence of color",
            a_kind=a(color, thing.kind),
        )
    named = [(t, name_of(facts, t)) for t in facts.things if name_of(facts, t)]
    for (one, name), (other, second) in permutations(named, 2):
        if one.side != other.side:
            way = rng.choice(("left", "right"))
            right = (SIDES.index(one.side) < SIDES.index(other.side)) == (way == "left")
            ask(
                "relation",
                "yes" if right else "no",
                "side of other",
                name=name,
                other=second,
                way=way,
            )
        if one.distance != other.distance:
            ask(
                "relation",
                name if one.distance == "near" else second,
                "closer",
                name=name,
                other=second,
            )
    ask("weather", "a clear night" if facts.weather == "night" else facts.weather)
    ask("place", WORDS[facts.place])
    return found | {"reason": reasons(facts, rng)}


def reasons(facts: Scene, rng: random.Random) -> list[QA]:
    """Complex reasoning: of every question in reasons.json, the first answer of which all words hold here is true."""
    kinds = [t.kind for t in facts.things]
    holds = {facts.place, facts.weather, *kinds} | (
        {"people"} if kinds.count("person") > 1 else set()
    )
    true = {
        w: [said for need, said in by.items() if holds >= {*need.split()}]
        for w, by in REASONS.items()
    }
    return [QA("reason", rng.choice(WORDINGS[w]), said[0]) for w, said in true.items() if said]


def detail(facts: Scene) -> str:
    """The detailed description: place, weather, number of things, and each thing with colour and spot, near ones first."""
    sky = "at night" if facts.weather == "night" else f"on a {facts.weather} day"
    count = "is one thing" if len(facts.things) == 1 else f"are {NUMBERS[len(facts.things)]} things"
    text = f"This picture was taken {WORDS[facts.place]} {sky}. There {count}."
    for t in sorted(facts.things, key=lambda t: (t.distance == "far", SIDES.index(t.side))):
        text += f" {WORDS[t.distance].capitalize()} {WORDS[t.side]} there is {a(t.color, t.kind)}."
    return text


def stated(text: str) -> set[tuple]:
    """The facts that a description states, as tuples; those of `detail` are all there are to state."""
    text = text.lower()
    found = {("place", place) for place in PLACES if WORDS[place] in text}
    found |= {
        ("weather", name) for name, words in WEATHER_WORDS.items() if any(w in text for w in words)
    }
    count = re.findall(rf"there (?:is|are) ({'|'.join(NUMBERS)}) things?", text)
    found |= {("count", NUMBERS.index(number)) for number in count[:1]}
    for far, side, color, kind in re.findall(rf"{SPOT} there is an? (\w+) (\w+)", text):
        spot = (NAMES[side], NAMES[far])
        found |= {("kind", *spot, kind), ("color", *spot, color)}
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


def conversation(
    facts: Scene, rng: random.Random, turns: int = 8, inventory: float = 0.35
) -> list[QA]:
    """Short questions, of which none can be answered from the turns before it: each must be looked up."""
    found, chosen = questions(facts, rng), []
    if (
        rng.random() < inventory
    ):  # what is there and how often, half of it of things that are not there
        mixed = rng.sample(
            ("presence", "count") * 4, min(8, 2 * len({t.kind for t in facts.things}))
        )
        types = rng.choice((mixed, ["count"] * turns))
    else:
        several = ("color", "position", "distance")
        types = rng.sample(("presence", "count", "what"), 3) if rng.random() < 0.6 else []
        types += rng.sample((*several, "relation", rng.choice(("relation", "weather", "place"))), 5)
        types += rng.sample(several, 3)
    for type in types:
        fresh = [qa for qa in found[type] if not any(tells(c, qa) for c in chosen)]
        if fresh and len(chosen) < turns:
            answers = sorted(
                {qa.answer for qa in fresh}
            )  # "two" as often as "none"; "yes" is told away more
            answer = rng.choice(answers + ["yes"] * (type == "presence" and "yes" in answers))
            chosen.append(rng.choice([qa for qa in fresh if qa.answer == answer]))
    return chosen or found["weather"]


def instructions(facts: Scene, rng: random.Random, kind: str, inventory: float = 0.35) -> list[QA]:
    """One sample of instruction data: "conversation" (some of them inventories), "detail" or "complex"."""
    if kind == "conversation":
        return conversation(facts, rng, inventory=inventory)
    if kind == "detail":
        return [QA("detail", rng.choice(WORDINGS["detail"]), detail(facts))]
    if kind == "complex":
        return rng.sample(found := reasons(facts, rng), min(3, len(found)))
    raise ValueError(f"instruction data {kind!r}: expected 'conversation', 'detail' or 'complex'")


def dialogue(before: str, qas: list[QA]) -> list[dict]:
    """Questions and answers in LLaVA's form; `before` stands on a line of its own before the first question."""
    asked = [f"{before}\n{qa.question}" if i == 0 else qa.question for i, qa in enumerate(qas)]
    pairs = [
        (("human", question), ("gpt", qa.answer)) for question, qa in zip(asked, qas, strict=True)
    ]
    return [{"from": role, "value": text} for pair in pairs for role, text in pair]


def shares(right: dict[str, list[bool]]) -> dict[str, float]:
    """Shares of right answers, in all and by type."""
    return {"overall": fmean(sum(right.values(), []))} | {
        type: fmean(of) for type, of in right.items()
    }
