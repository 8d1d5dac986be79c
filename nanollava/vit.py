"""CLIP's vision transformer, the g of the paper: Z_v = g(X_v).

N images of P patches, T = 1 + P tokens (the class token first), D width, E head width. Leaf modules
carry the names that Hugging Face files use.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .config import VisionConfig
from .hf.load import build, read_vision_config
from .hf.names import CLIP_VISION


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """x * sigmoid(1.702 x), the cheap GELU that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


def activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The nonlinearity that a config names (`hidden_act`)."""
    if name == "gelu":
        return F.gelu
    return quick_gelu


class CLIPAttention(nn.Module):
    """Multi-head self-attention: every token, a patch or the class token, attends to all tokens.

    With `is_causal` (CLIP's text tower) it attends only to itself and to those before it.
    """

    def __init__(self, width: int, heads: int, is_causal: bool = False):
        super().__init__()
        self.heads = heads
        self.is_causal = is_causal
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.split_heads(self.q_proj(x))  # (N, heads, T, E)
        k = self.split_heads(self.k_proj(x))
        v = self.split_heads(self.v_proj(x))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        return self.out_proj(y.transpose(1, 2).flatten(2))  # (N, T, D)

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, D) -> (N, heads, T, E)."""
        N, T, _ = x.shape
        return x.view(N, T, self.heads, -1).transpose(1, 2)


class CLIPMLP(nn.Module):
    def __init__(self, width: int, hidden: int, hidden_act: str = "quick_gelu"):
        super().__init__()
        self.activation = activation(hidden_act)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class CLIPBlock(nn.Module):
    """One pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        width: int,
        hidden: int,
        heads: int,
        eps: float,
        is_causal: bool = False,
        hidden_act: str = "quick_gelu",
    ):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width, eps)
        self.self_attn = CLIPAttention(width, heads, is_causal)
        self.layer_norm2 = nn.LayerNorm(width, eps)
        self.mlp = CLIPMLP(width, hidden, hidden_act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPVisionEmbeddings(nn.Module):
    """Image to token vectors: one per patch, the class token first, plus learned positions."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.image_size = config.image_size
        width = config.hidden_size
        patch = config.patch_size
        # A convolution whose stride is its size is one linear map applied to every patch.
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.position_embedding = nn.Embedding(config.num_patches + 1, width)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        size = self.image_size
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (3, size, size):
            shape = tuple(pixel_values.shape)
            raise ValueError(f"pixel_values {shape}: this tower takes (images, 3, {size}, {size})")
        pixel_values = pixel_values.to(self.patch_embedding.weight.dtype)
        patches = self.patch_embedding(pixel_values)  # (N, D, grid, grid)
        patches = patches.flatten(2).transpose(1, 2)  # (N, P, D)
        class_token = self.class_embedding.to(patches.dtype)  # autocast converts the patches only
        class_token = class_token.expand(len(patches), 1, -1)  # (N, 1, D)
        tokens = torch.cat([class_token, patches], dim=1)  # (N, 1 + P, D)
        return tokens + self.position_embedding.weight


class CLIPEncoder(nn.Module):
    """Holds the blocks under the name that the files use: `encoder.layers`."""

    def __init__(self, layers: list[CLIPBlock]):
        super().__init__()
        self.layers = nn.ModuleList(layers)


class CLIPVisionTransformer(nn.Module):
    """The tower without CLIP's final projection.

    LLaVA reads the patches (`features`). `forward` is CLIP's own output, of the class token.
    """

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        eps = config.layer_norm_eps
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(width, eps)  # sic: the name in the files
        blocks = []
        for _ in range(config.num_hidden_layers):
            block = CLIPBlock(
                width,
                config.intermediate_size,
                config.num_attention_heads,
                eps,
                hidden_act=config.hidden_act,
            )
            blocks.append(block)
        self.encoder = CLIPEncoder(blocks)
        self.post_layernorm = nn.LayerNorm(width, eps)

    def hidden_states(
        self, pixel_values: torch.Tensor, depth: int | None = None
    ) -> list[torch.Tensor]:
        """The normed embeddings and the output of the first `depth` blocks (default: of all).

        Each is (N, 1 + P, D).
        """
        states = [self.pre_layrnorm(self.embeddings(pixel_values))]
        for block in self.encoder.layers[:depth]:
            states.append(block(states[-1]))
        return states

    def features(self, pixel_values: torch.Tensor, layer: int = -2) -> torch.Tensor:
        """Z_v (N, P, D): hidden state number `layer` of the patches, without the class token.

        -2 is the output of the block before the last. Later blocks are not run.
        """
        num_states = len(self.encoder.layers) + 1
        depth = range(num_states)[layer]  # -2 -> num_states - 2
        return self.hidden_states(pixel_values, depth)[-1][:, 1:]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The normed class token of the last block, (N, D)."""
        return self.post_layernorm(self.hidden_states(pixel_values)[-1][:, 0])

    @classmethod
    def from_pretrained(cls, path, **options) -> "CLIPVisionTransformer":
        """Loads the tower of a Hugging Face CLIP directory; `options` as for `hf.load.build`."""
        return build(cls, read_vision_config(path), path, CLIP_VISION, **options)
