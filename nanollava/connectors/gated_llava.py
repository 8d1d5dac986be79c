"""A LLaVA whose decoder looks at the images through gated cross-attention (gated_xattn.py).

llama.py stays as it is: a block runs as a forward pre-hook of its decoder layer, so what it returns
is what the layer reads. The latents reach the block in the argument `kv_cache`: with the keys and
values of earlier positions while generating, and alone while training.
"""

from functools import partial

import torch
from torch import nn

from ..config import LlamaConfig
from ..llama import KVCache
from ..llava import LLaVA
from .gated_xattn import image_mask, images_before, latents_by_row


class Images:
    """The images of one pass without a KV cache. It takes the cache's place, and keeps no keys."""

    length = 0  # LlamaModel counts positions from here

    def __init__(self, latents: torch.Tensor, count: torch.Tensor, sees: str):
        """`latents` (B, M, L, vision_width); `count` (B, T), the c_t of every position."""
        self.latents = latents.flatten(1, 2)  # (B, M L, vision_width)
        self.seen = image_mask(count, *latents.shape[1:3], sees)  # (B, T, M L)

    def mask(self, T: int) -> torch.Tensor:
        return self.seen

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor):
        return k, v

    def advance(self, tokens: int) -> None:
        pass


class GatedKVCache(KVCache):
    """A KV cache that also keeps the latents of the images so far, and c_t of every position."""

    def __init__(self, config: LlamaConfig, batch: int, like: torch.Tensor, sees: str):
        super().__init__(config, batch, like)
        self.sees = sees
        self.count = torch.zeros(batch, 0, dtype=torch.long, device=like.device)  # c_t (B, S)
        # (B, M, L, vision_width); rows with fewer images are filled up with 0.
        self.image_latents = None

    @property
    def latents(self) -> torch.Tensor:
        """(B, M L, vision_width)"""
        return self.image_latents.flatten(1, 2)

    def add(self, latents: torch.Tensor, count: torch.Tensor) -> None:
        """Images (B, M, L, vision_width) of the next positions, and their c_t (B, T) from 0 on."""
        if self.length == 0:
            self.count = count
            self.image_latents = latents
            return
        before = self.count[:, -1:]  # (B, 1)
        rows = []
        for row, num_before in enumerate(before[:, 0].tolist()):
            num_new = int(count[row, -1])
            rows += [self.image_latents[row, :num_before], latents[row, :num_new]]
        self.count = torch.cat([self.count, before + count], dim=1)
        self.image_latents = latents_by_row(torch.cat(rows), self.count[:, -1])

    def mask(self, T: int) -> torch.Tensor:
        """(B, T, M L), True where one of the next T positions attends to a latent."""
        end = self.length + T
        count = self.count_until(end)[:, self.length : end]
        return image_mask(count, *self.image_latents.shape[1:3], self.sees)

    def count_until(self, end: int) -> torch.Tensor:
        """c_t (B, end). Decoding adds words alone, so its positions repeat the last c_t."""
        missing = max(0, end - self.count.shape[1])
        last = self.count[:, -1:].expand(-1, missing)
        return torch.cat([self.count, last], dim=1)

    def advance(self, tokens: int) -> None:
        self.count = self.count_until(self.length + tokens)
        super().advance(tokens)

    def truncate(self, length: int) -> None:
        """Keeps the first `length` positions. Images after them are not seen any more."""
        super().truncate(length)
        self.count = self.count[:, : self.length]


def look_first(block: nn.Module, _layer: nn.Module, inputs: tuple) -> tuple:
    """The inputs of a decoder layer (x, cos, sin, mask, kv_cache), x as a gated block changes it.

    Without images to look at, which is the language model used by itself, x stays as it is; then
    there may be no `mask` and no `kv_cache`.
    """
    x, *others = inputs
    kv_cache = others[-1] if len(others) == 4 else None
    if kv_cache is not None:
        x = block(x, kv_cache.latents.to(x.dtype), kv_cache.mask(x.shape[1]))
    return x, *others


class GatedLLaVA(LLaVA):
    """p(X_a | X_v, X_instruct), with the images as keys of gated blocks instead of as tokens."""

    def add_blocks(self, blocks: dict[int, nn.Module]) -> None:
        for layer, block in blocks.items():
            decoder_layer = self.language_model.model.layers[layer]
            decoder_layer.register_forward_pre_hook(partial(look_first, block))

    def new_cache(self, batch: int) -> GatedKVCache:
        weight = self.language_model.model.embed_tokens.weight
        return GatedKVCache(self.config.text_config, batch, weight, self.config.connector.sees)

    def embed(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The decoder's input (B, T, D): word vectors alone. The image token is one of the words.

        `input_ids` (B, T) hold the image token once per image.
        """
        num_images = 0 if pixel_values is None else len(pixel_values)
        num_positions = int((input_ids == self.config.image_token_id).sum())
        if num_positions != num_images:
            raise ValueError(f"{num_positions} image tokens in input_ids, but {num_images} images")
        return self.language_model.model.embed_tokens(input_ids)

    def last_hidden_state(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        position: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        kv_cache: GatedKVCache | None = None,
    ) -> torch.Tensor:
        """The decoder's states (B, T, D) of ids (B, T) and images (N, 3, height, width)."""
        embeds = self.embed(input_ids, pixel_values)
        count = images_before(input_ids, self.config.image_token_id)  # c_t (B, T)
        if pixel_values is None:
            latents = self.no_images(embeds)  # (B, 1, L, vision_width)
        else:
            latents_of_images = self.encode_images(pixel_values.to(embeds.dtype))  # (N, L, ...)
            latents = latents_by_row(latents_of_images, count[:, -1])  # (B, M, L, vision_width)
        if kv_cache is None:
            images = Images(latents, count, self.config.connector.sees)
            return self.language_model.model(embeds, position, mask, images)
        kv_cache.add(latents, count)
        return self.language_model.model(embeds, position, mask, kv_cache)

    def no_images(self, like: torch.Tensor) -> torch.Tensor:
        """Latents (B, 1, L, vision_width) that no position sees.

        They depend on the resampler, with a gradient of zero, as W does in `LLaVA.loss`.
        """
        resampler = self.multi_modal_projector.resampler
        zero = 0.0 * sum(parameter.sum() for parameter in resampler.parameters())
        shape = (len(like), 1, *resampler.latents.shape)
        return like.new_zeros(shape) + zero.to(like.dtype)

    def loss(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `LLaVA.loss`: the summed cross-entropy of the labelled tokens, and their number."""
        return self.labelled_loss(self.last_hidden_state(input_ids, pixel_values), labels)
