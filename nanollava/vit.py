"""CLIP's vision transformer, the g of the paper: Z_v = g(X_v).
B pictures, D width, P patches of a picture, L layers. Leaf modules carry the names that Hugging Face files use."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .config import VisionConfig
from .files import read_json
from .hf import files as hf_files
from .hf import load as hf_load
from .hf import names as hf_names
from .hf.config import parse_vision_config

HEAD_WIDTH = 64  # of every published CLIP ViT


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """x * sigmoid(1.702 x), the cheap GELU that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


class CLIPAttention(nn.Module):
    """Multi-head self-attention; `is_causal` serves CLIP's text tower."""

    def __init__(self, width: int, heads: int, is_causal: bool = False):
        super().__init__()
        self.heads, self.is_causal = heads, is_causal
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        projections = self.q_proj, self.k_proj, self.v_proj  # each to (B, heads, T, D / heads)
        q, k, v = (proj(x).view(B, T, self.heads, -1).transpose(1, 2) for proj in projections)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        return self.out_proj(y.transpose(1, 2).reshape(B, T, D))


class CLIPMLP(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(quick_gelu(self.fc1(x)))


class CLIPBlock(nn.Module):
    """One pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, hidden: int, heads: int, eps: float, is_causal: bool = False):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width, eps)
        self.self_attn = CLIPAttention(width, heads, is_causal)
        self.layer_norm2 = nn.LayerNorm(width, eps)
        self.mlp = CLIPMLP(width, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPVisionEmbeddings(nn.Module):
    """Cuts the picture into patches, maps each to a vector, puts the class token first and adds learned positions."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        D, size = config.hidden_size, config.patch_size
        self.image_size = config.image_size
        self.class_embedding = nn.Parameter(torch.zeros(D))
        self.patch_embedding = nn.Conv2d(3, D, size, stride=size, bias=False)
        self.position_embedding = nn.Embedding(config.num_patches + 1, D)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (
            3,
            self.image_size,
            self.image_size,
        ):
            shape, size = tuple(pixel_values.shape), self.image_size
            raise ValueError(
                f"pixel_values of shape {shape}: this tower takes (pictures, 3, {size}, {size})"
            )
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)  # (B, P, D)
        cls = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        return torch.cat([cls, patches], dim=1) + self.position_embedding.weight  # (B, 1 + P, D)


class CLIPEncoder(nn.Module):
    def __init__(self, layers: list[CLIPBlock]):
        super().__init__()
        self.layers = nn.ModuleList(layers)


class CLIPVisionTransformer(nn.Module):
    """The tower without CLIP's last projection: LLaVA reads the patches, CLIP's loss the class token."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        D, eps = config.hidden_size, config.layer_norm_eps
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(D, eps)  # spelt so in every published file
        ffn, heads, depth = (
            config.intermediate_size,
            config.num_attention_heads,
            config.num_hidden_layers,
        )
        self.encoder = CLIPEncoder([CLIPBlock(D, ffn, heads, eps) for _ in range(depth)])
        self.post_layernorm = nn.LayerNorm(D, eps)

    def hidden_states(
        self, pixel_values: torch.Tensor, last: int | None = None
    ) -> list[torch.Tensor]:
        """The normed embeddings and the output of every block up to number `last` (default: all), each (B, 1 + P, D)."""
        states = [self.pre_layrnorm(self.embeddings(pixel_values))]
        for block in self.encoder.layers[:last]:
            states.append(block(states[-1]))
        return states

    def features(self, pixel_values: torch.Tensor, layer: int = -2) -> torch.Tensor:
        """Z_v, the patches' features (B, P, D): hidden state `layer` without the class token; later blocks are not run."""
        last = range(len(self.encoder.layers) + 1)[layer]
        return self.hidden_states(pixel_values, last)[-1][:, 1:]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The class token of the last layer after `post_layernorm`, (B, D): what CLIP's contrastive loss sees."""
        return self.post_layernorm(self.hidden_states(pixel_values)[-1][:, 0])

    @classmethod
    def from_pretrained(
        cls, path, device="cpu", dtype: torch.dtype | None = None
    ) -> "CLIPVisionTransformer":
        """Loads the vision tower of a Hugging Face CLIP directory, of the whole model or of the tower alone."""
        values = read_json(Path(path) / "config.json")
        if (
            "mm_vision_tower" in values
        ):  # an original LLaVA tells the tower's shapes by its tensors alone
            config = config_of(hf_files.shapes(path))
        else:
            config = parse_vision_config(values.get("vision_config", values), f"{path}/config.json")
        with hf_load.uninitialized():
            tower = cls(config)
        hf_load.load(tower, path, hf_names.CLIP_VISION, device, dtype)
        return tower.eval()


def config_of(shapes: dict[str, tuple[int, ...]]) -> VisionConfig:
    """The config that a tower's tensors tell."""
    shapes = {
        ours: shape
        for name, shape in shapes.items()
        if (ours := hf_names.CLIP_VISION.to_ours(name))
    }
    width, _, patch, _ = shapes["embeddings.patch_embedding.weight"]
    side = math.isqrt(shapes["embeddings.position_embedding.weight"][0] - 1)
    depth = 1 + max(
        int(name.split(".")[2]) for name in shapes if name.startswith("encoder.layers.")
    )
    ffn = shapes["encoder.layers.0.mlp.fc1.weight"][0]
    return VisionConfig(side * patch, patch, width, ffn, depth, width // HEAD_WIDTH)
