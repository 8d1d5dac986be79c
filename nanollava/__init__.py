"""LLaVA (Visual Instruction Tuning) written from scratch in plain PyTorch."""

from .assistant import Assistant, load
from .llava import LLaVA

__version__ = "1.0.0"

__all__ = ["Assistant", "LLaVA", "__version__", "load"]
