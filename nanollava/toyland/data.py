"""Toyland's data set on disk: JPEG pictures and LLaVA JSON, the teacher's work from captions and boxes."""

import json
import random
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ..conversation import IMAGE
from ..errors import UserError
from .captions import boxes, captions
from .draw import draw
from .scenes import Scene, scenes
from .teacher import QA, dialogue, instructions, read

SHARE = {
    "conversation": 2.0,
    "detail": 0.5,
    "complex": 0.3,
}  # samples of each type a scene, on average


def record(name: str, image: str, qas: list[QA]) -> dict:
    """One record in LLaVA's form: the picture stands before the first question."""
    return {"id": name, "image": image, "conversations": dialogue(IMAGE, qas)}


def write_picture(scene: Scene, path: Path, size: int) -> None:
    draw(scene, size).save(path, quality=92)


def write(
    out: str | Path, train: int = 16000, validation: int = 500, seed: int = 0, size: int = 200
) -> None:
    """Writes `images/`, `align.json`, `instruct.json`, `validation.json` and COCO-like `captions.jsonl` into `out`:
    everything is made aside and renamed at the end, so `out` is whole or absent."""
    out = Path(out)
    if out.exists():
        raise UserError(f"--out {out}: exists already; remove it or choose another place")
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "images").mkdir(parents=True)
    rng = random.Random(f"data/{seed}")
    jobs, files, told = [], {"align": [], "instruct": [], "validation": []}, []
    for split, count in (("train", train), ("validation", validation)):
        for i, scene in enumerate(scenes(split, count, seed)):
            name, image = f"{split}_{i:06d}", f"images/{split}_{i:06d}.jpg"
            jobs.append((scene, aside / image, size))
            texts, found = captions(scene, rng), boxes(scene)
            told.append({"image": image, "captions": texts, "boxes": found})
            facts, file = read(texts, found), files["instruct" if split == "train" else split]
            if split == "train":
                # Stage 1 trains W alone, so its captions must be such as the frozen language model can write.
                files["align"].append(record(name, image, instructions(facts, rng, "detail")))
            for kind, share in SHARE.items():
                for n in range(int(share + rng.random())):
                    file.append(record(f"{name}_{kind}_{n}", image, instructions(facts, rng, kind)))
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(write_picture, *zip(*jobs, strict=True), chunksize=256))
    for name, records in files.items():
        (aside / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
    (aside / "captions.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in told), encoding="utf-8"
    )
    aside.rename(out)
