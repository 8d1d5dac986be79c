"""int8 and int4 layers: rounding errors, kernels against the slow version, loading, the score."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nanollava import LLaVA, load
from nanollava.errors import UserError
from nanollava.quantize import (
    GROUP,
    Int4Linear,
    Int8Linear,
    cpu_block,
    kernel_order,
    pack_int4,
    quantize_int4,
    quantize_int8,
    quantize_linear_layers,
    unpack_int4,
)
from nanollava.toyland import score


def layer_of(layer_type, weight: torch.Tensor):
    out_features, in_features = weight.shape
    layer = layer_type(in_features, out_features)
    layer.set_weight(weight)
    return layer


def test_int8_error_is_at_most_half_a_step():
    weight = torch.randn(24, 64)
    q, scale = quantize_int8(weight)
    error = (q * scale[:, None] - weight).abs()
    assert (error <= scale[:, None] / 2 + 1e-6).all()
    assert q.abs().max() == 127


def test_int4_error_is_at_most_half_a_step():
    weight = torch.randn(24, 64)
    q, scale, zero = quantize_int4(weight)
    assert q.min() == 0 and q.max() == 15
    scale = scale.repeat_interleave(GROUP, dim=1)
    zero = zero.repeat_interleave(GROUP, dim=1)
    error = ((q.float() - 8) * scale + zero - weight).abs()
    assert (error <= scale / 2 + 1e-6).all()


@pytest.mark.parametrize("capability, order", [((7, 5), "plain"), ((8, 0), "cuda")])
def test_a_gpu_without_torchs_int4_kernel_gets_the_plain_order(capability, order, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda")
    weight = SimpleNamespace(shape=(128, 128), dtype=torch.bfloat16, is_cuda=True, device=device)
    assert kernel_order(weight) == order


@pytest.mark.parametrize("layer_type", [Int8Linear, Int4Linear])
def test_rows_of_zeros_stay_zero(layer_type):
    layer = layer_of(layer_type, torch.zeros(64, 64))
    assert layer.dequantize().abs().max() < 1e-6


# Where torch's order of int4 weights for this CPU is unknown, there is no kernel to test.
has_order = pytest.mark.skipif(cpu_block() is None, reason="no int4 order for this CPU")


@pytest.mark.parametrize("order", ["plain", pytest.param("cpu", marks=has_order)])
def test_unpacking_undoes_packing(order):
    q = torch.randint(0, 16, (128, 96), dtype=torch.uint8)
    assert torch.equal(unpack_int4(pack_int4(q, order), order), q.T)


@pytest.mark.parametrize("layer_type", [Int8Linear, Int4Linear])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("out_features", [128, 24])
@pytest.mark.parametrize("tokens", [1, 5, 31, 32, 63, 64, 256])
def test_forward_equals_dequantize_then_multiply(layer_type, dtype, out_features, tokens):
    """Whatever kernel a dtype, shape and number of tokens gets. float64 is the oracle."""
    torch.manual_seed(0)
    layer = layer_of(layer_type, (torch.randn(out_features, 64) / 8).to(dtype))
    x = torch.randn(1, tokens, 64).to(dtype)
    expected = F.linear(x.double(), layer.dequantize().double())
    y = layer(x)
    assert y.shape == (1, tokens, out_features) and y.dtype == dtype
    torch.testing.assert_close(
        y.double(), expected, atol=8 * torch.finfo(dtype).eps, rtol=8 * torch.finfo(dtype).eps
    )


def test_a_cpu_of_unknown_order_gets_the_plain_one(monkeypatch):
    monkeypatch.setattr("nanollava.quantize.cpu_block", lambda: None)
    assert kernel_order(torch.zeros(64, 64, dtype=torch.bfloat16)) == "plain"


@pytest.mark.parametrize("layer_type", [Int8Linear, pytest.param(Int4Linear, marks=has_order)])
def test_few_bfloat16_tokens_take_the_kernel(layer_type, monkeypatch):
    layer = layer_of(layer_type, torch.randn(64, 64).bfloat16())
    monkeypatch.setattr(layer_type, "dequantize", None)  # calling it would fail
    layer(torch.randn(1, 1, 64).bfloat16())
    with pytest.raises(TypeError):
        layer(torch.randn(1, layer.many_tokens, 64).bfloat16())


def test_fp16_does_not_overflow():
    layer = layer_of(Int8Linear, torch.full((64, 64), 30.0).half())
    y = layer(torch.full((1, 64), 30.0).half())
    assert y.isfinite().all()


def test_int4_needs_whole_groups():
    with pytest.raises(UserError, match="40 inputs are not a multiple of 32"):
        Int4Linear(40, 64)


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="'int3': expected int8 or int4"):
        quantize_linear_layers(nn.Linear(64, 64), "int3")


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_loading_quantizes_as_it_reads(llava_dir, name):
    """The decoder's layers equal the quantized loaded weights; all else is untouched."""
    path = llava_dir(intermediate_size=128)
    loaded = LLaVA.from_pretrained(path, quantize=name)
    expected = LLaVA.from_pretrained(path)
    quantize_linear_layers(expected.language_model.model.layers, name)
    state = loaded.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for key, tensor in expected.state_dict().items():
        assert torch.equal(state[key], tensor), key
    assert not any(tensor.is_meta for tensor in state.values())


@pytest.mark.parametrize("name, bits", [("int8", 8), ("int4", 4)])
def test_stored_bits_per_weight(name, bits):
    """int8: a bf16 scale per row. int4: a bf16 scale and zero per group of 32, 1 bit per weight."""
    model = nn.Sequential(nn.Linear(512, 1024, bias=False)).bfloat16()
    quantize_linear_layers(model, name)
    stored = 8 * sum(buffer.nbytes for buffer in model.buffers())
    extra = 16 / 512 if name == "int8" else 2 * 16 / GROUP
    assert stored / (512 * 1024) == bits + extra


def toyland_score(quantize: str | None) -> float:
    toy = load("checkpoints/toy-llava", device="cpu", quantize=quantize)
    result = score.score(toy.model, toy.tokenizer, toy.image_config, count=40)
    return result["overall"]


@pytest.fixture(scope="module")
def full_score() -> float:
    """Of the weights as they are."""
    return toyland_score(None)


@pytest.mark.parametrize("name, loss", [("int8", 0.01), ("int4", 0.02)])
def test_toyland_score_hardly_falls(full_score, name, loss):
    assert toyland_score(name) > full_score - loss
