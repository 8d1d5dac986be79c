"""A tiny CLIP made from nothing: the package's ViT, a text tower, and the contrastive loss on pictures and captions."""

import math
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import weights
from ..config import VisionConfig, read_json
from ..image import ImageConfig, normalize
from ..tokenizer import Tokenizer
from ..vit import CLIPBlock, CLIPEncoder, CLIPVisionTransformer
from .captions import WORDS, captions
from .draw import draw
from .fit import fit, pad, save
from .scenes import COLORS, FACTS, KINDS, SKIES, SLOTS, Scene, Thing, place_thing, random_scene, scenes
from .vicuna import make_tokenizer

VISION = VisionConfig(100, 10, 160, 640, num_hidden_layers=6, num_attention_heads=2)
GRID = VISION.image_size // VISION.patch_size
LAYER = -2  # the hidden state that LLaVA will read
TEXT = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4)
TEXT |= dict(max_position_embeddings=80, projection_dim=128)
WHOLE = weights.Layout("CLIP", (("", ""),))  # both towers


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
        # OpenAI CLIP's scales: larger where the width is small.
        for tower in (self.vision_model, self.text_model):
            for module in tower.modules():
                if isinstance(module, nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=module.in_features**-0.5)
                    nn.init.zeros_(module.bias)
            for block in tower.encoder.layers:
                for out in (block.self_attn.out_proj, block.mlp.fc2):  # residual branches start small
                    std = (2 * len(tower.encoder.layers) * out.in_features) ** -0.5
                    nn.init.normal_(out.weight, std=std)
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
    "kind": [f"a {kind}" for kind in KINDS],
    "color": [f"a {color} thing" for color in COLORS],
    "side": [f"a thing {WORDS[side]}" for side in FACTS["side"]],
    "distance": [f"a thing {WORDS[distance]}" for distance in FACTS["distance"]],
}


def labels(things: list[Thing], fact: str) -> torch.Tensor:
    return torch.tensor([FACTS[fact].index(getattr(t, fact)) for t in things])


def under_box(box: tuple[float, float, float, float], grid: int) -> torch.Tensor:
    """Share of each patch (grid * grid,) in the mean over a box, by overlap."""
    edges = torch.arange(grid + 1) / grid
    across, down = (
        (edges[1:].clamp(max=box[i + 2]) - edges[:-1].clamp(min=box[i])).clamp(min=0) for i in (0, 1)
    )
    weight = (down[:, None] * across).flatten()
    return weight / weight.sum()


def change(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one fact of one thing changed: its kind half of the time, else its colour or its slot."""
    index = rng.randrange(len(scene.things))
    old, which = scene.things[index], rng.random()
    kind, color, slot = old.kind, old.color, (old.side, old.distance)
    if which < 0.5:
        kind = rng.choice([k for k in KINDS if k != kind])
    elif which < 0.8:
        color = rng.choice([c for c in COLORS if c != color])
    else:
        slot = rng.choice([s for s in SLOTS if s not in [(t.side, t.distance) for t in scene.things]])
    thing = place_thing(rng, kind, color, *slot)
    thing = thing if color == old.color else replace(old, color=color)
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
    rows = [[tokenizer.bos_token_id, *tokenizer.encode(t), len(tokenizer)] for t in texts]
    return pad(rows, len(tokenizer)), torch.tensor([len(r) - 1 for r in rows])


def new_clip(seed: int) -> tuple[CLIP, Tokenizer]:
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(seed)
    return CLIP(VISION, {**TEXT, "vocab_size": len(tokenizer) + 1}), tokenizer


def train_clip(model: CLIP, tokenizer, steps, parts_steps, batch, group, pictures, seed, lr, dtype, device):
    """Trains CLIP for `steps`, the first `parts_steps` of them on the parts alone, then on pictures and parts together:
    mostly scenes of one place and weather, in groups that differ in one fact."""
    rng = random.Random(f"clip/{seed}")
    model.to(device).train()
    groups = pictures // group // len(SKIES)  # of each place and weather
    pool = [scene for sky in SKIES for _ in range(groups) for scene in variants(rng, group, *sky)]
    print(f"drawing {len(pool):,} pictures ...", flush=True)
    with ProcessPoolExecutor(2) as processes:
        images = torch.from_numpy(np.stack(list(processes.map(pixels, pool, chunksize=64))))
    said = encode_captions(tokenizer, [phrase for phrases in PHRASES.values() for phrase in phrases])
    sides = [p for p in model.parameters() if p.ndim >= 2], [p for p in model.parameters() if p.ndim < 2]
    params = [{"params": p, "weight_decay": decay} for p, decay in zip(sides, (0.05, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(params, lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    # On the CPU the written-out attention has the faster backward pass.
    backends = [SDPBackend.MATH] if device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]

    def losses(step: int):
        among = range(len(SKIES) * groups)
        if rng.random() < 0.85 and step >= parts_steps:  # one place and weather
            sky = rng.randrange(len(SKIES))
            among = among[sky * groups : (sky + 1) * groups]
        chosen = rng.sample(among, min(batch // group, len(among)))
        index = [g * group + i for g in chosen for i in range(group)]
        dy, dx = (rng.randint(-3, 3) for _ in range(2))
        wide = F.pad(to_pixel_values(images[index].to(device)), (3, 3, 3, 3), mode="replicate")
        moved = torch.roll(wide, (dy, dx), (2, 3))[..., 3:-3, 3:-3]
        ids, ends = encode_captions(tokenizer, [captions(pool[i], rng)[rng.randrange(3)] for i in index])
        things = [(row, t) for row, i in enumerate(index) for t in pool[i].things]
        under = torch.zeros(len(things), len(index), GRID * GRID)
        for weight, (row, t) in zip(under, things, strict=True):
            weight[row] = under_box(t.box, GRID)
        with sdpa_kernel(backends):
            states = model.vision_model.hidden_states(moved)
            text = model.encode_text(ids.to(device), ends.to(device))
            phrases = model.encode_text(*(x.to(device) for x in said)).split([*map(len, PHRASES.values())])
        image, scale = model.project(states[-1][:, 0]), model.logit_scale.exp().clamp(max=100)
        regions = under.flatten(1).to(device) @ states[LAYER][:, 1:].flatten(0, 1).float()  # (things, D)
        regions, parts = model.project(regions), {}
        for fact, words in zip(PHRASES, phrases, strict=True):
            words = F.normalize(words - words.mean(0), dim=-1)  # less what the phrases of a set share
            target = labels([t for _, t in things], fact).to(device)
            parts[fact] = F.cross_entropy(scale * regions @ words.T, target)
        loss = contrastive_loss(image, text, scale) * (step >= parts_steps)
        top1 = (image @ text.T).argmax(1).eq(torch.arange(len(text), device=device)).float().mean()
        return loss + sum(parts.values()), {"pictures": loss, "top1": top1, **parts}

    fit("clip", model, optimizer, steps, losses, 100, dtype, device)
    model.cpu().eval()


@torch.no_grad()
def retrieval(model: CLIP, tokenizer: Tokenizer, trials: int = 16, count: int = 128, seed: int = 0) -> float:
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


def readout(tower: CLIPVisionTransformer, layer: int = LAYER, train=3000, test=600, seed: int = 0) -> dict:
    """How well kind, colour, side and distance of a thing can be read off the patches under its box, held-out scenes."""
    pools = list(scenes("train", train, seed + 1)), list(scenes("test", test, seed, unseen=False))
    (x, fitted), (y, held) = ((under_boxes(tower, p, layer), [t for s in p for t in s.things]) for p in pools)
    return {
        fact: linear_readout(x, labels(fitted, fact), y, labels(held, fact), len(values))
        for fact, values in FACTS.items()
    }


def save_clip(model: CLIP, tokenizer: Tokenizer, path: Path) -> None:
    """Writes a Hugging Face CLIP directory (float16)."""
    width, end = {"projection_dim": TEXT["projection_dim"]}, len(tokenizer)
    text = dict(
        model_type="clip_text_model", hidden_act="quick_gelu", layer_norm_eps=1e-5, **model.text_config
    )
    text |= dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end)
    config = dict(architectures=["CLIPModel"], model_type="clip", **width, text_config=text)
    save(model, {**config, "vision_config": VISION.to_dict() | width}, WHOLE, tokenizer, path)
    ImageConfig(VISION.image_size).save_pretrained(path)


def load_clip(path: Path) -> tuple[CLIP, Tokenizer]:
    """Both towers of a directory written by `save_clip`."""
    text = read_json(path / "config.json")["text_config"]
    model = CLIP(VISION, {name: text[name] for name in ("vocab_size", *TEXT)})
    weights.load(model, path, WHOLE, dtype=torch.float32)
    return model.eval(), Tokenizer.from_pretrained(path)
