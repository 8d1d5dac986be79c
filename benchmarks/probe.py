"""Measures what toy-clip and toy-vicuna know before they meet, on held-out scenes.

python -m benchmarks.probe --clip checkpoints/toy-clip --vicuna checkpoints/toy-vicuna

For CLIP: the caption of each image among 128, and facts read off the patches of every layer. For
Vicuna: questions in plain language on scenes that are described in words.
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nanollava.conversation import IGNORE_INDEX, encode
from nanollava.errors import UserError, run
from nanollava.files import shipped
from nanollava.llama import Llama
from nanollava.tokenizer import Tokenizer
from nanollava.toyland.captions import captions
from nanollava.toyland.clip import (
    CLIP,
    LAYER,
    encode_captions,
    labels,
    load_clip,
    patch_weights,
    pixels,
    to_pixel_values,
)
from nanollava.toyland.dialogues import dialogue
from nanollava.toyland.plain import plain_questions
from nanollava.toyland.pretrain import pad
from nanollava.toyland.qa import QA
from nanollava.toyland.readout import linear_readout
from nanollava.toyland.scenes import FACTS, SKIES, Scene, Thing, scenes
from nanollava.toyland.score import shares
from nanollava.toyland.teacher import facts_from_captions
from nanollava.toyland.vicuna import in_words
from nanollava.vit import CLIPVisionTransformer


def pixel_values_of(pool: list[Scene], size: int) -> torch.Tensor:
    """(scenes, 3, size, size)"""
    images = np.stack([pixels(scene, size) for scene in pool])
    return to_pixel_values(torch.from_numpy(images))


def scenes_with_sky(place: str, weather: str, count: int, seed: int) -> list[Scene]:
    """Held-out scenes of one place and weather, no two with the same facts."""
    pool: dict[tuple, Scene] = {}  # by facts
    source = scenes("test", 10**9, seed, unseen=False)
    while len(pool) < count:
        scene = replace(next(source), place=place, weather=weather)
        if scene.split == "test":
            pool.setdefault(scene.facts, scene)
    return list(pool.values())


@torch.no_grad()
def retrieval(model: CLIP, tokenizer: Tokenizer, count: int = 128, seed: int = 0) -> float:
    """The share of images whose own caption ranks first among `count` with the same sky."""
    rng = random.Random(f"retrieval/{seed}")
    is_right = []
    for place, weather in SKIES:
        pool = scenes_with_sky(place, weather, count, seed)
        texts = [captions(scene, rng)[0] for scene in pool]
        ids, ends = encode_captions(tokenizer, texts)
        image_size = model.vision_model.config.image_size
        image, text = model(pixel_values_of(pool, image_size), ids, ends)
        best = (image @ text.T).argmax(1)
        is_right.append(best == torch.arange(count))
    return torch.cat(is_right).double().mean().item()


@torch.no_grad()
def box_features(tower: CLIPVisionTransformer, pool: list[Scene], layer: int) -> torch.Tensor:
    """The mean feature of the patches under each thing's box, weighted by overlap: (things, D)."""
    image_size = tower.config.image_size
    grid = image_size // tower.config.patch_size
    means = []
    for start in range(0, len(pool), 128):
        part = pool[start : start + 128]
        features = tower.features(pixel_values_of(part, image_size), layer)  # (scenes, P, D)
        for scene, patches in zip(part, features, strict=True):
            for thing in scene.things:
                means.append(patch_weights(thing.box, grid) @ patches.float())
    return torch.stack(means)


def things_of(pool: list[Scene]) -> list[Thing]:
    things = []
    for scene in pool:
        things += scene.things
    return things


def readout(
    tower: CLIPVisionTransformer,
    layer: int = LAYER,
    train: int = 3000,
    test: int = 600,
    seed: int = 0,
) -> dict[str, float]:
    """How well each fact of a thing can be read off the patches under its box."""
    train_pool = list(scenes("train", train, seed + 1))
    test_pool = list(scenes("test", test, seed, unseen=False))
    train_x = box_features(tower, train_pool, layer)
    test_x = box_features(tower, test_pool, layer)
    accuracies = {}
    for fact, values in FACTS.items():
        train_y = labels(things_of(train_pool), fact)
        test_y = labels(things_of(test_pool), fact)
        accuracies[fact] = linear_readout(train_x, train_y, test_x, test_y, len(values))
    return accuracies


def exact_answers(
    model: Llama, tokenizer: Tokenizer, description: str, chosen: list[QA]
) -> list[bool]:
    """Whether every token of each answer, its end token included, is the most likely one there.

    Then greedy generation gives exactly this answer."""
    rows = [encode(dialogue(description, [qa]), tokenizer) for qa in chosen]
    ids = pad([ids for ids, _ in rows], 0)
    targets = pad([row_labels for _, row_labels in rows], IGNORE_INDEX)[:, 1:]
    predicted = model(ids)[:, :-1].argmax(-1)
    is_right = (predicted == targets) | (targets == IGNORE_INDEX)
    return is_right.all(1).tolist()


@torch.no_grad()
def text_accuracy(
    model: Llama, tokenizer: Tokenizer, count: int = 300, seed: int = 0
) -> dict[str, float]:
    """The share of exact answers to questions in plain language, on held-out scenes in words."""
    rng = random.Random(f"text/{seed}")
    right: dict[str, list[bool]] = {}
    for scene in scenes("test", count, seed, unseen=False):
        description = in_words(scene, rng)
        by_type = plain_questions(facts_from_captions(scene, rng), rng)
        chosen = [rng.choice(qas) for qas in by_type.values() if qas]
        exact = exact_answers(model, tokenizer, description, chosen)
        for qa, is_right in zip(chosen, exact, strict=True):
            right.setdefault(qa.type, []).append(is_right)
    return shares(right)


def probe_clip(path: str | Path, seed: int = 0) -> dict[str, float | dict[str, float]]:
    """Retrieval, and the read-out of every hidden state of the tower; state 0 are the patch
    embeddings."""
    clip, tokenizer = load_clip(path)
    result = {}
    result["retrieval among 128, place and weather shared"] = retrieval(clip, tokenizer, seed=seed)
    for layer in range(clip.vision_model.config.num_hidden_layers + 1):
        result[f"read-out, hidden state {layer}"] = readout(clip.vision_model, layer, seed=seed)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.probe", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--clip", type=Path, help="toy-clip directory")
    parser.add_argument("--vicuna", type=Path, help="toy-vicuna directory")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: 0)")
    args = parser.parse_args()
    if args.clip is None and args.vicuna is None:
        raise UserError("nothing to measure: give --clip, --vicuna or both")
    result = {}
    if args.clip is not None:
        result |= probe_clip(shipped(args.clip), args.seed)
    if args.vicuna is not None:
        path = shipped(args.vicuna)
        vicuna = Llama.from_pretrained(path, dtype=torch.float32)
        tokenizer = Tokenizer.from_pretrained(path)
        result["questions on a description"] = text_accuracy(vicuna, tokenizer, seed=args.seed)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    run(main)
