"""`torch.compile` of one decode step, on a cache whose shapes do not change from step to step."""

from collections.abc import Callable

import torch

from .llama import KVCache
from .padding import LeftPadding


class StaticKVCache:
    """A view of a `KVCache` for one compiled step: attention always gets all of its capacity.

    `slot` (1,) is a tensor, so that the compiled code does not depend on its value.
    """

    def __init__(self, keys: list[torch.Tensor], values: list[torch.Tensor], slot: torch.Tensor):
        self.keys = keys
        self.values = values
        self.slot = slot
        self.length = 0  # unknown to the compiled code; mask and position are given instead

    def append(
        self, layer: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys = self.keys[layer].index_copy_(2, self.slot, k)
        values = self.values[layer].index_copy_(2, self.slot, v)
        return keys, values

    def advance(self, tokens: int) -> None:
        """Does nothing: `step` advances the cache behind this view."""


def compile_step(model, **options) -> Callable:
    """A compiled `generate.decode_step` for this model, to be passed to `stream(step=...)`.

    The first call compiles, which takes from seconds to minutes. A cache that outgrows its
    capacity costs another compilation; the capacity doubles, so that this happens rarely.
    `options` are the compiler's, and replace the ones below.
    """
    llama = model.language_model
    max_positions = model.config.text_config.max_position_embeddings
    is_cuda = llama.lm_head.weight.is_cuda
    if is_cuda:
        defaults = {
            "triton.cudagraphs": True,
            "max_autotune": True,
            "coordinate_descent_tuning": True,
        }
        options = {**defaults, **options}
    else:
        write_products_as_sums()

    @torch.compile(dynamic=False, fullgraph=True, options=options)
    def decode(ids, keys, values, slot, padding_count):
        # ids (B,), keys and values (B, K, S, E) of each layer, slot (1,), padding_count (B,). S is
        # the cache's capacity: the slots after `slot` are still empty.
        S = keys[0].shape[2]
        slots = torch.arange(S, device=ids.device)
        mask = (slots <= slot) & (slots >= padding_count[:, None])  # (B, S)
        position = slot - padding_count[:, None]  # (B, 1)
        embeds = llama.model.embed_tokens(ids[:, None])
        kv_cache = StaticKVCache(keys, values, slot)
        hidden_states = llama.model(embeds, position, mask[:, None, None], kv_cache)
        return llama.lm_head(hidden_states[:, -1])

    # `model` is what is compiled; the argument is there because `decode_step` has it.
    def step(_model, ids: torch.Tensor, padding: LeftPadding | None, kv_cache: KVCache):
        kv_cache.reserve(min(max_positions, power_of_two(kv_cache.capacity)))
        if is_cuda:  # CUDA graphs copy every input that may move
            for tensor in (*kv_cache.keys, *kv_cache.values):
                torch._dynamo.mark_static_address(tensor)
        slot = ids.new_full((1,), kv_cache.length)
        padding_count = ids.new_zeros(len(ids)) if padding is None else padding.count
        logits = decode(ids, kv_cache.keys, kv_cache.values, slot, padding_count)
        kv_cache.advance(1)
        return logits

    return step


def write_products_as_sums() -> None:
    """Lets the compiler write a matrix times one token as a loop of products and sums on a CPU.

    Such a product reads every weight once. The loop reads them as fast as memory gives them, which
    the matrix libraries' own kernels do not (docs/performance.md). The compiler reads this setting
    once, before it compiles anything: an option of `torch.compile` would come too late.
    """
    from torch._inductor import config  # takes a second, for those who compile

    any_size = 2**31
    config.post_grad_fusion_options["decompose_mm_pass"] = {
        "cpu_max_other_dimension_decomposition": any_size
    }


def power_of_two(number: int) -> int:
    """The least power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()
