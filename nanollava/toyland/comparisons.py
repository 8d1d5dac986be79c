"""Questions that compare two things: by side, by distance, by where one is, and by color."""

from itertools import permutations

from .grammar import capitalized
from .qa import QA, Answer, Writer, neighbors, unique_names, yes_no_answer, yes_or_no
from .scenes import SIDES, Scene, Thing

# Where one thing can be, seen from another, besides the sides, which have questions of their own.
NEXT_TO_OR_BEHIND = ("next to", "behind", "in front of")


def relation_questions(facts: Scene, writer: Writer) -> list[QA]:
    """Two things compared: by side, by distance, by where one is seen from the other, by color."""
    qas = []
    for first, second in permutations(facts.things, 2):
        qas += color_comparisons(first, second, facts, writer)
        # A name that tells the side would answer the question.
        first_names = unique_names(facts, first, writer, hidden="side")
        second_names = unique_names(facts, second, writer, hidden="side")
        if not first_names or not second_names:
            continue
        names = {
            "name": writer.rng.choice(first_names),
            "other": writer.rng.choice(second_names),
        }
        if first.side != second.side:
            qas += side_questions(first, second, names, writer)
        if first.distance != second.distance:
            qas += distance_questions(first, names, writer)
        qas += place_comparisons(first, second, facts, names, writer)
    return qas


def color_comparisons(first: Thing, second: Thing, facts: Scene, writer: Writer) -> list[QA]:
    """Whether two things have the same color, and which of them has a color."""
    first_names = unique_names(facts, first, writer, hidden="color")
    second_names = unique_names(facts, second, writer, hidden="color")
    if not first_names or not second_names:
        return []
    names = {"name": writer.rng.choice(first_names), "other": writer.rng.choice(second_names)}
    is_same = first.color == second.color
    qas = [writer.qa("relation", "same color", yes_no_answer(is_same), **names)]
    if not is_same:
        thing, name = writer.rng.choice(((first, names["name"]), (second, names["other"])))
        answer = Answer(name, f"{capitalized(name)} is {thing.color}.")
        qas.append(writer.qa("relation", "which is color", answer, color=thing.color, **names))
    return qas


def where_from(first: Thing, second: Thing) -> str:
    """Where the first thing is, seen from the second: by the side, or else by the distance."""
    steps = SIDES.index(first.side) - SIDES.index(second.side)
    if steps < 0:
        return "to the left of"
    if steps > 0:
        return "to the right of"
    return "in front of" if first.distance == "near" else "behind"


def place_comparisons(
    first: Thing, second: Thing, facts: Scene, names: dict[str, str], writer: Writer
) -> list[QA]:
    """Where the first thing is, seen from the second, and whether it is next to, behind or in front
    of it."""
    phrase = f"{where_from(first, second)} {names['other']}"
    answer = Answer(phrase, f"{capitalized(names['name'])} is {phrase}.")
    qas = [writer.qa("relation", "relative position", answer, **names)]
    around = neighbors(second, facts)
    true = [where for where in NEXT_TO_OR_BEHIND if first in around.get(where, [])]
    for where in (*true, writer.rng.choice(NEXT_TO_OR_BEHIND)):
        answer = yes_no_answer(where in true)
        words = {"where": writer.where(where), **names}
        qas.append(writer.qa("relation", "is neighbor", answer, **words))
    return qas


def side_questions(first: Thing, second: Thing, names: dict[str, str], writer: Writer) -> list[QA]:
    way = writer.rng.choice(("left", "right"))
    is_left_of = SIDES.index(first.side) < SIDES.index(second.side)
    is_true = is_left_of == (way == "left")
    further = names["name"] if is_true else names["other"]
    verb = "is" if is_true else "is not"
    sentence = f"{capitalized(names['name'])} {verb} to the {way} of {names['other']}."
    answer = Answer(yes_or_no(is_true), sentence, yes_or_no(is_true))
    return [
        writer.qa("relation", "side of other", answer, way=way, **names),
        writer.qa("relation", "further to side", Answer(further), way=way, **names),
    ]


def distance_questions(first: Thing, names: dict[str, str], writer: Writer) -> list[QA]:
    is_closer = first.distance == "near"
    closer = names["name"] if is_closer else names["other"]
    farther = names["other"] if is_closer else names["name"]
    closer_answer = Answer(closer, f"{capitalized(closer)} is closer.")
    farther_answer = Answer(farther, f"{capitalized(farther)} is farther away.")
    return [
        writer.qa("relation", "closer", closer_answer, **names),
        writer.qa("relation", "farther", farther_answer, **names),
        writer.qa("relation", "is closer", yes_no_answer(is_closer), **names),
        writer.qa("relation", "is farther", yes_no_answer(not is_closer), **names),
    ]
