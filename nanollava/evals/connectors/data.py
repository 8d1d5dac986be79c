"""Training sets of several sizes, and questions about two images: "Which picture has the cat?".

All are in plain language, which toy-vicuna knows. The trainings are short, and in the many forms in
which people ask they would measure little besides how far the forms have been learned.
"""

import json
import random
from pathlib import Path

from ...conversation import IMAGE
from ...errors import UserError
from ...files import write_json
from ...image import ImageConfig
from ...llava import LLaVA
from ...streaming import answer_dialogues
from ...tokenizer import Tokenizer
from ...toyland import data
from ...toyland.draw import draw
from ...toyland.plain import plain_instructions
from ...toyland.scenes import KINDS, Scene, scenes
from ...toyland.score import IMAGE_SIZE, normal
from ...toyland.teacher import facts_from_captions

VALIDATION_SCENES = 100
TWO_IMAGES = 5  # one of so many records is about two images
QUESTION = f"{IMAGE}\n{IMAGE}\nWhich picture has the {{kind}}?"
ANSWERS = ("the first picture", "the second picture")


def kind_of_one(first: Scene, second: Scene, rng: random.Random) -> tuple[str, int] | None:
    """A kind that only one of two scenes shows, and that scene's index; None if there is none."""
    candidates = []
    for kind in KINDS:
        is_in_first = bool(first.of_kind(kind))
        is_in_second = bool(second.of_kind(kind))
        if is_in_first != is_in_second:
            candidates.append((kind, 0 if is_in_first else 1))
    if not candidates:
        return None
    return rng.choice(candidates)


def two_image_records(count: int, num_scenes: int, seed: int) -> list[dict]:
    """Records about two images of the training set that `toyland.data.write` has drawn."""
    rng = random.Random(f"two images/{seed}")
    pool = list(scenes("train", num_scenes, seed))
    records = []
    while len(records) < count:
        indices = rng.sample(range(len(pool)), 2)
        choice = kind_of_one(pool[indices[0]], pool[indices[1]], rng)
        if choice is None:
            continue
        kind, which = choice
        turns = [
            {"from": "human", "value": QUESTION.format(kind=kind)},
            {"from": "gpt", "value": ANSWERS[which]},
        ]
        images = [f"images/train_{index:06d}.jpg" for index in indices]
        records.append({"id": f"two_{len(records)}", "image": images, "conversations": turns})
    return records


def validation_records(seed: int) -> dict[str, list[dict]]:
    """Records about the validation scenes of the data set, in plain language, by stage: "align" has
    descriptions, "plain" instruction data."""
    rng = random.Random(f"plain validation/{seed}")
    description_rng = random.Random(f"align validation/{seed}")
    align = []
    plain = []
    for i, scene in enumerate(scenes("validation", VALIDATION_SCENES, seed)):
        facts = facts_from_captions(scene, rng)
        name = f"validation_{i:06d}"
        image = f"images/{name}.jpg"
        description = plain_instructions(facts, description_rng, "detail")
        align.append(data.record(name, image, description))
        plain += data.instruction_records(facts, name, image, rng, plain_instructions)
    return {"align": align, "plain": plain}


def write_data(folder: Path, sizes: list[int], seed: int = 0) -> None:
    """Writes images and, for every size, align-SIZE.json and plain-SIZE.json into `folder`.

    align-SIZE.json, and the records of plain-SIZE.json about one image, are the beginning of those
    of a larger size. The records about two images are drawn from the first SIZE scenes.
    align-validation.json and plain-validation.json are the same for all. plain.json is shuffled
    first, because the records of one image follow each other.
    """
    if not folder.exists():
        data.write(folder, train=max(sizes), validation=VALIDATION_SCENES, seed=seed)
    align = json.loads((folder / "align.json").read_text(encoding="utf-8"))
    if len(align) < max(sizes):
        raise UserError(
            f"{folder}: has {len(align)} training scenes, --samples asks for {max(sizes)}; choose "
            "another --out"
        )
    plain = json.loads((folder / "plain.json").read_text(encoding="utf-8"))
    random.Random(f"plain/{seed}").shuffle(plain)
    for stage, records in validation_records(seed).items():
        write_json(folder / f"{stage}-validation.json", records)
    for size in sizes:
        about_two = two_image_records(size // TWO_IMAGES, size, seed)
        write_json(folder / f"align-{size}.json", align[:size])
        write_json(folder / f"plain-{size}.json", plain[: size - len(about_two)] + about_two)


def two_image_score(
    model: LLaVA, tokenizer: Tokenizer, image_config: ImageConfig, count: int, seed: int = 0
) -> float:
    """The share of right answers to at most `count` questions about two test scenes each.

    A pair that shows the same kinds has no question. Chance is 0.5."""
    rng = random.Random(f"two images/test/{seed}")
    pool = list(scenes("test", 2 * count, seed, unseen=False))
    prompts = []
    expected = []
    for first, second in zip(pool[::2], pool[1::2], strict=True):
        choice = kind_of_one(first, second, rng)
        if choice is None:
            continue
        kind, which = choice
        images = [draw(first, IMAGE_SIZE), draw(second, IMAGE_SIZE)]
        prompts.append((images, [{"from": "human", "value": QUESTION.format(kind=kind)}]))
        expected.append(ANSWERS[which])
    answers = answer_dialogues(model, tokenizer, image_config, prompts, max_new_tokens=8)
    num_right = 0
    for text, right in zip(answers, expected, strict=True):
        if normal(text) == right:
            num_right += 1
    return num_right / max(1, len(expected))
