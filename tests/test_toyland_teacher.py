"""Toyland's teacher: it reads captions and boxes, and what it writes is true."""

import random
import re

import pytest

from nanollava.errors import UserError
from nanollava.toyland.captions import boxes, captions
from nanollava.toyland.scenes import KINDS, Scene, scenes
from nanollava.toyland.teacher import (
    QA,
    detail,
    dialogue,
    facts_from_captions,
    gives_away,
    instructions,
    questions,
    read,
    reasons,
    stated_facts,
)

NUMBERS = ["none", "one", "two", "three", "four"]


@pytest.fixture(scope="module")
def pool():
    return list(scenes("train", 1500))


@pytest.fixture(scope="module")
def conversations(pool):
    rng = random.Random(0)
    return [instructions(facts_from_captions(scene, rng), rng, "conversation") for scene in pool]


def expected_facts(scene: Scene) -> set[tuple]:
    """The facts of a scene that a detailed description should state."""
    facts = {("place", scene.place), ("weather", scene.weather), ("count", len(scene.things))}
    for thing in scene.things:
        facts.add(("kind", thing.side, thing.distance, thing.kind))
        facts.add(("color", thing.side, thing.distance, thing.color))
    return facts


def test_reads_the_scene_from_captions_and_boxes():
    rng = random.Random(0)
    for scene in scenes("test", 500):
        facts = read(captions(scene, rng), boxes(scene))
        assert facts.place == scene.place
        assert facts.weather == scene.weather
        assert facts.things == scene.things


def test_other_captions_are_an_error():
    with pytest.raises(UserError, match="reads only Toyland's captions"):
        read(["A man rides a horse."], [("cat", (0.1, 0.1, 0.2, 0.2))])


def test_detailed_description_states_every_fact():
    for scene in scenes("test", 500):
        assert stated_facts(detail(scene)) == expected_facts(scene)


def test_a_wrong_description_states_other_facts():
    scene = next(scenes("test", 1))
    text = detail(scene).replace(scene.things[0].color, "golden")
    assert stated_facts(text) != expected_facts(scene)


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
        for qa in questions(facts_from_captions(scene, rng), rng)[type]:
            yield scene, qa


def test_counts_are_true(pool):
    checked = 0
    for scene, qa in all_questions(pool, "count"):
        kind = kind_in(qa.question)
        things = scene.things if kind is None else scene.of_kind(kind)
        assert qa.answer == NUMBERS[len(things)], qa
        checked += 1
    assert checked > 1000


def test_colors_are_true(pool):
    checked = 0
    for scene, qa in all_questions(pool, "color"):
        things = scene.of_kind(kind_in(qa.question))
        if len(things) == 1:
            assert qa.answer == things[0].color, qa
            checked += 1
    assert checked > 400


def test_positions_are_true(pool):
    checked = 0
    for scene, qa in all_questions(pool, "position"):
        things = scene.of_kind(kind_in(qa.question))
        if len(things) == 1:
            assert things[0].side in qa.answer, qa
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
        assert all("because" in qa.answer for qa in instructions(scene, rng, "complex"))


def test_the_special_reason_comes_before_the_general_one():
    thing = next(t for scene in scenes("train", 200) for t in scene.things if t.kind == "bicycle")
    answers = {}
    for place, weather in (("street", "sunny"), ("street", "rainy"), ("beach", "sunny")):
        qas = reasons(Scene(place, weather, (thing,)), random.Random(0))
        answers[place, weather] = next(qa.answer for qa in qas if "bicycle" in qa.question)
    assert answers["street", "sunny"].startswith("yes")
    assert answers["street", "rainy"] == "no, because it is raining."
    assert answers["beach", "sunny"] == "no, because the sand is soft."


def test_a_detailed_description_is_one_turn(pool):
    assert len(instructions(pool[0], random.Random(0), "detail")) == 1


def test_an_unknown_kind_of_instructions_is_an_error(pool):
    with pytest.raises(ValueError, match="'poem'"):
        instructions(pool[0], random.Random(0), "poem")


def test_dialogue_puts_the_context_before_the_first_question():
    qas = [QA("color", "What color?", "red"), QA("count", "How many?", "two")]
    assert dialogue("<image>", qas) == [
        {"from": "human", "value": "<image>\nWhat color?"},
        {"from": "gpt", "value": "red"},
        {"from": "human", "value": "How many?"},
        {"from": "gpt", "value": "two"},
    ]
