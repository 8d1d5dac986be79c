"""LLaVA (Visual Instruction Tuning) written from scratch in plain PyTorch."""

from .llava import LLaVA

__all__ = ["LLaVA"]
