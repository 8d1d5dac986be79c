"""Pretrains toy-vicuna, a tiny Vicuna: `python -m nanollava.toyland pretrain --only vicuna`.

The decoder learns to answer questions about scenes that are described in words. To answer "where is
the cat?" it must represent what is asked, find that name in the description, and collect there what
belongs to it. None of these skills helps without the others, and learning all at once takes too
long. So they come one after another; see PHASES.
"""

import math
import random
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
from ..files import made_by
from ..hf.config import llama_config_json
from ..hf.names import LLAMA as LLAMA_LAYOUT
from ..llama import Llama
from ..tokenizer import Tokenizer
from .captions import SPOT_FIRST, WEATHER_WORDS, WORDS, captions
from .dialogues import dialogue, instructions
from .plain import plain_questions
from .pretrain import VOCAB_SIZE, fit, make_tokenizer, pad, save
from .questions import KIND_OF_WORD, QA, kinds_in, questions
from .scenes import Scene, scenes
from .teacher import detail, facts_from_captions

LLAMA = LlamaConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=6,
    num_attention_heads=4,
    max_position_embeddings=1024,
)
SCENES = 16000  # that the dialogues are about
BATCH = 32  # rows per step of the last phase; earlier phases have more or fewer

FIRST_WORD = 3 + 256  # the first id behind the special tokens and the bytes

# A training row: token ids, and labels that are IGNORE_INDEX where no loss is taken.
Row = tuple[list[int], list[int]]

# Groups of question types; a drill asks questions of one group.
LOOK_UPS = ("color", "position", "distance")  # of a thing, by its name
HARDER = (  # by something else than the name, or put together from several facts
    ("what",),
    ("relation",),
    ("count",),
    ("presence",),
    ("count", "weather", "place"),
)


# Descriptions of a scene, which stand before the first question


def in_words(scene: Scene, rng: random.Random) -> str:
    """Every fact of the scene in sentences, in which the facts of a thing stand before its name.

    So the decoder can collect them at the name, just as a patch of an image has all facts of its
    thing. It cannot do so when they follow ("a cat on the left"): it only looks back.
    """
    caption = captions(scene, rng)[SPOT_FIRST]
    description = detail(facts_from_captions(scene, rng))
    return rng.choice((caption, description))


def fact_by_fact(scene: Scene, rng: random.Random) -> str:
    """Every fact next to the thing's name: "in front cat, red cat, on the left cat, ..."."""
    parts = []
    for thing in scene.things:
        facts = []
        for words in (thing.color, WORDS[thing.side], WORDS[thing.distance]):
            facts.append(f"{words} {thing.kind}")
        parts += rng.sample(facts, 3)
    return ", ".join(parts) + "."


def as_list(scene: Scene, rng: random.Random) -> str:
    """All facts one by one, also place and weather, as the patches of an image show them."""
    place = WORDS[scene.place]
    weather = rng.choice(WEATHER_WORDS[scene.weather])
    return f"{place}, {weather}, {fact_by_fact(scene, rng)}"


def as_list_or_in_words(scene: Scene, rng: random.Random) -> str:
    return rng.choice((as_list, in_words))(scene, rng)


# Training rows


def copies(rng: random.Random, count: int, vocab_size: int, length: int = 32) -> list[Row]:
    """Random tokens written twice, with the loss on the second copy.

    Odd rows repeat the tokens forwards, which makes attention heads that find a token and read
    what follows it. Even rows repeat them backwards: what stands before it ("red" before "cat").
    """
    all_words = []
    for _ in range(count):
        all_words.append(rng.sample(range(FIRST_WORD, vocab_size), rng.randint(8, length)))
    rows = []
    for i, words in enumerate(all_words):
        second = words if i % 2 == 1 else words[::-1]
        ids = [1, *words, *second]
        # The first token of the copy shows the direction; it cannot be predicted.
        ignored = 1 + len(words) + 1
        labels = [IGNORE_INDEX] * ignored + ids[ignored:]
        rows.append((ids, labels))
    return rows


def dialogues(rng: random.Random, count: int, tokenizer: Tokenizer, pool: list[Scene]) -> list[Row]:
    """Dialogues about scenes of the pool: mostly short answers, sometimes a retelling or reasons.

    Full scenes are more frequent: among several things, an answer must be looked up. Stage 1 needs
    the retellings: it has to find a W with which this model describes images.
    """
    weights = [len(scene.things) for scene in pool]
    rows = []
    for scene in rng.choices(pool, weights=weights, k=count):
        facts = facts_from_captions(scene, rng)
        types = ("conversation", "detail", "complex")
        response_type = rng.choices(types, weights=(0.6, 0.35, 0.05))[0]
        qas = instructions(facts, rng, response_type, inventory=0.4)
        rows.append(encode(dialogue(as_list_or_in_words(scene, rng), qas), tokenizer))
    return rows


def brief_answers(qas: list[QA]) -> list[QA]:
    """The questions about one thing that is there, with the last word of the short answer alone.

    "left" is one look-up, "on the left" three words that depend on it.
    """
    brief = []
    for qa in qas:
        is_sentence = qa.answer.endswith(".")
        if is_sentence or qa.answer == "nothing" or " and " in qa.answer:
            continue
        if len(kinds_in(qa)) == 1:
            last_word = qa.answer.split()[-1]
            brief.append(replace(qa, answer=last_word))
    return brief


def drills(
    rng: random.Random,
    count: int,
    tokenizer: Tokenizer,
    pool: list[Scene],
    groups: list[tuple[str, ...]],
    describe: Callable[[Scene, random.Random], str] = in_words,
    brief: bool = False,
    forms: str = "trained",
) -> list[Row]:
    """Dialogues of up to twelve questions, all of one of the groups of question types.

    Questions of one group hardly answer each other. With `brief`, only `brief_answers` are asked.
    `forms` is what `Writer` says of it, or "plain".
    """
    weights = [len(scene.things) ** 2 for scene in pool]
    rows = []
    for scene in rng.choices(pool, weights=weights, k=count):
        facts = facts_from_captions(scene, rng)
        by_type = plain_questions(facts, rng) if forms == "plain" else questions(facts, rng, forms)
        qas = []
        for type in rng.choice(groups):
            qas += by_type[type]
        if brief:
            qas = brief_answers(qas)
        if not qas:
            qas = by_type["weather"]
        qas = rng.sample(qas, min(12, len(qas)))
        rows.append(encode(dialogue(describe(scene, rng), qas), tokenizer))
    return rows


class Lessons:
    """Makes the training rows of one step for every phase."""

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

    def drills(self, share: float, pool: list[Scene], **arguments) -> list[Row]:
        """As many drills as the share of the batch says; their rows are longer than dialogues."""
        count = round(self.batch * share)
        return drills(self.rng, count, self.tokenizer, pool, **arguments)

    def look_ups(self, share: float, describe: Callable, forms: str) -> list[Row]:
        """Brief answers by name, about scenes in which every kind occurs once."""
        return self.drills(
            share, self.distinct_pool, groups=[LOOK_UPS], describe=describe, brief=True, forms=forms
        )

    def facts_one_by_one(self) -> list[Row]:
        return self.look_ups(0.75, fact_by_fact, "first")

    def facts_in_sentences(self) -> list[Row]:
        return self.look_ups(0.25, fact_by_fact, "first") + self.look_ups(0.5, in_words, "first")

    def in_all_forms(self) -> list[Row]:
        return self.look_ups(0.25, in_words, "first") + self.look_ups(0.5, in_words, "trained")

    def by_name_or_side(self) -> list[Row]:
        groups = [LOOK_UPS, ("what",)]
        return self.drills(0.75, self.pool, groups=groups, brief=True, forms="plain")

    def plain_drills(self, share: float) -> list[Row]:
        groups = [LOOK_UPS, *HARDER]
        return self.drills(
            share, self.pool, groups=groups, describe=as_list_or_in_words, forms="plain"
        )

    def whole_answers(self) -> list[Row]:
        return self.plain_drills(0.75)

    def everything(self) -> list[Row]:
        half = self.batch // 2
        rows = self.plain_drills(0.5)
        rows += dialogues(self.rng, half, self.tokenizer, self.pool)
        return rows


@dataclass(frozen=True)
class Phase:
    """One phase of the curriculum."""

    name: str
    make_rows: Callable[[Lessons], list[Row]]  # the rows of one step
    lr: float
    max_steps: int
    stop_at: float | None  # the mean probability of right tokens that ends it early


# Looking up comes first, then the many forms of a question. With all forms from the beginning, or
# with a higher learning rate, the model answers with any color of the description, or any side.
PHASES = (
    # Find an earlier token and copy what stands next to it.
    Phase("copies", Lessons.copies, 2e-3, 1500, stop_at=0.98),
    # Brief answers from descriptions in which every fact stands next to the name, of scenes in
    # which every kind occurs once. Every question has one form.
    Phase("facts one by one", Lessons.facts_one_by_one, 1e-3, 800, stop_at=0.93),
    Phase("facts in sentences", Lessons.facts_in_sentences, 1e-3, 700, stop_at=0.98),
    Phase("in all forms", Lessons.in_all_forms, 1e-3, 1800, stop_at=0.95),
    # By name or by side, in all scenes, in plain questions.
    Phase("by name or side", Lessons.by_name_or_side, 1e-3, 1200, stop_at=0.98),
    # Whole answers to plain questions of all types.
    Phase("whole answers", Lessons.whole_answers, 1e-3, 1000, stop_at=0.98),
    # Everything: whole answers, all types of questions in all forms, conversations.
    Phase("dialogues", Lessons.everything, 1.5e-3, 1400, stop_at=None),
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


def copy_kinds_to_other_words(model: Llama, tokenizer: Tokenizer) -> None:
    """Gives plurals and other names of kinds ("cats", "bike") the embeddings of the kinds.

    The last phase needs them. That "cats" belongs to "cat" shows in no spelling, as both are
    single tokens."""
    embeddings = model.model.embed_tokens.weight.data
    for word, kind in KIND_OF_WORD.items():
        a_word = tokenizer.encode(f"a {word}")
        a_kind = tokenizer.encode(f"a {kind}")
        if len(a_word) == len(a_kind):
            embeddings[a_word[-1]] = embeddings[a_kind[-1]]


def train_vicuna(
    scale: float, batch: int, seed: int, dtype: torch.dtype, device: torch.device
) -> tuple[Llama, Tokenizer]:
    """Trains the decoder through all PHASES; `scale` multiplies their numbers of steps."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(seed)
    pool = list(scenes("train", SCENES, seed))
    model = Llama(LLAMA).to(device)
    initialize(model)
    threads_each = max(1, torch.get_num_threads() // 2)
    threads = ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=[threads_each])

    for phase in PHASES:
        if phase.name == "dialogues":
            copy_kinds_to_other_words(model, tokenizer)
        lessons = Lessons(random.Random(seed + 1), tokenizer, pool, batch)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=phase.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )

        def backward(
            step: int, phase: Phase = phase, lessons: Lessons = lessons
        ) -> tuple[torch.Tensor, dict]:
            rows = phase.make_rows(lessons)
            return text_backward(model, rows, threads, dtype, device), {}

        steps = max(1, round(phase.max_steps * scale))
        fit(f"vicuna, {phase.name}", model, optimizer, steps, backward, 50, phase.stop_at)
    return model.cpu().eval(), tokenizer


def save_vicuna(model: Llama, tokenizer: Tokenizer, path: Path) -> None:
    """Writes a Hugging Face Llama directory (float16)."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        **llama_config_json(model.config),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": 0,
    }
    save(model, config, LLAMA_LAYOUT, tokenizer, path)


def pretrain_vicuna(
    out: Path, scale: float, seed: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Makes toy-vicuna and writes it, with the command that made it, to `out`."""
    model, tokenizer = train_vicuna(scale, BATCH, seed, dtype, device)
    save_vicuna(model, tokenizer, out)
    made_by(out)


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.toyland pretrain --help")
