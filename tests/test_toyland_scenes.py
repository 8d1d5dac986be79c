"""Toyland's scenes: the same ones for the same seed, and splits that share nothing."""

import hashlib

import pytest

from nanollava.toyland.scenes import DISTANCES, KINDS, SIDES, SPLITS, UNSEEN, scenes

# Recorded before the code was rewritten: the shipped weights were trained on these scenes.
DIGESTS = {
    "train": "f5f6dd8a0d86d1bf",
    "validation": "a27f3f46d1bf1f81",
    "test": "20828b6c004a88d6",
}


@pytest.fixture(scope="module")
def pool():
    return {split: list(scenes(split, 1500)) for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_of_a_seed_stay_the_same(pool, split):
    text = "\n".join(repr(scene) for scene in pool[split])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[split]


def test_another_seed_gives_other_scenes():
    assert list(scenes("test", 20, 3)) != list(scenes("test", 20, 4))


@pytest.mark.parametrize(
    "one, other", [("train", "validation"), ("train", "test"), ("validation", "test")]
)
def test_splits_share_no_facts(pool, one, other):
    facts = {scene.facts for scene in pool[one]}
    other_facts = {scene.facts for scene in pool[other]}
    assert not facts & other_facts


@pytest.mark.parametrize("split", ["train", "validation"])
def test_only_the_test_split_has_unseen_combinations(pool, split):
    assert not any(scene.unseen for scene in pool[split])


def test_one_color_of_every_kind_is_unseen():
    assert len(UNSEEN) == len(KINDS)
    assert {kind for kind, _ in UNSEEN} == set(KINDS)


def test_the_test_split_can_be_asked_with_and_without_unseen_combinations():
    assert all(scene.unseen for scene in scenes("test", 50, unseen=True))
    assert not any(scene.unseen for scene in scenes("test", 50, unseen=False))


def test_an_unknown_split_is_an_error():
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        next(scenes("dev", 1))


def test_only_the_test_split_can_be_asked_for_unseen_combinations():
    with pytest.raises(ValueError, match="split 'train' has no unseen combinations"):
        next(scenes("train", 1, unseen=True))


def test_a_thing_stands_on_its_side_and_within_the_image(pool):
    for scene in pool["train"]:
        for thing in scene.things:
            x1, y1, x2, y2 = thing.box
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
            assert SIDES[int((x1 + x2) / 2 * 3)] == thing.side
            assert DISTANCES[int(y2 < 0.75)] == thing.distance
