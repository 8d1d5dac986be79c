"""Toyland's score: its questions stay the same, and it counts right answers correctly."""

import hashlib
import json

import pytest

from nanollava.toyland import score as module
from nanollava.toyland.score import normal, score, shares, table
from nanollava.toyland.teacher import detail


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


@pytest.fixture
def asked(monkeypatch):
    """Replaces the model: every question is answered "yes"; returns the list of the questions."""
    prompts = []

    def answer(model, tokenizer, image_config, pairs, **options):
        for images, turns in pairs:
            pixels = hashlib.sha256(images[0].tobytes()).hexdigest()
            prompts.append([pixels, turns, sorted(options.items())])
        return ["yes"] * len(pairs)

    monkeypatch.setattr(module, "answer", answer)
    return prompts


def test_questions_of_a_seed_stay_the_same(asked):
    """Recorded before the code was rewritten: published scores stay comparable."""
    result = score(None, None, None, count=60, seed=3)
    assert digest(asked) == "685ded05301f8f57"
    assert digest(result) == "584a5911e4390c51"


def test_only_yes_questions_are_right_when_every_answer_is_yes(asked):
    result = score(None, None, None, count=30, seed=0)
    assert 0.2 < result["types"]["presence"] < 0.8
    for type in ("color", "count", "position", "distance", "what", "weather", "place"):
        assert result["types"][type] == 0
    assert result["detail"] == {"precision": 0, "recall": 0}


def test_true_descriptions_score_one(monkeypatch):
    scene_of = {}

    def draw(scene, size):
        scene_of[len(scene_of)] = scene
        return len(scene_of) - 1  # stands for the image

    def answer(model, tokenizer, image_config, pairs, **options):
        return [detail(scene_of[images[0]]) for images, _ in pairs]

    monkeypatch.setattr(module, "draw", draw)
    monkeypatch.setattr(module, "answer", answer)
    result = score(None, None, None, count=12)
    assert result["detail"] == {"precision": 1, "recall": 1}


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
    assert ["overall", f"{100 * result['overall']:.1f}"] in [row[:2] for row in rows]
    assert ["relation", "nan"] in [row[:2] for row in rows]
