"""The LLaMA decoder (and so Vicuna): RMSNorm, rotary positions, grouped-query attention, SwiGLU, KV cache.
B sequences, T tokens, S cached places, D width, H query heads, K key-value heads, E head width.
Leaf modules carry the names that Hugging Face files use."""

from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from . import int8
from .config import LlamaConfig
from .files import read_json
from .hf import load as hf_load
from .hf import names as hf_names
from .hf.config import parse_llama_config


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight, the mean taken in float32 (in float64 for float64)."""


def rope_table(config: LlamaConfig, length: int) -> torch.Tensor:
    """cos and sin of position * theta^(-2i / E), float32 (2, length, E): the second half repeats the first, and the
    first half of sin is negative, as `rotate` needs it."""
    exponent = torch.arange(0, config.head_dim, 2, device="cpu").float() / config.head_dim
    inverse = 1.0 / (config.rope_theta**exponent * config.rope_factor)
    angles = torch.outer(torch.arange(length, device="cpu").float(), inverse)  # (length, E / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos, -sin, sin], dim=-1).view(length, 2, -1).transpose(0, 1)


def rotate(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, split-half layout: dimension i turns with i + E/2. x (B, heads, T, E), rope (2, B or 1, 1, T, E)."""
    cos, sin = rope
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


class KVCache:
    """Keys and values of every layer, allocated before they are needed: `length` places of (B, K, S, E) are filled. `ids` are
    those of row 0 at the filled places. With `place` (1,), a tensor on the device, one token is written there and all S
    places are given back, filled or not: shapes that stay the same from step to step, as compilation wants them."""

    def __init__(self, config: LlamaConfig, batch: int, device, dtype):
        shape = (batch, config.num_key_value_heads, 0, config.head_dim)
        empty = torch.zeros(shape, device=device, dtype=dtype)  # no place yet: see `reserve`
        self.keys, self.values = (
            [empty] * config.num_hidden_layers,
            [empty] * config.num_hidden_layers,
        )
        self.length, self.ids, self.place = 0, [], None

    def reserve(self, length: int) -> None:
        """Makes room for `length` places, in steps of 64; what is filled stays."""
        more = -(-length // 64) * 64 - self.keys[0].shape[2]
        if more > 0:
            self.keys = [F.pad(old, (0, 0, 0, more)) for old in self.keys]
            self.values = [F.pad(old, (0, 0, 0, more)) for old in self.values]

    def reuse(self, ids: list[int], image_token_id: int, patches: int) -> int:
        """Keeps the places that hold the beginning of `ids` (whole pictures, not all of it), and returns their number."""
        pairs = zip(self.ids[: self.length], ids[:-1], strict=False)
        same = next(
            (i for i, (old, new) in enumerate(pairs) if old != new), min(self.length, len(ids) - 1)
        )
        while ids[:same].count(image_token_id) % patches:
            same -= 1
        self.length, self.ids, self.place = same, list(ids), None
        return same

    def update(
        self, layer: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes k, v (B, K, T, E) behind the filled places and gives back everything written; `length` stays."""
        keys, values = self.keys[layer], self.values[layer]
        if self.place is not None:
            return keys.index_copy_(2, self.place, k), values.index_copy_(2, self.place, v)
        end = self.length + k.shape[2]
        if end > keys.shape[2]:
            raise ValueError(f"KV cache is full: {end} tokens, room for {keys.shape[2]}")
        keys.narrow(2, self.length, k.shape[2]).copy_(k)
        values.narrow(2, self.length, k.shape[2]).copy_(v)
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)


class LlamaAttention(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        D, E = config.hidden_size, config.head_dim
        H, K = config.num_attention_heads, config.num_key_value_heads
        self.heads, self.grouped = (H, K), H != K
        self.q_proj = nn.Linear(D, H * E, bias=False)
        self.k_proj = nn.Linear(D, K * E, bias=False)
        self.v_proj = nn.Linear(D, K * E, bias=False)
        self.o_proj = nn.Linear(H * E, D, bias=False)

    def forward(self, x, rope, mask=None, cache: KVCache | None = None) -> torch.Tensor:
        B, T, _ = x.shape
        both = torch.cat([self.q_proj(x), self.k_proj(x)], dim=-1)
        both, v = (y.view(B, T, -1, self.head_dim).transpose(1, 2) for y in (both, self.v_proj(x)))
        q, k = rotate(both, rope).split(self.heads, dim=1)  # (B, H or K, T, E)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)  # (B, K, S, E)
        elif (
            x.is_cpu and x.dtype == torch.bfloat16
        ):  # whose backward pass is slower than fp32's there
            q, k, v = q.float(), k.float(), v.float()
        causal = mask is None and T > 1
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.grouped
        )
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1).to(x.dtype))


class LlamaMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaBlock(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LlamaAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = LlamaMLP(config.hidden_size, config.intermediate_size)

    def forward(self, x, rope, mask=None, cache: KVCache | None = None, keep=None) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, mask, cache)
        x = x if keep is None else x[keep]  # (places kept, D)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    """Embedding, decoder blocks and the last norm; holds the rotary table, which is computed and never saved."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LlamaBlock(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.register_buffer(
            "rope", rope_table(config, config.max_position_embeddings), persistent=False
        )

    def hidden_states(self, inputs_embeds: torch.Tensor) -> list[torch.Tensor]:
        """The embeddings, the output of every block, and in the last place that of the final norm, each (B, T, D)."""
        rope, states = self.positions(inputs_embeds), [inputs_embeds]
        for block in self.layers:
            states.append(block(states[-1], rope))
        states[-1] = self.norm(states[-1])
        return states

    def positions(self, x: torch.Tensor, start: torch.Tensor | int = 0) -> torch.Tensor:
        """The rotary table's rows for T tokens from `start`, one number or one a sequence (B,): (2, B or 1, 1, T, E) in x's dtype."""
        if isinstance(start, int):
            return self.rope.narrow(1, start, x.shape[1])[:, None, None].to(x.dtype)
        index = start.view(-1, 1) + torch.arange(x.shape[1], device=x.device)  # (B, T)
        return self.rope[:, index.clamp(min=0)].unsqueeze(2).to(x.dtype)  # below 0 lies padding

    def forward(self, inputs_embeds, mask=None, cache=None, start=0, keep=None) -> torch.Tensor:
        """Last hidden states (B, T, D), or of the places that `keep` (B, T) marks, (places, D): the last MLP runs there
        alone. Without `mask` attention is causal; `start` is the first token's position."""
        if inputs_embeds.shape[1] > self.config.max_position_embeddings:
            room = self.config.max_position_embeddings
            raise ValueError(f"{inputs_embeds.shape[1]} tokens: the model was built for {room}")
        x, rope = inputs_embeds, self.positions(inputs_embeds, start).unbind()
        if mask is None and cache is not None and cache.length and x.shape[1] > 1:
            shape = (x.shape[1], cache.length + x.shape[1])
            mask = torch.ones(shape, dtype=torch.bool, device=x.device).tril(cache.length)
        *before, last = self.layers
        for block in before:
            x = block(x, rope, mask, cache)
        x = last(x, rope, mask, cache, keep)
        if cache is not None and cache.place is None:
            cache.length += x.shape[1]
        return self.norm(x)


class Llama(nn.Module):
    """The language model: `model` and the head that turns its states into logits."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.way = self.settled = (
            None  # of one token's step, as are the seconds: see `cpu.quickest`
        )
        self.seconds = defaultdict(list)
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, vocab) of ids (B, T)."""
        return self.lm_head(self.model(self.model.embed_tokens(input_ids)))

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device="cpu", dtype=None, quantised: bool = False
    ) -> "Llama":
        """Loads a Hugging Face Llama directory; `dtype` None keeps that of the files, `quantised` makes the layers int8."""
        with hf_load.uninitialized():
            model = cls(
                parse_llama_config(read_json(Path(path) / "config.json"), f"{path}/config.json")
            )
        if quantised:
            int8.convert(model.model.layers)
        hf_load.load(model, path, hf_names.LLAMA, device, dtype)
        return model.eval()
