"""mPLUG-Owl's visual abstractor: queries read the patches and themselves in one attention.

Equations of a layer, with LN for a LayerNorm, x for the patches (P, D), z for the queries (Q, D):

    z <- LN(z)
    z <- z + W_o Attention(q = W_q z, k = W_k [z; LN(x)], v = W_v [z; LN(x)])
    z <- z + W_2 LN(silu(W_1 LN(z)) * W_3 LN(z))

The residual starts from the normalized queries, there is no separate self-attention, and the
SwiGLU has a norm inside. Biases are left out above: every linear map has one. At the end a linear
map into the width of the language model, and one learned vector that ends the image. Source:
mPLUG-Owl (Ye et al. 2023), with its published sizes: 64 queries, 6 layers, 16 heads, and as wide
as the tower.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..projector import Connector

MLP_NORM_EPS = 1e-6  # of the norm inside the SwiGLU; the others have torch's default
MLP_RATIO = 4


class AbstractorAttention(nn.Module):
    """Attention of the queries to themselves and to the patches, all of them normalized before."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Queries z (N, Q, D) and patches x (N, P, D) to an update of z."""
        both = torch.cat([z, x], dim=1)  # (N, Q + P, D)
        q = self.split_heads(self.q_proj(z))  # (N, heads, Q, E)
        k = self.split_heads(self.k_proj(both))  # (N, heads, Q + P, E)
        v = self.split_heads(self.v_proj(both))
        y = F.scaled_dot_product_attention(q, k, v)  # softmax(q k^T / sqrt(E)) v
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, D) -> (N, heads, T, E)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class AbstractorMLP(nn.Module):
    """SwiGLU with a norm inside: W_2 LN(silu(W_1 z) * W_3 z)."""

    def __init__(self, width: int):
        super().__init__()
        hidden = MLP_RATIO * width
        self.w1 = nn.Linear(width, hidden)
        self.w3 = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden, MLP_NORM_EPS)
        self.w2 = nn.Linear(hidden, width)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.w2(self.norm(F.silu(self.w1(z)) * self.w3(z)))


class AbstractorLayer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm_queries = nn.LayerNorm(width)
        self.norm_patches = nn.LayerNorm(width)
        self.attention = AbstractorAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = AbstractorMLP(width)

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        z = self.norm_queries(z)  # not a pre-norm: the residual starts here
        z = z + self.attention(z, self.norm_patches(x))
        return z + self.mlp(self.norm_mlp(z))


class Abstractor(Connector):
    """Image features (N, P, vision_width) to num_queries + 1 word-like vectors per image."""

    def __init__(
        self,
        vision_width: int,
        text_width: int,
        heads: int,
        num_queries: int = 64,
        num_layers: int = 6,
    ):
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, vision_width))
        layers = [AbstractorLayer(vision_width, heads) for _ in range(num_layers)]
        self.layers = nn.ModuleList(layers)
        self.linear = nn.Linear(vision_width, text_width)
        self.end_of_image = nn.Parameter(0.02 * torch.randn(1, text_width))

    def forward(self, Z_v: torch.Tensor) -> torch.Tensor:
        """Image features Z_v (N, P, vision_width) to H_v (N, Q + 1, text_width)."""
        N = len(Z_v)
        z = self.queries.to(Z_v.dtype).expand(N, -1, -1)  # (N, Q, vision_width)
        for layer in self.layers:
            z = layer(z, Z_v)
        H_v = self.linear(z)
        end = self.end_of_image.to(H_v.dtype).expand(N, -1, -1)  # (N, 1, text_width)
        return torch.cat([H_v, end], dim=1)
