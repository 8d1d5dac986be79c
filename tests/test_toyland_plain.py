"""Plain questions about a scene: every answer is a fact, every type occurs, few forms."""

import random

import pytest

from nanollava.toyland.captions import NUMBERS, WORDS
from nanollava.toyland.plain import FORMS, plain_questions, unique_name
from nanollava.toyland.scenes import Scene, Thing, scenes

BOX = (0.1, 0.6, 0.3, 0.9)
CAT = Thing("cat", "red", "left", "near", BOX)
DOG = Thing("dog", "blue", "right", "far", BOX)
OTHER_CAT = Thing("cat", "white", "right", "near", BOX)


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
        (("Count the things",), "two"),
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


def test_one_kind_is_absent_in_the_counts(cat_and_dog):
    counts = plain_questions(cat_and_dog, random.Random(0))["count"]
    assert [qa.answer for qa in counts].count(NUMBERS[0]) == 1


def test_half_of_the_kinds_asked_for_are_absent(cat_and_dog):
    qas = plain_questions(cat_and_dog, random.Random(0))["presence"]
    about_kinds = [qa.answer for qa in qas[:4]]
    assert sorted(about_kinds) == ["no", "no", "yes", "yes"]


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


def test_every_type_occurs_and_no_slot_stays_open():
    types = set()
    for scene in scenes("train", 40, 0):
        for type, qas in plain_questions(scene, random.Random(0)).items():
            for qa in qas:
                types.add(type)
                assert qa.type == type
                assert "{" not in qa.question
                assert qa.question[0].isupper()
    assert types == {*FORMS, "relation"} - {"side of other", "closer"}
