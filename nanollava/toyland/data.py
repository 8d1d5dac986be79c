"""Toyland's data set on disk: JPEG files, and LLaVA JSON that the teacher writes from captions."""

import json
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch.distributed as dist

from ..conversation import IMAGE
from ..errors import UserError, exit_with
from ..files import new_directory
from .captions import boxes, captions
from .dialogues import dialogue, instructions
from .draw import draw
from .plain import plain_instructions
from .qa import QA
from .scenes import Scene, scenes
from .teacher import read

# How many samples of each type a scene gets on average; 0.5 means that half of the scenes get one.
SAMPLES_PER_SCENE = {"conversation": 2.0, "detail": 0.5, "complex": 0.3}


def record(id: str, image: str, qas: list[QA]) -> dict:
    """One record in LLaVA's form: the image token comes before the first question."""
    return {"id": id, "image": image, "conversations": dialogue(IMAGE, qas)}


def instruction_records(
    facts: Scene,
    name: str,
    image: str,
    rng: random.Random,
    make: Callable[[Scene, random.Random, str], list[QA]] = instructions,
) -> list[dict]:
    """The samples of one scene: conversations, detailed descriptions, complex reasoning."""
    records = []
    for response_type, average in SAMPLES_PER_SCENE.items():
        count = int(average + rng.random())
        for i in range(count):
            qas = make(facts, rng, response_type)
            records.append(record(f"{name}_{response_type}_{i}", image, qas))
    return records


def write_image(scene: Scene, path: Path, size: int) -> None:
    draw(scene, size).save(path, quality=92)


def write_images(jobs: list[tuple[Scene, Path]], size: int) -> None:
    """Draws all scenes in two processes."""
    drawn = [scene for scene, _ in jobs]
    paths = [path for _, path in jobs]
    sizes = [size] * len(jobs)
    with ProcessPoolExecutor(2) as processes:
        list(processes.map(write_image, drawn, paths, sizes, chunksize=256))


def write(
    out: str | Path, train: int = 16000, validation: int = 500, seed: int = 0, size: int = 200
) -> None:
    """Writes the data set of `train` and `validation` scenes, images `size` pixels wide, to `out`.

    The files are `images/`, `align.json` (stage 1), `instruct.json` (stage 2), `plain.json` (stage
    2 in plain language), `validation.json` and `captions.jsonl` (captions and boxes, as COCO has
    them). Everything is written to a temporary directory that is renamed at the end, so `out` is
    complete or absent. Raises UserError if `out` exists.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"--out {out}: exists already; remove it or choose another directory")
    with new_directory(out) as folder:
        write_files(folder, train, validation, seed, size)


def write_files(folder: Path, train: int, validation: int, seed: int, size: int) -> None:
    """Writes all files of a data set into an empty folder."""
    (folder / "images").mkdir()
    rng = random.Random(f"data/{seed}")
    drawings = []
    captions_rows = []
    plain_rng = random.Random(f"plain/{seed}")  # align.json and plain.json do not change the others
    records = {"align": [], "plain": [], "instruct": [], "validation": []}
    for split, count in (("train", train), ("validation", validation)):
        for i, scene in enumerate(scenes(split, count, seed)):
            name = f"{split}_{i:06d}"
            image = f"images/{name}.jpg"
            drawings.append((scene, folder / image))
            texts = captions(scene, rng)
            captions_rows.append({"image": image, "captions": texts, "boxes": boxes(scene)})
            facts = read(texts, boxes(scene))
            if split == "train":
                # Stage 1 trains only W, so the answer must be text that the frozen language model
                # can write already: the detailed description in plain language, and no caption.
                description = plain_instructions(facts, plain_rng, "detail")
                records["align"].append(record(name, image, description))
                records["plain"] += instruction_records(
                    facts, name, image, plain_rng, plain_instructions
                )
                records["instruct"] += instruction_records(facts, name, image, rng)
            else:
                records["validation"] += instruction_records(facts, name, image, rng)

    write_images(drawings, size)
    for name, rows in records.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    lines = [json.dumps(row) + "\n" for row in captions_rows]
    (folder / "captions.jsonl").write_text("".join(lines), encoding="utf-8")


def ensure_data(path: str, made_here: str) -> None:
    """Writes Toyland's data set if `path` is its default file `made_here`, and its folder missing.

    Rank 0 writes, the other ranks wait."""
    if path != made_here:
        return
    directory = Path(path).parent
    if dist.get_rank() == 0 and not directory.exists():
        print(f"making Toyland's data set in {directory} ...", flush=True)
        write(directory)
    dist.barrier()


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.toyland data --help")
