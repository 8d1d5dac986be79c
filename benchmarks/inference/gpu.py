"""7B geometry with a ViT-L/14-336 tower on a GPU: random weights, bf16, a prompt of 640 tokens
with an image."""

import torch

from nanollava.compiled import compile_step
from nanollava.config import LlamaConfig
from nanollava.generate import decode_step, stream
from nanollava.llama import KVCache

from .decode import bytes_per_token, prefill_flop
from .models import (
    VIT_L_336,
    Prompt,
    quantized_copy,
    random_llava,
    random_prompt,
    transformers_answer,
    transformers_llama,
)
from .timing import Settings, best_seconds, seconds_of, summarize, take_turns

PROMPT_TOKENS = 640
TEXT_TOKENS = PROMPT_TOKENS - VIT_L_336.num_patches


def gpu(settings: Settings, variant: str) -> dict:
    """Decode and prefill of ours in bf16, int8 and int4, and of transformers in bf16."""
    if not torch.cuda.is_available():
        return {"not measured": "no CUDA device here"}
    tokens = 64 if settings.quick else 128
    ours = random_llava(LlamaConfig(), VIT_L_336, torch.bfloat16, "cuda")
    prompt = random_prompt(ours, TEXT_TOKENS, with_image=True)
    bandwidth = copy_bandwidth()
    rate = matmul_rate()
    result = {
        "device": torch.cuda.get_device_name(),
        "bandwidth_tb_s": bandwidth / 1e12,
        "matmul_tflop_s": rate / 1e12,
    }
    bf16 = our_speed(ours, prompt, tokens, settings.rounds, compiled=True)
    add(result, "bf16", bf16)
    num_bytes = bytes_per_token(ours) + cache_bytes(ours, PROMPT_TOKENS + tokens // 2)
    result["decode_limit_tokens_s"] = bandwidth / num_bytes
    result["decode_share"] = bf16["tokens_s"] / result["decode_limit_tokens_s"]
    result["prefill_share"] = prefill_flop(ours, prompt) / rate / bf16["prefill_s"]
    add(result, "eager", our_speed(ours, prompt, tokens, settings.rounds, compiled=False))
    add(result, "transformers", transformers_speed(ours, prompt, tokens, settings.rounds))
    for name in ("int8", "int4"):
        quantized = quantized_copy(ours, name)
        speed = our_speed(quantized, prompt, tokens, settings.rounds, compiled=True)
        add(result, name, speed)
        result[f"{name}_ratio"] = speed["tokens_s"] / bf16["tokens_s"]
    return result


def add(result: dict, name: str, speed: dict[str, float]) -> None:
    """Adds the figures of one model under its name."""
    for quantity, value in speed.items():
        result[f"{name}_{quantity}"] = value


def finish(call):
    """The call, and the wait until the GPU has done what it started."""

    def call_and_wait() -> None:
        call()
        torch.cuda.synchronize()

    return call_and_wait


def copy_bandwidth() -> float:
    """Bytes per second that a copy of 4 GiB reads and writes."""
    source = torch.empty(2**32, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = best_seconds(finish(lambda: target.copy_(source)), calls=20)
    return 2 * source.nbytes / seconds


def matmul_rate() -> float:
    """FLOP/s of a bf16 product of 8192 x 8192 matrices."""
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    seconds = best_seconds(finish(lambda: square @ square), calls=20)
    return 2 * 8192**3 / seconds


def cache_bytes(model, length: int) -> int:
    """Bytes of keys and values of `length` positions in bf16."""
    text = model.config.text_config
    per_layer = 2 * text.num_key_value_heads * text.head_dim * 2  # keys and values; 2 bytes
    return text.num_hidden_layers * per_layer * length


def our_speed(model, prompt: Prompt, tokens: int, rounds: int, compiled: bool) -> dict:
    """Tokens per second of decoding, seconds of the prefill and of the first, compiling call."""
    step = compile_step(model) if compiled else decode_step
    weight = model.language_model.model.embed_tokens.weight
    # One cache for all answers, as in a dialogue: a CUDA graph is tied to its memory.
    cache = KVCache(model.config.text_config, batch=1, like=weight)

    def run(max_new_tokens: int) -> None:
        cache.truncate(0)
        steps = stream(
            model,
            prompt.input_ids,
            prompt.pixel_values,
            kv_cache=cache,
            step=step,
            max_new_tokens=max_new_tokens,
        )
        for _ in steps:
            pass

    first_seconds = seconds_of(finish(lambda: run(tokens)))
    speed = decode_and_prefill(run, tokens, rounds)
    if compiled:
        speed["first_answer_s"] = first_seconds
    return speed


def transformers_speed(model, prompt: Prompt, tokens: int, rounds: int) -> dict:
    """The same of transformers' language model, with each kind of its caches, without an image."""
    theirs = transformers_llama(model)
    is_image = prompt.input_ids == model.config.image_token_id
    words = Prompt(prompt.input_ids.masked_fill(is_image, 7))
    result = {}
    for cache in ("dynamic", "static"):
        options = {}
        if cache == "static":
            options["cache_implementation"] = "static"

        def run(max_new_tokens: int, options=options) -> None:
            transformers_answer(theirs, words, max_new_tokens, **options)

        run(tokens)  # compiles the static cache's step
        add(result, cache, decode_and_prefill(run, tokens, rounds))
    return result


def decode_and_prefill(run, tokens: int, rounds: int) -> dict[str, float]:
    """An answer of one token is the prefill; what a longer one takes beyond that is decoding."""
    sides = {"short": finish(lambda: run(1)), "long": finish(lambda: run(tokens))}
    seconds = take_turns(sides, rounds)
    short = summarize(seconds["short"])
    long = summarize(seconds["long"])
    return {
        "tokens_s": (tokens - 1) / (long["seconds"] - short["seconds"]),
        "prefill_s": short["seconds"],
        "spread": long["spread"],
    }


def describe_gpu(result: dict, floor: float | None) -> str:
    if "not measured" in result:
        return f"not measured: {result['not measured']}"
    parts = []
    for name, value in result.items():
        text = f"{value:.3g}" if isinstance(value, float) else value
        parts.append(f"{name} {text}")
    return ", ".join(parts)
