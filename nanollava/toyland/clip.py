"""Pretrains toy-clip, a tiny CLIP: `python -m nanollava.toyland pretrain --only clip`.

The vision tower is the package's own; a text tower and two projections join it. CLIP's contrastive
loss compares whole images with captions. Because LLaVA reads patches and not the class token, a
second loss compares the things in an image with phrases about them ("a red thing"). So boxes label
the things: the mean of the patches under a box is classified among 12 phrases for the kind, 8 for
the color, 3 for the side and 2 for the distance.
"""

import math
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..config import VisionConfig
from ..errors import exit_with
from ..files import command_line, made_by, read_json
from ..hf.config import vision_config_json
from ..hf.load import load, read_vision_config
from ..hf.names import Layout
from ..image import ImageConfig, normalize
from ..tokenizer import Tokenizer
from ..vit import CLIPBlock, CLIPEncoder, CLIPVisionTransformer
from .captions import WORDS, captions
from .draw import draw
from .pretrain import fit, pad, save, train_bpe
from .scenes import (
    COLORS,
    FACTS,
    KINDS,
    SKIES,
    SLOTS,
    Scene,
    Thing,
    place_thing,
    random_scene,
    scenes,
)


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text tower, and the width of the space that both towers project into."""

    hidden_size: int = 128
    intermediate_size: int = 512
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    max_position_embeddings: int = 80
    projection_dim: int = 128
    vocab_size: int  # the tokenizer's, and one for the end of text


VISION = VisionConfig(
    image_size=100,
    patch_size=10,
    hidden_size=160,
    intermediate_size=640,
    num_hidden_layers=6,
    num_attention_heads=2,
)
CAPTION_VOCAB_SIZE = 512
LAYER = -2  # the hidden state that LLaVA will read, so the one that must know the things
LAYER_NORM_EPS = 1e-5
WHOLE_CLIP = Layout("CLIP", (("", ""),))  # both towers under their own names


# What can be said about a region, by fact: for every fact a contrast among its values.
PHRASES = {
    "kind": [f"a {kind}" for kind in FACTS["kind"]],
    "color": [f"a {color} thing" for color in FACTS["color"]],
    "side": [f"a thing {WORDS[side]}" for side in FACTS["side"]],
    "distance": [f"a thing {WORDS[distance]}" for distance in FACTS["distance"]],
}


# The model


class CLIPTextTransformer(nn.Module):
    """CLIP's causal text tower; the state at the end-of-text token represents the caption."""

    def __init__(self, config: TextConfig):
        super().__init__()
        D = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": nn.Embedding(config.vocab_size, D),
                "position_embedding": nn.Embedding(config.max_position_embeddings, D),
            }
        )
        blocks = []
        for _ in range(config.num_hidden_layers):
            block = CLIPBlock(
                D,
                config.intermediate_size,
                config.num_attention_heads,
                LAYER_NORM_EPS,
                is_causal=True,
            )
            blocks.append(block)
        self.encoder = CLIPEncoder(blocks)
        self.final_layer_norm = nn.LayerNorm(D, LAYER_NORM_EPS)

    def forward(self, ids: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """States (B, D) at position `ends` (B,) of each row of `ids` (B, T)."""
        B, T = ids.shape
        positions = self.embeddings["position_embedding"].weight[:T]
        x = self.embeddings["token_embedding"](ids) + positions  # (B, T, D)
        for block in self.encoder.layers:
            x = block(x)
        return self.final_layer_norm(x[torch.arange(B), ends])


class CLIP(nn.Module):
    """Both towers and the two projections, with the names of Hugging Face's CLIP."""

    def __init__(self, vision: VisionConfig, text: TextConfig):
        super().__init__()
        self.text_config = text
        self.vision_model = CLIPVisionTransformer(vision)
        self.text_model = CLIPTextTransformer(text)
        self.visual_projection = nn.Linear(vision.hidden_size, text.projection_dim, bias=False)
        self.text_projection = nn.Linear(text.hidden_size, text.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.initialize()

    def initialize(self) -> None:
        """The scales of OpenAI's CLIP: larger where the width is small."""
        for tower in (self.vision_model, self.text_model):
            for module in tower.modules():
                if isinstance(module, nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=module.in_features**-0.5)
                    nn.init.zeros_(module.bias)
            # The layers that write to the residual stream start smaller.
            count = 2 * len(tower.encoder.layers)
            for block in tower.encoder.layers:
                for layer in (block.self_attn.out_proj, block.mlp.fc2):
                    nn.init.normal_(layer.weight, std=(count * layer.in_features) ** -0.5)
        embeddings = self.vision_model.embeddings
        for weight in (
            self.visual_projection.weight,
            self.text_projection.weight,
            embeddings.class_embedding,
            embeddings.position_embedding.weight,
        ):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, projection_dim) of class tokens or of regions (N, D)."""
        projected = self.visual_projection(self.vision_model.post_layernorm(features))
        return F.normalize(projected.float(), dim=-1)

    def encode_text(self, ids: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, projection_dim) of captions or phrases."""
        projected = self.text_projection(self.text_model(ids, ends))
        return F.normalize(projected.float(), dim=-1)

    def forward(
        self, pixel_values: torch.Tensor, ids: torch.Tensor, ends: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of images and of captions, each (B, projection_dim)."""
        class_tokens = self.vision_model.hidden_states(pixel_values)[-1][:, 0]
        return self.project(class_tokens), self.encode_text(ids, ends)

    def scale(self) -> torch.Tensor:
        """The learned inverse temperature e^tau, at most 100."""
        return self.logit_scale.exp().clamp(max=100)


# Images and captions as tensors


@cache
def make_caption_tokenizer(seed: int) -> Tokenizer:
    """A tokenizer of captions and phrases only: the real CLIP does not share LLaMA's either."""
    rng = random.Random(f"caption tokenizer/{seed}")
    texts = []
    for scene in scenes("train", 2000, seed):
        texts += captions(scene, rng)
    for phrases in PHRASES.values():
        texts += phrases
    return train_bpe(texts, CAPTION_VOCAB_SIZE)


def pixels(scene: Scene, size: int = VISION.image_size) -> np.ndarray:
    """The image of a scene as a tower of this image size will see it, (size, size, 3) bytes.

    It is drawn larger and then resized, as CLIP's preprocessing does (bicubic)."""
    return np.asarray(draw(scene, 2 * size).resize((size, size)))


def to_pixel_values(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) bytes to CLIP's normalized (B, 3, H, W)."""
    return normalize(images.permute(0, 3, 1, 2).float(), ImageConfig())


def encode_captions(tokenizer: Tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, T) with BOS and an end-of-text token, and the position of the latter (B,).

    The end of text is the last id of the vocabulary, after the tokenizer's; it also pads."""
    end_of_text = len(tokenizer)
    rows = []
    for text in texts:
        rows.append([tokenizer.bos_token_id, *tokenizer.encode(text), end_of_text])
    ends = torch.tensor([len(row) - 1 for row in rows])
    return pad(rows, end_of_text), ends


# Scenes that differ in one thing


def change(scene: Scene, rng: random.Random, only_kinds: bool = False) -> Scene:
    """The scene with one thing changed: its kind (50%), its color (30%) or its slot (20%), which is
    side and distance. With `only_kinds` it is always the kind.

    A thing of another kind or in another slot also gets another box."""
    index = rng.randrange(len(scene.things))
    old = scene.things[index]
    kind = old.kind
    color = old.color
    slot = (old.side, old.distance)
    which = rng.random()
    if only_kinds or which < 0.5:
        kind = rng.choice([other for other in KINDS if other != kind])
    elif which < 0.8:
        color = rng.choice([other for other in COLORS if other != color])
    else:
        taken = [(thing.side, thing.distance) for thing in scene.things]
        slot = rng.choice([other for other in SLOTS if other not in taken])
    new = place_thing(rng, kind, color, *slot)
    if color != old.color:
        new = replace(old, color=color)  # where only the color changes, the box stays
    # Not sorted again, so a far thing may be drawn over a near one. Sorting would change the images
    # that the shipped toy-clip learned from.
    things = (*scene.things[:index], new, *scene.things[index + 1 :])
    return replace(scene, things=things)


def variants(
    rng: random.Random,
    size: int,
    place: str,
    weather: str,
    max_things: int = 4,
    only_kinds: bool = False,
) -> list[Scene]:
    """A training scene and size - 1 others, each of which differs from it in the kind, color or
    slot of one thing."""
    while True:
        first = random_scene(rng)
        first = replace(first, place=place, weather=weather, things=first.things[:max_things])
        group = [first]
        for _ in range(8 * size):
            other = change(first, rng, only_kinds)
            is_new = other.facts not in [scene.facts for scene in group]
            # A `first` of another split is dropped only when its changes have been drawn: to drop
            # it at once would change all later draws, so the images of a seed.
            if other.split == "train" and is_new:
                group.append(other)
            if first.split == "train" and len(group) == size:
                return group


# Losses


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP's loss for unit vectors u_i of images and v_i of their captions, each (B, d).

        s_ij = scale * u_i . v_j
        L = -1/2B sum_i [ log(e^s_ii / sum_j e^s_ij) + log(e^s_ii / sum_j e^s_ji) ]

    Each image must find its caption among all captions, and each caption its image.
    """
    logits = scale * image @ text.T  # (B, B)
    target = torch.arange(len(logits), device=logits.device)  # the diagonal is right
    loss_of_images = F.cross_entropy(logits, target)
    loss_of_captions = F.cross_entropy(logits.T, target)
    return (loss_of_images + loss_of_captions) / 2


def labels(things: list[Thing], fact: str) -> torch.Tensor:
    """The index of each thing's value of a fact, (things,)."""
    return torch.tensor([FACTS[fact].index(getattr(thing, fact)) for thing in things])


def patch_weights(box: tuple[float, float, float, float], grid: int) -> torch.Tensor:
    """The weight of each patch (grid * grid,) in the mean over a box: its share of the overlap."""
    x1, y1, x2, y2 = box
    edges = torch.arange(grid + 1) / grid
    across = edges.clamp(x1, x2).diff()  # how much of each column lies in the box
    down = edges.clamp(y1, y2).diff()
    weight = (down[:, None] * across).flatten()
    return weight / weight.sum()


def region_losses(
    regions: torch.Tensor,
    phrases: dict[str, torch.Tensor],
    things: list[Thing],
    scale: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """For every fact, the cross-entropy of the right phrase for each thing.

    `regions` are unit vectors (things, d); `phrases` for every fact unit vectors (values, d).
    """
    losses = {}
    for fact, vectors in phrases.items():
        # What all phrases of a fact share ("a ... thing") tells nothing apart.
        vectors = F.normalize(vectors - vectors.mean(0), dim=-1)
        target = labels(things, fact).to(regions.device)
        losses[fact] = F.cross_entropy(scale * regions @ vectors.T, target)
    return losses


# Training


@dataclass(frozen=True, kw_only=True)
class ClipPhase:
    """One phase of the training, with images of its own."""

    steps: int
    region_steps: int = 0  # the first steps, which train on regions only
    regions: bool = True  # whether things are compared with phrases, besides images with captions
    max_things: int = 4  # in one image
    batch: int  # images per step
    group: int  # scenes that differ in one thing and share a batch
    only_kinds: bool = False  # whether they differ in that thing's kind alone
    images: int
    seed: int


LR = 1e-3
# The first phase needs a group of four for every place and weather. `with_regions` gives it all
# images, `captions_only` 5 / 7 of them.
MIN_IMAGES = 4 * len(SKIES)
MIN_IMAGES_CAPTIONS_ONLY = MIN_IMAGES * 7 // 5 + 1
SHIFT = 3  # pixels; images are moved by up to so many in each direction


class ClipData:
    """The images, captions and regions of a phase, in groups that differ in one thing.

    The groups are ordered by sky, which is a place and a weather.
    """

    def __init__(self, phase: ClipPhase, tokenizer: Tokenizer, vision: VisionConfig):
        self.rng = random.Random(f"clip/{phase.seed}")
        self.phase = phase
        self.tokenizer = tokenizer
        self.groups_per_sky = phase.images // phase.group // len(SKIES)
        self.scenes: list[Scene] = []
        for place, weather in SKIES:
            for _ in range(self.groups_per_sky):
                self.scenes += variants(
                    self.rng, phase.group, place, weather, phase.max_things, phase.only_kinds
                )
        print(f"drawing {len(self.scenes):,} images ...", flush=True)
        draw_pixels = partial(pixels, size=vision.image_size)
        with ProcessPoolExecutor(2) as processes:
            drawings = list(processes.map(draw_pixels, self.scenes, chunksize=64))
        self.images = torch.from_numpy(np.stack(drawings))  # (scenes, H, W, 3) bytes
        self.regions = []  # for every scene (things, P): weights of the patches under the boxes
        grid = vision.image_size // vision.patch_size  # patches per side
        for scene in self.scenes:
            weights = [patch_weights(thing.box, grid) for thing in scene.things]
            self.regions.append(torch.stack(weights))

    def choose(self, step: int) -> list[int]:
        """The indices of a batch: whole groups, mostly of one place and weather.

        The sky is too easy to tell apart; among scenes with the same sky, the things count."""
        same_sky = self.rng.random() < 0.85 and step >= self.phase.region_steps
        first = 0
        count = len(SKIES) * self.groups_per_sky
        if same_sky:
            first = self.rng.randrange(len(SKIES)) * self.groups_per_sky
            count = self.groups_per_sky
        candidates = range(first, first + count)
        number = min(self.phase.batch // self.phase.group, count)
        indices = []
        for group in self.rng.sample(candidates, number):
            start = group * self.phase.group
            indices += range(start, start + self.phase.group)
        return indices

    def shifted_pixel_values(self, indices: list[int], device: torch.device) -> torch.Tensor:
        """The images (B, 3, H, W), all moved by the same random shift, with repeated edges.

        The boxes stay where they are: SHIFT is less than a third of a patch of toy-clip."""
        pixel_values = to_pixel_values(self.images[indices].to(device))
        padded = F.pad(pixel_values, (SHIFT, SHIFT, SHIFT, SHIFT), mode="replicate")
        down = self.rng.randint(-SHIFT, SHIFT)
        right = self.rng.randint(-SHIFT, SHIFT)
        moved = torch.roll(padded, [down, right], (2, 3))
        return moved[..., SHIFT:-SHIFT, SHIFT:-SHIFT]

    def encoded_captions(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """One of each image's first three captions, which name all things: ids and ends."""
        texts = []
        for i in indices:
            choices = captions(self.scenes[i], self.rng)
            texts.append(choices[self.rng.randrange(3)])
        return encode_captions(self.tokenizer, texts)

    def things(self, indices: list[int]) -> list[Thing]:
        things = []
        for i in indices:
            things += self.scenes[i].things
        return things

    def region_weights(self, indices: list[int]) -> torch.Tensor:
        """(things, B * P): each row averages the patches under one box of one image."""
        return torch.block_diag(*[self.regions[i] for i in indices])


def attention_backends(device: torch.device) -> list[SDPBackend]:
    """On the CPU the written-out attention has the faster backward pass."""
    if device.type == "cpu":
        return [SDPBackend.MATH]
    return [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]


def encode_phrases(model: CLIP, tokenizer: Tokenizer, device) -> dict[str, torch.Tensor]:
    """Unit vectors of all PHRASES, for every fact (values, d)."""
    texts = []
    for phrases in PHRASES.values():
        texts += phrases
    ids, ends = encode_captions(tokenizer, texts)
    vectors = model.encode_text(ids.to(device), ends.to(device))
    counts = [len(phrases) for phrases in PHRASES.values()]
    return dict(zip(PHRASES, vectors.split(counts), strict=True))


def clip_loss(
    model: CLIP, data: ClipData, step: int, device: torch.device
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of one step, and its parts for the progress bar."""
    indices = data.choose(step)
    pixel_values = data.shifted_pixel_values(indices, device)
    ids, ends = data.encoded_captions(indices)
    with sdpa_kernel(attention_backends(device)):
        hidden_states = model.vision_model.hidden_states(pixel_values)
        text = model.encode_text(ids.to(device), ends.to(device))  # (B, d)
        phrases = encode_phrases(model, data.tokenizer, device)
    image = model.project(hidden_states[-1][:, 0])  # (B, d)
    scale = model.scale()
    patches = hidden_states[LAYER][:, 1:].flatten(0, 1)  # (B * P, D)
    box_means = data.region_weights(indices).to(device) @ patches.float()  # (things, D)
    regions = model.project(box_means)  # (things, d)

    parts = region_losses(regions, phrases, data.things(indices), scale)
    # Multiplied by 0 and not left out: every parameter gets a gradient, and so its weight decay.
    image_weight = 1.0 if step >= data.phase.region_steps else 0.0
    region_weight = 1.0 if data.phase.regions else 0.0
    image_loss = image_weight * contrastive_loss(image, text, scale)
    is_right = (image @ text.T).argmax(1) == torch.arange(len(text), device=device)
    metrics = {"images": image_loss, "top1": is_right.float().mean(), **parts}
    return image_loss + region_weight * sum(parts.values()), metrics


def make_optimizer(model: CLIP) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on biases, norms and the scale."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": 0.05},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, LR, betas=(0.9, 0.98), eps=1e-6, fused=True)


def train_clip(
    model: CLIP, tokenizer: Tokenizer, phase: ClipPhase, dtype: torch.dtype, device: torch.device
) -> None:
    """Trains for one phase: on regions alone for `region_steps`, then also on whole images.

    Without `phase.regions` it trains on whole images alone."""
    model.to(device).train()
    data = ClipData(phase, tokenizer, model.vision_model.config)

    def backward(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss, metrics = clip_loss(model, data, step, device)
        loss.backward()
        return loss.detach(), metrics

    fit("clip", model, make_optimizer(model), phase.steps, backward, warmup=100)
    model.cpu().eval()


# Files


def save_clip(model: CLIP, tokenizer: Tokenizer, path: Path) -> None:
    """Writes a Hugging Face CLIP directory (float16)."""
    vision = model.vision_model.config
    projection = {"projection_dim": model.text_config.projection_dim}
    end_of_text = len(tokenizer)
    text_config = {
        "model_type": "clip_text_model",
        "hidden_act": "quick_gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
        **asdict(model.text_config),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end_of_text,
        "pad_token_id": end_of_text,
    }
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        **projection,
        "text_config": text_config,
        "vision_config": {**vision_config_json(vision), **projection},
    }
    save(model, config, WHOLE_CLIP, tokenizer, path)
    ImageConfig(vision.image_size).save_pretrained(path)


def load_clip(path: str | Path) -> tuple[CLIP, Tokenizer]:
    """Both towers and the tokenizer from a directory written by `save_clip`."""
    path = Path(path)
    values = read_json(path / "config.json")["text_config"]
    text = TextConfig(**{field.name: values[field.name] for field in fields(TextConfig)})
    model = CLIP(read_vision_config(path), text)
    load(model, path, WHOLE_CLIP, dtype=torch.float32)
    return model.eval(), Tokenizer.from_pretrained(path)


def scaled(steps: int, scale: float) -> int:
    """`scale` times as many steps, and at least one."""
    return max(1, round(steps * scale))


def with_regions(scale: float, images: int, seed: int) -> list[ClipPhase]:
    """The recipe of the shipped toy-clip: regions first, then whole images as well."""
    steps = scaled(2000, scale)
    return [
        ClipPhase(
            steps=steps, region_steps=steps * 2 // 5, batch=64, group=4, images=images, seed=seed
        ),
        # Then more images per step, in pairs that differ in one thing.
        ClipPhase(
            steps=scaled(900, scale), batch=96, group=2, images=images * 5 // 7, seed=seed + 1
        ),
    ]


def captions_only(scale: float, images: int, seed: int) -> list[ClipPhase]:
    """The loss of OpenAI's CLIP alone, for as many steps: for comparison.

    Images of one thing come first. There the caption's words have only one thing to belong to.
    """
    return [
        ClipPhase(
            steps=scaled(800, scale),
            regions=False,
            max_things=1,
            batch=64,
            group=4,
            images=images * 5 // 7,
            seed=seed + 2,
        ),
        ClipPhase(
            steps=scaled(1200, scale), regions=False, batch=64, group=4, images=images, seed=seed
        ),
        ClipPhase(
            steps=scaled(900, scale),
            regions=False,
            batch=96,
            group=2,
            images=images * 5 // 7,
            seed=seed + 1,
        ),
    ]


def pretrain_clip(
    out: Path,
    phases: list[ClipPhase],
    seed: int,
    dtype: torch.dtype,
    device: torch.device,
    vision: VisionConfig = VISION,
) -> None:
    """Trains a CLIP in these phases and writes it, with the command that made it, to `out`."""
    torch.manual_seed(seed)
    tokenizer = make_caption_tokenizer(seed)
    model = CLIP(vision, TextConfig(vocab_size=len(tokenizer) + 1))
    for phase in phases:
        train_clip(model, tokenizer, phase, dtype, device)
    save_clip(model, tokenizer, out)
    made_by(out, command_line(sys.argv))


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.toyland pretrain --help")
