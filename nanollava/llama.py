"""The LLaMA decoder, and so Vicuna: RMSNorm, RoPE, grouped-query attention, SwiGLU, KV cache.

B sequences, T tokens, S positions that are attended to, D width, H query heads, K key-value heads,
E head width. Leaf modules carry the names that Hugging Face files use.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .config import LlamaConfig
from .hf.load import build, read_llama_config
from .hf.names import LLAMA


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, equation 4)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # At least float32: in half precision x^2 overflows, and small terms of the mean are lost.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean_square = wide.pow(2).mean(-1, keepdim=True)
        normalized = wide * torch.rsqrt(mean_square + self.eps)
        return normalized.to(x.dtype) * self.weight


def rope_cos_sin(
    position: torch.Tensor, config: LlamaConfig, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of the RoPE angles (m / factor) * theta^(-2i / E) (Su et al. 2021, equation 15).

    `position` (1 or B, T) holds the m. Both results are (1 or B, 1, T, E) in the dtype of `like`,
    computed in float32. The angle of pair i is at i and again at i + E/2: it rotates both.
    The paper pairs neighbors, 2i and 2i + 1. The rows of q_proj and k_proj in Hugging Face's files
    are reordered to match, and q k^T stays the same.
    """
    E = config.head_dim
    two_i = torch.arange(0, E, 2, device=position.device)
    inverse_frequency = 1.0 / (config.rope_theta ** (two_i.float() / E) * config.rope_factor)
    angle = position[:, None, :, None].float() * inverse_frequency  # (B, 1, T, E / 2)
    angle = torch.cat([angle, angle], dim=-1)  # (B, 1, T, E)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    """(x1, x2) -> (-x2, x1): a quarter turn of every pair (i, i + E/2)."""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([-x2, x1], dim=-1)


def apply_rotary_emb(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates every pair of x (B, heads, T, E) by its angle: x cos + rotate_half(x) sin."""
    return x * cos + rotate_half(x) * sin


class KVCache:
    """Keys and values of the positions computed so far, one pair of tensors per layer.

    Only this class and its compiled view (`compiled.StaticKVCache`) write to them. A new cache has
    no memory: call `reserve` first. Every layer appends its keys and values after the `length`
    filled positions, then `advance` adds the new positions to `length`. `truncate` forgets the last
    ones.
    """

    def __init__(self, config: LlamaConfig, batch: int, like: torch.Tensor):
        """An empty cache of `batch` rows with the dtype and device of `like`."""
        shape = (batch, config.num_key_value_heads, 0, config.head_dim)
        self.keys = []  # (B, K, capacity, E) each
        self.values = []
        for _ in range(config.num_hidden_layers):
            self.keys.append(like.new_zeros(shape))
            self.values.append(like.new_zeros(shape))
        self.length = 0

    @property
    def capacity(self) -> int:
        """Positions that there is memory for."""
        return self.keys[0].shape[2]

    def reserve(self, capacity: int) -> None:
        """Makes room for `capacity` positions; those already filled are kept."""
        missing = capacity - self.capacity
        if missing > 0:
            self.keys = [F.pad(keys, (0, 0, 0, missing)) for keys in self.keys]
            self.values = [F.pad(values, (0, 0, 0, missing)) for values in self.values]

    def append(
        self, layer: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes k and v (B, K, T, E) of a layer; returns all its keys and values (B, K, S, E)."""
        start = self.length
        end = start + k.shape[2]
        if end > self.capacity:
            raise ValueError(
                f"KV cache: {end} tokens, room for {self.capacity}; call reserve({end}) first"
            )
        keys = self.keys[layer]
        values = self.values[layer]
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, tokens: int) -> None:
        """Adds `tokens` to `length`. Call it once, after all layers have appended."""
        self.length += tokens

    def truncate(self, length: int) -> None:
        """Keeps the first `length` positions; the memory stays for those to come."""
        self.length = min(length, self.length)


class LlamaAttention(nn.Module):
    """Causal self-attention. H / K query heads share one key-value head: grouped queries."""

    def __init__(self, config: LlamaConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        D = config.hidden_size
        E = config.head_dim
        H = config.num_attention_heads
        K = config.num_key_value_heads
        self.q_proj = nn.Linear(D, H * E, bias=False)
        self.k_proj = nn.Linear(D, K * E, bias=False)
        self.v_proj = nn.Linear(D, K * E, bias=False)
        self.o_proj = nn.Linear(H * E, D, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None = None,
        kv_cache: KVCache | None = None,
    ) -> torch.Tensor:
        """x (B, T, D) to (B, T, D). `cos` and `sin` are (1 or B, 1, T, E), `mask` is (T, S) or
        (B, 1, T, S), True where a token may look."""
        q = self.split_heads(self.q_proj(x))  # (B, H, T, E)
        k = self.split_heads(self.k_proj(x))  # (B, K, T, E)
        v = self.split_heads(self.v_proj(x))
        q = apply_rotary_emb(q, cos, sin)
        k = apply_rotary_emb(k, cos, sin)
        if kv_cache is not None:
            k, v = kv_cache.append(self.layer, k, v)  # (B, K, S, E)
        # softmax(q k^T / sqrt(E)) v. A single token sees every cached position: nothing to mask.
        # Several tokens after cached ones need the mask that LlamaModel passes; `is_causal` is
        # right for T = S only.
        causal = mask is None and x.shape[1] > 1
        grouped = q.shape[1] != k.shape[1]
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped
        )
        return self.o_proj(y.transpose(1, 2).flatten(2))  # (B, T, D)

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, heads * E) -> (B, heads, T, E)."""
        B, T, _ = x.shape
        return x.view(B, T, -1, self.head_dim).transpose(1, 2)


class LlamaMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaBlock(nn.Module):
    """One pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: LlamaConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LlamaAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = LlamaMLP(config.hidden_size, config.intermediate_size)

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None = None,
        kv_cache: KVCache | None = None,
    ) -> torch.Tensor:
        """Shapes as in `LlamaAttention.forward`."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, kv_cache)
        return x + self.mlp(self.post_attention_layernorm(x))


def causal_mask(T: int, S: int, like: torch.Tensor) -> torch.Tensor:
    """True where one of the last T of S positions may look: at itself and at all before. (T, S)"""
    ones = torch.ones(T, S, dtype=torch.bool, device=like.device)
    return ones.tril(diagonal=S - T)


class LlamaModel(nn.Module):
    """Embedding, decoder blocks and the last norm."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        blocks = [LlamaBlock(config, layer) for layer in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        position: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        kv_cache: KVCache | None = None,
    ) -> torch.Tensor:
        """Hidden states (B, T, D) of `inputs_embeds` (B, T, D).

        `position` (1 or B, T) defaults to those that follow the cache; `mask` (B, 1, T, S), True
        where a token may look, defaults to the causal one.
        """
        T = inputs_embeds.shape[1]
        past = 0 if kv_cache is None else kv_cache.length
        S = past + T
        room = self.config.max_position_embeddings
        if room < S:
            raise ValueError(f"{S} tokens: the model was built for {room}")
        if position is None:
            position = torch.arange(past, S, device=inputs_embeds.device)[None]  # (1, T)
        if mask is None and past > 0 and T > 1:
            mask = causal_mask(T, S, like=inputs_embeds)
        cos, sin = rope_cos_sin(position, self.config, like=inputs_embeds)

        x = inputs_embeds
        for block in self.layers:
            x = block(x, cos, sin, mask, kv_cache)
        if kv_cache is not None:
            kv_cache.advance(T)
        return self.norm(x)

    def hidden_states(self, inputs_embeds: torch.Tensor) -> list[torch.Tensor]:
        """The embeddings and the output of every block, the last one normed, each (B, T, D)."""
        T = inputs_embeds.shape[1]
        position = torch.arange(T, device=inputs_embeds.device)[None]
        cos, sin = rope_cos_sin(position, self.config, like=inputs_embeds)
        states = [inputs_embeds]
        for block in self.layers:
            states.append(block(states[-1], cos, sin))
        states[-1] = self.norm(states[-1])
        return states


class Llama(nn.Module):
    """The language model: the decoder and the head that turns its states into logits."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, vocab) of ids (B, T)."""
        return self.lm_head(self.model(self.model.embed_tokens(input_ids)))

    @classmethod
    def from_pretrained(cls, path, **options) -> "Llama":
        """Loads a Hugging Face Llama directory; `options` as for `hf.load.build`."""
        return build(cls, read_llama_config(path), path, LLAMA, **options)
