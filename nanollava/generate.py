"""Generation: prefill of picture and text in one pass, then one token a step on a preallocated KV cache."""

from collections.abc import Callable

import torch

from .config import UserError
from .llama import KVCache


def sample(logits: torch.Tensor, temperature: float, top_p: float, generator=None) -> torch.Tensor:
    """Next ids (B,) from logits (B, vocab): the most likely at temperature 0, else drawn from the smallest set of
    tokens whose probability reaches `top_p`."""
    if temperature == 0:
        return logits.argmax(-1)
    probs = torch.softmax(logits.float() / temperature, dim=-1)
    probs, order = probs.sort(-1, descending=True)
    probs[probs.cumsum(-1) - probs >= top_p] = 0  # the first token that reaches top_p stays
    choice = torch.multinomial(probs, 1, generator=generator)
    return order.gather(-1, choice).squeeze(-1)


@torch.inference_mode()
def generate(
    model, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None, max_new_tokens: int = 256,
    temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None, lengths: torch.Tensor | None = None,
    on_token: Callable[[list[int]], bool | None] | None = None,
) -> list[list[int]]:  # fmt: skip
    """Continues prompts `input_ids` (B, T), right-padded to `lengths` (B,), and returns the new ids of each.

    A row ends with the end token, which is not returned, or after `max_new_tokens`. Rows do not influence each other:
    inside, they are shifted to end together, and the padding before them is masked. `on_token` gets the new id of
    every row after each step (-1 for rows that have ended) and stops all if it returns True.
    """
    config, llama = model.config, model.language_model
    B, T = input_ids.shape
    device = input_ids.device
    room = config.text_config.max_position_embeddings
    if T + max_new_tokens > room:
        raise UserError(f"{T} prompt tokens + {max_new_tokens} new ones: the model has room for {room}")
    if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise UserError(
            f"max_new_tokens {max_new_tokens}, temperature {temperature}, top_p {top_p}: "
            "expected at least 1, at least 0, and 0 < top_p <= 1"
        )
    pad = torch.zeros(B, dtype=torch.long, device=device) if lengths is None else T - lengths
    embeds, mask = model.embed(input_ids, pixel_values), None
    if pad.any():
        index = (torch.arange(T, device=device) - pad[:, None]) % T
        embeds = embeds.gather(1, index.unsqueeze(-1).expand_as(embeds))  # right padding becomes left padding
        real = torch.arange(T + max_new_tokens, device=device) >= pad[:, None]  # (B, S)
        causal = torch.ones(T, T, dtype=torch.bool, device=device).tril()
        own = torch.eye(T, dtype=torch.bool, device=device)  # padding sees itself: an empty row would be NaN
        mask = (causal & real[:, None, :T] | own)[:, None]  # (B, 1, T, T)
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    cache = KVCache(config.text_config, B, T + max_new_tokens, device, embeds.dtype)
    states = llama.model(embeds, mask, cache, start=-pad)
    answers: list[list[int]] = [[] for _ in range(B)]
    ended = [False] * B
    for step in range(max_new_tokens):
        ids = sample(llama.lm_head(states[:, -1]), temperature, top_p, generator)
        for row, token in enumerate(ids.tolist()):
            ended[row] |= token == config.eos_token_id
            if not ended[row]:
                answers[row].append(token)
        new = [-1 if end else answer[-1] for end, answer in zip(ended, answers, strict=True)]
        stop = on_token is not None and on_token(new)
        if stop or all(ended) or step == max_new_tokens - 1:
            break
        step_mask = real[:, None, None, : T + step + 1] if mask is not None else None
        states = llama.model(llama.model.embed_tokens(ids[:, None]), step_mask, cache, start=T + step - pad)
    return answers
