"""A tiny CLIP made from nothing: the package's ViT, a text tower, and the contrastive loss on pictures and captions."""

import math
import random
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from ..config import VisionConfig
from ..image import ImageConfig, normalize
from ..tokenizer import Tokenizer
from ..vit import CLIPBlock, CLIPEncoder, CLIPVisionTransformer
from .captions import DISTANCE_WORDS, SIDE_WORDS, captions
from .draw import draw
from .scenes import (
    COLORS,
    DISTANCES,
    KINDS,
    PLACES,
    SIDES,
    WEATHERS,
    Scene,
    place_thing,
    random_scene,
    scenes,
)
from .vicuna import make_tokenizer

VISION = VisionConfig(100, 10, 160, 640, num_hidden_layers=6, num_attention_heads=2)
LAYER = -2  # the hidden state that LLaVA will read
TEXT = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4)
TEXT |= dict(max_position_embeddings=80, projection_dim=128)


class CLIPTextTransformer(nn.Module):
    """CLIP's causal text tower; the state at the end-of-text token stands for the caption."""

    def __init__(self, config: dict):
        super().__init__()
        D, heads = config["hidden_size"], config["num_attention_heads"]
        tokens = nn.Embedding(config["vocab_size"], D)
        positions = nn.Embedding(config["max_position_embeddings"], D)
        self.embeddings = nn.ModuleDict({"token_embedding": tokens, "position_embedding": positions})
        ffn, depth = config["intermediate_size"], config["num_hidden_layers"]
        self.encoder = CLIPEncoder([CLIPBlock(D, ffn, heads, 1e-5, True) for _ in range(depth)])
        self.final_layer_norm = nn.LayerNorm(D, 1e-5)

    def forward(self, ids: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        tokens, positions = self.embeddings.values()
        x = tokens(ids) + positions.weight[: ids.shape[1]]  # (B, T, D)
        for block in self.encoder.layers:
            x = block(x)
        return self.final_layer_norm(x[torch.arange(len(x)), ends])  # (B, D)


class CLIP(nn.Module):
    """Both towers and the two projections, with Hugging Face CLIP's names."""

    def __init__(self, vision: VisionConfig, text: dict):
        super().__init__()
        self.text_config = text
        self.vision_model = CLIPVisionTransformer(vision)
        self.text_model = CLIPTextTransformer(text)
        self.visual_projection = nn.Linear(vision.hidden_size, text["projection_dim"], bias=False)
        self.text_projection = nn.Linear(text["hidden_size"], text["projection_dim"], bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        for tower in (
            self.vision_model,
            self.text_model,
        ):  # OpenAI CLIP's scales: larger where the width is small
            blocks = tower.encoder.layers
            for module in tower.modules():
                if isinstance(module, nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=module.in_features**-0.5)
                    nn.init.zeros_(module.bias)
            for block in blocks:
                for out in (block.self_attn.out_proj, block.mlp.fc2):  # residual branches start small
                    nn.init.normal_(out.weight, std=(2 * len(blocks) * out.in_features) ** -0.5)
        for projection in (self.visual_projection, self.text_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        embeddings = self.vision_model.embeddings
        for parameter in (embeddings.class_embedding, embeddings.position_embedding.weight):
            nn.init.normal_(parameter, std=vision.hidden_size**-0.5)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, projection_dim) of class tokens, or of regions, (N, D)."""
        return F.normalize(self.visual_projection(self.vision_model.post_layernorm(features)).float(), dim=-1)

    def encode_text(self, ids: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, projection_dim) of captions or phrases."""
        return F.normalize(self.text_projection(self.text_model(ids, ends)).float(), dim=-1)

    def forward(self, pixel_values, ids, ends) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of pictures and of captions, each (B, projection_dim)."""
        image = self.project(self.vision_model.hidden_states(pixel_values)[-1][:, 0])
        return image, self.encode_text(ids, ends)


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP's loss: cross-entropy of the scaled cosine matrix by rows and by columns, the diagonal being right."""
    logits = scale * image @ text.T  # (B, B)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


# What may be said of a part of a picture: each set is a contrast of its own.
PHRASES = {
    "kind": {kind: f"a {kind}" for kind in KINDS},
    "color": {color: f"a {color} thing" for color in COLORS},
    "side": {side: f"a thing {words}" for side, words in SIDE_WORDS.items()},
    "distance": {distance: f"a thing {words}" for distance, words in DISTANCE_WORDS.items()},
}


def region_loss(regions: torch.Tensor, phrases: torch.Tensor, target: torch.Tensor, scale) -> torch.Tensor:
    """The same loss for parts of pictures: each region (N, E) among the phrases of a set (S, E), less what they share."""
    phrases = F.normalize(phrases - phrases.mean(0), dim=-1)
    return F.cross_entropy(scale * regions @ phrases.T, target)


def under_box(box: tuple[float, float, float, float], grid: int) -> torch.Tensor:
    """Share of each patch (grid * grid,) in the mean over a box, by overlap."""
    edges = torch.arange(grid + 1) / grid
    x1, y1, x2, y2 = box
    across = (edges[1:].clamp(max=x2) - edges[:-1].clamp(min=x1)).clamp(min=0)
    down = (edges[1:].clamp(max=y2) - edges[:-1].clamp(min=y1)).clamp(min=0)
    weight = (down[:, None] * across[None]).flatten()
    return weight / weight.sum()


def change(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one fact of one thing changed: its kind half of the time, else its colour or its slot."""
    index = rng.randrange(len(scene.things))
    old = scene.things[index]
    kind, color, side, distance = old.kind, old.color, old.side, old.distance
    which = rng.random()
    taken = {(t.side, t.distance) for t in scene.things}
    if which < 0.5:
        kind = rng.choice([k for k in KINDS if k != kind])
    elif which < 0.8:
        color = rng.choice([c for c in COLORS if c != color])
    else:
        side, distance = rng.choice([(s, d) for s in SIDES for d in DISTANCES if (s, d) not in taken])
    thing = place_thing(rng, kind, color, side, distance)
    if (side, distance, kind) == (old.side, old.distance, old.kind):
        thing = replace(thing, box=old.box)
    return replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))


def variants(rng: random.Random, size: int, place: str, weather: str) -> list[Scene]:
    """A training scene and size - 1 others that differ from it in one fact, all of the training split."""
    while True:
        group = [replace(random_scene(rng), place=place, weather=weather)]
        for _ in range(8 * size):
            other = change(group[0], rng)
            if other.split == "train" and other.facts not in [s.facts for s in group]:
                group.append(other)
            if group[0].split == "train" and len(group) == size:
                return group


def pixels(scene: Scene) -> np.ndarray:
    """A picture as the tower will meet it: drawn larger, then resized as by CLIP's preprocessing."""
    size = (VISION.image_size, VISION.image_size)
    return np.asarray(draw(scene, 2 * VISION.image_size).resize(size, Image.Resampling.BICUBIC))


def to_pixel_values(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) bytes to CLIP's normalised (B, 3, H, W)."""
    return normalize(images.permute(0, 3, 1, 2).float(), ImageConfig())


def encode_captions(tokenizer: Tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, T) with BOS and the end of text (CLIP's last id), which also pads, and the place of each first end (B,)."""
    end = len(tokenizer)
    rows = [[tokenizer.bos_token_id, *tokenizer.encode(t), end] for t in texts]
    ids = torch.full((len(rows), max(map(len, rows))), end)
    for row, values in zip(ids, rows, strict=True):
        row[: len(values)] = torch.tensor(values)
    return ids, torch.tensor([len(r) - 1 for r in rows])


def new_clip(seed: int) -> tuple[CLIP, Tokenizer]:
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(seed)
    return CLIP(VISION, {**TEXT, "vocab_size": len(tokenizer) + 1}), tokenizer


def train_clip(model: CLIP, tokenizer, steps, parts_steps, batch, group, pictures, seed, lr, dtype, device):
    """Trains CLIP for `steps`, the first `parts_steps` of them on the parts alone, then on pictures and parts together:
    mostly scenes of one place and weather, in groups that differ in one fact."""
    rng = random.Random(f"clip/{seed}")
    model.to(device).train()

    def encode(texts: list[str]):
        return (x.to(device) for x in encode_captions(tokenizer, texts))

    said = tuple(encode([phrase for values in PHRASES.values() for phrase in values.values()]))
    grid = VISION.image_size // VISION.patch_size
    start = time.time()
    per_sky = pictures // group // len(PLACES) // len(WEATHERS)
    skies = [(p, w) for p in PLACES for w in WEATHERS]
    groups = [variants(rng, group, *sky) for sky in skies for _ in range(per_sky)]
    flat = [scene for g in groups for scene in g]
    with ProcessPoolExecutor(2) as pool:
        images = torch.from_numpy(np.stack(list(pool.map(pixels, flat, chunksize=64))))
    print(f"drew {len(flat):,} pictures in {time.time() - start:.0f} s")
    weights = [p for p in model.parameters() if p.ndim >= 2], [p for p in model.parameters() if p.ndim < 2]
    params = [{"params": p, "weight_decay": decay} for p, decay in zip(weights, (0.05, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(params, lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    # On the CPU the written-out attention has the faster backward pass.
    backends = [SDPBackend.MATH] if device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    bar = tqdm(range(steps), desc="clip", mininterval=5)
    for step in bar:
        parts_only = step < parts_steps
        n = batch // group
        if rng.random() < 0.85 * (not parts_only):  # one place and weather
            sky = rng.randrange(16)
            chosen = rng.sample(range(sky * per_sky, (sky + 1) * per_sky), min(n, per_sky))
        else:
            chosen = rng.sample(range(16 * per_sky), n)
        index = [g * group + i for g in chosen for i in range(group)]
        pixel_values = to_pixel_values(images[index].to(device))
        dy, dx = (rng.randint(-3, 3) for _ in range(2))
        wide = F.pad(pixel_values, (3, 3, 3, 3), mode="replicate")
        moved = torch.roll(wide, (dy, dx), (2, 3))[..., 3:-3, 3:-3]
        ids, ends = encode([captions(flat[i], rng)[rng.randrange(3)] for i in index])
        warm = min(1.0, (step + 1) / 100)
        for g in optimizer.param_groups:
            g["lr"] = lr * warm * (0.5 * (1 + math.cos(math.pi * step / steps)) * 0.98 + 0.02)
        things = [(row, t) for row, i in enumerate(index) for t in flat[i].things]
        pool = torch.zeros(len(things), len(index), grid * grid)
        for j, (row, t) in enumerate(things):
            pool[j, row] = under_box(t.box, grid)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), sdpa_kernel(backends):
            states = model.vision_model.hidden_states(moved)
            regions = pool.flatten(1).to(device) @ states[LAYER][:, 1:].flatten(0, 1).float()  # (things, D)
            image, regions = model.project(states[-1][:, 0]), model.project(regions)
            text, phrases = model.encode_text(ids, ends), model.encode_text(*said)
            scale = model.logit_scale.exp().clamp(max=100)
            loss = contrastive_loss(image, text, scale) * (not parts_only)
            parts = {}
            sets = phrases.split([*map(len, PHRASES.values())])
            for (name, values), words in zip(PHRASES.items(), sets, strict=True):
                target = torch.tensor([list(values).index(getattr(t, name)) for _, t in things])
                parts[name] = region_loss(regions, words, target.to(device), scale)
            (loss + sum(parts.values())).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            right = (image @ text.T).argmax(1).eq(torch.arange(len(text), device=device)).float().mean()
            shown = {name: f"{part.item():.2f}" for name, part in parts.items()}
            bar.set_postfix(loss=f"{loss.item():.3f}", top1=f"{right:.2f}", **shown)
    model.cpu().eval()


@torch.no_grad()
def retrieval(model: CLIP, tokenizer: Tokenizer, trials: int = 16, count: int = 128, seed: int = 0) -> float:
    """Share of held-out pictures whose own caption ranks first among `count` that share place and weather."""
    rng = random.Random(f"retrieval/{seed}")
    skies = [(p, w) for p in PLACES for w in WEATHERS][:trials]
    right = total = 0
    for sky in skies:
        pool, source = [], scenes("test", 10**9, seed, unseen=False)
        for scene in source:
            scene = replace(scene, place=sky[0], weather=sky[1])
            if scene.split == "test" and scene.facts not in [s.facts for s in pool]:
                pool.append(scene)
            if len(pool) == count:
                break
        ids, ends = encode_captions(tokenizer, [captions(s, rng)[0] for s in pool])
        image, text = model(to_pixel_values(torch.from_numpy(np.stack([pixels(s) for s in pool]))), ids, ends)
        right += (image @ text.T).argmax(1).eq(torch.arange(count)).sum().item()
        total += count
    return right / total


@torch.no_grad()
def under_boxes(tower: CLIPVisionTransformer, pool: list[Scene], layer: int) -> torch.Tensor:
    """Mean feature of the patches under each thing's box, weighted by overlap: (things, D)."""
    grid = tower.config.image_size // tower.config.patch_size
    out = []
    for i in range(0, len(pool), 128):
        part = pool[i : i + 128]
        images = torch.from_numpy(np.stack([pixels(s) for s in part]))
        for scene, z in zip(part, tower.features(to_pixel_values(images), layer), strict=True):
            out += [under_box(t.box, grid) @ z.float() for t in scene.things]
    return torch.stack(out)


def linear_readout(train_x, train_y, test_x, test_y, classes: int, steps: int = 300) -> float:
    """Held-out accuracy of a linear (softmax) read-out."""
    mean, std = train_x.mean(0), train_x.std(0) + 1e-6
    train_x, test_x = (train_x - mean) / std, (test_x - mean) / std
    with torch.enable_grad():
        linear = nn.Linear(train_x.shape[1], classes)
        nn.init.zeros_(linear.weight)
        optimizer = torch.optim.AdamW(linear.parameters(), 0.02, weight_decay=1e-3)
        for _ in range(steps):
            loss = F.cross_entropy(linear(train_x), train_y)
            optimizer.zero_grad(), loss.backward(), optimizer.step()
    return linear(test_x).argmax(1).eq(test_y).float().mean().item()


def readout(
    tower: CLIPVisionTransformer, layer: int = LAYER, train: int = 3000, test: int = 600, seed: int = 0
) -> dict:
    """How well kind, colour, side and distance of a thing can be read off the patches under its box, held-out scenes."""
    fit, held = list(scenes("train", train, seed + 1)), list(scenes("test", test, seed, unseen=False))
    x, y = under_boxes(tower, fit, layer), under_boxes(tower, held, layer)
    result = {}
    for name, values in dict(kind=KINDS, color=COLORS, side=SIDES, distance=DISTANCES).items():

        def labels(pool: list[Scene], name=name, values=values) -> torch.Tensor:
            return torch.tensor([values.index(getattr(t, name)) for s in pool for t in s.things])

        result[name] = linear_readout(x, labels(fit), y, labels(held), len(values))
    return result
