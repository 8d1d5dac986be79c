"""Toyland's captions: five different texts that name every thing."""

import random

import pytest

from nanollava.toyland.captions import boxes, captions, listing, plural, with_article
from nanollava.toyland.scenes import Scene, Thing, scenes

RED_CAT = Thing("cat", "red", "left", "near", (0.1, 0.6, 0.3, 0.95))
ORANGE_DOG = Thing("dog", "orange", "right", "far", (0.7, 0.3, 0.9, 0.55))
SCENE = Scene("park", "night", (RED_CAT, ORANGE_DOG))


def test_five_different_captions():
    rng = random.Random(0)
    for scene in scenes("test", 200):
        assert len(set(captions(scene, rng))) == 5


def test_first_three_captions_name_every_thing_with_its_side():
    for text in captions(SCENE, random.Random(0))[:3]:
        assert "red cat" in text and "orange dog" in text
        assert "on the left" in text.lower() and "on the right" in text.lower()


def test_captions_of_a_known_scene():
    thing_only = Scene("beach", "rainy", (RED_CAT,))
    texts = captions(thing_only, random.Random(0))
    assert texts[0].startswith("A picture taken at the beach ")
    assert texts[0].endswith(": a red cat in front on the left.")
    assert texts[4].startswith("One cat at the beach ")


def test_boxes_state_the_kind_but_not_the_color():
    assert boxes(SCENE) == [("cat", RED_CAT.box), ("dog", ORANGE_DOG.box)]


@pytest.mark.parametrize("kind, expected", [("person", "people"), ("cat", "cats")])
def test_plural(kind, expected):
    assert plural(kind) == expected


@pytest.mark.parametrize(
    "words, expected", [(("orange", "cat"), "an orange cat"), (("cat",), "a cat")]
)
def test_article(words, expected):
    assert with_article(*words) == expected


@pytest.mark.parametrize(
    "parts, expected", [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_listing(parts, expected):
    assert listing(parts) == expected
