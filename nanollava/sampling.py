"""How the next token is chosen: checked settings, the repetition penalty, and the draw."""

from dataclasses import dataclass

import torch

from .errors import UserError


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of one generation. Temperature 0 is greedy: the most likely token each time."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0  # draw from the likeliest tokens whose probabilities reach this sum
    top_k: int = 0  # draw from this many of the likeliest tokens; 0 means all
    repetition_penalty: float = 1.0  # above 1, tokens that have occurred become less likely
    seed: int | None = None  # of the draws; None takes torch's own state

    def __post_init__(self):
        self.check("max_new_tokens", self.max_new_tokens >= 1, "at least 1")
        # Below 1e-6 the division overflows float32; above 1e6 nothing is left of the logits.
        usable = self.temperature == 0 or 1e-6 <= self.temperature <= 1e6
        self.check("temperature", usable, "0, or 1e-6 to 1e6")
        self.check("top_p", 0 < self.top_p <= 1, "above 0, at most 1")
        self.check("top_k", self.top_k >= 0, "at least 0")
        self.check("repetition_penalty", 1e-3 <= self.repetition_penalty <= 1e3, "1e-3 to 1e3")
        in_range = self.seed is None or -(2**63) <= self.seed < 2**63
        self.check("seed", in_range, "a whole number of 64 bits")

    def check(self, name: str, is_valid: bool, expected: str) -> None:
        """Raises a UserError that names one setting."""
        if not is_valid:
            raise UserError(f"{name} {getattr(self, name)}: expected {expected}")

    def generator(self, device: torch.device) -> torch.Generator | None:
        """The source of random numbers for this seed; None is torch's own."""
        if self.seed is None:
            return None
        return torch.Generator(device).manual_seed(self.seed)


class RepetitionPenalty:
    """Makes tokens that a row already contains less likely (Keskar et al. 2019, section 4.1)."""

    def __init__(self, penalty: float, vocab_size: int):
        self.penalty = penalty
        self.vocab_size = vocab_size
        self.occurred = None  # (B, vocab), True for ids that have occurred in the row

    def add(self, ids: torch.Tensor) -> None:
        """Marks ids (B, T) as having occurred."""
        if self.penalty == 1:
            return
        if self.occurred is None:
            self.occurred = ids.new_zeros(len(ids), self.vocab_size, dtype=torch.bool)
        self.occurred.scatter_(1, ids, True)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (B, vocab), those of occurred tokens divided by the penalty.

        Negative logits are multiplied: dividing them would make the token likelier.
        """
        if self.penalty == 1:
            return logits
        penalized = torch.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return torch.where(self.occurred, penalized, logits)


def sample(
    logits: torch.Tensor,
    temperature: float,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    top_k: int = 0,
) -> torch.Tensor:
    """Next ids (B,) from logits (B, vocab).

    Temperature 0 takes the most likely. Otherwise the id is drawn from the `top_k` likeliest (0:
    all), and of these from the smallest set whose probability reaches `top_p` (Holtzman et al.
    2020).
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits, ids = (logits.float() / temperature).sort(-1, descending=True)  # (B, vocab)
    if top_k > 0:
        logits = logits[:, :top_k]
    probabilities = torch.softmax(logits, dim=-1)
    # A token stays if those before it have not reached top_p: the first always does.
    sum_before = probabilities.cumsum(-1) - probabilities
    smallest = 1e-9  # less would be 0 in float32, and no token would stay
    probabilities[sum_before >= max(top_p, smallest)] = 0
    choice = torch.multinomial(probabilities, 1, generator=generator)  # (B, 1)
    return ids.gather(-1, choice).squeeze(-1)
