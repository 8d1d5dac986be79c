"""What toy-clip and toy-vicuna share: padding, the loop that trains them, and the directory they are written to."""

import math
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from .. import weights
from ..config import write_json
from ..tokenizer import Tokenizer


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=value)


def fit(name: str, model, optimizer, steps: int, losses, warmup: int, dtype, device, enough=None) -> None:
    """Takes `steps` optimizer steps; `losses(step)` is the loss and what the progress bar shows beside it.

    The learning rate rises over `warmup` steps and falls by a cosine to 2%. With `enough` it stays, until exp(-loss),
    which is the share of tokens that are right, has come to that much on the average of some ten steps.
    """
    peak, right = optimizer.param_groups[0]["lr"], 0.0
    bar = tqdm(range(steps), desc=name, mininterval=5)
    for step in bar:
        fall = 1.0 if enough else 0.51 + 0.49 * math.cos(math.pi * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / warmup) * fall
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss, shown = losses(step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            bar.set_postfix(
                {"loss": f"{loss.item():.3f}", **{k: f"{v.item():.2f}" for k, v in shown.items()}}
            )
        right = 0.9 * right + 0.1 * math.exp(-loss.item()) if enough else right
        if enough and right > enough:
            break


def save(model: nn.Module, config: dict, layout: weights.Layout, tokenizer: Tokenizer, path: Path) -> None:
    """Writes a Hugging Face directory (float16)."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", config)
    weights.save({name: tensor.half() for name, tensor in model.state_dict().items()}, path, layout)
    tokenizer.save_pretrained(path)
