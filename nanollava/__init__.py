"""LLaVA (Visual Instruction Tuning) written from scratch in plain PyTorch."""

from .startup import end_quietly

end_quietly()

from .assistant import Assistant, load  # noqa: E402 - imports torch, which takes seconds
from .llava import LLaVA  # noqa: E402

__version__ = "1.0.0"

__all__ = ["Assistant", "LLaVA", "__version__", "load"]
