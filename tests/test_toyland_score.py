"""Toyland's score: its questions stay the same, and it counts right answers correctly."""

import hashlib
import json
import random

import pytest

from nanollava.toyland import score as module
from nanollava.toyland.overlap import in_plain_language
from nanollava.toyland.qa import QA
from nanollava.toyland.questions import questions
from nanollava.toyland.scenes import scenes
from nanollava.toyland.score import (
    choose_description,
    normal,
    plain_score,
    plain_table,
    score,
    shares,
    table,
)


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


@pytest.fixture
def asked(monkeypatch):
    """Replaces the model: every question is answered "yes"; returns the list of the questions."""
    prompts = []

    def answer(model, tokenizer, image_config, pairs, template, **options):
        for images, turns in pairs:
            pixels = hashlib.sha256(images[0].tobytes()).hexdigest()
            prompts.append([pixels, turns, sorted(options.items())])
        return ["yes"] * len(pairs)

    monkeypatch.setattr(module, "answer_dialogues", answer)
    return prompts


def test_questions_of_a_seed_stay_the_same(asked):
    """Published scores stay comparable."""
    result = score(None, None, None, count=30, seed=3)
    assert digest(asked) == "07fb38545e8f4616"
    del result["requests"]  # not published then
    assert digest(result) == "37384c41d9c69273"


def test_unseen_wordings_are_not_plain_language():
    """Every model has learned plain language, whatever the split of its forms."""
    pool = list(scenes("test", 60, seed=0))
    rng = random.Random(0)
    asked = [qa for _, qa in module.choose_questions(pool, rng, "unseen")]
    asked += [choose_description(scene, rng, "unseen") for scene in pool]
    assert not any(in_plain_language(qa.question) for qa in asked)
    everything = []
    for scene in pool:
        for qas in questions(scene, rng, "unseen").values():
            everything += qas
    assert any(in_plain_language(qa.question) for qa in everything)  # without the rule


def test_only_yes_questions_are_right_when_every_answer_is_yes(asked):
    result = score(None, None, None, count=30, seed=0)
    for shares_of_types in (result["types"], result["unseen_wordings"]):
        assert 0.2 < shares_of_types["presence"] < 0.8
        for type in ("color", "count", "position", "distance", "what", "list", "outside"):
            assert shares_of_types[type] == 0
    assert result["detail"]["trained"] == {"precision": 0, "recall": 0}
    assert result["follow_ups"]["trained"] < 0.3
    assert result["denials"] == 0


def test_requests_for_one_word_and_for_a_sentence_are_counted_apart(asked):
    """ "yes" is right for some questions that ask for one word, and never as a sentence."""
    result = score(None, None, None, count=30, seed=0)
    assert 0 < result["requests"]["word"] < 0.6
    assert result["requests"]["sentence"] == 0


@pytest.fixture
def right_answers(monkeypatch):
    """Replaces the model by one that knows the answers: those of the questions, in their order."""
    answers = {}

    def remember(function):
        def remembered(scene, rng, *options, **more):
            result = function(scene, rng, *options, **more)
            qas = result
            if isinstance(result, dict):
                qas = [qa for qas_of_type in result.values() for qa in qas_of_type]
            elif isinstance(result, QA):
                qas = [result]
            for qa in qas:
                answers[repr(scene.facts), qa.question] = qa.answer
            return result

        return remembered

    for name in (
        "questions",
        "description",
        "follow_ups",
        "plain_questions",
        "plain_instructions",
    ):
        monkeypatch.setattr(module, name, remember(getattr(module, name)))
    scene_of_image = {}

    def image_of(scene):
        image = object()
        scene_of_image[image] = scene
        return image

    def answer(model, tokenizer, image_config, pairs, template, **options):
        texts = []
        for images, turns in pairs:
            facts = repr(scene_of_image[images[0]].facts)
            question = turns[-1]["value"].removeprefix("<image>\n")
            texts.append(answers[facts, question])
        return texts

    monkeypatch.setattr(module, "image_of", image_of)
    monkeypatch.setattr(module, "answer_dialogues", answer)


def test_true_descriptions_score_one(right_answers):
    result = score(None, None, None, count=12)
    for split in ("plain", "trained", "unseen", "second turn"):
        assert result["detail"][split] == {"precision": 1, "recall": 1}


def test_right_answers_score_nearly_one(right_answers):
    """Not quite: two turns of a dialogue may ask the same words about different things."""
    result = score(None, None, None, count=12)
    assert result["overall"] == 1
    assert result["plain"]["overall"] == 1
    assert result["unseen_wordings"]["overall"] == 1
    assert result["follow_ups"]["unseen"] > 0.9
    assert result["requests"] == {"word": 1, "sentence": 1}
    assert result["denials"] == 0


def test_the_plain_score_asks_plain_questions_only(right_answers, monkeypatch):
    monkeypatch.setattr(module, "questions", None)
    result = plain_score(None, None, None, count=12)
    assert set(result.values()) == {1}
    rows = [line.split() for line in plain_table(result).splitlines()[1:]]
    assert {row[0] for row in rows} == set(result)
    assert {row[1] for row in rows} == {"100.0"}


@pytest.mark.parametrize("text", [" On the left. ", "on the left", "ON THE LEFT!"])
def test_comparison_ignores_case_spaces_and_final_punctuation(text):
    assert normal(text) == "on the left"


def test_comparison_tells_answers_apart():
    assert normal("on the left") != normal("on the right")


def test_shares_of_right_answers():
    right = {"color": [True, False], "count": [True, True]}
    assert shares(right) == {"overall": 0.75, "color": 0.5, "count": 1}


def test_table_has_a_row_for_a_type_that_was_never_asked(asked):
    result = score(None, None, None, count=6)
    del result["types"]["relation"]
    rows = [line.split() for line in table(result).splitlines()]
    columns = {row[0]: row[2] for row in rows if len(row) == 5}  # in trained wordings
    assert columns["overall"] == f"{100 * result['overall']:.1f}"
    assert columns["relation"] == "nan"
