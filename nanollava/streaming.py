"""Text as it is generated, and batches of questions."""

from .generate import Answer, answer, prompt

__all__ = ["Answer", "answer", "prompt"]
