"""Exact answers of a toy-llava to seven questions, each in one form, about test scenes.

python -m benchmarks.ways_to_ask --model checkpoints/toy-llava

They show what the score of all forms hides: requests before the question, plain questions by yes or
no, and two things compared of which one is not there.
"""

import argparse
import random

import torch

from nanollava.errors import run
from nanollava.files import shipped
from nanollava.loading import load_llava
from nanollava.toyland.captions import WORDS
from nanollava.toyland.qa import kinds_absent, yes_or_no
from nanollava.toyland.scenes import COLORS, Scene, scenes
from nanollava.toyland.score import ask, normal

SEED = 9  # of the scenes


def seven_questions(scene: Scene, rng: random.Random) -> dict[str, tuple[str, str]]:
    """Question and answer, by kind of question; none if no thing is the only one of its kind."""
    things = [thing for thing in scene.things if len(scene.of_kind(thing.kind)) == 1]
    if not things:
        return {}
    thing = rng.choice(things)
    color = rng.choice((thing.color, rng.choice(COLORS)))
    absent = rng.choice(kinds_absent(scene))
    kind = thing.kind
    denial = f"there is no {absent}"
    return {
        "yes or no": (f"Is the {kind} {color}?", yes_or_no(color == thing.color)),
        "missing thing second": (f"Is the {kind} behind the {absent}?", denial),
        "missing thing first": (f"Is the {absent} behind the {kind}?", denial),
        "one word, first": (f"In one word, where is the {kind}?", thing.side),
        "a sentence, first": (
            f"In a sentence: what color is the {kind}?",
            f"the {kind} is {thing.color}",
        ),
        "where": (f"Where is the {kind}?", WORDS[thing.side]),
        "how far": (f"Is the {kind} near or far away?", WORDS[thing.distance]),
    }


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.ways_to_ask", description=__doc__)
    parser.add_argument("--model", default="checkpoints/toy-llava", help="LLaVA directory")
    parser.add_argument("--count", type=int, default=80, help="test scenes")
    args = parser.parse_args()
    rng = random.Random(SEED)
    dialogues = []
    expected = []
    for scene in scenes("test", args.count, SEED, unseen=False):
        for name, (question, answer) in seven_questions(scene, rng).items():
            dialogues.append((scene, [question]))
            expected.append((name, answer))
    loaded = load_llava(shipped(args.model), dtype=torch.float32)
    right: dict[str, list[bool]] = {}
    answers = ask(*loaded, dialogues, max_new_tokens=24)
    for (name, answer), (text,) in zip(expected, answers, strict=True):
        right.setdefault(name, []).append(normal(text) == answer)
    for name, results in right.items():
        print(f"{name:22} {results.count(True):3} of {len(results)}")


if __name__ == "__main__":
    run(main)
