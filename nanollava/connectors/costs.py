"""What a connector costs: parameters, FLOPs of matrix products, and memory for activations.

Counted by building and running it on torch's meta device, which knows shapes and has no memory.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..config import LlavaConfig
from .build import build_connector


class Parameters(NamedTuple):
    """Numbers of parameters."""

    all: int
    trained: int
    blocks: tuple[int, ...]  # of each block in the decoder; part of `all`


class Activations(NamedTuple):
    """Bytes that are kept for the backward pass."""

    outside_blocks: int
    blocks: tuple[int, ...]  # of each block in the decoder

    @property
    def all(self) -> int:
        return self.outside_blocks + sum(self.blocks)


class Flops(NamedTuple):
    """Floating-point operations. A multiplication and its addition count as 2."""

    forward: int
    by_inputs: int  # gradients of activations; of a gated block also of the text and the latents
    by_weights: int  # gradients of the matrices that are trained

    def times(self, factor: int) -> "Flops":
        return Flops(*(factor * count for count in self))

    def plus(self, other: "Flops") -> "Flops":
        return Flops(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: "Flops") -> "Flops":
        return self.plus(other.times(-1))


def meta_connector(config: LlavaConfig) -> nn.Module:
    """The connector as shapes without numbers; the parameters that no stage trains are frozen."""
    with torch.device("meta"):
        connector = build_connector(config)
    for name, parameter in connector.named_parameters():
        parameter.requires_grad_(not name.startswith(connector.frozen_prefixes))
    return connector


def patch_features(config: LlavaConfig) -> torch.Tensor:
    """One image's features Z_v (1, P, vision_width), on the meta device."""
    vision = config.vision_config
    return torch.empty(1, vision.num_patches, vision.hidden_size, device="meta")


@lru_cache
def connector_parameters(config: LlavaConfig) -> Parameters:
    """The numbers of the connector's parameters: all, those that are trained, and by block."""
    connector = meta_connector(config)
    trained = 0
    for parameter in connector.parameters():
        if parameter.requires_grad:
            trained += parameter.numel()
    of_blocks = [num_parameters(block) for block in connector.decoder_blocks().values()]
    return Parameters(num_parameters(connector), trained, tuple(of_blocks))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def connector_flops(config: LlavaConfig, images: int, tokens: int) -> Flops:
    """FLOPs for `images`, and for the gated blocks over `tokens` positions of text.

    Each position is assumed to read the latents of one image.
    """
    of_image, of_token = unit_flops(config)
    return of_image.times(images).plus(of_token.times(tokens))


@lru_cache
def unit_flops(config: LlavaConfig) -> tuple[Flops, Flops]:
    """FLOPs per image, and per position of text for the blocks in the decoder.

    The cost of a block is a constant for the latents plus a slope times the number of positions.
    """
    connector = meta_connector(config)
    Z_v = patch_features(config)
    of_image = count_flops(connector, Z_v)
    of_token = Flops(0, 0, 0)
    blocks = connector.decoder_blocks().values()
    if blocks:
        latents = torch.empty_like(connector(Z_v), requires_grad=True)
        for block in blocks:
            one = count_flops(block, *block_inputs(config, latents, 1))
            two = count_flops(block, *block_inputs(config, latents, 2))
            slope = two.minus(one)
            constant = one.minus(slope)
            of_token = of_token.plus(slope)
            of_image = of_image.plus(constant)
    return of_image, of_token


@lru_cache
def connector_activations(config: LlavaConfig, tokens: int) -> Activations:
    """What the connector keeps for the backward pass of one sample, in bf16.

    A sample is one image, and for the gated blocks `tokens` positions of text. Attention weights
    count in full, as without fused kernels.
    """
    connector = meta_connector(config).bfloat16()
    Z_v = patch_features(config).bfloat16()
    outside_blocks = saved_bytes(connector, Z_v)
    of_blocks = []
    blocks = connector.decoder_blocks().values()
    if blocks:
        latents = torch.empty_like(connector(Z_v), requires_grad=True)
        x, _, mask = block_inputs(config, latents, tokens)
        for block in blocks:
            of_blocks.append(saved_bytes(block, x.bfloat16(), latents, mask))
    return Activations(outside_blocks, tuple(of_blocks))


def saved_bytes(module: nn.Module, *inputs: torch.Tensor) -> int:
    """Bytes of all tensors that autograd keeps in one pass through a module, without its weights.

    Tensors that share a storage count once. Storages are told apart by id: on the meta device they
    have no address."""
    weights = [parameter.untyped_storage() for parameter in module.parameters()]
    weight_ids = {id(storage) for storage in weights}
    storages = {}  # by id; they stay referenced, so no id is used again

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in weight_ids:
            storages[id(storage)] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(*inputs)
    return sum(storage.nbytes() for storage in storages.values())


def block_inputs(
    config: LlavaConfig, latents: torch.Tensor, T: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a gated block, for T positions and one image: x (1, T, text_width), z (1, L, vision_width)
    and the mask (1, T, L)."""
    x = torch.empty(1, T, config.text_config.hidden_size, device="meta", requires_grad=True)
    mask = torch.empty(1, T, latents.shape[1], dtype=torch.bool, device="meta")
    return x, latents, mask


def count_flops(module: nn.Module, *inputs: torch.Tensor) -> Flops:
    """FLOPs of one pass through a module.

    The backward pass is counted without and with the gradients of the matrices; the difference is
    `by_weights`.
    """
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    forward = counter.get_total_flops()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrix_ids = ids_of_matrices(module)
    no_matrices = [parameter for parameter in trained if id(parameter) not in matrix_ids]
    by_inputs = backward_flops(module, inputs, no_matrices)
    backward = backward_flops(module, inputs, trained)
    return Flops(forward, by_inputs, backward - by_inputs)


def ids_of_matrices(module: nn.Module) -> set[int]:
    """The ids of the weights of all linear layers."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return {id(layer.weight) for layer in layers}


def backward_flops(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], parameters: list[nn.Parameter]
) -> int:
    """FLOPs of the gradients of some parameters, and of the inputs that require one.

    All other parameters are frozen for that pass."""
    wanted = [*parameters, *(tensor for tensor in inputs if tensor.requires_grad)]
    if not wanted:
        return 0
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_()
    output = module(*inputs)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(output, wanted, torch.empty_like(output), allow_unused=True)
    for parameter in trained:
        parameter.requires_grad_()
    return counter.get_total_flops()
