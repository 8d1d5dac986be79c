"""Toyland's teacher: it reads captions and boxes, and what it writes is true."""

import random

import pytest

from nanollava.errors import UserError
from nanollava.toyland.captions import boxes, captions
from nanollava.toyland.scenes import Scene, scenes
from nanollava.toyland.teacher import check_colors, detail, one_sentence, read, stated_facts


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


CAPTION = "A red cat in front on the left, in the park on a sunny day."
CAT = ("cat", (0.1, 0.6, 0.2, 0.9))


@pytest.mark.parametrize(
    "boxes, message",
    [
        ([], "0 boxes; expected 1 to 4"),
        ([CAT] * 5, "5 boxes; expected 1 to 4"),
    ],
)
def test_too_many_boxes_are_an_error(boxes, message):
    with pytest.raises(UserError, match=message):
        read([CAPTION], boxes)


def test_a_box_that_no_caption_names_is_an_error():
    check_colors(read([CAPTION], [CAT]))
    with pytest.raises(UserError, match="no caption states color, distance and side of the person"):
        check_colors(read([CAPTION], [("person", CAT[1])]))


def test_detailed_description_states_every_fact():
    for scene in scenes("test", 500):
        assert stated_facts(detail(scene)) == expected_facts(scene)


def test_a_wrong_description_states_other_facts():
    scene = next(scenes("test", 1))
    text = detail(scene).replace(scene.things[0].color, "golden")
    assert stated_facts(text) != expected_facts(scene)


def test_the_one_sentence_states_every_fact():
    for scene in scenes("test", 300):
        assert stated_facts(one_sentence(scene)) == expected_facts(scene)


def test_words_in_another_order_state_the_same_facts():
    """Descriptions name the spot first, captions last."""
    first = stated_facts("In front on the left there is a red cat.")
    second = stated_facts("a red cat in front on the left")
    assert first == second == {("kind", "left", "near", "cat"), ("color", "left", "near", "red")}
