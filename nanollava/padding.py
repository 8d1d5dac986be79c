"""Prompts of unequal length in one batch.

Inside a batch all prompts are aligned at their end, so that the next token of every row goes into
the same slot of the KV cache. The padding before shorter prompts is masked, and positions count
from the start of each prompt.
"""

import torch

from .llama import causal_mask


class LeftPadding:
    """`count` (B,) is the number of padding positions before each prompt."""

    def __init__(self, count: torch.Tensor):
        self.count = count

    @classmethod
    def for_prompts(
        cls, input_ids: torch.Tensor, lengths: torch.Tensor | None
    ) -> "LeftPadding | None":
        """The padding that right-padded prompts (B, T) need, None if all are T long."""
        T = input_ids.shape[1]
        if lengths is None or bool((lengths == T).all()):
            return None
        return cls(T - lengths)

    def fill(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Right-padded ids (B, T) with each prompt's first id in the place of its padding."""
        T = input_ids.shape[1]
        is_prompt = self.is_token(T).flip(1)  # is_token is for left padding: mirror it
        return torch.where(is_prompt, input_ids, input_ids[:, :1])

    def shift(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Turns right padding into left padding: (B, T)."""
        T = input_ids.shape[1]
        source = (torch.arange(T, device=input_ids.device) - self.count[:, None]) % T  # (B, T)
        return input_ids.gather(1, source)

    def position(self, start: int, T: int) -> torch.Tensor:
        """RoPE positions (B, T) of T tokens from slot `start`, counted from each prompt's start.

        Padding has no position; it gets 0.
        """
        slot = torch.arange(start, start + T, device=self.count.device)
        return (slot - self.count[:, None]).clamp(min=0)

    def prompt_mask(self, T: int) -> torch.Tensor:
        """(B, 1, T, T), True where a token may look: at itself and at prompt tokens before it."""
        causal = causal_mask(T, T, like=self.count)  # (T, T)
        visible = causal & self.is_token(T)[:, None, :]  # (B, T, T)
        # Padding sees itself, because the softmax of an empty row would be NaN.
        itself = torch.eye(T, dtype=torch.bool, device=self.count.device)
        return (visible | itself).unsqueeze(1)

    def step_mask(self, S: int) -> torch.Tensor:
        """(B, 1, 1, S), True where the last of S tokens may look."""
        return self.is_token(S)[:, None, None]

    def is_token(self, S: int) -> torch.Tensor:
        """(B, S), False at the padding."""
        return torch.arange(S, device=self.count.device) >= self.count[:, None]
