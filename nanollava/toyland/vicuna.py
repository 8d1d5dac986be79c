"""A tiny Vicuna made from nothing: first copying, then text-only dialogues about scenes told in words."""

import math
import random

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from ..config import LlamaConfig
from ..conversation import IGNORE_INDEX, VICUNA_SYSTEM, encode
from ..llama import Llama
from ..tokenizer import Tokenizer, train_bpe
from .captions import boxes, captions, plural
from .scenes import KINDS, Scene, scenes
from .teacher import QA, conversation, detail, instructions, questions, read

LLAMA = LlamaConfig(
    vocab_size=704, hidden_size=128, intermediate_size=384, num_hidden_layers=5, num_attention_heads=4,
    max_position_embeddings=1024,
)  # fmt: skip


def facts_told(scene: Scene, rng: random.Random):
    """The teacher's view of a scene: what its captions and boxes tell."""
    return read(captions(scene, rng), boxes(scene))


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


def dialogue(description: str, qas: list[QA]) -> list[dict]:
    turns = []
    for i, qa in enumerate(qas):
        question = f"{description}\n{qa.question}" if i == 0 else qa.question
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": qa.answer}]
    return turns


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=value)


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


def text_loss(model: Llama, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean loss over the labelled tokens; the head runs on their places alone."""
    states = model.model(model.model.embed_tokens(ids))[:, :-1]
    trained = labels[:, 1:] != IGNORE_INDEX
    return F.cross_entropy(model.lm_head(states[trained]).float(), labels[:, 1:][trained])


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
    with (
        torch.no_grad()
    ):  # a plural begins as its singular's vector: to the tokenizer they are two unrelated words
        for kind in KINDS:
            one, many = (tokenizer.encode(f"a {word}")[-1] for word in (kind, plural(kind)))
            model.model.embed_tokens.weight[many] = model.model.embed_tokens.weight[one]
    for phase, steps, lr in phases:
        optimizer = torch.optim.AdamW(model.parameters(), lr, (0.9, 0.98), weight_decay=0.01, fused=True)
        copied = 0.0  # share of words copied right
        bar = tqdm(range(steps), desc=f"vicuna, {phase}", mininterval=5)
        for step in bar:
            copying = phase == "copies"
            if copying:
                ids, labels = copy_batch(rng, 2 * batch, LLAMA.vocab_size)
            else:
                ids, labels = dialogue_batch(rng, batch, tokenizer, pool)
            ids, labels = ids.to(device), labels.to(device)
            fall = 1.0 if copying else 0.51 + 0.49 * math.cos(math.pi * step / steps)
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / 50) * fall
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = text_loss(model, ids, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % 10 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
            copied = 0.9 * copied + 0.1 * math.exp(-loss.item())
            if copying and copied > 0.9:
                break
    return model.cpu().eval(), tokenizer


@torch.no_grad()
def text_accuracy(model: Llama, tokenizer: Tokenizer, count: int = 300, seed: int = 0) -> dict[str, float]:
    """Share of questions about held-out descriptions whose whole answer is the most likely one, by type.

    That is the same as greedy generation giving exactly this answer and its end token.
    """
    rng = random.Random(f"text/{seed}")
    asked, right = {}, {}
    for scene in scenes("test", count, seed, unseen=False):
        description = in_words(scene, rng)
        chosen = [rng.choice(found) for found in questions(facts_told(scene, rng), rng).values() if found]
        rows = [encode(dialogue(description, [qa]), tokenizer) for qa in chosen]
        ids, labels = pad([r[0] for r in rows], 0), pad([r[1] for r in rows], IGNORE_INDEX)
        guess = model(ids)[:, :-1].argmax(-1)
        exact = ((guess == labels[:, 1:]) | (labels[:, 1:] == IGNORE_INDEX)).all(1)
        for qa, good in zip(chosen, exact.tolist(), strict=True):
            asked[qa.type] = asked.get(qa.type, 0) + 1
            right[qa.type] = right.get(qa.type, 0) + good
    result = {kind: right[kind] / asked[kind] for kind in asked}
    return {"overall": sum(right.values()) / sum(asked.values()), **result}
