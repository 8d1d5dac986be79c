"""Toyland: scenes, splits, pictures, captions, the teacher."""

import random
import re

import pytest

from nanollava.toyland.captions import boxes, captions
from nanollava.toyland.scenes import KINDS, UNSEEN, Scene, scenes
from nanollava.toyland.score import normal
from nanollava.toyland.teacher import detail, instructions, questions, read, stated


@pytest.fixture(scope="module")
def pool():
    return {split: list(scenes(split, 1500)) for split in ("train", "validation", "test")}


def test_splits_do_not_meet(pool):
    facts = {split: {scene.facts for scene in found} for split, found in pool.items()}
    assert not facts["train"] & facts["validation"]
    assert not facts["train"] & facts["test"]
    assert not facts["validation"] & facts["test"]
    assert not any(scene.unseen for split in ("train", "validation") for scene in pool[split])
    assert len(UNSEEN) == len(KINDS) and {kind for kind, _ in UNSEEN} == set(KINDS)
    assert all(scene.unseen for scene in scenes("test", 50, unseen=True))
    assert not any(scene.unseen for scene in scenes("test", 50, unseen=False))


def test_same_seed_same_scenes():
    assert list(scenes("test", 20, 3)) == list(scenes("test", 20, 3)) != list(scenes("test", 20, 4))


def facts_of(scene: Scene) -> set[tuple]:
    """The facts of a scene that a detailed description should state."""
    found = {("place", scene.place), ("weather", scene.weather), ("count", len(scene.things))}
    for t in scene.things:
        found |= {("kind", t.side, t.distance, t.kind), ("color", t.side, t.distance, t.color)}
    return found


def test_teacher_reads_the_scene_from_captions_and_boxes(pool):
    rng = random.Random(0)
    for scene in pool["test"][:500]:
        texts = captions(scene, rng)
        assert len(texts) == len(set(texts)) == 5
        facts = read(texts, boxes(scene))
        assert (facts.place, facts.weather, facts.things) == (
            scene.place,
            scene.weather,
            scene.things,
        )
        assert stated(detail(facts)) == facts_of(scene)


def test_answers_are_true(pool):
    """Checked against the scene itself by rules written apart from the teacher's."""
    rng = random.Random(0)
    numbers = ["none", "one", "two", "three", "four"]
    checked = 0
    for scene in pool["train"][:400]:
        kinds = [t.kind for t in scene.things]
        for kind, found in questions(read(captions(scene, rng), boxes(scene)), rng).items():
            for qa in found:
                named = [
                    k
                    for k in KINDS
                    if re.search(rf"\b{k}s?\b", qa.question.replace("people", "persons"))
                ]
                if kind == "count" and named:
                    assert qa.answer == numbers[kinds.count(named[0])]
                elif kind == "color" and kinds.count(named[0]) == 1:
                    assert [t.color for t in scene.things if t.kind == named[0]] == [qa.answer]
                elif kind == "position" and kinds.count(named[0]) == 1:
                    assert next(t.side for t in scene.things if t.kind == named[0]) in qa.answer
                elif kind == "presence":
                    color = re.search(rf"an? (\w+) {named[0]}", qa.question)
                    there = [t.color for t in scene.things if t.kind == named[0]]
                    assert (qa.answer == "yes") == (color[1] in there if color else bool(there)), qa
                else:
                    continue
                checked += 1
    assert checked > 4000


def test_instruction_types(pool):
    rng = random.Random(0)
    facts = read(captions(pool["train"][0], rng), boxes(pool["train"][0]))
    talks = [
        instructions(read(captions(s, rng), boxes(s)), rng, "conversation") for s in pool["train"]
    ]
    assert {len(talk) for talk in talks} >= {2, 5, 8}
    for talk in talks:  # nothing is told before it is asked
        assert len(talk) == len({qa.question for qa in talk})
        for i, qa in enumerate(talk):
            before = " ".join(f"{b.question} {b.answer}" for b in talk[:i])
            kind = re.search("|".join(KINDS), qa.question.replace("people", "person"))
            if qa.type in ("presence", "count") and kind:
                assert kind[0] not in before.replace("people", "person"), talk
            if qa.type == "color":
                assert (
                    f"{qa.answer} {kind[0]}" not in before
                    or f"{qa.answer} {kind[0]}" in qa.question
                ), talk
    answers = [qa.answer for talk in talks for qa in talk if qa.type == "presence"]
    assert 0.4 < answers.count("yes") / len(answers) < 0.6
    assert all("because" in qa.answer for qa in instructions(facts, rng, "complex"))
    assert len(instructions(facts, rng, "detail")) == 1
    wordings = {
        qa.question
        for s in pool["train"]
        for qa in questions(read(captions(s, rng), boxes(s)), rng)["weather"]
    }
    assert len(wordings) >= 4


def test_normal():
    assert normal(" On the left. ") == normal("on the left") != normal("on the right")
