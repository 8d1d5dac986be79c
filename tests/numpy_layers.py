"""Layers in NumPy, for tests that derive a connector again without the package."""

import math

import numpy as np
import torch

Weights = dict[str, np.ndarray]


def weights_of(module: torch.nn.Module) -> Weights:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def part(weights: Weights, prefix: str) -> Weights:
    """The weights whose names begin with `prefix`, without it."""
    names = [name for name in weights if name.startswith(prefix)]
    return {name.removeprefix(prefix): weights[name] for name in names}


def linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    y = x @ weights[f"{name}.weight"].T
    if f"{name}.bias" in weights:
        y = y + weights[f"{name}.bias"]
    return y


def layer_norm(x: np.ndarray, weights: Weights, name: str, eps: float = 1e-5) -> np.ndarray:
    mean = x.mean(-1, keepdims=True)
    variance = x.var(-1, keepdims=True)
    normalized = (x - mean) / np.sqrt(variance + eps)
    return normalized * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, mask: np.ndarray | None = None
) -> np.ndarray:
    """Heads of q (T, heads * E) over k and v (S, heads * E), one by one; `mask` (T, S)."""
    E = q.shape[1] // heads
    outputs = []
    for h in range(heads):
        own = slice(h * E, (h + 1) * E)  # the channels of this head
        scores = q[:, own] @ k[:, own].T / np.sqrt(E)
        if mask is not None:
            scores = np.where(mask, scores, -np.inf)
        outputs.append(softmax(scores) @ v[:, own])
    return np.concatenate(outputs, axis=1)
