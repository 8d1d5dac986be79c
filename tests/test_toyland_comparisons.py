"""Comparisons of two things: what they say is true, in whatever words they are asked."""

import random
import re

import pytest
from toyland_oracle import SIDES, named_kinds

from nanollava.toyland.comparisons import relation_questions
from nanollava.toyland.qa import QA, Writer
from nanollava.toyland.scenes import COLORS, Scene, Thing, scenes


@pytest.fixture(scope="module")
def comparisons() -> list[tuple[Scene, QA]]:
    """Without requests for the answer's form."""
    writer = Writer(random.Random(0))
    pairs = []
    for scene in scenes("train", 300):
        for qa in relation_questions(scene, writer):
            if not re.search("word|sentence", qa.question.lower()):
                pairs.append((scene, qa))
    return pairs


def compared_things(scene: Scene, text: str) -> list[Thing] | None:
    """The two things that a comparison names, in order; None if a name is more than a kind."""
    kinds = named_kinds(text)
    things = [scene.of_kind(kind) for kind in kinds]
    if len(kinds) != 2 or any(len(of_kind) != 1 for of_kind in things):
        return None
    return [of_kind[0] for of_kind in things]


def test_comparisons_of_colors_are_true(comparisons):
    checked = {"same": 0, "which": 0}
    for scene, qa in comparisons:
        text = qa.question.lower()
        things = compared_things(scene, text)
        if things is None:
            continue
        colors = [thing.color for thing in things]
        asked = [word for word in re.findall(r"\w+", text) if word in COLORS]
        if re.search("colou?r", text) and not asked:
            assert qa.answer == ("yes" if colors[0] == colors[1] else "no"), qa
            checked["same"] += 1
        elif asked:
            thing = things[colors.index(asked[0])]
            assert named_kinds(qa.answer) == [thing.kind], qa
            checked["which"] += 1
    assert min(checked.values()) > 300


def stands(first: Thing, where: str, second: Thing) -> bool:
    """Whether the first of two things is "behind" the second, and so on."""
    steps = SIDES.index(first.side) - SIDES.index(second.side)
    if where == "next to":
        return abs(steps) == 1 and first.distance == second.distance
    nearer, farther = (first, second) if where == "in front of" else (second, first)
    return steps == 0 and nearer.distance == "near" and farther.distance == "far"


def test_where_a_thing_is_seen_from_another_is_true(comparisons):
    checked = {"open": 0, "yes or no": 0}
    for scene, qa in comparisons:
        text = qa.question.lower()
        things = compared_things(scene, text)
        where = re.search(r"\b(behind|in front of|next to|beside)\b", text)
        if things is None:
            continue
        if where and qa.answer in ("yes", "no"):
            is_true = stands(things[0], where[0].replace("beside", "next to"), things[1])
            assert qa.answer == ("yes" if is_true else "no"), qa
            checked["yes or no"] += 1
        elif qa.answer.startswith(("to the", "behind", "in front")):
            left = qa.answer.startswith("to the left")
            right = qa.answer.startswith("to the right")
            named = scene.of_kind(named_kinds(qa.answer)[0])[0]
            first = next(thing for thing in things if thing is not named)
            steps = SIDES.index(first.side) - SIDES.index(named.side)
            assert (steps < 0, steps > 0) == (left, right), qa
            if steps == 0:
                assert stands(first, re.match("behind|in front of", qa.answer)[0], named), qa
            checked["open"] += 1
    assert min(checked.values()) > 300
