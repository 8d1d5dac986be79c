"""The projector W: image features into word embedding space, H_v = W Z_v (paper, equation 1).

Also `Connector`, the interface that W shares with the connectors of other models (`connectors/`).
"""

import torch
import torch.nn.functional as F
from torch import nn

from .config import PROJECTORS


class Connector(nn.Module):
    """The module between the vision tower and the language model: W, or another one.

    Connectors differ in three things:

    - How many positions does an image take in the language model's input?
      `LlavaConfig.num_image_tokens`.
    - What does each stage train? All of the connector, except `frozen_prefixes`.
    - What is added to the decoder? `decoder_blocks`.
    """

    # The beginnings of the names of its parameters that no stage trains.
    frozen_prefixes: tuple[str, ...] = ()

    def decoder_blocks(self) -> dict[int, nn.Module]:
        """Blocks that run before layers of the decoder, by the index of the layer."""
        return {}

    def forward(self, Z_v: torch.Tensor) -> torch.Tensor:
        """Image features Z_v (N, P, vision_width) to H_v (N, num_image_tokens, text_width).

        With gated cross-attention it returns the latents (N, L, vision_width) that the decoder's
        blocks read.
        """
        raise NotImplementedError


class Projector(Connector):
    """W. The kind "linear" is the paper's linear layer with bias, "mlp2x_gelu" v1.5's Linear, GELU,
    Linear."""

    def __init__(self, vision_width: int, text_width: int, kind: str = "linear"):
        super().__init__()
        if kind not in PROJECTORS:
            raise ValueError(f"projector {kind!r}: expected {' or '.join(PROJECTORS)}")
        self.linear_1 = nn.Linear(vision_width, text_width)
        self.linear_2 = None
        if kind == "mlp2x_gelu":
            self.linear_2 = nn.Linear(text_width, text_width)

    def forward(self, Z_v: torch.Tensor) -> torch.Tensor:
        """Image features Z_v (N, P, vision_width) to H_v (N, P, text_width)."""
        H_v = self.linear_1(Z_v)
        if self.linear_2 is not None:
            H_v = self.linear_2(F.gelu(H_v))
        return H_v
