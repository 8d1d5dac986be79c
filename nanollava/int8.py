"""Int8 weights: one byte a weight, one scale an output channel; the arithmetic stays in the model's dtype."""

import torch
import torch.nn.functional as F
from torch import nn


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, in) to int8 and scales (out,): round(w / s), s the row's largest magnitude / 127. Every weight is off by s / 2
    at most, and by what s loses where it is kept in the model's dtype."""
    weight = weight.float()
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


class Int8Linear(nn.Module):
    """y = (x Q^T) * s: a row of W is s * Q, and s can wait until after the sum (of x / 128: in fp16 it would overflow)."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor):
        super().__init__()
        self.weight, self.scale = (nn.Parameter(t, requires_grad=False) for t in (weight, scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x / 128, self.weight.to(x.dtype)) * (self.scale * 128)


def convert(layers: nn.Module) -> None:
    """Replaces every linear layer inside; where the weights have yet to be loaded, `hf_load.load` quantises each as it comes."""
    for module in list(layers.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                w = child.weight.detach()
                rounded, scale = (w.to(torch.int8), w[:, 0]) if w.is_meta else quantise(w)
                setattr(module, name, Int8Linear(rounded, scale.to(w.dtype)))
