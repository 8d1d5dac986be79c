"""What toy-clip and toy-vicuna know before they meet, on held-out scenes: retrieval, linear read-out, questions on text.

python -m benchmarks.probe --clip checkpoints/toy-clip --vicuna checkpoints/toy-vicuna
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nanollava.conversation import IGNORE_INDEX, encode
from nanollava.errors import run
from nanollava.llama import Llama
from nanollava.tokenizer import Tokenizer
from nanollava.toyland.captions import captions
from nanollava.toyland.pretrain import (
    CLIP,
    LAYER,
    encode_captions,
    in_words,
    labels,
    load_clip,
    pad,
    pixels,
    to_pixel_values,
    under_box,
)
from nanollava.toyland.scenes import FACTS, SKIES, Scene, scenes
from nanollava.toyland.score import shares
from nanollava.toyland.teacher import dialogue, facts_told, questions
from nanollava.vit import CLIPVisionTransformer


@torch.no_grad()
def retrieval(
    model: CLIP, tokenizer: Tokenizer, trials: int = 16, count: int = 128, seed: int = 0
) -> float:
    """Share of held-out pictures whose own caption ranks first among `count` that share place and weather."""
    rng, right = random.Random(f"retrieval/{seed}"), []
    for place, weather in SKIES[:trials]:
        pool: dict[tuple, Scene] = {}  # by facts: no two tell the same
        source = scenes("test", 10**9, seed, unseen=False)
        while len(pool) < count:
            scene = replace(next(source), place=place, weather=weather)
            if scene.split == "test":
                pool.setdefault(scene.facts, scene)
        ids, ends = encode_captions(tokenizer, [captions(s, rng)[0] for s in pool.values()])
        images = torch.from_numpy(np.stack([pixels(s) for s in pool.values()]))
        image, text = model(to_pixel_values(images), ids, ends)
        right.append((image @ text.T).argmax(1).eq(torch.arange(count)))
    return torch.cat(right).double().mean().item()


@torch.no_grad()
def under_boxes(tower: CLIPVisionTransformer, pool: list[Scene], layer: int) -> torch.Tensor:
    """Mean feature of the patches under each thing's box, weighted by overlap: (things, D)."""
    grid, out = tower.config.image_size // tower.config.patch_size, []
    for i in range(0, len(pool), 128):
        images = torch.from_numpy(np.stack([pixels(s) for s in pool[i : i + 128]]))
        features = tower.features(to_pixel_values(images), layer)
        for scene, z in zip(pool[i : i + 128], features, strict=True):
            out += [under_box(t.box, grid) @ z.float() for t in scene.things]
    return torch.stack(out)


@torch.enable_grad()
def linear_readout(train_x, train_y, test_x, test_y, classes: int, steps: int = 300) -> float:
    """Held-out accuracy of a linear (softmax) read-out."""
    mean, std = train_x.mean(0), train_x.std(0) + 1e-6
    train_x, test_x = (train_x - mean) / std, (test_x - mean) / std
    linear = nn.Linear(train_x.shape[1], classes)
    nn.init.zeros_(linear.weight)
    optimizer = torch.optim.AdamW(linear.parameters(), 0.02, weight_decay=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(linear(train_x), train_y).backward()
        optimizer.step()
    return linear(test_x).argmax(1).eq(test_y).float().mean().item()


def readout(
    tower: CLIPVisionTransformer, layer: int = LAYER, train=3000, test=600, seed: int = 0
) -> dict:
    """How well kind, colour, side and distance of a thing can be read off the patches under its box, held-out scenes."""
    pools = list(scenes("train", train, seed + 1)), list(scenes("test", test, seed, unseen=False))
    (x, fitted), (y, held) = (
        (under_boxes(tower, p, layer), [t for s in p for t in s.things]) for p in pools
    )
    return {
        fact: linear_readout(x, labels(fitted, fact), y, labels(held, fact), len(values))
        for fact, values in FACTS.items()
    }


@torch.no_grad()
def text_accuracy(
    model: Llama, tokenizer: Tokenizer, count: int = 300, seed: int = 0
) -> dict[str, float]:
    """Share of questions about held-out descriptions whose whole answer is the most likely one, by type.

    That is the same as greedy generation giving exactly this answer and its end token.
    """
    rng = random.Random(f"text/{seed}")
    right: dict[str, list[bool]] = {}
    for scene in scenes("test", count, seed, unseen=False):
        description = in_words(scene, rng)
        chosen = [
            rng.choice(found) for found in questions(facts_told(scene, rng), rng).values() if found
        ]
        rows = [encode(dialogue(description, [qa]), tokenizer) for qa in chosen]
        ids, labels = pad([r[0] for r in rows], 0), pad([r[1] for r in rows], IGNORE_INDEX)[:, 1:]
        exact = ((model(ids)[:, :-1].argmax(-1) == labels) | (labels == IGNORE_INDEX)).all(1)
        for qa, good in zip(chosen, exact.tolist(), strict=True):
            right.setdefault(qa.type, []).append(good)
    return shares(right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--clip", type=Path, help="toy-clip directory")
    parser.add_argument("--vicuna", type=Path, help="toy-vicuna directory")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    args = parser.parse_args()
    result = {}
    if args.clip:
        model, tokenizer = load_clip(args.clip)
        shared = "retrieval among 128, place and weather shared"
        result[shared] = retrieval(model, tokenizer, seed=args.seed)
        for layer in (-2, -1):
            result[f"read-out, layer {layer}"] = readout(model.vision_model, layer, seed=args.seed)
    if args.vicuna:
        model = Llama.from_pretrained(args.vicuna, dtype=torch.float32)
        tokenizer = Tokenizer.from_pretrained(args.vicuna)
        result["questions on a description"] = text_accuracy(model, tokenizer, seed=args.seed)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    run(main)
