"""What connectors cost, compared with real modules and with counts by hand."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nanollava.config import CONNECTORS, ConnectorConfig, LlamaConfig, LlavaConfig, VisionConfig
from nanollava.connectors.build import build_connector
from nanollava.connectors.costs import connector_activations, connector_flops, connector_parameters

VISION = VisionConfig(32, 8, 48, 96, 4, 4)  # 16 patches
TEXT = LlamaConfig(96, 64, 112, 2, 4, 2, max_position_embeddings=128)
SIZES = ConnectorConfig(num_queries=4, num_layers=2, hidden_size=64)


def config(kind: str) -> LlavaConfig:
    return LlavaConfig(VISION, TEXT, kind, image_token_id=95, connector=SIZES)


@pytest.mark.parametrize("kind", CONNECTORS)
def test_parameters_and_forward_flops_are_those_of_the_module(kind):
    connector = build_connector(config(kind))
    counts = connector_parameters(config(kind))
    assert counts.all == sum(p.numel() for p in connector.parameters())
    blocks = connector.decoder_blocks().values()
    assert counts.blocks == tuple(sum(p.numel() for p in block.parameters()) for block in blocks)
    # The written-out attention: the counter does not see the products inside the CPU's fused one.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        connector(torch.randn(1, 16, 48))
    without_text = connector_flops(config(kind), images=1, tokens=0)
    if kind != "gated_xattn":
        assert without_text.forward == counter.get_total_flops()
        assert connector_flops(config(kind), 3, 50).forward == 3 * without_text.forward


def backward_flops(output: torch.Tensor) -> int:
    """What a real backward pass costs."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output.backward(torch.randn_like(output))
    return counter.get_total_flops()


def freeze_what_no_stage_trains(connector: torch.nn.Module) -> None:
    for name, parameter in connector.named_parameters():
        parameter.requires_grad_(not name.startswith(connector.frozen_prefixes))


@pytest.mark.parametrize("kind", CONNECTORS)
def test_backward_flops_are_those_of_a_real_pass(kind):
    """With gated_xattn the latents come first, then each block over ten positions of text."""
    connector = build_connector(config(kind))
    freeze_what_no_stage_trains(connector)
    with sdpa_kernel(SDPBackend.MATH):
        output = connector(torch.randn(1, 16, 48))
    expected = backward_flops(output)
    blocks = connector.decoder_blocks().values()
    for block in blocks:
        x = torch.randn(1, 10, 64, requires_grad=True)
        latents = torch.randn(1, 4, 48, requires_grad=True)
        with sdpa_kernel(SDPBackend.MATH):
            output = block(x, latents, torch.ones(1, 10, 4, dtype=torch.bool))
        expected += backward_flops(output)
    counted = connector_flops(config(kind), images=1, tokens=10)
    assert counted.by_inputs + counted.by_weights == expected


def test_qwen_by_hand():
    kv = 2 * 16 * 48 * 64
    q_and_out = 2 * 2 * 4 * 64 * 64
    k_and_v = 2 * 2 * 16 * 64 * 64
    attention = 4 * 4 * 16 * 64
    last = 2 * 4 * 64 * 64
    flops = connector_flops(config("qwen"), images=1, tokens=0)
    # The queries are mapped once, but counted per image: they are expanded after the map.
    assert flops.forward == kv + q_and_out + k_and_v + attention + last
    assert flops.by_weights == kv + q_and_out + k_and_v + last


def test_gated_blocks_cost_per_position_of_text():
    one = connector_flops(config("gated_xattn"), 1, 1)
    ten = connector_flops(config("gated_xattn"), 1, 10)
    q_and_out = 2 * 2 * 64 * 512
    attention = 4 * 4 * 512  # over four latents
    feed_forward = 2 * 2 * 64 * 256
    per_position = 2 * (q_and_out + attention + feed_forward)  # two blocks
    assert ten.forward - one.forward == 9 * per_position


def kept_on_a_cpu(module, *inputs) -> int:
    """Bytes of what a real pass in bf16 saves, told apart by address."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    saved = {}

    def save(tensor):
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            saved[address] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor)
    with hooks, sdpa_kernel(SDPBackend.MATH):
        module(*inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


@pytest.mark.parametrize("kind", CONNECTORS)
def test_activations_are_those_that_a_real_pass_keeps(kind):
    connector = build_connector(config(kind)).bfloat16()
    freeze_what_no_stage_trains(connector)
    Z_v = torch.randn(1, 16, 48, dtype=torch.bfloat16)
    counts = connector_activations(config(kind), tokens=10)
    assert counts.outside_blocks == pytest.approx(kept_on_a_cpu(connector, Z_v), rel=0.02)
    blocks = connector.decoder_blocks().values()
    for block, count in zip(blocks, counts.blocks, strict=True):
        x = torch.randn(1, 10, 64, dtype=torch.bfloat16, requires_grad=True)
        latents = torch.randn(1, 4, 48, dtype=torch.bfloat16, requires_grad=True)
        mask = torch.ones(1, 10, 4, dtype=torch.bool)
        assert count == pytest.approx(kept_on_a_cpu(block, x, latents, mask), rel=0.02)
    assert counts.all == counts.outside_blocks + sum(counts.blocks)


def test_gated_blocks_keep_more_for_more_text():
    few = connector_activations(config("gated_xattn"), tokens=10)
    many = connector_activations(config("gated_xattn"), tokens=100)
    assert many.all > 2 * few.all
    assert many.outside_blocks == few.outside_blocks
    assert connector_activations(config("qwen"), 10) == connector_activations(config("qwen"), 100)


def test_minigpt4_trains_and_computes_less_than_the_q_former():
    frozen = connector_parameters(config("minigpt4"))
    trained = connector_parameters(config("qformer"))
    assert frozen.all == trained.all == trained.trained
    assert frozen.trained == 64 * 64 + 64
    flops = connector_flops(config("minigpt4"), 1, 0)
    assert flops.by_inputs == 0
    assert flops.by_weights == 2 * 4 * 64 * 64
