"""Pretrains toy-vicuna, a tiny Vicuna: `python -m nanollava.toyland pretrain --only vicuna`.

The decoder learns to answer questions about scenes that are described in words. To answer "where is
the cat?" it must represent what is asked, find that name in the description, and collect there what
belongs to it. None of these skills helps without the others, and learning all at once takes too
long. So they come one after another, in plain language; see PHASES.
"""

import math
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..config import LlamaConfig
from ..conversation import IGNORE_INDEX, encode
from ..errors import exit_with
from ..files import command_line, made_by
from ..hf.config import llama_config_json
from ..hf.names import LLAMA as LLAMA_LAYOUT
from ..llama import Llama
from ..tokenizer import Tokenizer
from .captions import WORDS, captions, plural
from .dialogues import dialogue
from .plain import plain_instructions, plain_questions
from .pretrain import SPECIAL_TOKENS, VOCAB_SIZE, fit, make_tokenizer, pad, save
from .scenes import KINDS, Scene, scenes
from .teacher import detail, facts_from_captions

LLAMA = LlamaConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=5,
    num_attention_heads=4,
    max_position_embeddings=1024,
)
SCENES = 16000  # that the dialogues are about
BATCH = 32  # rows per step of the last phase; earlier phases have more or fewer

# A training row: token ids, and labels that are IGNORE_INDEX where no loss is taken.
Row = tuple[list[int], list[int]]

# Groups of question types; a drill asks questions of one group.
LOOK_UPS = ("color", "position", "distance")  # of a thing, by its name
HARDER = (  # by something else than the name, or put together from several facts
    ("what",),
    ("relation",),
    ("count",),
    ("reason",),
    ("count", "weather", "place"),
)


# Descriptions of a scene, which come before the first question


def in_words(scene: Scene, rng: random.Random) -> str:
    """Every fact of the scene in sentences: a full caption or the detailed description."""
    # Drawn twice only to keep the random numbers, and with them the shipped toy-vicuna.
    first = captions(scene, rng)[0]
    third = captions(scene, rng)[2]
    description = detail(facts_from_captions(scene, rng))
    return rng.choice((first, third, description))


def fact_by_fact(scene: Scene, rng: random.Random) -> str:
    """Every fact next to the thing's name: "in front cat, red cat, on the left cat, ..."."""
    parts = []
    for thing in scene.things:
        facts = []
        for words in (thing.color, WORDS[thing.side], WORDS[thing.distance]):
            facts.append(f"{words} {thing.kind}")
        parts += rng.sample(facts, 3)
    return ", ".join(parts) + "."


def mostly_in_words(scene: Scene, rng: random.Random) -> str:
    if rng.random() < 0.75:
        return in_words(scene, rng)
    return fact_by_fact(scene, rng)


# Training rows


def copies(rng: random.Random, count: int, vocab_size: int, length: int = 48) -> list[Row]:
    """Random tokens written twice, with the loss on the second copy.

    Odd rows repeat the tokens forwards, which makes attention heads that find a token and read
    what follows it. Even rows repeat them backwards: what comes before it ("red" before "cat").
    """
    ordinary_tokens = range(len(SPECIAL_TOKENS), vocab_size)
    all_words = []
    for _ in range(count):
        all_words.append(rng.sample(ordinary_tokens, rng.randint(8, length)))
    rows = []
    for i, words in enumerate(all_words):
        second = words if i % 2 == 1 else words[::-1]
        ids = [SPECIAL_TOKENS.index("<s>"), *words, *second]
        # The first token of the copy shows the direction; it cannot be predicted.
        ignored = 1 + len(words) + 1
        labels = [IGNORE_INDEX] * ignored + ids[ignored:]
        rows.append((ids, labels))
    return rows


def dialogues(rng: random.Random, count: int, tokenizer: Tokenizer, pool: list[Scene]) -> list[Row]:
    """Dialogues about scenes of the pool: mostly short answers, some reasons and descriptions.

    Full scenes are more frequent: among several things, an answer must be looked up.
    """
    weights = [len(scene.things) for scene in pool]
    rows = []
    for scene in rng.choices(pool, weights=weights, k=count):
        facts = facts_from_captions(scene, rng)
        response_type = "conversation"
        if rng.random() >= 0.9:
            response_type = rng.choice(("complex", "detail"))
        qas = plain_instructions(facts, rng, response_type, inventory=0.4)
        rows.append(encode(dialogue(in_words(scene, rng), qas), tokenizer))
    return rows


def drills(
    rng: random.Random,
    count: int,
    tokenizer: Tokenizer,
    pool: list[Scene],
    groups: list[tuple[str, ...]],
    describe: Callable[[Scene, random.Random], str] = in_words,
    brief: bool = False,
) -> list[Row]:
    """Dialogues of up to twelve questions, all of one of the groups of question types.

    Questions of one group hardly answer each other. `brief` answers are only the last word: "left"
    is one look-up, "on the left" three words that depend on it.
    """
    weights = [len(scene.things) ** 2 for scene in pool]
    rows = []
    for scene in rng.choices(pool, weights=weights, k=count):
        by_type = plain_questions(facts_from_captions(scene, rng), rng)
        qas = []
        for type in rng.choice(groups):
            qas += by_type[type]
        if not qas:
            qas = by_type["weather"]
        qas = rng.sample(qas, min(12, len(qas)))
        if brief:
            qas = [replace(qa, answer=qa.answer.split()[-1]) for qa in qas]
        rows.append(encode(dialogue(describe(scene, rng), qas), tokenizer))
    return rows


class Lessons:
    """Makes the training rows of one step for every phase; all phases share a random stream."""

    def __init__(self, rng: random.Random, tokenizer: Tokenizer, pool: list[Scene], batch: int):
        self.rng = rng
        self.tokenizer = tokenizer
        self.batch = batch
        self.pool = pool
        # Scenes in which every kind occurs only once, so that the name alone finds a thing.
        self.distinct_pool = []
        for scene in pool:
            kinds = {thing.kind for thing in scene.things}
            if len(kinds) == len(scene.things):
                self.distinct_pool.append(scene)

    def copies(self) -> list[Row]:
        return copies(self.rng, 2 * self.batch, LLAMA.vocab_size)

    def brief_drills(self, pool: list[Scene], groups: list, describe: Callable) -> list[Row]:
        count = self.batch * 3 // 4
        return drills(self.rng, count, self.tokenizer, pool, groups, describe, brief=True)

    def facts_one_by_one(self) -> list[Row]:
        return self.brief_drills(self.distinct_pool, [LOOK_UPS], fact_by_fact)

    def facts_in_sentences(self) -> list[Row]:
        return self.brief_drills(self.distinct_pool, [LOOK_UPS], mostly_in_words)

    def by_name_or_side(self) -> list[Row]:
        return self.brief_drills(self.pool, [LOOK_UPS, ("what",)], in_words)

    def everything(self) -> list[Row]:
        half = self.batch // 2
        groups = [LOOK_UPS, *HARDER]
        rows = drills(self.rng, half, self.tokenizer, self.pool, groups)
        rows += dialogues(self.rng, self.batch - half, self.tokenizer, self.pool)
        return rows


@dataclass(frozen=True)
class Phase:
    """One phase of the curriculum."""

    name: str
    make_rows: Callable[[Lessons], list[Row]]  # the rows of one step
    max_steps: int
    stop_at: float | None = None  # ends it early, see `pretrain.fit`
    uses_plurals: bool = False


PHASES = (
    # Find an earlier token and copy what is next to it.
    Phase("copies", Lessons.copies, 1500, stop_at=0.98),
    # Brief answers from descriptions in which every fact is next to the name.
    Phase("facts one by one", Lessons.facts_one_by_one, 1000, stop_at=0.98),
    # The same from sentences, of scenes in which every kind occurs once.
    Phase("facts in sentences", Lessons.facts_in_sentences, 1500, stop_at=0.98),
    # By name or by side, in all scenes.
    Phase("by name or side", Lessons.by_name_or_side, 1500, stop_at=0.98),
    # Everything: whole answers, all types of questions, conversations.
    Phase("dialogues", Lessons.everything, 2400, uses_plurals=True),
)


# Loss and gradients


def text_loss(model: Llama, rows: list[Row], device: torch.device) -> torch.Tensor:
    """-sum of log p(x_t | x_<t) over the labelled tokens; logits are computed only for them."""
    ids = pad([ids for ids, _ in rows], 0).to(device)  # (B, T)
    labels = pad([labels for _, labels in rows], IGNORE_INDEX).to(device)  # (B, T)
    hidden_states = model.model(model.model.embed_tokens(ids))  # (B, T, D)
    # The state at t predicts the id at t + 1, as in LLaVA.loss.
    next_labels = labels[:, 1:]
    is_labelled = next_labels != IGNORE_INDEX  # (B, T - 1)
    labelled_states = hidden_states[:, :-1][is_labelled]  # (labels, D)
    logits = model.lm_head(labelled_states).float()  # (labels, vocab)
    return F.cross_entropy(logits, next_labels[is_labelled], reduction="sum")


def count_labels(rows: list[Row]) -> int:
    """How many tokens are labelled, without the first of each row, which nothing predicts."""
    count = 0
    for _, labels in rows:
        count += len([label for label in labels[1:] if label != IGNORE_INDEX])
    return count


def text_backward(
    model: Llama,
    rows: list[Row],
    threads: ThreadPoolExecutor,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Sets the gradients of the mean cross-entropy of the labelled tokens; returns the mean.

    On a CPU two threads take every second row each, in two chunks of similar lengths: there is
    little padding, and one core computes the small products as fast as two.
    """
    parameters = list(model.parameters())
    num_threads = 2 if device.type == "cpu" else 1
    num_chunks = num_threads  # per thread
    rows = sorted(rows, key=lambda row: len(row[0]))
    count = count_labels(rows)

    def loss_and_gradients(own_rows: list[Row]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        total = torch.zeros((), device=device)
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        chunk = max(1, math.ceil(len(own_rows) / num_chunks))
        for start in range(0, len(own_rows), chunk):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = text_loss(model, own_rows[start : start + chunk], device) / count
            chunk_gradients = torch.autograd.grad(loss, parameters)
            gradients = torch._foreach_add(gradients, chunk_gradients)
            total = total + loss.detach()
        return total, gradients

    parts = [rows[i::num_threads] for i in range(num_threads)]
    results = list(threads.map(loss_and_gradients, parts))
    for i, parameter in enumerate(parameters):
        parameter.grad = sum(gradients[i] for _, gradients in results)
    return sum(total for total, _ in results)


# Training


def initialize(model: Llama) -> None:
    """Normal weights; the layers that write to the residual stream start smaller (as GPT-2's)."""
    depth_scale = math.sqrt(2 * model.config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        if parameter.ndim != 2:
            continue
        std = 0.02
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std = 0.02 / depth_scale
        nn.init.normal_(parameter, std=std)


def copy_singulars_to_plurals(model: Llama, tokenizer: Tokenizer) -> None:
    """Gives the plurals their singulars' embeddings.

    The last phase asks for numbers. That "cats" belongs to "cat" shows in no spelling, as both are
    single tokens."""
    embeddings = model.model.embed_tokens.weight.data
    for kind in KINDS:
        singular = tokenizer.encode(f"a {kind}")[-1]
        many = tokenizer.encode(f"a {plural(kind)}")[-1]
        embeddings[many] = embeddings[singular]


def train_vicuna(
    scale: float, batch: int, seed: int, dtype: torch.dtype, device: torch.device
) -> tuple[Llama, Tokenizer]:
    """Trains the decoder through all PHASES; `scale` multiplies their numbers of steps."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(seed)
    pool = list(scenes("train", SCENES, seed))
    lessons = Lessons(random.Random(f"vicuna/{seed}"), tokenizer, pool, batch)
    model = Llama(LLAMA).to(device)
    initialize(model)
    threads_each = max(1, torch.get_num_threads() // 2)
    threads = ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=[threads_each])

    for phase in PHASES:
        if phase.uses_plurals:
            copy_singulars_to_plurals(model, tokenizer)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )

        def backward(step: int, phase: Phase = phase) -> tuple[torch.Tensor, dict]:
            rows = phase.make_rows(lessons)
            return text_backward(model, rows, threads, dtype, device), {}

        steps = max(1, round(phase.max_steps * scale))
        fit(
            f"vicuna, {phase.name}",
            model,
            optimizer,
            steps,
            backward,
            warmup=50,
            stop_at=phase.stop_at,
        )
    return model.cpu().eval(), tokenizer


def save_vicuna(model: Llama, tokenizer: Tokenizer, path: Path) -> None:
    """Writes a Hugging Face Llama directory (float16)."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        **llama_config_json(model.config),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": SPECIAL_TOKENS.index("<unk>"),
    }
    save(model, config, LLAMA_LAYOUT, tokenizer, path)


def pretrain_vicuna(
    out: Path, scale: float, seed: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Makes toy-vicuna and writes it, with the command that made it, to `out`."""
    model, tokenizer = train_vicuna(scale, BATCH, seed, dtype, device)
    save_vicuna(model, tokenizer, out)
    made_by(out, command_line(sys.argv))


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.toyland pretrain --help")
