"""Plain questions and conversations: what they say is true, and no turn answers a later one."""

import random
import re

import pytest

from nanollava.toyland.captions import NUMBERS, WORDS
from nanollava.toyland.plain import (
    gives_away,
    plain_instructions,
    plain_questions,
    plain_reasons,
    unique_name,
)
from nanollava.toyland.qa import QA
from nanollava.toyland.scenes import KINDS, Scene, Thing, scenes
from nanollava.toyland.teacher import facts_from_captions

BOX = (0.1, 0.6, 0.3, 0.9)
CAT = Thing("cat", "red", "left", "near", BOX)
DOG = Thing("dog", "blue", "right", "far", BOX)
OTHER_CAT = Thing("cat", "white", "right", "near", BOX)


@pytest.fixture(scope="module")
def pool():
    return list(scenes("train", 1500))


@pytest.fixture(scope="module")
def conversations(pool):
    rng = random.Random(0)
    return [
        plain_instructions(facts_from_captions(scene, rng), rng, "conversation") for scene in pool
    ]


def answers(scene: Scene, *words: str) -> set[str]:
    """The answers to all questions that have the words, over many random choices of forms."""
    found = set()
    for seed in range(30):
        for qas in plain_questions(scene, random.Random(seed)).values():
            for qa in qas:
                if all(word in qa.question for word in words):
                    found.add(qa.answer)
    return found


@pytest.fixture
def cat_and_dog() -> Scene:
    return Scene("park", "night", (CAT, DOG))


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("color", "the cat"), "red"),
        (("Where is the dog",), "on the right"),
        (("How far away is the cat",), "in front"),
        (("What is on the left",), "a red cat"),
        (("How many things",), "two"),
        (("Count the dogs",), "one"),
        (("Is there a cat",), "yes"),
        (("Is the cat to the left of the dog",), "yes"),
        (("Is the dog more to the left than the cat",), "no"),
        (("Which is closer, the dog or the cat",), "the cat"),
        (("What is the weather like",), "a clear night"),
        (("Which place is this",), "in the park"),
    ],
)
def test_the_answer_is_the_fact(cat_and_dog, words, answer):
    assert answers(cat_and_dog, *words) == {answer}


def test_a_name_fits_one_thing_only():
    scene = Scene("park", "sunny", (CAT, OTHER_CAT, DOG))
    assert unique_name(scene, CAT) == "the red cat"
    assert unique_name(scene, DOG) == "the dog"
    same = Thing("cat", "red", "right", "far", BOX)
    assert unique_name(Scene("park", "sunny", (CAT, same)), CAT) is None


def test_the_color_of_one_of_several_is_asked_by_its_side():
    scene = Scene("park", "sunny", (CAT, OTHER_CAT))
    assert answers(scene, "color", WORDS["left"]) == {"red"}
    assert answers(scene, "color", WORDS["right"]) == {"white"}


def kind_in(question: str) -> str | None:
    """The first kind that a question names."""
    question = question.replace("people", "persons")
    for kind in KINDS:
        if re.search(rf"\b{kind}s?\b", question):
            return kind
    return None


def all_questions(pool, type: str):
    """(scene, question and answer) of one type over 400 scenes."""
    rng = random.Random(0)
    for scene in pool[:400]:
        for qa in plain_questions(facts_from_captions(scene, rng), rng)[type]:
            yield scene, qa


def test_counts_are_true(pool):
    checked = 0
    for scene, qa in all_questions(pool, "count"):
        kind = kind_in(qa.question)
        things = scene.things if kind is None else scene.of_kind(kind)
        assert qa.answer == NUMBERS[len(things)], qa
        checked += 1
    assert checked > 1000


@pytest.mark.parametrize("type", ["color", "position", "distance"])
def test_facts_of_a_thing_are_true(pool, type):
    checked = 0
    for scene, qa in all_questions(pool, type):
        things = scene.of_kind(kind_in(qa.question))
        if len(things) == 1:
            thing = things[0]
            facts = {
                "color": thing.color,
                "position": WORDS[thing.side],
                "distance": WORDS[thing.distance],
            }
            assert qa.answer == facts[type], qa
            checked += 1
    assert checked > 400


def test_presence_is_true(pool):
    checked = 0
    for scene, qa in all_questions(pool, "presence"):
        kind = kind_in(qa.question)
        colors = [thing.color for thing in scene.of_kind(kind)]
        color = re.search(rf"an? (\w+) {kind}", qa.question)
        expected = len(colors) > 0
        if color is not None:
            expected = color[1] in colors
        assert (qa.answer == "yes") == expected, qa
        checked += 1
    assert checked > 2000


def test_questions_have_several_wordings(pool):
    assert len({qa.question for _, qa in all_questions(pool, "weather")}) >= 4


def test_conversations_have_different_lengths(conversations):
    assert {len(turns) for turns in conversations} >= {2, 5, 8}


def test_no_question_is_asked_twice(conversations):
    for turns in conversations:
        assert len(turns) == len({qa.question for qa in turns})


def test_no_turn_answers_a_later_one(conversations):
    for turns in conversations:
        for i, qa in enumerate(turns):
            before = " ".join(f"{earlier.question} {earlier.answer}" for earlier in turns[:i])
            kind = re.search("|".join(KINDS), qa.question.replace("people", "person"))
            if qa.type in ("presence", "count") and kind:
                assert kind[0] not in before.replace("people", "person"), turns
            if qa.type == "color":
                named = f"{qa.answer} {kind[0]}"
                assert named not in before or named in qa.question, turns


def test_yes_is_as_frequent_as_no(conversations):
    answers = [qa.answer for turns in conversations for qa in turns if qa.type == "presence"]
    assert 0.4 < answers.count("yes") / len(answers) < 0.6


@pytest.mark.parametrize(
    "earlier, later, expected",
    [
        (("presence", "Is there a cat?", "yes"), ("count", "How many cats?", "one"), True),
        (("presence", "Is there a dog?", "yes"), ("count", "How many cats?", "one"), False),
        (("what", "What is left?", "a red cat"), ("color", "Color of the cat?", "red"), True),
        (("position", "Where is the cat?", "left"), ("color", "Color of the cat?", "red"), False),
        (("color", "Color of the cat?", "red"), ("position", "Where is the cat?", "left"), False),
        (("what", "What is left?", "a red cat"), ("position", "Where is the cat?", "left"), True),
        (("count", "How many cats?", "one"), ("count", "How many cats?", "one"), True),
        (("count", "How many cats?", "one"), ("count", "How many dogs?", "one"), False),
    ],
)
def test_what_an_earlier_turn_gives_away(earlier, later, expected):
    assert gives_away(QA(*earlier), QA(*later)) == expected


def test_complex_answers_give_a_reason(pool):
    rng = random.Random(0)
    for scene in pool[:100]:
        assert all("because" in qa.answer for qa in plain_instructions(scene, rng, "complex"))


def test_the_special_reason_comes_before_the_general_one():
    thing = next(t for scene in scenes("train", 200) for t in scene.things if t.kind == "bicycle")
    answers = {}
    for place, weather in (("street", "sunny"), ("street", "rainy"), ("beach", "sunny")):
        qas = plain_reasons(Scene(place, weather, (thing,)), random.Random(0))
        answers[place, weather] = next(qa.answer for qa in qas if "bicycle" in qa.question)
    assert answers["street", "sunny"].startswith("yes")
    assert answers["street", "rainy"] == "no, because it is raining."
    assert answers["beach", "sunny"] == "no, because the sand is soft."


def test_a_detailed_description_is_one_turn(pool):
    assert len(plain_instructions(pool[0], random.Random(0), "detail")) == 1


def test_an_unknown_kind_of_instructions_is_an_error(pool):
    with pytest.raises(ValueError, match="'poem'"):
        plain_instructions(pool[0], random.Random(0), "poem")
