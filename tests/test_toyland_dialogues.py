"""Conversations: no turn answers a later one by accident, and later turns refer to earlier ones."""

import random
import re

import pytest

from nanollava.toyland.dialogues import description, dialogue, follow_ups, gives_away, instructions
from nanollava.toyland.qa import QA, kinds_in, neighbors
from nanollava.toyland.questions import OUTSIDE_ANSWER
from nanollava.toyland.scenes import COLORS, SIDES, scenes
from nanollava.toyland.teacher import facts_from_captions, stated_facts

RAINY = ("weather", "How is the weather?", "rainy")
CLOSER = ("relation", "Is the cat closer than the dog?", "yes")
PRONOUN = re.compile(r"\b(it|its|they|them|their|that)\b")


@pytest.fixture(scope="module")
def pool():
    return list(scenes("train", 2000))


@pytest.fixture(scope="module")
def conversations(pool):
    """Instruction data without the dialogues whose later turns refer back."""
    rng = random.Random(0)
    samples = [instructions(facts_from_captions(scene, rng), rng, "conversation") for scene in pool]
    return [turns for turns in samples if all(qa.type != "follow-up" for qa in turns)]


@pytest.fixture(scope="module")
def talks(pool):
    """(scene, dialogue of up to five turns)"""
    rng = random.Random(1)
    return [(scene, follow_ups(scene, rng, turns=5)) for scene in pool]


def test_conversations_have_different_lengths(conversations):
    assert {len(turns) for turns in conversations} >= {2, 5, 8}


def test_no_question_is_asked_twice(conversations):
    for turns in conversations:
        assert len(turns) == len({qa.question for qa in turns})


def test_presence_and_number_are_not_known_before_they_are_asked(conversations):
    checked = 0
    for turns in conversations:
        for i, qa in enumerate(turns):
            kinds = kinds_in(qa)
            if qa.type in ("presence", "count") and kinds:
                for earlier in turns[:i]:
                    assert not kinds & kinds_in(earlier), turns
                checked += 1
    assert checked > 500


@pytest.mark.parametrize(("type", "least"), [("relation", 0.1), ("list", 0.065), ("what", 0.13)])
def test_hard_types_are_drilled(conversations, type, least):
    types = [qa.type for turns in conversations for qa in turns]
    assert types.count(type) / len(types) > least


def test_yes_is_as_frequent_as_no(conversations):
    answers = [qa.answer for turns in conversations for qa in turns if qa.type == "presence"]
    share = answers.count("yes") / (answers.count("yes") + answers.count("no"))
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_many_comparisons_are_answered_with(conversations, answer):
    answers = [qa.answer for turns in conversations for qa in turns if qa.type == "relation"]
    assert answers.count(answer) / len(answers) > 0.2


@pytest.mark.parametrize(
    "earlier, later, expected",
    [
        (("presence", "Is there a cat?", "yes"), ("count", "How many cats?", "one"), True),
        (("presence", "Is there a kitty?", "yes"), ("count", "How many cats?", "one"), True),
        (("presence", "Is there a dog?", "yes"), ("count", "How many cats?", "one"), False),
        (("what", "What is left?", "a red cat"), ("color", "Color of the cat?", "red"), True),
        (("position", "Where is the cat?", "left"), ("color", "Color of the cat?", "red"), False),
        (("color", "Color of the cat?", "red"), ("position", "Where is the cat?", "left"), False),
        (("what", "What is left?", "a red cat"), ("position", "Where is the cat?", "left"), True),
        (("list", "Animals?", "a red cat"), ("position", "Where is the cat?", "left"), True),
        (("count", "How many cats?", "one"), ("count", "How many cats?", "one"), True),
        (("count", "How many cats?", "one"), ("count", "How many dogs?", "one"), False),
        (("relation", "Is the cat left of the dog?", "yes"), CLOSER, False),
        (("relation", "Of the dog and the cat, which is nearer?", "the cat"), CLOSER, True),
        (("outside", "Who are you?", OUTSIDE_ANSWER), ("outside", "Hi!", OUTSIDE_ANSWER), False),
        (("outside", "Hi!", OUTSIDE_ANSWER), ("outside", "Hi!", OUTSIDE_ANSWER), True),
        (("count", "How many plants?", "two"), ("count", "How many trees?", "one"), True),
        (("reason", "Umbrella?", "yes, because it is raining."), RAINY, True),
    ],
)
def test_what_an_earlier_turn_gives_away(earlier, later, expected):
    assert gives_away(QA(*earlier), QA(*later)) == expected


def test_later_turns_refer_back_without_a_name(talks):
    """Half of them have a pronoun or no thing at all, as "And where?"."""
    later = [qa for _, turns in talks for qa in turns if qa.type == "follow-up"]
    nameless = [qa for qa in later if not kinds_in(QA("", qa.question, ""))]
    assert len(nameless) > len(later) / 3
    assert any(PRONOUN.search(qa.question.lower()) for qa in nameless)


def last_named_kind(turns: list[QA]) -> str | None:
    """The one kind that the last turn with a kind in its question names."""
    for qa in reversed(turns):
        kinds = kinds_in(QA("", qa.question, ""))
        if kinds:
            return kinds.pop() if len(kinds) == 1 else None
    return None


def test_the_color_of_it_is_the_color_of_the_thing_named_last(talks):
    checked = 0
    for scene, turns in talks:
        for i, qa in enumerate(turns):
            kind = last_named_kind(turns[: i + 1])
            is_plain = re.search(r"\b(its|it)\b.*|.*\bcolou?r\b", qa.question.lower())
            if qa.type != "follow-up" or kind is None or not is_plain:
                continue
            things = scene.of_kind(kind)
            if qa.answer in COLORS and len(things) == 1:
                assert qa.answer == things[0].color, turns
                checked += 1
            if not things and "colo" in qa.question.lower():
                assert qa.answer.startswith(f"There is no {kind}"), turns
    assert checked > 50


def topic_of(scene, turns: list[QA], i: int):
    """The one thing that "it" means in turn i, if the turn before it names its kind."""
    kind = last_named_kind(turns[i - 1 : i])
    things = scene.of_kind(kind) if kind else []
    return things[0] if len(things) == 1 else None


def test_yes_or_no_about_it_is_true(talks):
    checked = 0
    for scene, turns in talks:
        for i, qa in enumerate(turns[1:], start=1):
            thing = topic_of(scene, turns, i)
            words = set(re.findall(r"\w+", qa.question.lower()))
            colors = words & set(COLORS)
            if qa.type == "follow-up" and thing is not None and colors and "it" in words:
                assert qa.answer == ("yes" if thing.color in colors else "no"), turns
                checked += 1
    assert checked > 20


def test_what_is_around_it_is_true(talks):
    checked = 0
    for scene, turns in talks:
        for i, qa in enumerate(turns[1:], start=1):
            thing = topic_of(scene, turns, i)
            where = re.search(r"\b(behind|in front of|next to) it\b", qa.question.lower())
            if qa.type == "follow-up" and thing is not None and where:
                things = neighbors(thing, scene).get(where[1], [])
                assert ("nothing" in qa.answer) == (not things), turns
                assert all(other.kind in qa.answer for other in things), turns
                checked += 1
    assert checked > 20


def test_a_comparison_with_it_is_true(talks):
    checked = {"left": 0, "right": 0, "closer": 0, "farther": 0, "color": 0}
    for scene, turns in talks:
        for i, qa in enumerate(turns[1:], start=1):
            thing = topic_of(scene, turns, i)
            others = scene.of_kind(last_named_kind([qa]))
            if qa.type != "follow-up" or thing is None or len(others) != 1:
                continue
            (other,) = others
            if qa.answer not in ("yes", "no") or other is thing:
                continue
            steps = SIDES.index(thing.side) - SIDES.index(other.side)
            is_true = {
                "left": steps < 0,
                "right": steps > 0,
                "closer": thing.distance == "near" and other.distance == "far",
                "farther": thing.distance == "far" and other.distance == "near",
                "color": thing.color == other.color,
            }
            text = qa.question.lower()
            for old, new in (
                ("nearer", "closer"),
                ("further away", "farther"),
                ("colour", "color"),
            ):
                text = text.replace(old, new)
            for word in checked:
                if re.search(rf"\b{word}\b", text):
                    assert qa.answer == ("yes" if is_true[word] else "no"), turns
                    checked[word] += 1
    assert min(checked.values()) > 5, checked


@pytest.mark.parametrize("word", ["weather", "place"])
def test_weather_and_place_in_later_turns_are_true(talks, word):
    checked = 0
    for scene, turns in talks:
        for qa in turns:
            fact = getattr(scene, word)
            if qa.type == "follow-up" and re.search(rf"\b{word}\b", qa.question.lower()):
                assert fact in qa.answer, turns
                checked += 1
    assert checked > 20


def test_a_description_may_end_a_conversation(pool):
    """It would tell the answers to all questions after it."""
    rng = random.Random(2)
    samples = [instructions(scene, rng, "conversation") for scene in pool]
    positions = [
        len(turns) - i
        for turns in samples
        for i, qa in enumerate(turns)
        if qa.type == "detail" and i > 0
    ]
    assert set(positions) == {1}
    assert 0.15 < len(positions) / len(samples) < 0.25


def test_reasons_come_in_later_turns_too(talks):
    later = [qa for _, turns in talks for qa in turns[1:] if qa.type == "reason"]
    assert len(later) > 50


def test_why_asks_for_a_reason_that_was_not_given(talks):
    """After "yes" or "no"; a first answer with its reason is followed by something else."""
    reasons = [turns for _, turns in talks if turns[0].type == "reason"]
    assert len(reasons) > 50
    for first, second, *_ in reasons:
        is_given = "because" in first.answer
        assert second.answer.startswith("because ") != is_given, (first, second)


def test_descriptions_state_every_fact_however_they_are_asked_for(pool):
    rng = random.Random(0)
    for scene in pool[:200]:
        qa = description(scene, rng)
        assert len(stated_facts(qa.answer)) == 3 + 2 * len(scene.things), qa


def test_complex_answers_give_a_reason(pool):
    rng = random.Random(0)
    for scene in pool[:100]:
        assert all("because" in qa.answer for qa in instructions(scene, rng, "complex"))


def test_a_detailed_description_is_one_turn(pool):
    assert len(instructions(pool[0], random.Random(0), "detail")) == 1


def test_no_follow_up_is_outside_toyland(talks):
    assert all(qa.answer != OUTSIDE_ANSWER for _, turns in talks for qa in turns)


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
