"""Tokens per second against transformers, and what the machine can do.

Every comparison is greedy, from a prompt of 32 tokens, on the same weights; int8 and int4 are
compared with transformers' bf16, from which they are quantized.
"""

import torch

from nanollava.compiled import compile_step
from nanollava.generate import decode_step
from nanollava.llama import KVCache
from nanollava.quantize import quantize_linear_layers
from nanollava.training.plan import PARTS, flops

from .models import (
    DECODERS,
    UNUSED_TOWER,
    VIT_B,
    Prompt,
    our_answer,
    random_llava,
    random_prompt,
    transformers_answer,
    transformers_llama,
    transformers_llava,
)
from .timing import Settings, best_seconds, seconds_of, show_milliseconds, summarize, take_turns

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PROMPT_TOKENS = 32


# The rows. `size` is a name in DECODERS.


def decode(settings: Settings, size: str) -> dict:
    """fp32, eager."""
    ours = random_llava(DECODERS[size], UNUSED_TOWER, torch.float32)
    return compare(settings, ours, transformers_llama(ours), random_prompt(ours, PROMPT_TOKENS))


def compile(settings: Settings, size: str) -> dict:
    """fp32, our decode step compiled; transformers runs eagerly."""
    ours = random_llava(DECODERS[size], UNUSED_TOWER, torch.float32)
    return compare_compiled(settings, ours)


def bf16(settings: Settings, size: str) -> dict:
    """bf16, eager."""
    ours = random_llava(DECODERS[size], UNUSED_TOWER, torch.bfloat16)
    return compare(settings, ours, transformers_llama(ours), random_prompt(ours, PROMPT_TOKENS))


def compile_bf16(settings: Settings, size: str) -> dict:
    """bf16, our decode step compiled; transformers runs eagerly."""
    ours = random_llava(DECODERS[size], UNUSED_TOWER, torch.bfloat16)
    return compare_compiled(settings, ours)


def int8(settings: Settings, size: str) -> dict:
    """Our decoder layers in int8, eager."""
    return compare_quantized(settings, size, "int8")


def int4(settings: Settings, size: str) -> dict:
    """Our decoder layers in int4, eager."""
    return compare_quantized(settings, size, "int4")


def llava(settings: Settings, dtype: str) -> dict:
    """A whole LLaVA with an image: ViT-B and the decoder of 29M parameters, eager."""
    ours = random_llava(DECODERS["29M"], VIT_B, DTYPES[dtype])
    prompt = random_prompt(ours, PROMPT_TOKENS, with_image=True)
    return compare(settings, ours, transformers_llava(ours), prompt)


# How they are measured


def compare_compiled(settings: Settings, ours) -> dict:
    """As `compare`, with our decode step compiled before the clock starts."""
    prompt = random_prompt(ours, PROMPT_TOKENS)
    step = compile_step(ours)
    first_seconds = seconds_of(lambda: our_answer(ours, prompt, settings.tokens, step))
    result = compare(settings, ours, transformers_llama(ours), prompt, step)
    result["first_answer_s"] = first_seconds
    return result


def compare_quantized(settings: Settings, size: str, name: str) -> dict:
    """Ours quantized, against transformers with the bf16 weights that were quantized."""
    ours = random_llava(DECODERS[size], UNUSED_TOWER, torch.bfloat16)
    theirs = transformers_llama(ours)  # holds the bf16 weights
    quantize_linear_layers(ours.language_model.model.layers, name)
    return compare(settings, ours, theirs, random_prompt(ours, PROMPT_TOKENS))


def compare(settings: Settings, ours, theirs, prompt: Prompt, step=decode_step) -> dict:
    """Tokens per second of both sides, prefill included, and how long their ids are equal."""
    tokens = settings.tokens
    ids = {}

    def run_ours() -> None:
        ids["ours"] = our_answer(ours, prompt, tokens, step)

    def run_transformers() -> None:
        ids["transformers"] = transformers_answer(theirs, prompt, tokens)

    sides = {"ours": run_ours, "transformers": run_transformers}
    seconds = take_turns(sides, settings.rounds)
    result = {}
    for side in sides:
        assert len(ids[side]) == tokens, f"{side}: {len(ids[side])} ids, not {tokens}"
        summary = summarize(seconds[side])
        result[side] = {"tokens_s": tokens / summary["seconds"], "spread": summary["spread"]}
    result["ratio"] = result["ours"]["tokens_s"] / result["transformers"]["tokens_s"]
    result["equal_ids"] = common_prefix(ids["ours"], ids["transformers"])
    result["bytes_per_token"] = bytes_per_token(ours)
    result["prefill_flop"] = prefill_flop(ours, prompt)
    result["dtype"] = dtype_name(ours)
    return result


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many ids are equal before the first that differs."""
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


def dtype_name(model) -> str:
    """The name in DTYPES of what a model computes in."""
    dtype = model.language_model.lm_head.weight.dtype
    return next(name for name in DTYPES if DTYPES[name] == dtype)


def bytes_per_token(model) -> int:
    """Bytes of weights that one decode step reads: all, except that it looks up one embedding."""
    total = 0
    for name, tensor in model.language_model.state_dict().items():
        if "embed_tokens" not in name:
            total += tensor.nbytes
    return total


def prefill_flop(model, prompt: Prompt) -> float:
    """Floating-point operations of the prefill: image, prompt, and the logits of one position."""
    num_images = 0 if prompt.pixel_values is None else len(prompt.pixel_values)
    nothing_trained = dict.fromkeys(PARTS, False)
    lengths = [prompt.input_ids.shape[1]]
    counts = flops(model.config, nothing_trained, lengths, num_images, label_tokens=1)
    return counts["tower"] + counts["forward"]


def describe_comparison(result: dict, floor: float | None) -> str:
    ours = result["ours"]
    theirs = result["transformers"]
    ratio = f"{result['ratio']:.2f}x"
    if floor is not None:
        ratio += f", floor {floor}x"
    parts = [
        f"{ours['tokens_s']:8.1f} ({ours['spread']:.2f})",
        f"{theirs['tokens_s']:8.1f} ({theirs['spread']:.2f}) tokens/s",
        ratio,
    ]
    parts.append(f"ids equal to token {result['equal_ids']}")
    if "first_answer_s" in result:
        parts.append("transformers eager")
        parts.append(f"first answer, which compiles: {result['first_answer_s']:.0f} s")
    return " | ".join(parts)


def describe_limit(result: dict, rates: dict, tokens: int) -> str:
    """How close our speed comes to the machine's limit.

    At the limit the prefill runs at the measured rate of matrix products, and each further token
    takes one reading of the weights at the measured bandwidth.
    """
    prefill_seconds = result["prefill_flop"] / 1e9 / rates[f"matmul_gflop_s_{result['dtype']}"]
    seconds_per_token = result["bytes_per_token"] / 1e9 / rates["read_gb_s"]
    limit = tokens / (prefill_seconds + (tokens - 1) * seconds_per_token)
    share = result["ours"]["tokens_s"] / limit
    return f"limit {limit:.0f}, share {share:.0%}"


# Two rows without transformers


def machine(settings: Settings, variant: str) -> dict:
    """What the machine can do: bytes read and floating-point operations per second."""
    elements = 2**26 if settings.quick else 2**28
    large = torch.ones(elements)
    rates = {"read_gb_s": large.nbytes / best_seconds(large.sum) / 1e9}
    for name, dtype in DTYPES.items():
        matrices = [torch.randn(2816, 1024).to(dtype) for _ in range(24)]  # larger than the caches
        vector = torch.randn(1024).to(dtype)
        num_bytes = sum(matrix.nbytes for matrix in matrices)
        seconds = best_seconds(lambda: [matrix @ vector for matrix in matrices])  # noqa: B023
        rates[f"matrix_vector_gb_s_{name}"] = num_bytes / seconds / 1e9

        square = torch.randn(1024, 1024).to(dtype)
        seconds = best_seconds(lambda: square @ square)  # noqa: B023
        rates[f"matmul_gflop_s_{name}"] = 2 * 1024**3 / seconds / 1e9
    return rates


def describe_machine(result: dict, floor: float | None) -> str:
    return ", ".join(f"{name} {rate:.3g}" for name, rate in result.items())


def context(settings: Settings, variant: str) -> dict:
    """One decode step behind 256 to 2048 cached positions (29M, fp32), and the cache's bytes."""
    model = random_llava(DECODERS["29M"], UNUSED_TOWER, torch.float32)
    lengths = (256, 512) if settings.quick else (256, 512, 1024, 2048)
    steps = {}
    caches = {}
    for length in lengths:
        caches[length] = filled_cache(model, length)
        steps[str(length)] = step_at(model, caches[length], length)
    rounds = 10 if settings.quick else 40
    result = {}
    for length, seconds in take_turns(steps, rounds, warmup=10).items():
        result[length] = summarize(seconds)
        cache = caches[int(length)]
        result[length]["cache_mb"] = sum(t.nbytes for t in cache.keys + cache.values) / 1e6
    return result


def filled_cache(model, length: int) -> KVCache:
    """A cache of `length` positions and room for one more. Zeros take as long as other numbers."""
    weight = model.language_model.model.embed_tokens.weight
    cache = KVCache(model.config.text_config, batch=1, like=weight)
    cache.reserve(length + 1)
    cache.advance(length)
    return cache


def step_at(model, cache: KVCache, length: int):
    """A call that decodes one token at position `length`, as often as it is called."""
    ids = torch.tensor([7])

    @torch.inference_mode()
    def step() -> None:
        decode_step(model, ids, None, cache)
        cache.truncate(length)

    return step


def describe_context(result: dict, floor: float | None) -> str:
    parts = []
    for length, summary in result.items():
        cache = f"cache {summary['cache_mb']:.0f} MB"
        parts.append(f"{length}: {show_milliseconds(summary)}, {cache}")
    return " | ".join(parts)
