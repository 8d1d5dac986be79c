"""Short questions about scenes: what they say is true, in whatever words they are asked."""

import random
import re
from itertools import product

import pytest
from toyland_oracle import (
    NUMBERS,
    SIDES,
    at_named_spot,
    matching,
    named_colors,
    named_kinds,
    things_named,
)

from nanollava.toyland.captions import plural, with_article
from nanollava.toyland.qa import Writer
from nanollava.toyland.questions import OUTSIDE_ANSWER, TYPES, questions, reasons
from nanollava.toyland.scenes import COLORS, KINDS, Scene, scenes
from nanollava.toyland.wordings import GROUPS, NOT_IN_TOYLAND


@pytest.fixture(scope="module")
def pool():
    return list(scenes("train", 300))


@pytest.fixture(scope="module")
def all_questions(pool):
    """(scene, question and answer) of every type, without requests for the answer's form."""
    rng = random.Random(0)
    by_type: dict[str, list] = {type: [] for type in TYPES}
    for scene in pool:
        for type, qas in questions(scene, rng).items():
            for qa in qas:
                if not re.search("word|sentence", qa.question.lower()):
                    by_type[type].append((scene, qa))
    return by_type


def test_counts_are_true(all_questions):
    assert len(all_questions["count"]) > 1000
    for scene, qa in all_questions["count"]:
        things = at_named_spot(matching(scene, qa.question), qa.question)
        assert qa.answer == NUMBERS[len(things)], qa


def test_colors_of_one_thing_are_true(all_questions):
    checked = 0
    for scene, qa in all_questions["color"]:
        kinds = named_kinds(qa.question)
        things = scene.of_kind(kinds[0]) if kinds else []
        if len(things) == 1:
            assert qa.answer == things[0].color, qa
            checked += 1
    assert checked > 400


def test_colors_of_several_things_name_each_color_once(all_questions):
    checked = 0
    for scene, qa in all_questions["color"]:
        kinds = named_kinds(qa.question)
        if kinds and re.search(rf"\b{plural(kinds[0])}\b", qa.question.lower()):
            colors = named_colors(qa.answer)
            assert sorted(colors) == sorted({t.color for t in scene.of_kind(kinds[0])}), qa
            checked += 1
    assert checked > 50


def test_positions_are_true(all_questions):
    checked = 0
    for scene, qa in all_questions["position"]:
        things = things_named(scene, qa.question)
        if len(things) == 1:
            assert things[0].side in qa.answer, qa
            checked += 1
    assert checked > 400


def test_distances_are_true(all_questions):
    checked = 0
    for scene, qa in all_questions["distance"]:
        things = things_named(scene, qa.question)
        if len(things) == 1:
            expected = "in front" if things[0].distance == "near" else "far away"
            assert qa.answer == expected, qa
            checked += 1
    assert checked > 400


def test_presence_of_kinds_and_colors_is_true(all_questions):
    """Of the questions that only name kinds, groups and colors."""
    checked = 0
    for scene, qa in all_questions["presence"]:
        text = qa.question.lower()
        spots = "left|right|middle|cent|front|foreground|far|background|back|distance|near|close"
        names_strange = any(word in text for word in NOT_IN_TOYLAND)
        named = named_kinds(text) or any(group in text for group in GROUPS)
        is_about_a_known_thing = " the color " in text or re.search(r"\bthe (\w+ )?\w+", text)
        numbers = "two|three|four|more than|only|just|exactly|several|multiple|many|single|another"
        numbers += "|number|second|once|twice|lone|plural|one"
        is_about_more = re.search(f"{spots}|{numbers}", text)
        if is_about_more or names_strange or not named or is_about_a_known_thing:
            continue
        assert qa.answer == ("yes" if matching(scene, text) else "no"), qa
        checked += 1
    assert checked > 1000


def test_questions_about_a_number_are_answered_by_counting(all_questions):
    checked = {"two": 0, "several": 0, "only": 0}
    for scene, qa in all_questions["presence"]:
        text = qa.question.lower()
        count = len(matching(scene, text))
        number = re.search(r"\b(two|three|four)\b", text)
        if number:
            checked["two"] += 1
            assert qa.answer == ("yes" if count == NUMBERS.index(number[0]) else "no"), qa
        elif re.search("more than|several|multiple|many", text):
            checked["several"] += 1
            assert qa.answer == ("yes" if count > 1 else "no"), qa
        elif re.search("(only|just|exactly|precisely) (the )?(one|a single)", text):
            checked["only"] += 1
            assert qa.answer == ("yes" if count == 1 else "no"), qa
    assert min(checked.values()) > 300


def test_the_one_of_two_kinds_that_is_there_is_named(all_questions):
    checked = 0
    for scene, qa in all_questions["what"]:
        if re.fullmatch(r"an? \w+", qa.answer):
            kind = qa.answer.split()[1]
            assert len(set(named_kinds(qa.question)) & {t.kind for t in scene.things}) == 1, qa
            assert kind in [t.kind for t in at_named_spot(list(scene.things), qa.question)], qa
            checked += 1
    assert checked > 300


def extreme(scene: Scene, text: str):
    """The thing that a question with a superlative asks about."""
    if re.search("left(most)?", text):
        return min(scene.things, key=lambda thing: SIDES.index(thing.side))
    if re.search("right(most)?", text):
        return max(scene.things, key=lambda thing: SIDES.index(thing.side))
    if re.search("closest|nearest", text):
        return next(thing for thing in scene.things if thing.distance == "near")
    return next(thing for thing in scene.things if thing.distance == "far")


def test_the_closest_and_the_leftmost_thing_are_named(all_questions):
    checked = 0
    for scene, qa in all_questions["what"]:
        text = qa.question.lower()
        if re.search("(clos|near|farth|furth|leftm|rightm)[a-z]*st|most (to the|distant)", text):
            thing = extreme(scene, text)
            assert qa.answer == with_article(thing.color, thing.kind), qa
            checked += 1
    assert checked > 400


def test_a_group_at_a_spot_is_named(all_questions):
    checked = 0
    for scene, qa in all_questions["what"]:
        text = qa.question.lower()
        groups = [group for group in GROUPS if group.removesuffix("s") in text]
        if not groups or re.search(" the (animal|vehicle|plant)", text):
            continue
        (group,) = groups
        things = [thing for thing in scene.things if thing.kind in GROUPS[group]]
        things = at_named_spot(things, text)
        if things:
            names = [with_article(thing.color, thing.kind) for thing in things]
            assert sorted(re.split(", | and ", qa.answer)) == sorted(names), qa
        else:
            assert qa.answer.startswith(f"There is no {group.removesuffix('s')} "), qa
        checked += 1
    assert checked > 400


def test_lists_name_everything(all_questions):
    for scene, qa in all_questions["list"]:
        question = qa.question.lower()
        if re.search("colo|crayon|palette|painted", question):
            assert sorted(named_colors(qa.answer)) == sorted({t.color for t in scene.things}), qa
        elif not any(group.removesuffix("s") in question for group in GROUPS):
            assert sorted(named_colors(qa.answer)) == sorted(t.color for t in scene.things), qa


def test_a_false_premise_is_denied_and_names_what_is_not_there(all_questions):
    assert len(all_questions["false premise"]) > 1000
    for scene, qa in all_questions["false premise"]:
        what = re.fullmatch(r"There (?:is|are) no (.+)\.", qa.answer)[1]
        words = what.split()
        kind = words[-1]
        present = [t for t in scene.things if kind in (t.kind, plural(t.kind))]
        if len(words) == 2:
            present = [thing for thing in present if thing.color == words[0]]
        assert present == [], qa


def test_the_missing_thing_of_two_comes_first_or_second(all_questions):
    places = []
    for _, qa in all_questions["false premise"]:
        kinds = named_kinds(qa.question)
        missing = named_kinds(qa.answer)
        if len(kinds) == 2 and len(missing) == 1:
            places.append(kinds.index(missing[0]))
    assert min(places.count(0), places.count(1)) > 50


def test_questions_outside_toyland_get_one_honest_sentence(all_questions):
    assert {qa.answer for _, qa in all_questions["outside"]} == {OUTSIDE_ANSWER}


def test_every_type_has_hundreds_of_wordings(all_questions):
    for type in ("color", "position", "distance", "count", "presence", "what"):
        texts = set()
        for _, qa in all_questions[type]:
            text = qa.question.lower()
            for word in (*COLORS, *KINDS, *(plural(kind) for kind in KINDS)):
                text = re.sub(rf"\b{word}\b", "X", text)
            texts.add(text)
        assert len(texts) > 300, type


@pytest.mark.parametrize("split", ["trained", "unseen"])
def test_both_splits_of_the_wordings_ask_every_type(pool, split):
    by_type: dict[str, int] = dict.fromkeys(TYPES, 0)
    for scene in pool[:60]:
        for type, qas in questions(scene, random.Random(0), split).items():
            by_type[type] += len(qas)
    assert min(by_type.values()) > 0


def test_the_answer_has_the_form_that_is_asked_for(pool):
    writer = Writer(random.Random(0))
    word_answers = set()
    sentences = set()
    requests_first = []
    for scene in pool:
        for qa in questions(scene, writer.rng)["color"]:
            text = qa.question.lower()
            if "word" in text:
                word_answers.add(qa.answer)
            elif "sentence" in text:
                sentences.add(qa.answer)
            before = re.match(r"[^:,?.]*\b(word|sentence)\b( only|, please)*[:,]", text)
            if before:
                requests_first.append((before[1], before[0][-1]))
    for kind_and_mark in product(("word", "sentence"), ":,"):
        assert requests_first.count(kind_and_mark) > 3, requests_first
    assert word_answers and word_answers <= set(COLORS)
    assert sentences and all(text[0].isupper() and text.endswith(".") for text in sentences)


def test_the_special_reason_comes_before_the_general_one():
    thing = next(t for scene in scenes("train", 200) for t in scene.things if t.kind == "bicycle")
    answers = {}
    for place, weather in (("street", "sunny"), ("street", "rainy"), ("beach", "sunny")):
        qas = reasons(Scene(place, weather, (thing,)), Writer(random.Random(0)))
        answers[place, weather] = next(
            qa.answer for qa in qas if "bicycle" in qa.question or "bike" in qa.question
        )
    assert answers["street", "sunny"].startswith("yes")
    assert answers["street", "rainy"] == "no, because it is raining."
    assert answers["beach", "sunny"] == "no, because the sand is soft."
