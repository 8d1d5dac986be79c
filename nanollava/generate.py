"""Generation: prefill of images and text in one pass, then one token a step on a KV cache."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from .errors import UserError
from .llama import KVCache
from .padding import LeftPadding
from .sampling import RepetitionPenalty, SamplingConfig, sample


def prefill(
    model,
    input_ids: torch.Tensor,
    pixel_values: torch.Tensor | None,
    padding: LeftPadding | None,
    kv_cache: KVCache,
) -> torch.Tensor:
    """Runs prompts (B, T) through the model and fills the cache.

    Returns the logits (B, vocab) of the last position. `pixel_values` are the images of these ids
    alone: what the cache holds is not computed again.
    """
    position = None
    mask = None
    if padding is not None:
        T = input_ids.shape[1]
        input_ids = padding.shift(input_ids)
        position = padding.position(0, T)
        mask = padding.prompt_mask(T)
    hidden_states = model.last_hidden_state(input_ids, pixel_values, position, mask, kv_cache)
    return model.language_model.lm_head(hidden_states[:, -1])


@contextmanager
def one_token_kernels(dtype: torch.dtype) -> Iterator[None]:
    """Turns oneDNN off for steps of one token in half precision.

    Such a step multiplies matrices with vectors, and on a CPU oneDNN does that slower than
    torch's own kernel (docs/performance.md). The prefill, with its many tokens, keeps oneDNN.
    """
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = enabled and dtype == torch.float32
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = enabled


def decode_step(
    model, ids: torch.Tensor, padding: LeftPadding | None, kv_cache: KVCache
) -> torch.Tensor:
    """Appends one id per row (B,) and returns the logits (B, vocab) of what follows."""
    llama = model.language_model
    position = None
    mask = None
    if padding is not None:
        position = padding.position(kv_cache.length, 1)
        mask = padding.step_mask(kv_cache.length + 1)
    with one_token_kernels(llama.lm_head.weight.dtype):
        embeds = llama.model.embed_tokens(ids[:, None])  # (B, 1, D)
        hidden_states = llama.model(embeds, position, mask, kv_cache)
        return llama.lm_head(hidden_states[:, -1])


@torch.inference_mode()
def stream(
    model,
    input_ids: torch.Tensor,
    pixel_values: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    kv_cache: KVCache | None = None,
    step: Callable = decode_step,
    **sampling,
) -> Iterator[list[int]]:
    """Continues prompts: yields the new id of every row, step by step.

    `input_ids` (B, T) are right-padded to `lengths` (B,). A row ends with the end token and yields
    -1 from there on. Rows do not see each other, but their draws share one random stream. A
    `kv_cache` that already holds the first positions of the prompt saves computing them;
    `pixel_values` are then only the images after them. `step` computes one token: `decode_step`,
    or what `compiled.compile_step` makes of it. `sampling` are fields of `SamplingConfig`.
    """
    settings = SamplingConfig(**sampling)
    config = model.config
    if kv_cache is None:
        kv_cache = model.new_cache(len(input_ids))
    kv_cache.reserve(needed_positions(model, input_ids.shape[1], settings.max_new_tokens))
    padding = LeftPadding.for_prompts(input_ids, lengths)
    if padding is not None and kv_cache.length > 0:
        raise ValueError("a cache that holds tokens continues prompts of equal length only")
    penalty = RepetitionPenalty(settings.repetition_penalty, config.text_config.vocab_size)
    penalty.add(input_ids if padding is None else padding.fill(input_ids))
    generator = settings.generator(input_ids.device)

    new_ids = input_ids[:, kv_cache.length :]
    logits = prefill(model, new_ids, pixel_values, padding, kv_cache)  # (B, vocab)
    finished = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    for count in range(1, settings.max_new_tokens + 1):
        logits = penalty.apply(logits)
        ids = sample(logits, settings.temperature, settings.top_p, generator, settings.top_k)
        if config.eos_token_id is not None:
            finished = finished | (ids == config.eos_token_id)
        yield ids.masked_fill(finished, -1).tolist()
        if count == settings.max_new_tokens or bool(finished.all()):
            return
        penalty.add(ids[:, None])
        logits = step(model, ids, padding, kv_cache)


def needed_positions(model, prompt_length: int, max_new_tokens: int) -> int:
    """Positions of prompt and answer together; a UserError if the model has no room for them."""
    room = model.config.text_config.max_position_embeddings
    needed = prompt_length + max_new_tokens
    if needed > room:
        sizes = f"{prompt_length} prompt tokens + {max_new_tokens} new ones"
        raise UserError(
            f"{sizes}: the model has room for {room}; lower --max-new-tokens, give fewer images, "
            "or start a new dialogue"
        )
    return needed


def generate(
    model, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None, **options
) -> list[list[int]]:
    """The new ids of each prompt, without the end token; arguments as for `stream`."""
    steps = list(stream(model, input_ids, pixel_values, **options))
    answers = [[] for _ in input_ids]
    for ids in steps:
        for answer, token in zip(answers, ids, strict=True):
            if token >= 0:
                answer.append(token)
    return answers
