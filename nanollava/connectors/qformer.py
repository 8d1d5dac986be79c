"""BLIP-2's Q-Former: a BERT whose queries read an image by cross-attention.

It takes queries, text, or both in one sequence. Equations of a layer, with LN for a LayerNorm, q
for the queries, t for the text and x for the patches, which are normalized once, x <- LN(x):

    [q; t] <- LN([q; t] + SelfAttention([q; t]))          masked as the task wants it
    q      <- LN(q + CrossAttention(q, x))                in layers 0, 2, 4 ..., queries only
    q      <- LN(q + W_2 gelu(W_1 q)),  t <- LN(t + W'_2 gelu(W'_1 t))

Before the first layer: [q; t] <- LN([q; t]). After the last: H_v = W q. Biases are left out: every
linear map has one. The norm comes after each residual sum, as in BERT. Queries and text share the
self-attention, and have feed-forwards of their own. Source: BLIP-2 (Li et al. 2023), with its
sizes: 32 queries, 12 layers of width 768, 12 heads, 3072 wide inside. Its three training objectives
are in qformer_objectives.py.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..config import QFORMER_HEAD_WIDTH
from ..projector import Connector

NORM_EPS = 1e-12  # BERT's
INIT_STD = 0.02  # BERT's
CROSS_ATTENTION_EVERY = 2  # layers


class Attention(nn.Module):
    """LN(x + W_o softmax(Q K^T / sqrt(E)) V), E the width of a head.

    Q = W_q x; K = W_k source and V = W_v source.
    """

    def __init__(self, width: int, source_width: int):
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(source_width, width)
        self.v_proj = nn.Linear(source_width, width)
        self.out_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, NORM_EPS)

    def forward(
        self, x: torch.Tensor, source: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x (N, T, D) attends to source (N, S, source_width) where `mask` is True.

        The mask is (N, 1, T, S), or (N, 1, 1, S) if it is the same for all of x."""
        q = split_heads(self.q_proj(x))  # (N, heads, T, E)
        k = split_heads(self.k_proj(source))  # (N, heads, S, E)
        v = split_heads(self.v_proj(source))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.norm(x + self.out_proj(y.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """LN(x + W_2 gelu(W_1 x)), four times as wide inside."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, NORM_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.fc2(F.gelu(self.fc1(x))))


class QFormerLayer(nn.Module):
    def __init__(self, width: int, vision_width: int, has_cross_attention: bool, has_text: bool):
        super().__init__()
        self.self_attention = Attention(width, width)
        self.cross_attention = None
        if has_cross_attention:
            self.cross_attention = Attention(width, vision_width)
        self.feed_forward = FeedForward(width)
        self.text_feed_forward = None
        if has_text:
            self.text_feed_forward = FeedForward(width)

    def forward(
        self,
        x: torch.Tensor,
        num_queries: int,
        patches: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """x (N, Q + T, D), the `num_queries` queries first; patches (N, P, vision_width)."""
        x = self.self_attention(x, x, mask)  # (N, Q + T, D)
        queries = x[:, :num_queries]
        text = x[:, num_queries:]
        parts = []
        if num_queries > 0:
            if self.cross_attention is not None:
                queries = self.cross_attention(queries, patches)
            parts.append(self.feed_forward(queries))
        if text.shape[1] > 0:
            parts.append(self.text_feed_forward(text))
        return torch.cat(parts, dim=1)


class QFormer(nn.Module):
    """The body: layers over queries, text, or both. `has_text` adds what only text needs."""

    def __init__(self, width: int, vision_width: int, num_layers: int = 12, has_text: bool = False):
        super().__init__()
        self.norm = nn.LayerNorm(width, NORM_EPS)
        layers = []
        for i in range(num_layers):
            has_cross_attention = i % CROSS_ATTENTION_EVERY == 0
            layers.append(QFormerLayer(width, vision_width, has_cross_attention, has_text))
        self.layers = nn.ModuleList(layers)
        self.apply(initialize)

    def forward(
        self,
        queries: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        patches: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """States (N, Q + T, D) of queries (N, Q, D) and embedded text (N, T, D), one or both.

        `patches` (N, P, vision_width) are what queries read. `mask` (N, 1, Q + T or 1, Q + T) is
        True where a position attends; by default everything attends to everything.
        """
        parts = [part for part in (queries, text) if part is not None]
        num_queries = 0 if queries is None else queries.shape[1]
        x = self.norm(torch.cat(parts, dim=1))
        for layer in self.layers:
            x = layer(x, num_queries, patches, mask)
        return x


class QFormerConnector(Connector):
    """The query path of a Q-Former, and one linear map to a soft prompt for the language model."""

    def __init__(
        self,
        vision_width: int,
        text_width: int,
        num_queries: int = 32,
        num_layers: int = 12,
        width: int = 768,
    ):
        super().__init__()
        self.norm_patches = nn.LayerNorm(vision_width)  # trained, on top of the frozen tower
        self.queries = nn.Parameter(INIT_STD * torch.randn(num_queries, width))
        self.qformer = QFormer(width, vision_width, num_layers)
        self.linear = nn.Linear(width, text_width)

    def query_states(self, Z_v: torch.Tensor) -> torch.Tensor:
        """What the queries have read in image features Z_v (N, P, vision_width): (N, Q, width)."""
        queries = self.queries.to(Z_v.dtype).expand(len(Z_v), -1, -1)
        return self.qformer(queries, patches=self.norm_patches(Z_v))

    def forward(self, Z_v: torch.Tensor) -> torch.Tensor:
        """Image features Z_v (N, P, vision_width) to H_v (N, Q, text_width)."""
        return self.linear(self.query_states(Z_v))


def initialize(module: nn.Module) -> None:
    """BERT's initial values: normal weights, biases of zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)


def split_heads(x: torch.Tensor) -> torch.Tensor:
    """(N, T, heads * E) -> (N, heads, T, E)."""
    return x.unflatten(-1, (-1, QFORMER_HEAD_WIDTH)).transpose(1, 2)
