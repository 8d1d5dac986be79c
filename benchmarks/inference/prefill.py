"""Prefill of quantized models against our own bf16: many tokens at once, bound by arithmetic.

With few tokens the quantized kernels read less; with many, dequantizing comes on top of the matrix
product. The second must stay small.
"""

import torch

from .models import DECODERS, UNUSED_TOWER, our_answer, quantized_copy, random_llava, random_prompt
from .timing import Settings, show_milliseconds, summarize, take_turns

PROMPT_TOKENS = (64, 640)  # a question; a question about an image of 576 patches
QUANTIZED = ("int8", "int4")


def prefill(settings: Settings, size: str) -> dict:
    """Seconds to the first token, and bf16's seconds / the quantized model's."""
    models = {"bf16": random_llava(DECODERS[size], UNUSED_TOWER, torch.bfloat16)}
    for name in QUANTIZED:
        models[name] = quantized_copy(models["bf16"], name)
    result = {}
    for tokens in PROMPT_TOKENS:
        prompt = random_prompt(models["bf16"], tokens)
        sides = {}
        for name, model in models.items():
            sides[name] = first_token(model, prompt)
        summaries = {}
        for name, seconds in take_turns(sides, settings.rounds).items():
            summaries[name] = summarize(seconds)
        for name in QUANTIZED:
            ratio = summaries["bf16"]["seconds"] / summaries[name]["seconds"]
            summaries[name]["ratio"] = ratio
        result[str(tokens)] = summaries
    return result


def first_token(model, prompt):
    """A call that answers with one token: nothing but the prefill."""
    return lambda: our_answer(model, prompt, 1)


def describe_prefill(result: dict, floor: float | None) -> str:
    parts = []
    for tokens, summaries in result.items():
        texts = [f"bf16 {show_milliseconds(summaries['bf16'])}"]
        for name in QUANTIZED:
            milliseconds = show_milliseconds(summaries[name])
            texts.append(f"{name} {milliseconds} {summaries[name]['ratio']:.2f}x")
        parts.append(f"{tokens} tokens: {', '.join(texts)}")
    parts.append(f"floor {floor}x")
    return " | ".join(parts)
