"""A rule-based teacher in place of the paper's GPT-4: it sees captions and boxes, never the picture or the scene, and
writes conversations, detailed descriptions and complex reasoning as if it had seen the picture (paper, section 3)."""

import random
import re
from dataclasses import dataclass

from .captions import DISTANCE_WORDS, NUMBERS, PLACE_WORDS, SIDE_WORDS, WEATHER_WORDS, a, plural
from .scenes import COLORS, KINDS, SIDES, Thing

TYPES = tuple("color count position distance what presence relation weather place reason".split())

WEATHER_ANSWERS = {"sunny": "sunny", "rainy": "rainy", "cloudy": "cloudy", "night": "a clear night"}
WEATHER_REASONS = {
    "sunny": "the sun is shining",
    "rainy": "it is raining",
    "cloudy": "it is cloudy",
    "night": "it is dark",
}
PLACE_REASONS = {
    "park": "this is a park",
    "beach": "this is a beach",
    "street": "this is a street",
    "snow": "there is snow here",
}


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
    for color, kind, distance, side in re.findall(
        rf"an? ({'|'.join(COLORS)}) ({'|'.join(KINDS)}) {spot}", text
    ):
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


def questions(facts: Facts, rng: random.Random) -> dict[str, list[QA]]:
    """All short questions with one definite answer, by type, each in one of several wordings."""
    found: dict[str, list[QA]] = {kind: [] for kind in TYPES}

    def ask(type: str, answer: str, *wordings: str) -> None:
        found[type].append(QA(type, rng.choice(wordings), answer))

    for thing in facts.things:
        name, kind, side = name_of(facts, thing), thing.kind, SIDE_WORDS[thing.side]
        if len(facts.of_kind(kind)) == 1:
            ask("color", thing.color, f"What color is the {kind}?", f"Which color does the {kind} have?",
                f"Tell me the color of the {kind}.", f"The {kind} is of what color?")  # fmt: skip
        elif sum((t.side, t.kind) == (thing.side, kind) for t in facts.things) == 1:
            ask(
                "color",
                thing.color,
                f"What color is the {kind} {side}?",
                f"Tell me the color of the {kind} {side}.",
            )
        if name:
            ask("position", side, f"Where is {name}?", f"On which side is {name}?",
                f"In which part of the picture is {name}?", f"Where can I see {name}?")  # fmt: skip
            ask("distance", DISTANCE_WORDS[thing.distance], f"Is {name} in front or far away?",
                f"How far away is {name}?", f"Is {name} far away or in front?")  # fmt: skip
        if sum(t.side == thing.side for t in facts.things) == 1:
            ask("what", a(thing.color, kind), f"What is {side}?", f"What do you see {side}?",
                f"Which thing is {side} of the picture?", f"Name the thing {side}.")  # fmt: skip
    present = list(dict.fromkeys(t.kind for t in facts.things))
    absent = [k for k in KINDS if k not in present]
    for kind in (*present, rng.choice(absent)):
        ask("count", NUMBERS[len(facts.of_kind(kind))], f"How many {plural(kind)} are there?",
            f"How many {plural(kind)} do you see?", f"Count the {plural(kind)}.")  # fmt: skip
    total = len(facts.things)
    ask("count", NUMBERS[total], "How many things are there?", "How many things do you see in all?")
    for kind in (*present, *rng.sample(absent, len(present))):
        ask("presence", "yes" if kind in present else "no", f"Is there {article(kind)}?",
            f"Do you see {article(kind)}?", f"Does the picture show {article(kind)}?",
            f"Is {article(kind)} in the picture?")  # fmt: skip
    for thing in facts.things:  # the right kind in a right or a wrong colour
        colors = [t.color for t in facts.of_kind(thing.kind)]
        color = thing.color if rng.random() < 0.5 else rng.choice([c for c in COLORS if c not in colors])
        ask("presence", "yes" if color in colors else "no", f"Is there {a(color, thing.kind)}?",
            f"Do you see {a(color, thing.kind)}?", f"Does the picture show {a(color, thing.kind)}?")  # fmt: skip
    named = [(t, name_of(facts, t)) for t in facts.things if name_of(facts, t)]
    for one, name in named:
        for other, second in named:
            if one is other:
                continue
            if one.side != other.side:
                way = rng.choice(("left", "right"))
                right = (SIDES.index(one.side) < SIDES.index(other.side)) == (way == "left")
                ask("relation", "yes" if right else "no", f"Is {name} to the {way} of {second}?",
                    f"Is {name} more to the {way} than {second}?")  # fmt: skip
            if one.distance != other.distance:
                near = name if one.distance == "near" else second
                ask(
                    "relation",
                    near,
                    f"Which is closer, {name} or {second}?",
                    f"What is closer to us, {name} or {second}?",
                )
    ask("weather", WEATHER_ANSWERS[facts.weather], "What is the weather like?", "How is the weather?",
        "Which weather do you see?", "Describe the weather.")  # fmt: skip
    ask("place", PLACE_WORDS[facts.place], "Where was this picture taken?", "Which place is this?",
        "Where are we?", "What place does the picture show?")  # fmt: skip
    found["reason"] = reasons(facts, rng)
    return found


def article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def reasons(facts: Facts, rng: random.Random) -> list[QA]:
    """Complex reasoning: a question whose answer must be concluded, and the answer with its reason."""
    found = []

    def ask(good: bool, reason: str, *wordings: str) -> None:
        found.append(QA("reason", rng.choice(wordings), f"{'yes' if good else 'no'}, because {reason}."))

    rain, night, sky = facts.weather == "rainy", facts.weather == "night", WEATHER_REASONS[facts.weather]
    has = {t.kind for t in facts.things}
    who = [t for t in facts.things if t.kind == "person"]
    if rain and who:
        answer = "the person" if len(who) == 1 else "the people"
        found.append(QA("reason", rng.choice(("Who needs an umbrella and why?", "Who should take an umbrella and why?")),
                        f"{answer}, because it is raining."))  # fmt: skip
    elif not rain:
        ask(False, sky if facts.weather != "night" else "it is not raining", "Does anyone need an umbrella?",
            "Is an umbrella of use now?")  # fmt: skip
    if "boat" in has:
        water = facts.place == "beach"
        ask(water, "there is the sea" if water else f"there is no water {PLACE_WORDS[facts.place]}",
            "Can the boat sail here?", "Is this a good place for sailing the boat?")  # fmt: skip
    if "bicycle" in has:
        bad = (
            "the snow is slippery"
            if facts.place == "snow"
            else "the sand is soft"
            if facts.place == "beach"
            else None
        )
        bad = "it is raining" if rain else "it is dark" if night else bad
        ask(bad is None, bad or "the way is dry and bright", "Is it a good time to ride the bicycle?",
            "Would you ride the bicycle now?")  # fmt: skip
    if "car" in has:
        ask(night or rain, sky if night or rain else "it is bright", "Should the car turn on its lights?",
            "Does the car need its lights?")  # fmt: skip
    if "dog" in has or "ball" in has:
        both = {"dog", "ball"} <= has
        lack = "there is no ball" if "dog" in has else "there is no dog"
        ask(
            both,
            "both are here" if both else lack,
            "Can a dog play with a ball here?",
            "Could a dog chase a ball here?",
        )
    if "bird" in has:
        ask("tree" in has, "there is a tree" if "tree" in has else "there is no tree", "Can the bird sit in a tree?",
            "Is there a tree for the bird?")  # fmt: skip
    ask(facts.weather == "sunny", sky, "Would sunglasses help?", "Is it good to wear sunglasses?")
    ask(
        facts.place == "snow",
        PLACE_REASONS[facts.place],
        "Can we build a snowman here?",
        "Is there snow for a snowman?",
    )
    ask(
        facts.place == "beach",
        PLACE_REASONS[facts.place],
        "Can we build a sand castle?",
        "Could we swim in the sea here?",
    )
    return found


DETAIL_QUESTIONS = (
    "Describe the picture in detail.", "What do you see in this picture? Tell me everything.",
    "Give a detailed description of the picture.", "Tell me all about this picture.", "Describe everything that you see.",
)  # fmt: skip


def detail(facts: Facts) -> str:
    """The detailed description: place, weather, number of things, and each thing with colour and spot, near ones first."""
    sky = {
        "sunny": "on a sunny day",
        "rainy": "on a rainy day",
        "cloudy": "on a cloudy day",
        "night": "at night",
    }
    total = len(facts.things)
    count = "There is one thing." if total == 1 else f"There are {NUMBERS[total]} things."
    lines = [
        f"{DISTANCE_WORDS[t.distance].capitalize()} {SIDE_WORDS[t.side]} there is {a(t.color, t.kind)}."
        for t in sorted(facts.things, key=lambda t: (t.distance == "far", SIDES.index(t.side)))
    ]
    place = PLACE_WORDS[facts.place]
    return f"This picture was taken {place} {sky[facts.weather]}. {count} {' '.join(lines)}"


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
    if not kinds_in(before) & kinds_in(qa):
        return before.type == qa.type and not kinds_in(before) | kinds_in(qa)  # asked already
    colored = before.type == "what" or (before.type == "presence" and before.answer == "yes")
    placed = {"position": ("what", "relation"), "distance": ("what", "relation")}
    placed["relation"] = ("what", "relation", "position", "distance")
    return colored if qa.type == "color" else before.type in placed.get(qa.type, TYPES)


def conversation(facts: Facts, rng: random.Random, turns: int = 8, inventory: float = 0.35) -> list[QA]:
    """Short questions, of which none can be answered from the turns before it: each must be looked up."""
    found, chosen = questions(facts, rng), []
    if rng.random() < inventory:  # what is there and how often, half of it of things that are not there
        types = rng.sample(("presence", "count") * 4, min(8, 2 * len({t.kind for t in facts.things})))
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
            )  # "two" as often as "none"; "yes" is told away oftener
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
    raise ValueError(
        f"unknown kind of instruction data {kind!r}: expected 'conversation', 'detail' or 'complex'"
    )
