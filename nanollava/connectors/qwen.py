"""Qwen-VL's position-aware resampler: one cross-attention whose queries know where they look.

Equations, with x for the patches (P, vision_width), z for the Q = G x G learned queries, and p for
fixed 2-D positions in the width of the language model:

    x <- LN(W_kv x)
    q = W_q (LN(z) + p_z) + b_q,   k = W_k (x + p_x) + b_k,   v = W_v x + b_v
    H_v = W_h LN(W_o softmax(q k^T / sqrt(E)) v + b_o)

The positions are added to queries and keys, but not to values. There is no residual and no
feed-forward. Source: Qwen-VL (Bai et al. 2023): 256 queries for the 1,024 patches of 448 px.

Qwen interpolates the queries' table of positions to the grid of the patches. Here the formula is
evaluated at the centers of the patches, on a grid as large as the queries': it needs no table.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ..projector import Connector

NORM_EPS = 1e-6


def sine_cosine(position: torch.Tensor, width: int) -> torch.Tensor:
    """[sin(m w_0), ..., cos(m w_0), ...] with w_i = 10000^(-2i / width) for positions m (T,).

    The result is (T, width) in float32.
    """
    two_i = torch.arange(0, width, 2, device=position.device).float()
    angle = position[:, None] / 10000 ** (two_i / width)  # (T, width / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def grid_positions(grid: int, query_grid: int, width: int, device) -> torch.Tensor:
    """Position vectors (grid * grid, width) of the cells of a square, row by row.

    Both grids cover the same image. Coordinates count cells of the queries' grid, so a query and a
    patch at the same place have the same vector. The first half of a vector says the column, the
    second the row.
    """
    cell = torch.arange(grid, device=device).float()
    coordinate = (cell + 0.5) * query_grid / grid - 0.5  # 0, 1, 2 ... for the queries themselves
    of_cell = sine_cosine(coordinate, width // 2)  # (grid, width / 2)
    column = of_cell.expand(grid, -1, -1)  # (rows, columns, width / 2)
    row = of_cell[:, None].expand(-1, grid, -1)
    return torch.cat([column, row], dim=-1).flatten(0, 1)


class QwenResampler(Connector):
    """Image features (N, P, vision_width) to num_queries word-like vectors per image."""

    def __init__(self, vision_width: int, text_width: int, heads: int, num_queries: int = 256):
        super().__init__()
        self.heads = heads
        self.query_grid = math.isqrt(num_queries)
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, text_width))
        self.kv_proj = nn.Linear(vision_width, text_width, bias=False)
        self.norm_queries = nn.LayerNorm(text_width, NORM_EPS)
        self.norm_patches = nn.LayerNorm(text_width, NORM_EPS)
        self.q_proj = nn.Linear(text_width, text_width)
        self.k_proj = nn.Linear(text_width, text_width)
        self.v_proj = nn.Linear(text_width, text_width)
        self.out_proj = nn.Linear(text_width, text_width)
        self.norm = nn.LayerNorm(text_width, NORM_EPS)
        self.linear = nn.Linear(text_width, text_width, bias=False)

    def forward(self, Z_v: torch.Tensor) -> torch.Tensor:
        """Image features Z_v (N, P, vision_width) to H_v (N, Q, text_width)."""
        N, P, _ = Z_v.shape
        x = self.norm_patches(self.kv_proj(Z_v))  # (N, P, D)
        z = self.norm_queries(self.queries.to(x.dtype))  # (Q, D)
        D = z.shape[1]
        p_z = grid_positions(self.query_grid, self.query_grid, D, x.device).to(x.dtype)
        p_x = grid_positions(math.isqrt(P), self.query_grid, D, x.device).to(x.dtype)

        q = self.split_heads(self.q_proj(z + p_z).expand(N, -1, -1))  # (N, heads, Q, E)
        k = self.split_heads(self.k_proj(x + p_x))  # (N, heads, P, E)
        v = self.split_heads(self.v_proj(x))
        y = F.scaled_dot_product_attention(q, k, v)
        y = self.out_proj(y.transpose(1, 2).flatten(2))  # (N, Q, D)
        return self.linear(self.norm(y))

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, D) -> (N, heads, T, E)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
