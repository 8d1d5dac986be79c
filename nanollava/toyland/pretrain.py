"""What the pretraining of toy-clip and toy-vicuna has in common: tokenizer, optimizer loop, files.

`clip.py` and `vicuna.py` use it to make the two starting points from nothing.
"""

import json
import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from torch import nn
from tqdm import tqdm

from ..conversation import VICUNA_SYSTEM
from ..errors import exit_with
from ..hf import files as hf_files
from ..hf.names import Layout
from ..tokenizer import SPACE, Tokenizer, text_decoder
from .captions import captions
from .plain import plain_questions
from .scenes import scenes
from .teacher import detail, facts_from_captions

VOCAB_SIZE = 704
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]


def train_bpe(texts: list[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-fallback BPE as LLaMA's: <unk>, <s>, </s>, then 256 bytes, then merges."""
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    words = pre_tokenizers.Split(SPACE, "merged_with_next")
    punctuation = pre_tokenizers.Split(Regex(r"[^\w▁]"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, punctuation])
    backend.decoder = text_decoder(strips_space=True)
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS + byte_tokens,
        show_progress=False,
        max_token_length=24,
    )
    backend.train_from_iterator(texts, trainer)
    # The trainer knows reserved tokens only as special ones; the bytes become ordinary tokens.
    state = json.loads(backend.to_str())
    state["added_tokens"] = state["added_tokens"][: len(SPECIAL_TOKENS)]
    return Tokenizer(Backend.from_str(json.dumps(state)))


@cache
def make_tokenizer(seed: int) -> Tokenizer:
    """toy-vicuna's tokenizer, trained on captions and on plain questions and answers.

    Words that only people use ("photo", "kitten") are several tokens."""
    rng = random.Random(f"tokenizer/{seed}")
    # So many copies that whole words of the system prompt win merges.
    texts = [VICUNA_SYSTEM + " USER: ASSISTANT:"] * 3000
    for scene in scenes("train", 2000, seed):
        facts = facts_from_captions(scene, rng)
        texts += captions(scene, rng)
        for qas in plain_questions(facts, rng).values():
            for qa in qas:
                texts.append(f"{qa.question} {qa.answer}")
        texts.append(detail(facts))
    return train_bpe(texts, VOCAB_SIZE)


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
    """Rows of unequal length as one tensor (B, T), padded on the right with `value`."""
    tensors = [torch.tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


def cosine_decay(step: int, steps: int) -> float:
    """Half a cosine from 1 at step 0 down to 0.02 at the last step."""
    return 0.51 + 0.49 * math.cos(math.pi * step / steps)


def fit(
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    backward: Callable[[int], tuple[torch.Tensor, dict[str, torch.Tensor]]],
    warmup: int,
    stop_at: float | None = None,
) -> None:
    """Takes at most `steps` optimizer steps.

    `backward(step)` computes the gradients and returns the loss and further values for the
    progress bar. The learning rate is the optimizer's, times a linear warm-up over `warmup` steps,
    times a cosine over all steps. With `stop_at` there is no cosine, and training ends as soon as
    exp(-loss), the geometric mean of the right tokens' probabilities, exceeds `stop_at` on a
    running average over about ten steps.
    """
    peak_lr = optimizer.param_groups[0]["lr"]
    average = 0.0
    bar = tqdm(range(steps), desc=name, mininterval=5)
    for step in bar:
        decay = cosine_decay(step, steps) if stop_at is None else 1.0
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * min(1.0, (step + 1) / warmup) * decay
        loss, metrics = backward(step)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            values = {"loss": loss, **metrics}
            bar.set_postfix({key: f"{value.item():.3f}" for key, value in values.items()})
        if stop_at is not None:
            average = 0.9 * average + 0.1 * math.exp(-loss.item())
            if average > stop_at:
                break


def save(model: nn.Module, config: dict, layout: Layout, tokenizer: Tokenizer, path: Path) -> None:
    """Writes a Hugging Face directory: config.json, float16 weights and the tokenizer."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(path)
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    hf_files.save(state, path, layout, config)


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.toyland pretrain --help")
