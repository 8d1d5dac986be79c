"""A tiny Vicuna made from nothing: first copying, then text-only dialogues about scenes told in words."""

import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .. import weights
from ..config import LlamaConfig
from ..conversation import IGNORE_INDEX, VICUNA_SYSTEM, encode
from ..llama import Llama
from ..tokenizer import Tokenizer, train_bpe
from .captions import captions, plural
from .fit import fit, pad, save
from .scenes import KINDS, Scene, scenes
from .teacher import conversation, detail, dialogue, facts_told, instructions, questions, shares

LLAMA = LlamaConfig(704, 128, 384, num_hidden_layers=5, num_attention_heads=4, max_position_embeddings=1024)


def make_tokenizer(seed: int) -> Tokenizer:
    """A byte-fallback BPE of Toyland's language, trained on captions and the teacher's questions and answers."""
    rng = random.Random(f"tokenizer/{seed}")
    texts = [VICUNA_SYSTEM + " USER: ASSISTANT:"] * 3000  # whole words of it must win merges
    for scene in scenes("train", 2000, seed):
        facts = facts_told(scene, rng)
        texts += captions(scene, rng)
        texts += [f"{qa.question} {qa.answer}" for found in questions(facts, rng).values() for qa in found]
        texts.append(detail(facts))
    return train_bpe(texts, LLAMA.vocab_size)


def in_words(scene: Scene, rng: random.Random) -> str:
    """A description that tells every fact of the scene: one of the two full captions, or the detailed description."""
    return rng.choice((captions(scene, rng)[0], captions(scene, rng)[2], detail(facts_told(scene, rng))))


def copy_batch(rng, batch: int, vocab: int, length: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Random words written twice, the second time forwards or backwards, with the loss on the second copy.

    Forwards makes heads that find a word and read what follows it; backwards, what stands before it ("red" cat).
    """
    rows = [rng.sample(range(3, vocab), rng.randint(8, length)) for _ in range(batch)]
    ids = [[1, *r, *(r if i % 2 else r[::-1])] for i, r in enumerate(rows)]
    # The first word of the copy tells the direction; it is not trained.
    labels = [[IGNORE_INDEX] * (len(r) + 2) + row[len(r) + 2 :] for r, row in zip(rows, ids, strict=True)]
    return pad(ids, 0), pad(labels, IGNORE_INDEX)


def dialogue_batch(rng, batch: int, tokenizer, pool: list[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
    """Dialogues about scenes of the pool: mostly eight short answers, sometimes reasons or a retelling in detail.

    Full scenes come oftener: among several things, an answer must be looked up.
    """
    rows = []
    for scene in rng.choices(pool, weights=[len(s.things) for s in pool], k=batch):
        facts = facts_told(scene, rng)
        if rng.random() < 0.9:
            told = conversation(facts, rng, inventory=0.6)
        else:
            told = instructions(facts, rng, rng.choice(("complex", "detail")))
        rows.append(encode(dialogue(in_words(scene, rng), told), tokenizer))
    return pad([r[0] for r in rows], 0), pad([r[1] for r in rows], IGNORE_INDEX)


def train_vicuna(phases, batch: int, seed: int, dtype, device):
    """Trains the decoder and returns it with its tokenizer.

    Phases are ("copies", most steps, learning rate), which ends when copying is learnt, and ("dialogues", steps, peak).
    """
    torch.manual_seed(seed)
    rng = random.Random(f"vicuna/{seed}")
    tokenizer = make_tokenizer(seed)
    pool = list(scenes("train", 16000, seed))
    model = Llama(LLAMA).to(device)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            out = name.endswith(("o_proj.weight", "down_proj.weight"))  # residual branches start smaller
            nn.init.normal_(p, std=0.02 / (math.sqrt(2 * LLAMA.num_hidden_layers) if out else 1.0))
    with torch.no_grad():  # a plural begins as its singular's vector: the tokenizer sees no kinship in them
        for kind in KINDS:
            one, many = (tokenizer.encode(f"a {word}")[-1] for word in (kind, plural(kind)))
            model.model.embed_tokens.weight[many] = model.model.embed_tokens.weight[one]
    for phase, steps, lr in phases:
        optimizer = torch.optim.AdamW(model.parameters(), lr, (0.9, 0.98), weight_decay=0.01, fused=True)

        def losses(step: int, copying=phase == "copies"):
            if copying:
                ids, labels = copy_batch(rng, 2 * batch, LLAMA.vocab_size)
            else:
                ids, labels = dialogue_batch(rng, batch, tokenizer, pool)
            ids, labels = ids.to(device), labels.to(device)
            trained = labels[:, 1:] != IGNORE_INDEX  # the head runs on their places alone
            logits = model.lm_head(model.model(model.model.embed_tokens(ids))[:, :-1][trained])
            return F.cross_entropy(logits.float(), labels[:, 1:][trained]), {}

        enough = 0.9 if phase == "copies" else None
        fit(f"vicuna, {phase}", model, optimizer, steps, losses, 50, dtype, device, enough)
    return model.cpu().eval(), tokenizer


def save_vicuna(model: Llama, tokenizer: Tokenizer, path: Path) -> None:
    """Writes a Hugging Face Llama directory (float16)."""
    special = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    config = {"architectures": ["LlamaForCausalLM"], **model.config.to_dict(), **special}
    save(model, config, weights.LLAMA, tokenizer, path)


@torch.no_grad()
def text_accuracy(model: Llama, tokenizer: Tokenizer, count: int = 300, seed: int = 0) -> dict[str, float]:
    """Share of questions about held-out descriptions whose whole answer is the most likely one, by type.

    That is the same as greedy generation giving exactly this answer and its end token.
    """
    rng = random.Random(f"text/{seed}")
    right: dict[str, list[bool]] = {}
    for scene in scenes("test", count, seed, unseen=False):
        description = in_words(scene, rng)
        chosen = [rng.choice(found) for found in questions(facts_told(scene, rng), rng).values() if found]
        rows = [encode(dialogue(description, [qa]), tokenizer) for qa in chosen]
        ids, labels = pad([r[0] for r in rows], 0), pad([r[1] for r in rows], IGNORE_INDEX)[:, 1:]
        exact = ((model(ids)[:, :-1].argmax(-1) == labels) | (labels == IGNORE_INDEX)).all(1)
        for qa, good in zip(chosen, exact.tolist(), strict=True):
            right.setdefault(qa.type, []).append(good)
    return shares(right)
