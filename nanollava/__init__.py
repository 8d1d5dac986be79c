"""LLaVA (Visual Instruction Tuning) written from scratch in plain PyTorch."""

from .llava import LLaVA

__version__ = "1.0.0"

__all__ = ["LLaVA", "__version__"]
