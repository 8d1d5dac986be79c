"""The projector W: image features into the language model's word space, H_v = W Z_v (paper, equation 1)."""

import torch
import torch.nn.functional as F
from torch import nn


class Projector(nn.Module):
    """`linear_1` alone is the paper's single W with bias; "mlp2x_gelu" is v1.5's Linear - GELU - Linear."""

    def __init__(self, vision_width: int, text_width: int, kind: str = "linear"):
        super().__init__()
        if kind not in ("linear", "mlp2x_gelu"):
            raise ValueError(f"projector {kind!r}: expected 'linear' or 'mlp2x_gelu'")
        self.linear_1 = nn.Linear(vision_width, text_width)
        self.linear_2 = nn.Linear(text_width, text_width) if kind == "mlp2x_gelu" else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.linear_1(features)  # (pictures, P, D_text)
        return x if self.linear_2 is None else self.linear_2(F.gelu(x))
