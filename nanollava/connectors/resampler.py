"""Flamingo's perceiver resampler: a few learned latents read all patches of an image.

Equations of a layer, with LN for a LayerNorm, x for the patches (P, D), z for the latents (L, D):

    z <- z + W_o Attention(q = W_q LN(z), k = W_k [LN(x); LN(z)], v = W_v [LN(x); LN(z)])
    z <- z + W_2 gelu(W_1 LN(z))

After the last layer: LN(z). The patches themselves are never updated, and the number of latents
does not depend on theirs. Sources: Flamingo (Alayrac et al. 2022, section 2.1 and appendix
A.1.1), with the sizes of OpenFlamingo: 64 latents, 6 layers, 8 heads of 64, no biases.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..projector import Connector

HEADS = 8
HEAD_WIDTH = 64  # whatever the width of the tower


class ResamplerAttention(nn.Module):
    """The latents look at the patches and at themselves."""

    def __init__(self, width: int):
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.norm_patches = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(width, inner, bias=False)
        self.v_proj = nn.Linear(width, inner, bias=False)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Latents z (N, L, D) and patches x (N, P, D) to an update of z."""
        x = self.norm_patches(x)
        z = self.norm_latents(z)
        both = torch.cat([x, z], dim=1)  # (N, P + L, D)
        q = split_heads(self.q_proj(z))  # (N, heads, L, E)
        k = split_heads(self.k_proj(both))  # (N, heads, P + L, E)
        v = split_heads(self.v_proj(both))
        y = F.scaled_dot_product_attention(q, k, v)  # softmax(q k^T / sqrt(E)) v
        return self.out_proj(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """W_2 gelu(W_1 LN(z)), four times as wide inside."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width, bias=False)
        self.fc2 = nn.Linear(4 * width, width, bias=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(z))))


class ResamplerLayer(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.attention = ResamplerAttention(width)
        self.feed_forward = FeedForward(width)

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        z = z + self.attention(z, x)
        return z + self.feed_forward(z)


class PerceiverResampler(nn.Module):
    """Patches (N, P, D) of any number to latents (N, L, D)."""

    def __init__(self, width: int, num_latents: int = 64, num_layers: int = 6):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(num_latents, width))  # as in OpenFlamingo
        self.layers = nn.ModuleList([ResamplerLayer(width) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.latents.to(x.dtype).expand(len(x), -1, -1)  # (N, L, D)
        for layer in self.layers:
            z = layer(z, x)
        return self.norm(z)


class ResamplerConnector(Connector):
    """A perceiver resampler, and a linear map of its latents to word-like vectors.

    Flamingo itself reads the latents by cross-attention: see gated_xattn.py.
    """

    def __init__(self, vision_width: int, text_width: int, num_latents: int, num_layers: int):
        super().__init__()
        self.resampler = PerceiverResampler(vision_width, num_latents, num_layers)
        self.linear = nn.Linear(vision_width, text_width)

    def forward(self, Z_v: torch.Tensor) -> torch.Tensor:
        """Image features Z_v (N, P, vision_width) to H_v (N, L, text_width)."""
        return self.linear(self.resampler(Z_v))


def split_heads(x: torch.Tensor) -> torch.Tensor:
    """(N, T, heads * E) -> (N, heads, T, E)."""
    return x.unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2)
