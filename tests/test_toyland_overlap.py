"""Which questions the grammar of Toyland can produce."""

import random

import pytest

from nanollava.toyland.grammar import all_forms
from nanollava.toyland.overlap import in_grammar, in_plain_language, pattern
from nanollava.toyland.plain import plain_questions
from nanollava.toyland.questions import questions
from nanollava.toyland.scenes import SIDES, scenes
from nanollava.toyland.wordings import WORDINGS


def test_questions_of_the_grammar_are_found():
    """However they are typed, and whatever they are about."""
    rng = random.Random(0)
    found = []
    for scene in scenes("test", 60, seed=0):
        for split in ("trained", "unseen"):
            for qas in questions(scene, rng, split).values():
                found += [in_grammar(qa.question) for qa in qas]
    assert len(found) > 5000
    assert sum(found) / len(found) > 0.999


@pytest.mark.parametrize(
    "question",
    [
        "what is the persons color",
        "What colour's the cat?",
        "What color is the cat on the left side of the photo? Answer in one word.",
        "Hey, in one word: what's the color of the cat?",
        "In one word, please, what is the color of the cat?",
        "One word, please: what is the color of the cat?",
        "Is the cat on the left in the background?",
        "What is the capital of China?",
    ],
)
def test_what_may_be_around_a_form_does_not_hide_it(question):
    assert in_grammar(question)


@pytest.mark.parametrize(
    "question",
    [
        "What hue has the fur of that cat?",
        "Which animal hides at the very left?",
        "Would you kindly sketch the scene in words?",
    ],
)
def test_other_questions_are_not(question):
    assert not in_grammar(question)


def test_a_request_that_is_part_of_a_form_does_not_hide_it():
    """ "In one sentence, what do we see here?" asks for a caption."""
    forms = {form for template in WORDINGS["sentence"] for form in all_forms(template)}
    assert [form for form in forms if not in_grammar(form)] == []


def test_every_plain_question_is_in_plain_language():
    rng = random.Random(0)
    checked = set()
    for scene in scenes("test", 60, seed=0):
        for qas in plain_questions(scene, rng).values():
            for qa in qas:
                assert in_plain_language(qa.question)
                assert in_plain_language(f"{qa.question} Answer in one word.")
                assert in_plain_language(f"In one word: {qa.question}")
                checked |= {side for side in SIDES if f"{side}?" in qa.question}
    assert checked == set(SIDES)


@pytest.mark.parametrize("question", ["What hue has the cat?", "Where has the cat been put?"])
def test_other_questions_are_not_plain_language(question):
    assert not in_plain_language(question)


def test_things_and_typing_do_not_change_the_pattern():
    assert pattern("What color is the red cat?") == pattern("so what colour is the dog, please")
    assert pattern("What color is the cat?") != pattern("What size is the cat?")
