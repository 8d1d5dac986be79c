"""Flamingo's gated cross-attention: the decoder keeps its own input, and looks at the images.

A block comes before a decoder layer. Equations, with LN for a LayerNorm, x for the text (T, D),
and z for the latents of M images, L of each, as the perceiver resampler writes them,
(M L, vision_width):

    x <- x + tanh(a) W_o Attention(q = W_q LN(x), k = W_k z, v = W_v z)
    x <- x + tanh(b) W_2 gelu(W_1 LN(x))

The scalars a and b start at 0, so both gates, tanh(a) and tanh(b), are closed: the language model
starts as it was, bit for bit.

The image token is an ordinary token. Let c_t be the number of image tokens up to position t, itself
included. Position t attends to the latents of image j where

    c_t = j     the last image before it (Flamingo)
    c_t >= j    all images before it (the relaxed form)

and where c_t = 0, the attention is 0. Sources: Flamingo (Alayrac et al. 2022, section 2.2), with
the sizes of OpenFlamingo: 8 heads of 64, no biases.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..projector import Connector
from .resampler import HEAD_WIDTH, HEADS, FeedForward, PerceiverResampler, split_heads


class CrossAttention(nn.Module):
    """W_o Attention(q = W_q LN(x), k = W_k z, v = W_v z), 0 for rows that see no image."""

    def __init__(self, text_width: int, vision_width: int):
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.norm = nn.LayerNorm(text_width)
        self.q_proj = nn.Linear(text_width, inner, bias=False)
        self.k_proj = nn.Linear(vision_width, inner, bias=False)
        self.v_proj = nn.Linear(vision_width, inner, bias=False)
        self.out_proj = nn.Linear(inner, text_width, bias=False)

    def forward(self, x: torch.Tensor, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Text x (B, T, D) and latents z (B, M L, vision_width); mask (B, T, M L), True if seen."""
        q = split_heads(self.q_proj(self.norm(x)))  # (B, heads, T, E)
        k = split_heads(self.k_proj(z))  # (B, heads, M L, E)
        v = split_heads(self.v_proj(z))
        # The softmax of an empty row would be NaN: such a row sees everything, and is then 0.
        sees_any = mask.any(-1, keepdim=True)  # (B, T, 1)
        mask = mask | ~sees_any
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.unsqueeze(1))
        y = y.transpose(1, 2).flatten(2)  # (B, T, inner)
        return self.out_proj(y * sees_any)


class GatedBlock(nn.Module):
    """Cross-attention and feed-forward, each with a gate that starts closed: tanh(0) = 0."""

    def __init__(self, text_width: int, vision_width: int):
        super().__init__()
        self.attention = CrossAttention(text_width, vision_width)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward = FeedForward(text_width)
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + self.attention_gate.tanh() * self.attention(x, z, mask)
        return x + self.feed_forward_gate.tanh() * self.feed_forward(x)


class GatedConnector(Connector):
    """The resampler that writes the latents, and the blocks that read them."""

    def __init__(
        self,
        vision_width: int,
        text_width: int,
        num_latents: int,
        num_layers: int,
        decoder_layers: int,
        layers_per_block: int = 1,
    ):
        """A block comes before each decoder layer i for which layers_per_block divides i + 1."""
        super().__init__()
        self.resampler = PerceiverResampler(vision_width, num_latents, num_layers)
        self.blocks = nn.ModuleDict()
        for i in range(decoder_layers):
            if (i + 1) % layers_per_block == 0:
                self.blocks[str(i)] = GatedBlock(text_width, vision_width)

    def decoder_blocks(self) -> dict[int, nn.Module]:
        return {int(name): block for name, block in self.blocks.items()}

    def forward(self, Z_v: torch.Tensor) -> torch.Tensor:
        """Image features Z_v (N, P, vision_width) to latents (N, L, vision_width)."""
        return self.resampler(Z_v)


def images_before(input_ids: torch.Tensor, image_token_id: int) -> torch.Tensor:
    """c_t (B, T): the number of image tokens up to each position, itself included."""
    return (input_ids == image_token_id).cumsum(1)


def image_mask(count: torch.Tensor, num_images: int, num_latents: int, sees: str) -> torch.Tensor:
    """(B, T, M L), True where a position with c_t = `count` (B, T) attends to a latent.

    `sees` is "last" for the last image before it, "all" for all of them.
    """
    j = torch.arange(1, num_images + 1, device=count.device)  # the images, counted from 1 as by c_t
    if sees == "last":
        is_seen = count.unsqueeze(-1) == j  # (B, T, M)
    else:
        is_seen = count.unsqueeze(-1) >= j
    return is_seen.repeat_interleave(num_latents, dim=-1)


def latents_by_row(latents: torch.Tensor, images_per_row: torch.Tensor) -> torch.Tensor:
    """Latents (N, L, vision_width) of all images in reading order, as (B, M, L, vision_width).

    M is the largest number of images of a row, and at least 1. What a row lacks is 0, and no
    position sees it.
    """
    images_of_rows = images_per_row.tolist()
    M = max(1, *images_of_rows)
    rows = latents.new_zeros(len(images_of_rows), M, *latents.shape[1:])
    first = 0
    for row, num_images in enumerate(images_of_rows):
        rows[row, :num_images] = latents[first : first + num_images]
        first += num_images
    return rows
