"""/help for a model of Toyland: all that exists there, and questions in words that it learned."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from string import Formatter

import pytest

from nanollava.files import read_json, shipped
from nanollava.hf.config import parse_llava_config
from nanollava.toyland.grammar import all_forms, as_sentence, split_of
from nanollava.toyland.help import EXAMPLES, is_of_toyland, what_to_ask
from nanollava.toyland.scenes import COLORS, KINDS, PLACES, WEATHERS
from nanollava.toyland.wordings import WORDINGS

# The words that the examples put into the slots of a wording.
SLOTS = {
    "name": ("the cat", "the house", "the umbrella"),
    "a_kind": ("a dog",),
    "kinds": ("things",),
    "spot": ("on the left",),
}


@pytest.fixture(scope="module")
def toy_llava():
    """The config of the shipped toy-llava."""
    path = shipped("checkpoints/toy-llava") / "config.json"
    return parse_llava_config(read_json(path), str(path))


def slot_names(template: str) -> set[str]:
    """The names in braces."""
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def trained_questions() -> set[str]:
    """The forms of all wordings that are trained on, with the slots filled."""
    templates = set()
    for alternatives in WORDINGS.values():
        for template in alternatives:
            templates.update(form for form in all_forms(template) if split_of(form) == "trained")
    questions = set()
    for values in product(*SLOTS.values()):
        slots = dict(zip(SLOTS, values, strict=True))
        for template in templates:
            if slot_names(template) <= set(slots):
                questions.add(as_sentence(template.format(**slots)))
    return questions


def test_ten_examples_in_trained_wordings():
    assert len(set(EXAMPLES)) == 10
    assert set(EXAMPLES) - trained_questions() == set()


@pytest.mark.parametrize("fact", [*KINDS, *COLORS, *PLACES, *WEATHERS])
def test_everything_in_toyland_is_named(fact):
    world = what_to_ask().split("Photographs")[0]
    assert fact in world.replace(",", "").split()


def test_sides_and_distances_are_named_as_in_answers():
    text = what_to_ask()
    for words in ("on the left", "in the middle", "on the right", "in front", "far away"):
        assert words in text


def test_it_says_that_photographs_do_not_work():
    assert "Photographs do not work: they need real weights" in what_to_ask()


def test_the_shipped_model_is_of_toyland(toy_llava):
    assert is_of_toyland(toy_llava)


def test_a_model_with_another_tower_is_not(toy_llava):
    tower = replace(toy_llava.vision_config, image_size=336, patch_size=14)
    assert not is_of_toyland(replace(toy_llava, vision_config=tower))


@pytest.mark.parametrize(
    ("page", "heading"),
    [("README.md", "## What can I ask?"), ("README.zh-CN.md", "## 可以问什么")],
)
def test_the_readme_says_the_same(page, heading):
    box = Path(page).read_text(encoding="utf-8").split(heading)[1].split("\n## ")[0]
    for fact in (*KINDS, *COLORS, *PLACES, *WEATHERS):
        assert fact in box
    for question in EXAMPLES:
        assert question in box
