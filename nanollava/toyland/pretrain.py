"""toy-clip and toy-vicuna from nothing: `python -m nanollava.toyland pretrain`. Those beside this file: their MADE_BY.txt.

First what both share, then the tiny Vicuna (copying, looking facts up, then text-only dialogues about scenes told in
words), then the tiny CLIP (the package's ViT, a text tower, and the contrastive loss on pictures and captions).
"""

import json
import math
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from ..config import LlamaConfig, VisionConfig
from ..conversation import IGNORE_INDEX, VICUNA_SYSTEM, encode
from ..device import pick_device, pick_dtype
from ..files import made_by, read_json, write_json
from ..hf import files as hf_files
from ..hf import load as hf_load
from ..hf import names as hf_names
from ..hf.config import llama_config_json, vision_config_json
from ..image import ImageConfig, normalize
from ..llama import Llama
from ..tokenizer import BLANKS, DECODER, Tokenizer
from ..vit import CLIPBlock, CLIPEncoder, CLIPVisionTransformer
from .captions import WORDS, captions, plural
from .draw import draw
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
from .teacher import detail, dialogue, facts_told, instructions, questions


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(r) for r in rows], batch_first=True, padding_value=value
    )


def fit(name: str, model, optimizer, steps: int, backward, warmup: int, enough=None) -> None:
    """Takes `steps` optimizer steps; `backward(step)` leaves the gradients and gives the loss and what the progress bar
    shows beside it. The learning rate rises over `warmup` steps and falls by a cosine to 2%. With `enough` it stays, until exp(-loss), the share of
    tokens that are right, has come to that much on the average of some ten steps."""
    peak, right = optimizer.param_groups[0]["lr"], 0.0
    bar = tqdm(range(steps), desc=name, mininterval=5)
    for step in bar:
        fall = 1.0 if enough else 0.51 + 0.49 * math.cos(math.pi * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / warmup) * fall
        loss, shown = backward(step)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            bar.set_postfix({k: f"{v.item():.3f}" for k, v in {"loss": loss, **shown}.items()})
        if enough and (right := 0.9 * right + 0.1 * math.exp(-loss.item())) > enough:
            break


def save(
    model: nn.Module, config: dict, layout: hf_names.Layout, tokenizer: Tokenizer, path: Path
) -> None:
    """Writes a Hugging Face directory (float16)."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", config)
    hf_files.save(
        {name: tensor.half() for name, tensor in model.state_dict().items()}, path, layout
    )
    tokenizer.save_pretrained(path)


LLAMA = LlamaConfig(
    704, 128, 384, num_hidden_layers=5, num_attention_heads=4, max_position_embeddings=1024
)


def train_bpe(texts, vocab_size: int) -> Tokenizer:
    """A LLaMA-like byte-fallback BPE: <unk> <s> </s>, then 256 bytes, then merges."""
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = BLANKS
    words = pre_tokenizers.Split("▁", "merged_with_next")
    punctuation = pre_tokenizers.Split(Regex(r"[^\w▁]"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, punctuation])
    backend.decoder = DECODER
    reserved = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    options = dict(
        vocab_size=vocab_size, special_tokens=reserved, show_progress=False, max_token_length=24
    )
    backend.train_from_iterator(texts, trainers.BpeTrainer(**options))
    state = json.loads(backend.to_str())
    state["added_tokens"] = state["added_tokens"][:3]  # the bytes are ordinary tokens
    return Tokenizer(Backend.from_str(json.dumps(state)))


def make_tokenizer(seed: int) -> Tokenizer:
    """A byte-fallback BPE of Toyland's language, trained on captions and the teacher's questions and answers."""
    rng = random.Random(f"tokenizer/{seed}")
    texts = [VICUNA_SYSTEM + " USER: ASSISTANT:"] * 3000  # whole words of it must win merges
    for scene in scenes("train", 2000, seed):
        facts = facts_told(scene, rng)
        texts += captions(scene, rng)
        texts += [
            f"{qa.question} {qa.answer}" for found in questions(facts, rng).values() for qa in found
        ]
        texts.append(detail(facts))
    return train_bpe(texts, LLAMA.vocab_size)


def in_words(scene: Scene, rng: random.Random) -> str:
    """A description that tells every fact of the scene: one of the two full captions, or the detailed description."""
    return rng.choice(
        (captions(scene, rng)[0], captions(scene, rng)[2], detail(facts_told(scene, rng)))
    )


def copies(rng, count: int, vocab: int, length: int = 48) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of random words written twice, the second time forwards or backwards, with the loss on the second
    copy. Forwards makes heads that find a word and read what follows it; backwards, what stands before it ("red" cat)."""
    rows = [rng.sample(range(3, vocab), rng.randint(8, length)) for _ in range(count)]
    ids = [[1, *r, *(r if i % 2 else r[::-1])] for i, r in enumerate(rows)]
    # The first word of the copy tells the direction; it is not trained.
    return [
        (i, [IGNORE_INDEX] * (len(r) + 2) + i[len(r) + 2 :]) for r, i in zip(rows, ids, strict=True)
    ]


def dialogues(rng, count: int, tokenizer, pool: list[Scene]) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of dialogues about scenes of the pool: mostly eight short answers, sometimes reasons or a retelling in
    detail. Full scenes come oftener: among several things, an answer must be looked up."""
    rows = []
    for scene in rng.choices(pool, weights=[len(s.things) for s in pool], k=count):
        facts = facts_told(scene, rng)
        kind = "conversation" if rng.random() < 0.9 else rng.choice(("complex", "detail"))
        told = instructions(facts, rng, kind, inventory=0.4)
        rows.append(encode(dialogue(in_words(scene, rng), told), tokenizer))
    return rows


def fact_by_fact(scene: Scene, rng: random.Random) -> str:
    """Every fact of every thing beside the thing's name: "in front cat, red cat, on the left cat, far away dog, ..."."""
    told = [
        [f"{words} {t.kind}" for words in (t.color, WORDS[t.side], WORDS[t.distance])]
        for t in scene.things
    ]
    return ", ".join(sum((rng.sample(facts, 3) for facts in told), [])) + "."


def drills(rng, count: int, tokenizer, pool: list[Scene], groups, describe=in_words, brief=False):
    """Ids and labels of dialogues of up to twelve questions, all of one of the `groups` of types, so that hardly an answer
    tells another. `brief` answers are the last word alone: "left" is one look-up, "on the left" three words that hang on it."""
    rows = []
    for scene in rng.choices(pool, weights=[len(s.things) ** 2 for s in pool], k=count):
        found = questions(facts_told(scene, rng), rng)
        asked = sum((found[type] for type in rng.choice(groups)), []) or found["weather"]
        asked = rng.sample(asked, min(12, len(asked)))
        asked = [replace(qa, answer=qa.answer.split()[-1]) for qa in asked] if brief else asked
        rows.append(encode(dialogue(describe(scene, rng), asked), tokenizer))
    return rows


def text_loss(model: Llama, rows: list[tuple[list[int], list[int]]], device) -> torch.Tensor:
    """Summed cross-entropy of the labelled tokens; the last MLP and the head run on their places alone."""
    ids, labels = zip(*rows, strict=True)
    ids, labels = pad(ids, 0).to(device), pad(labels, IGNORE_INDEX).to(device)
    trained = F.pad(labels[:, 1:] != IGNORE_INDEX, (0, 1))
    logits = model.lm_head(model.model(model.model.embed_tokens(ids), keep=trained))
    return F.cross_entropy(logits.float(), labels.roll(-1, 1)[trained], reduction="sum")


def text_backward(model: Llama, rows, pool: ThreadPoolExecutor, dtype, device) -> torch.Tensor:
    """Mean cross-entropy of the labelled tokens, whose gradients it leaves. On a CPU two threads take every second row each,
    in groups of like lengths: little padding, and small products that one core does as fast as two."""
    parameters, groups = list(model.parameters()), 2 if device.type == "cpu" else 1
    rows = sorted(rows, key=lambda row: len(row[0]))
    count = sum(label != IGNORE_INDEX for _, labels in rows for label in labels[1:])

    def half(mine: list) -> tuple[torch.Tensor, list[torch.Tensor]]:
        total, gradients, size = (
            torch.zeros((), device=device),
            None,
            max(1, -(-len(mine) // groups)),
        )
        for i in range(0, len(mine), size):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = text_loss(model, mine[i : i + size], device) / count
            found, total = torch.autograd.grad(loss, parameters), total + loss.detach()
            gradients = torch._foreach_add(gradients, found) if gradients else found
        return total, gradients

    totals, gradients = zip(*pool.map(half, [rows[i::groups] for i in range(groups)]), strict=True)
    for parameter, *parts in zip(parameters, *gradients, strict=True):
        parameter.grad = sum(parts)
    return sum(totals)


LOOK_UPS = ("color", "position", "distance")  # of a thing by its name
# Looked up by something else, or put together.
HARDER = (("what",), ("relation",), ("count",), ("reason",), ("count", "weather", "place"))


def train_vicuna(scale: float, batch: int, seed: int, dtype, device):
    """Trains the decoder and returns it with its tokenizer. For "where is the cat?" it must take up what is asked, find that name in
    the description, and have gathered there what belongs to it. None of these helps without the others, and all at once
    are not learnt in an hour. So they come one after another, each until it is learnt: copying; brief answers where every fact stands
    beside the name; the same from sentences, of scenes that hold a kind once; by name or side in all scenes; then everything."""
    torch.manual_seed(seed)
    rng, tokenizer = random.Random(f"vicuna/{seed}"), make_tokenizer(seed)
    pool = list(scenes("train", 16000, seed))
    alone = [scene for scene in pool if len({t.kind for t in scene.things}) == len(scene.things)]
    model = Llama(LLAMA).to(device)
    threads = ThreadPoolExecutor(
        2, initializer=torch.set_num_threads, initargs=[max(1, torch.get_num_threads() // 2)]
    )
    for name, p in model.named_parameters():
        if p.ndim == 2:
            out = name.endswith(
                ("o_proj.weight", "down_proj.weight")
            )  # residual branches start smaller
            nn.init.normal_(p, std=0.02 / (math.sqrt(2 * LLAMA.num_hidden_layers) if out else 1.0))

    def brief(scenes, groups, describe):
        return drills(rng, batch * 3 // 4, tokenizer, scenes, groups, describe, brief=True)

    def either(scene: Scene, rng: random.Random) -> str:
        return in_words(scene, rng) if rng.random() < 0.75 else fact_by_fact(scene, rng)

    def everything():
        drilled = drills(rng, batch // 2, tokenizer, pool, [LOOK_UPS, *HARDER])
        return drilled + dialogues(rng, batch - batch // 2, tokenizer, pool)

    phases = {  # rows of a step, most steps, and the share of right tokens that ends it
        "copies": (lambda: copies(rng, 2 * batch, LLAMA.vocab_size), 1500, 0.98),
        "facts one by one": (lambda: brief(alone, [LOOK_UPS], fact_by_fact), 1000, 0.98),
        "facts in sentences": (lambda: brief(alone, [LOOK_UPS], either), 1500, 0.98),
        "by name or side": (lambda: brief(pool, [LOOK_UPS, ("what",)], in_words), 1500, 0.98),
        "dialogues": (everything, 2400, None),
    }
    words = [[tokenizer.encode(f"a {word}")[-1] for word in (kind, plural(kind))] for kind in KINDS]
    for phase, (make, steps, enough) in phases.items():
        if (
            phase == "dialogues"
        ):  # which ask for numbers: "cats" begins as "cat", a kinship no spelling tells
            embedding = model.model.embed_tokens.weight.data
            for one, many in words:
                embedding[many] = embedding[one]
        optimizer = torch.optim.AdamW(
            model.parameters(), 2e-3, (0.9, 0.98), weight_decay=0.01, fused=True
        )

        def backward(step: int, make=make):
            return text_backward(model, make(), threads, dtype, device), {}

        fit(
            f"vicuna, {phase}", model, optimizer, max(1, round(steps * scale)), backward, 50, enough
        )
    return model.cpu().eval(), tokenizer


def save_vicuna(model: Llama, tokenizer: Tokenizer, path: Path) -> None:
    """Writes a Hugging Face Llama directory (float16)."""
    special = dict(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
    )
    config = {"architectures": ["LlamaForCausalLM"], **llama_config_json(model.config), **special}
    save(model, config, hf_names.LLAMA, tokenizer, path)


VISION = VisionConfig(100, 10, 160, 640, num_hidden_layers=6, num_attention_heads=2)
GRID = VISION.image_size // VISION.patch_size
LAYER = -2  # the hidden state that LLaVA will read
TEXT = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4)
TEXT |= dict(max_position_embeddings=80, projection_dim=128)
WHOLE = hf_names.Layout("CLIP", (("", ""),))  # both towers


class CLIPTextTransformer(nn.Module):
    """CLIP's causal text tower; the state at the end-of-text token stands for the caption."""

    def __init__(self, config: dict):
        super().__init__()
        D, heads = config["hidden_size"], config["num_attention_heads"]
        tokens = nn.Embedding(config["vocab_size"], D)
        positions = nn.Embedding(config["max_position_embeddings"], D)
        self.embeddings = nn.ModuleDict(
            {"token_embedding": tokens, "position_embedding": positions}
        )
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
            outs = [out for b in tower.encoder.layers for out in (b.self_attn.out_proj, b.mlp.fc2)]
            for out in outs:  # residual branches start small
                nn.init.normal_(out.weight, std=(len(outs) * out.in_features) ** -0.5)
        patches = self.vision_model.embeddings
        rest = self.visual_projection.weight, self.text_projection.weight
        for weight in (*rest, patches.class_embedding, patches.position_embedding.weight):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, projection_dim) of class tokens, or of regions, (N, D)."""
        return F.normalize(
            self.visual_projection(self.vision_model.post_layernorm(features)).float(), dim=-1
        )

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


# What may be said of a part of a picture: each fact's phrases are a contrast of their own.
FORMS = {"kind": "a {}", "color": "a {} thing", "side": "a thing {}", "distance": "a thing {}"}
PHRASES = {
    fact: [FORMS[fact].format(WORDS.get(v, v)) for v in values] for fact, values in FACTS.items()
}


def labels(things: list[Thing], fact: str) -> torch.Tensor:
    return torch.tensor([FACTS[fact].index(getattr(t, fact)) for t in things])


def under_box(box: tuple[float, float, float, float], grid: int) -> torch.Tensor:
    """Share of each patch (grid * grid,) in the mean over a box, by overlap."""
    edges = torch.arange(grid + 1) / grid
    across, down = (edges.clamp(*span).diff() for span in (box[::2], box[1::2]))
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
        slot = rng.choice(
            [s for s in SLOTS if s not in [(t.side, t.distance) for t in scene.things]]
        )
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
    return np.asarray(draw(scene, 2 * VISION.image_size).resize([VISION.image_size] * 2))  # bicubic


def to_pixel_values(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) bytes to CLIP's normalised (B, 3, H, W)."""
    return normalize(images.permute(0, 3, 1, 2).float(), ImageConfig())


def encode_captions(tokenizer: Tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, T) with BOS and the end of text (CLIP's last id), which also pads, and the place of each first end (B,)."""
    rows = [[tokenizer.bos_token_id, *tokenizer.encode(t), len(tokenizer)] for t in texts]
    return pad(rows, len(tokenizer)), torch.tensor([len(r) - 1 for r in rows])


def train_clip(
    model: CLIP, tokenizer, steps, parts_steps, batch, group, pictures, seed, lr, dtype, device
):
    """Trains CLIP for `steps`, the first `parts_steps` of them on the parts alone, then on pictures and parts together:
    mostly scenes of one place and weather, in groups that differ in one fact."""
    rng, groups = (
        random.Random(f"clip/{seed}"),
        pictures // group // len(SKIES),
    )  # of each place and weather
    model.to(device).train()
    pool = [scene for sky in SKIES for _ in range(groups) for scene in variants(rng, group, *sky)]
    print(f"drawing {len(pool):,} pictures ...", flush=True)
    with ProcessPoolExecutor(2) as processes:
        images = torch.from_numpy(np.stack(list(processes.map(pixels, pool, chunksize=64))))
    under = [torch.stack([under_box(t.box, GRID) for t in scene.things]) for scene in pool]
    said = [x.to(device) for x in encode_captions(tokenizer, sum(PHRASES.values(), []))]
    sides = (
        [p for p in model.parameters() if p.ndim >= 2],
        [p for p in model.parameters() if p.ndim < 2],
    )
    params = [
        {"params": p, "weight_decay": decay} for p, decay in zip(sides, (0.05, 0.0), strict=True)
    ]
    optimizer = torch.optim.AdamW(params, lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    # On the CPU the written-out attention has the faster backward pass.
    backends = (
        [SDPBackend.MATH] if device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    )

    def losses(step: int):
        alike = rng.random() < 0.85 and step >= parts_steps  # one place and weather
        first = rng.randrange(len(SKIES)) * groups if alike else 0
        among = range(first, first + groups) if alike else range(len(SKIES) * groups)
        chosen = rng.sample(among, min(batch // group, len(among)))
        index = [g * group + i for g in chosen for i in range(group)]
        wide = F.pad(to_pixel_values(images[index].to(device)), (3, 3, 3, 3), mode="replicate")
        moved = torch.roll(wide, [rng.randint(-3, 3) for _ in range(2)], (2, 3))[..., 3:-3, 3:-3]
        ids, ends = encode_captions(
            tokenizer, [captions(pool[i], rng)[rng.randrange(3)] for i in index]
        )
        things = [t for i in index for t in pool[i].things]
        with sdpa_kernel(backends):
            states = model.vision_model.hidden_states(moved)
            text = model.encode_text(ids.to(device), ends.to(device))
            phrases = model.encode_text(*said).split([*map(len, PHRASES.values())])
        image, scale = model.project(states[-1][:, 0]), model.logit_scale.exp().clamp(max=100)
        weight = torch.block_diag(*(under[i] for i in index)).to(device)  # (things, B * P)
        regions, parts = model.project(weight @ states[LAYER][:, 1:].flatten(0, 1).float()), {}
        for fact, words in zip(PHRASES, phrases, strict=True):
            words = F.normalize(
                words - words.mean(0), dim=-1
            )  # less what the phrases of a set share
            parts[fact] = F.cross_entropy(
                scale * regions @ words.T, labels(things, fact).to(device)
            )
        loss = contrastive_loss(image, text, scale) * (step >= parts_steps)
        top1 = (image @ text.T).argmax(1).eq(torch.arange(len(text), device=device)).float().mean()
        return loss + sum(parts.values()), {"pictures": loss, "top1": top1, **parts}

    def backward(step: int):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss, shown = losses(step)
        loss.backward()
        return loss.detach(), shown

    fit("clip", model, optimizer, steps, backward, 100)
    model.cpu().eval()


def save_clip(model: CLIP, tokenizer: Tokenizer, path: Path) -> None:
    """Writes a Hugging Face CLIP directory (float16)."""
    width, end = {"projection_dim": TEXT["projection_dim"]}, len(tokenizer)
    text = dict(model_type="clip_text_model", hidden_act="quick_gelu", layer_norm_eps=1e-5)
    text |= dict(
        model.text_config, bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end
    )
    config = dict(architectures=["CLIPModel"], model_type="clip", **width, text_config=text)
    save(
        model,
        {**config, "vision_config": vision_config_json(VISION) | width},
        WHOLE,
        tokenizer,
        path,
    )
    ImageConfig(VISION.image_size).save_pretrained(path)


def load_clip(path: Path) -> tuple[CLIP, Tokenizer]:
    """Both towers of a directory written by `save_clip`."""
    text = read_json(path / "config.json")["text_config"]
    model = CLIP(VISION, {name: text[name] for name in ("vocab_size", *TEXT)})
    hf_load.load(model, path, WHOLE, dtype=torch.float32)
    return model.eval(), Tokenizer.from_pretrained(path)


def pretrain(args) -> None:
    """What `python -m nanollava.toyland pretrain` does with its flags."""
    seed, out, device = args.seed, Path(args.out), pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    if args.only in (None, "clip"):
        torch.manual_seed(seed)
        tokenizer = make_tokenizer(seed)
        model = CLIP(VISION, {**TEXT, "vocab_size": len(tokenizer) + 1})
        steps, common = round(2000 * args.scale), (1e-3, dtype, device)
        train_clip(model, tokenizer, steps, steps * 2 // 5, 64, 4, args.pictures, seed, *common)
        steps, pictures = round(900 * args.scale), args.pictures * 5 // 7
        train_clip(model, tokenizer, steps, 0, 96, 2, pictures, seed + 1, *common)
        save_clip(model, tokenizer, out / "toy-clip")
        made_by(out / "toy-clip")
    if args.only in (None, "vicuna"):
        model, tokenizer = train_vicuna(args.scale, 32, seed, dtype, device)
        save_vicuna(model, tokenizer, out / "toy-vicuna")
        made_by(out / "toy-vicuna")
