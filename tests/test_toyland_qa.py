"""Questions with their answers: what a question is about, and where things are."""

import pytest

from nanollava.toyland.qa import QA, kinds_in, neighbors
from nanollava.toyland.scenes import scenes


def test_neighbors_of_a_thing_in_front():
    scene = next(
        scene
        for scene in scenes("train", 500)
        if [(t.side, t.distance) for t in scene.things]
        == [("left", "near"), ("middle", "near"), ("left", "far")]
    )
    left, middle, behind = scene.things
    found = neighbors(left, scene)
    assert found["behind"] == [behind]
    assert found["next to"] == [middle]
    assert found["to the right of"] == [middle]
    assert found["to the left of"] == []


def test_other_names_and_plurals_belong_to_their_kind():
    assert kinds_in(QA("count", "How many bikes and puppies?", "one")) == {"bicycle", "dog"}
    assert kinds_in(QA("count", "How many people?", "one")) == {"person"}


@pytest.mark.parametrize("word", ["doggys", "kittys", "persons"])
def test_a_name_that_lost_its_apostrophe_belongs_to_its_kind(word):
    assert len(kinds_in(QA("color", f"what is the {word} color", "red"))) == 1


def test_a_group_is_about_all_its_kinds():
    """Who has heard which animals there are knows whether there is a dog."""
    assert kinds_in(QA("list", "Which animals are there?", "a red cat")) == {"cat", "dog", "bird"}
    assert kinds_in(QA("color", "What color is the plant?", "red")) == {"tree", "flower"}
