"""Short questions about a scene, each with its one right answer."""

import random

from .captions import NUMBERS, WORDS, listing, plural, with_article
from .captions import name as thing_name
from .comparisons import relation_questions
from .grammar import capitalized
from .qa import (
    QA,
    Answer,
    Writer,
    at_spot,
    color_answer,
    count_answer,
    distance_answer,
    each_once,
    kinds_absent,
    kinds_present,
    list_names,
    listed,
    member_of,
    neighbors,
    no_such,
    no_such_group,
    of_group,
    place_answer,
    position_answer,
    presence_answer,
    unique_names,
    weather_answer,
    yes_no_answer,
)
from .scenes import COLORS, DISTANCES, PLACES, SIDES, WEATHERS, Scene, Thing
from .wordings import COUNTRIES, GROUPS, NEIGHBOR_WORDS, NOT_IN_TOYLAND, REASONS, Reason

TYPES = (
    "color",
    "count",
    "position",
    "distance",
    "what",
    "presence",
    "relation",
    "weather",
    "place",
    "reason",
    "list",
    "false premise",
    "outside",
)
# How often weather and place are asked openly: once for each of their four values.
OPEN_QUESTIONS = 4
OUTSIDE_ANSWER = "I only know what Toyland's pictures show: things, colors, places and weather."

# Wordings of comparisons.py that also ask about one thing that is there and one that is not; the
# second ones only if the missing thing is not named by its color.
FALSE_COMPARISONS = (
    "side of other",
    "further to side",
    "closer",
    "farther",
    "is closer",
    "is farther",
    "is neighbor",
    "relative position",
)
FALSE_COLOR_COMPARISONS = ("same color", "which is color")

# Questions about one thing


def questions_about(thing: Thing, facts: Scene, writer: Writer) -> list[QA]:
    """Color, position and distance of a thing, asked openly and as yes or no."""
    rng = writer.rng
    qas = []
    for name in unique_names(facts, thing, writer, hidden="color"):
        answer = color_answer(thing.kind, [thing])
        qas.append(writer.qa("color", "color", answer, name=name))
        other_color = rng.choice([color for color in COLORS if color != thing.color])
        first, second = rng.sample((thing.color, other_color), 2)
        slots = {"name": name, "color": first, "other_color": second}
        qas.append(writer.qa("color", "color or color", answer, **slots))
        for guess in (thing.color, other_color):
            answer = yes_no_answer(guess == thing.color)
            qas.append(writer.qa("presence", "is color", answer, name=name, color=guess))
    for name in unique_names(facts, thing, writer, hidden="side"):
        answer = position_answer(thing.kind, [thing])
        qas.append(writer.qa("position", "position", answer, name=name))
        other_side = rng.choice([side for side in SIDES if side != thing.side])
        for guess in (thing.side, other_side):
            answer = yes_no_answer(guess == thing.side)
            spot = writer.spot(guess)
            qas.append(writer.qa("presence", "is at spot", answer, name=name, spot=spot))
    for name in unique_names(facts, thing, writer):
        answer = distance_answer(thing.kind, [thing])
        qas.append(writer.qa("distance", "distance", answer, name=name))
        guess = rng.choice(DISTANCES)
        answer = yes_no_answer(guess == thing.distance)
        spot = writer.spot(guess)
        qas.append(writer.qa("presence", "is at spot", answer, name=name, spot=spot))
    return qas


def questions_about_several(kind: str, facts: Scene, writer: Writer) -> list[QA]:
    """Colors and positions of all things of a kind, in the order of the scene."""
    things = facts.of_kind(kind)
    if len(things) == 1:
        return []
    names = f"the {plural(writer.kind(kind))}"
    return [
        writer.qa("color", "color of several", color_answer(kind, things), names=names),
        writer.qa("position", "position of several", position_answer(kind, things), names=names),
    ]


# Questions about what is where


def spot_questions(facts: Scene, writer: Writer) -> list[QA]:
    """What is on a side or at a distance, and the color of what is there."""
    qas = []
    for spot in (*SIDES, *DISTANCES):
        things = at_spot(facts, spot)
        spoken_spot = writer.spot(spot)
        qas.append(writer.qa("what", "what", listed(things, WORDS[spot]), spot=spoken_spot))
        answer = yes_no_answer(len(things) > 0)
        qas.append(writer.qa("presence", "anything at spot", answer, spot=spoken_spot))
        if len(things) == 1:
            answer = color_answer("thing", things)
            qas.append(writer.qa("color", "color of spot", answer, spot=spoken_spot))
    return qas


def group_at_spot_questions(facts: Scene, writer: Writer) -> list[QA]:
    """Which animal, vehicle or plant is at a spot; mostly at one where there is one."""
    qas = []
    for group in GROUPS:
        spots = (*SIDES, *DISTANCES)
        things = of_group(facts, group)
        if things and writer.rng.random() < 0.8:
            thing = writer.rng.choice(things)
            spots = (thing.side, thing.distance)
        spot = writer.rng.choice(spots)
        there = [thing for thing in at_spot(facts, spot) if thing in things]
        member = member_of(group)
        if there:
            answer = listed(there, WORDS[spot])
        else:
            sentence = f"There is no {member} {WORDS[spot]}."
            answer = Answer(sentence, sentence)
        slots = {"group": group, "member": member, "spot": writer.spot(spot)}
        qas.append(writer.qa("what", "group at spot", answer, **slots))
    return qas


def either_questions(facts: Scene, writer: Writer) -> list[QA]:
    """Which of two kinds is there: in the whole image, and at a spot where only one thing is."""
    qas = []
    for kind in kinds_present(facts):
        qas.append(either_question("kind or kind", kind, facts, writer))
    for spot in (*SIDES, *DISTANCES):
        things = at_spot(facts, spot)
        if len(things) == 1:
            slots = {"spot": writer.spot(spot)}
            qas.append(either_question("kind at spot", things[0].kind, facts, writer, **slots))
    return qas


def either_question(wording: str, kind: str, facts: Scene, writer: Writer, **slots: str) -> QA:
    """A choice between a kind that is there and one that is not, in either order."""
    a_kind = with_article(kind)
    answer = Answer(a_kind, f"It is {a_kind}.", kind)
    spoken = with_article(writer.kind(kind))
    absent = writer.rng.choice(kinds_absent(facts))
    spoken_absent = with_article(writer.kind(absent))
    pair = [spoken, spoken_absent]
    writer.rng.shuffle(pair)
    first, second = pair
    return writer.qa("what", wording, answer, a_kind=first, other_kind=second, **slots)


def extreme_questions(facts: Scene, writer: Writer) -> list[QA]:
    """What is closest, farthest, leftmost and rightmost, where that is one thing of several."""
    if len(facts.things) == 1:
        return []
    by_distance = sorted(facts.things, key=lambda thing: DISTANCES.index(thing.distance))
    by_side = sorted(facts.things, key=lambda thing: SIDES.index(thing.side))
    qas = []
    if by_distance[0].distance != by_distance[1].distance:
        answer = extreme_answer(by_distance[0], "closest")
        qas.append(writer.qa("what", "closest", answer))
    if by_distance[-1].distance != by_distance[-2].distance:
        answer = extreme_answer(by_distance[-1], "farthest away")
        qas.append(writer.qa("what", "farthest", answer))
    for way, things in (("left", by_side), ("right", by_side[::-1])):
        if things[0].side != things[1].side:
            answer = extreme_answer(things[0], f"furthest to the {way}")
            slots = {"way": way, "most": f"{way}most"}
            qas.append(writer.qa("what", "furthest to side", answer, **slots))
    return qas


def extreme_answer(thing: Thing, what: str) -> Answer:
    name = thing_name(thing)
    return Answer(name, f"{capitalized(name)} is {what}.", thing.kind)


def color_of_what_questions(facts: Scene, writer: Writer) -> list[QA]:
    """What has a color, and whether anything has it: of all colors there are, and of another."""
    present = each_once([thing.color for thing in facts.things])
    absent = [color for color in COLORS if color not in present]
    qas = []
    for color in (*present, writer.rng.choice(absent)):
        things = [thing for thing in facts.things if thing.color == color]
        if things:
            names = list_names(things)
            verb = "is" if len(things) == 1 else "are"
            answer = Answer(names, f"{capitalized(names)} {verb} {color}.")
        else:
            answer = Answer("nothing", f"Nothing is {color}.", "nothing")
        qas.append(writer.qa("what", "what of color", answer, color=color))
        answer = yes_no_answer(len(things) > 0)
        qas.append(writer.qa("presence", "presence of color", answer, color=color))
    return qas


def neighbor_questions(facts: Scene, writer: Writer) -> list[QA]:
    qas = []
    for thing in facts.things:
        for name in unique_names(facts, thing, writer):
            for where, things in neighbors(thing, facts).items():
                answer = listed(things, f"{where} {name}")
                slots = {"where": writer.where(where), "name": name}
                qas.append(writer.qa("what", "neighbor", answer, **slots))
                answer = yes_no_answer(len(things) > 0)
                qas.append(writer.qa("presence", "anything neighbor", answer, **slots))
    return qas


def list_questions(facts: Scene, writer: Writer) -> list[QA]:
    """All things, all of a group such as animals, and all colors."""
    answer = listed(list(facts.things), WORDS[facts.place])
    qas = [writer.qa("list", "list", Answer(answer.short, answer.sentence))]
    colors = listing(each_once([thing.color for thing in facts.things]))
    qas.append(writer.qa("list", "colors", Answer(colors, f"The colors are {colors}.")))
    for group in GROUPS:
        things = of_group(facts, group)
        if things:
            names = list_names(things)
            answer = Answer(names, f"There is {names}.")
        else:
            answer = no_such_group(group)
        slots = {"group": group, "member": member_of(group)}
        qas.append(writer.qa("list", "list of group", answer, **slots))
        is_there = yes_no_answer(len(things) > 0)
        qas.append(writer.qa("presence", "presence of group", is_there, **slots))
    return qas


# Questions about numbers and presence


def count_questions(facts: Scene, writer: Writer) -> list[QA]:
    """How many there are of every kind, of an absent one, of all things, a color and a group."""
    qas = []
    for kind in [*kinds_present(facts), writer.rng.choice(kinds_absent(facts))]:
        answer = count_answer(facts.of_kind(kind), kind, plural(kind))
        qas.append(writer.qa("count", "count", answer, kinds=plural(writer.kind(kind))))
    things = list(facts.things)
    for plural_word in ("things", "objects"):
        answer = count_answer(things, "thing", "things")
        qas.append(writer.qa("count", "count", answer, kinds=plural_word))
    color = writer.rng.choice(COLORS)
    things = [thing for thing in facts.things if thing.color == color]
    answer = count_answer(things, f"{color} thing", f"{color} things")
    qas.append(writer.qa("count", "count", answer, kinds=f"{color} things"))
    group = writer.rng.choice(list(GROUPS))
    answer = count_answer(of_group(facts, group), member_of(group), group)
    qas.append(writer.qa("count", "count", answer, kinds=group))
    return qas


def count_at_spot_questions(facts: Scene, writer: Writer) -> list[QA]:
    """How many things, and how many of one kind, are at a spot."""
    rng = writer.rng
    qas = []
    for spot in rng.sample((*SIDES, *DISTANCES), 2):
        things = at_spot(facts, spot)
        slots = {"kinds": rng.choice(("things", "objects")), "spot": writer.spot(spot)}
        answer = count_answer(things, "thing", "things")
        qas.append(writer.qa("count", "count at spot", Answer(answer.short), **slots))
        kind = rng.choice(kinds_present(facts))
        of_kind = [thing for thing in things if thing.kind == kind]
        slots = {"kinds": plural(writer.kind(kind)), "spot": writer.spot(spot)}
        answer = count_answer(of_kind, kind, plural(kind))
        qas.append(writer.qa("count", "count at spot", Answer(answer.short), **slots))
    return qas


def number_questions(facts: Scene, writer: Writer) -> list[QA]:
    """Whether there are two, three or four of a kind that is there, more than one, or only one."""
    rng = writer.rng
    qas = []
    for kind in kinds_present(facts):
        count = len(facts.of_kind(kind))
        guess = rng.choice((2, 3, 4))
        if count > 1 and rng.random() < 0.5:
            guess = count
        spoken = writer.kind(kind)
        slots = {
            "kind": spoken,
            "a_kind": with_article(spoken),
            "kinds": plural(spoken),
            "number": NUMBERS[guess],
        }
        qas.append(writer.qa("presence", "is number", yes_no_answer(guess == count), **slots))
        qas.append(writer.qa("presence", "is more than one", yes_no_answer(count > 1), **slots))
        qas.append(writer.qa("presence", "is only one", yes_no_answer(count == 1), **slots))
    return qas


def presence_question(writer: Writer, is_there: bool, *words: str) -> QA:
    """Whether a thing is there; the last of the words is the kind, those before it adjectives."""
    adjectives = words[:-1]
    kind = writer.kind(words[-1])
    a_kind = with_article(*adjectives, kind)
    kinds = " ".join([*adjectives, plural(kind)])
    answer = presence_answer(is_there, with_article(*words))
    slots = {"a_kind": a_kind, "kinds": kinds, "kind": " ".join([*adjectives, kind])}
    return writer.qa("presence", "presence", answer, **slots)


def presence_questions(facts: Scene, writer: Writer) -> list[QA]:
    """Whether a kind is there, half of them absent; also with a color, or at a spot."""
    rng = writer.rng
    present = kinds_present(facts)
    absent = rng.sample(kinds_absent(facts), len(present))
    qas = []
    for kind in [*present, *absent]:
        qas.append(presence_question(writer, kind in present, kind))
    qas.append(presence_question(writer, False, rng.choice(NOT_IN_TOYLAND)))
    is_there = yes_no_answer("person" in present)
    qas.append(writer.qa("presence", "presence of someone", is_there))
    for thing in facts.things:
        same_kind = facts.of_kind(thing.kind)
        colors = [other.color for other in same_kind]
        color = thing.color
        if rng.random() < 0.5:
            color = rng.choice([other for other in COLORS if other not in colors])
        qas.append(presence_question(writer, color in colors, color, thing.kind))
        spots = [other.side for other in same_kind] + [other.distance for other in same_kind]
        spot = rng.choice((*SIDES, *DISTANCES))
        slots = {"a_kind": with_article(writer.kind(thing.kind)), "spot": writer.spot(spot)}
        answer = yes_no_answer(spot in spots)
        qas.append(writer.qa("presence", "presence at spot", answer, **slots))
    return qas


# Questions about the whole image


def weather_questions(facts: Scene, writer: Writer) -> list[QA]:
    weather = facts.weather
    qas = []
    for _ in range(OPEN_QUESTIONS):
        qas.append(writer.qa("weather", "weather", weather_answer(facts)))
    for guess in WEATHERS:
        qas.append(writer.qa("weather", f"is {guess}", yes_no_answer(weather == guess)))
    qas.append(writer.qa("weather", "is day", yes_no_answer(weather != "night")))
    time = "night" if weather == "night" else "day"
    qas.append(writer.qa("weather", "day or night", Answer(time, f"It is {time}.", time)))
    return qas


def place_questions(facts: Scene, writer: Writer) -> list[QA]:
    qas = []
    for _ in range(OPEN_QUESTIONS):
        qas.append(writer.qa("place", "place", place_answer(facts)))
    for guess in PLACES:
        qas.append(writer.qa("place", f"is {guess}", yes_no_answer(facts.place == guess)))
    outside = Answer("outside", "It was taken outside.", "outside")
    qas.append(writer.qa("place", "inside or outside", outside))
    return qas


def reason_words(facts: Scene) -> set[str]:
    """The words that hold in a scene, as `wordings.Reason` uses them."""
    kinds = [thing.kind for thing in facts.things]
    words = {facts.place, facts.weather, *kinds}
    if kinds.count("person") > 1:
        words.add("people")
    return words


def true_reasons(facts: Scene) -> dict[str, Reason]:
    """For every question that needs reasoning, the first answer whose words all hold here."""
    true_words = reason_words(facts)
    true = {}
    for wording, answers in REASONS.items():
        for reason in answers:
            if reason.needs <= true_words:
                true[wording] = reason
                break
    return true


def reasons(facts: Scene, writer: Writer) -> list[QA]:
    """Complex reasoning: questions whose answers give a reason."""
    qas = []
    for wording, reason in true_reasons(facts).items():
        qas.append(writer.qa("reason", wording, Answer(reason.answer)))
    return qas


# Questions without an answer in the image


def missing_names(facts: Scene, writer: Writer) -> list[tuple[str, str]]:
    """Things that are not there: (what is not there, its name in a question).

    Three absent kinds, one that Toyland does not have, a kind in another color, and an animal, a
    vehicle or a plant where there is none.
    """
    rng = writer.rng
    names = []
    for kind in rng.sample(kinds_absent(facts), 3):
        names.append((kind, f"the {writer.kind(kind)}"))
    strange = rng.choice(NOT_IN_TOYLAND)
    names.append((strange, f"the {strange}"))
    thing = rng.choice(facts.things)
    colors = [other.color for other in facts.of_kind(thing.kind)]
    color = rng.choice([other for other in COLORS if other not in colors])
    names.append((f"{color} {thing.kind}", f"the {color} {thing.kind}"))
    groups = [group for group in GROUPS if not of_group(facts, group)]
    if groups:
        member = member_of(rng.choice(groups))
        names.append((member, f"the {member}"))
    return names


def false_premises(facts: Scene, writer: Writer) -> list[QA]:
    """Questions about things that are not there, in the words of those about things that are."""
    rng = writer.rng
    qas = []
    for what, name in missing_names(facts, writer):
        answer = no_such(what)
        names_color = " " in what  # "red cat" tells its color, so that is not asked
        wordings = ["position", "distance", "neighbor", "is at spot"]
        if not names_color:
            wordings += ["color", "color", "is color", "color or color"]  # twice: asked more often
        wording = rng.choice(wordings)
        first, second = rng.sample(COLORS, 2)
        slots = {
            "name": name,
            "color": first,
            "other_color": second,
            "spot": writer.spot(rng.choice((*SIDES, *DISTANCES))),
            "where": writer.where(rng.choice(list(NEIGHBOR_WORDS))),
        }
        qas.append(writer.qa("false premise", wording, answer, **slots))
    qas += false_comparisons(facts, writer)
    kind = rng.choice(kinds_absent(facts))
    answer = no_such_group(plural(kind))
    wording = rng.choice(("color of several", "position of several"))
    names = f"the {plural(writer.kind(kind))}"
    qas.append(writer.qa("false premise", wording, answer, names=names))
    return qas


def false_comparisons(facts: Scene, writer: Writer) -> list[QA]:
    """Two things compared, of which one is not there: once the first, once the second.

    A thing that has no name of its own, or of the same kind as the missing one, is left out."""
    rng = writer.rng
    qas = []
    for order in ("missing first", "missing second"):
        what, missing = rng.choice(missing_names(facts, writer))
        thing = rng.choice(facts.things)
        # Named as in comparisons of two things that are there, so the name tells nothing.
        names = unique_names(facts, thing, writer, hidden="side")
        if not names or what.split()[-1] == thing.kind:
            continue
        slots = {
            "name": missing,
            "other": rng.choice(names),
            "way": rng.choice(("left", "right")),
            "where": writer.where(rng.choice(list(NEIGHBOR_WORDS))),
            "color": rng.choice(COLORS),
        }
        if order == "missing second":
            slots["name"], slots["other"] = slots["other"], slots["name"]
        wordings = FALSE_COMPARISONS
        if " " not in what:
            wordings += FALSE_COLOR_COMPARISONS
        qas.append(writer.qa("false premise", rng.choice(wordings), no_such(what), **slots))
    return qas


def outside_questions(facts: Scene, writer: Writer) -> list[QA]:
    """Questions that no image of Toyland answers."""
    rng = writer.rng
    answer = Answer(OUTSIDE_ANSWER)
    qas = []
    for _ in range(3):
        first, second = rng.sample(NUMBERS[1:], 2)
        slots = {"country": rng.choice(COUNTRIES), "number": first, "other_number": second}
        qas.append(writer.qa("outside", "outside", answer, **slots))
    for thing in facts.things:
        if len(facts.of_kind(thing.kind)) > 1:
            continue
        is_somebody = thing.kind == "person" or thing.kind in GROUPS["animals"]
        wording = "outside, of somebody" if is_somebody else "outside, of something"
        slots = {"name": f"the {writer.kind(thing.kind)}", "color": thing.color}
        qas.append(writer.qa("outside", wording, answer, **slots))
    return qas


def questions(facts: Scene, rng: random.Random, split: str = "trained") -> dict[str, list[QA]]:
    """Short questions with one right answer, by type, each in one form of its wording."""
    writer = Writer(rng, split)
    qas = []
    for thing in facts.things:
        qas += questions_about(thing, facts, writer)
    for kind in kinds_present(facts):
        qas += questions_about_several(kind, facts, writer)
    qas += spot_questions(facts, writer)
    qas += group_at_spot_questions(facts, writer)
    qas += either_questions(facts, writer)
    qas += extreme_questions(facts, writer)
    qas += color_of_what_questions(facts, writer)
    qas += neighbor_questions(facts, writer)
    qas += list_questions(facts, writer)
    qas += count_questions(facts, writer)
    qas += count_at_spot_questions(facts, writer)
    qas += number_questions(facts, writer)
    qas += presence_questions(facts, writer)
    qas += relation_questions(facts, writer)
    qas += weather_questions(facts, writer)
    qas += place_questions(facts, writer)
    qas += reasons(facts, writer)
    qas += false_premises(facts, writer)
    qas += outside_questions(facts, writer)

    by_type: dict[str, list[QA]] = {type: [] for type in TYPES}
    for qa in qas:
        by_type[qa.type].append(qa)
    return by_type
