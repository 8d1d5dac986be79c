"""Int8 weights: one byte a weight, one scale an output channel; the arithmetic stays in the model's dtype."""

import torch
import torch.nn.functional as F
from torch import nn


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, in) to int8 and scales (out,): round(w / s) where s is the row's largest magnitude / 127; so every weight is
    off by s / 2 at most."""
    weight = weight.float()
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


class Int8Linear(nn.Module):
    """y = (x Q^T) * s: a row of W is s * Q, and s, being the same for the whole row, can wait until after the sum."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor):
        super().__init__()
        self.weight, self.scale = (nn.Parameter(t, requires_grad=False) for t in (weight, scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype)) * self.scale


def convert(layers: nn.Module) -> None:
    """Replaces every linear layer inside; where the weights have yet to be loaded, `weights.load` quantises each as it comes."""
    for module in list(layers.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                w = child.weight.detach()
                rounded, scale = (w.to(torch.int8), w[:, 0]) if w.is_meta else quantise(w)
                setattr(module, name, Int8Linear(rounded, scale.to(w.dtype)))
