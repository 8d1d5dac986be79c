"""A CPU's quick ways against the plain ones: products, blocks, halves, the norm, and the choice between them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import batch
from test_generate import row, slow_generate
from torch import nn

from nanollava import LLaVA, cpu
from nanollava.generate import stream
from nanollava.llama import RMSNorm

HALF = [torch.bfloat16, torch.float16]


@pytest.fixture(params=[True, False], ids=["by way of fp32", "as it is"])
def way(request, monkeypatch):
    monkeypatch.setattr(
        cpu, "by_float32", lambda device, dtype: request.param and dtype.itemsize == 2
    )
    return request.param


def near(got, x, weight, bias=None):
    """To the exact product, within the rounding of its dtype and of sums in fp32."""
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert got.dtype == x.dtype and got.shape == exact.shape
    torch.testing.assert_close(got.double(), exact, rtol=2 * torch.finfo(got.dtype).eps, atol=1e-2)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("tokens", [(1,), (2, 5), (3, 40), (700,)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_and_their_gradients(tokens, dtype, bias):
    linear, x = nn.Linear(48, 30, bias).to(dtype), torch.randn(*tokens, 48, dtype=dtype)
    near(cpu.product(linear, x), x, linear.weight, linear.bias)
    dy, found = torch.randn(*tokens, 30, dtype=dtype), []
    for forward in (
        lambda x: cpu.product(linear, x),
        lambda x: F.linear(x, linear.weight, linear.bias),
    ):
        leaf = x.clone().requires_grad_()
        found.append(torch.autograd.grad(forward(leaf), [leaf, *linear.parameters()], dy))
    for got, expected in zip(*found, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(
            got, expected, rtol=4 * torch.finfo(dtype).eps, atol=0.1 if dtype == HALF[0] else 0.02
        )


def test_products_go_where_half_precision_is_the_slower(way, llava_dir):
    model = LLaVA.from_pretrained(llava_dir(), dtype=torch.bfloat16)
    linears = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    cpu.products(model, torch.device("cpu"), torch.float32)
    assert not any("forward" in vars(layer) for layer in linears)
    cpu.products(model, torch.device("cpu"), torch.bfloat16)
    assert len(linears) > 20 and all(("forward" in vars(layer)) == way for layer in linears)


@pytest.mark.parametrize("rates, expected", [((5, 4), False), ((6, 4), True), ((2, 4), False)])
def test_what_is_slower_is_measured(monkeypatch, rates, expected):
    rates = dict(zip((torch.float32, torch.bfloat16), rates, strict=True))
    monkeypatch.setattr(cpu, "matmul_rate", lambda device, dtype: rates[dtype])
    here, dtypes = torch.device("cpu"), (torch.bfloat16, torch.float32, torch.float64)
    assert [cpu.by_float32(here, dtype) for dtype in dtypes] == [expected, False, False]
    assert not cpu.by_float32(torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("out", [256, 300, 768])
@pytest.mark.parametrize("shape", [(1, 1, 64), (1, 64), (64,), (1, 3, 64), (2, 20, 64)])
def test_blocks(way, dtype, out, shape):
    """One token, few and many, with and without rows of zeros behind the last."""
    linear, x = nn.Linear(64, out, bias=False).to(dtype), torch.randn(shape, dtype=dtype)
    with torch.inference_mode():
        near(cpu.Blocks(linear)(x), x, linear.weight)


def test_a_bag_sums_every_row_of_its_block():
    rows = cpu.rows(3, 8)
    assert [sorted(part.tolist()) for part in rows.split(8)] == [
        list(range(n, n + 8)) for n in (0, 8, 16)
    ]
    assert rows[:8].tolist() == [0, 2, 4, 6, 1, 3, 5, 7] and rows.dtype == torch.int32


def test_a_converted_model_answers_alike(way, llava_dir):
    """Blocks where the weights pass the cache, and the same logits but for bf16's rounding, from prompt and steps."""
    text = dict(hidden_size=256, intermediate_size=384, num_attention_heads=4, vocab_size=300)
    path, (ids, _, mask, pixels) = llava_dir(**text), batch()
    ids, pixels = row(ids, mask, pixels, 0)
    plain, quick = (LLaVA.from_pretrained(path, dtype=torch.bfloat16) for _ in range(2))
    cpu.convert(quick)
    layer, states = quick.language_model.model.layers[0], []
    assert isinstance(layer.mlp.up_proj, cpu.Blocks) and isinstance(
        quick.language_model.lm_head, cpu.Blocks
    )
    assert isinstance(layer.self_attn.k_proj, nn.Linear) and isinstance(
        layer.self_attn.q_proj, cpu.Blocks
    )
    for model in (plain, quick):
        model.config = replace(model.config, eos_token_id=-1)
        found = []
        model.language_model.lm_head.register_forward_hook(
            lambda _, args, y, found=found: found.append(y.float())
        )
        new = [token for (token,) in stream(model, ids, pixels.bfloat16(), max_new_tokens=12)]
        states.append((new, torch.cat(found)))
    same = next(
        (i for i, (a, b) in enumerate(zip(states[0][0], states[1][0], strict=True)) if a != b), 12
    )
    logits = [part[: same + 1] for _, part in states]
    assert len(logits[0]) > 1 and (logits[0] - logits[1]).abs().max() < 0.05 * logits[0].abs().max()
    cpu.convert(single := LLaVA.from_pretrained(path, dtype=torch.float32))
    assert not any(
        isinstance(layer, cpu.Blocks) or "forward" in vars(layer) for layer in single.modules()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 300), (1, 300), (300,), (1, 3, 300)])
def test_halves(dtype, shape):
    """One token's product and several tokens', which are not halved, as `F.linear`."""
    linear, x = nn.Linear(300, 220, bias=False).to(dtype), torch.randn(shape, dtype=dtype)
    torch.testing.assert_close(
        cpu.halves(linear, x), F.linear(x, linear.weight), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
@pytest.mark.parametrize("shape", [(1, 1, 96), (1, 3, 96), (96,)])
def test_norm(dtype, shape):
    layer, x = RMSNorm(96, 1e-2), 0.1 * torch.randn(shape).double()
    exact = F.rms_norm(x, (96,), torch.linspace(0.5, 2, 96).double(), 1e-2)
    layer.weight = nn.Parameter(torch.linspace(0.5, 2, 96))
    with torch.inference_mode():
        got = cpu.norm(layer.to(dtype), torch.tensor([1e-2]), x.to(dtype))
    assert got.dtype == dtype
    precision = 1e-12 if dtype == torch.float64 else 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), exact, rtol=precision, atol=precision)


@pytest.mark.parametrize("onednn, halves", [(False, False), (True, False), (False, True)])
def test_steps_try_every_way_and_keep_the_quickest(llava_dir, onednn, halves):
    """The ids are those of the obvious way while the ways are tried; then the quickest is taken, as the times say."""
    text = dict(hidden_size=256, intermediate_size=384, num_attention_heads=4, vocab_size=301)
    model = LLaVA.from_pretrained(llava_dir(**text), dtype=torch.float32)
    model.config = replace(model.config, eos_token_id=-1)
    (ids, _, mask, pixels), llama = batch(), model.language_model
    ids, pixels = row(ids, mask, pixels, 0)
    new = [token for (token,) in stream(model, ids, pixels, max_new_tokens=12)]
    assert new == slow_generate(model, ids, pixels, 12)
    assert [len(seconds) for seconds in llama.seconds.values()] == [3, 3, 3]
    assert min(map(min, llama.seconds.values())) > 0
    way, layer = (torch.float32, onednn, halves), llama.model.layers[0]
    llama.settled = None
    llama.seconds.update({other: [1.0 if other == way else 2.0] * 3 for other in llama.seconds})
    seen = []
    llama.lm_head.register_forward_pre_hook(lambda *_: seen.append(torch.backends.mkldnn.enabled))
    list(stream(model, ids, pixels, max_new_tokens=3))
    assert (
        seen == [True, onednn, onednn] and torch.backends.mkldnn.enabled
    )  # the prefill is not asked
    assert (layer.mlp.up_proj.forward.func is cpu.halves) == halves  # 256 x 384
    assert llama.lm_head.forward.func is nn.Linear.forward  # 301 has no half
    assert "forward" not in vars(layer.self_attn.k_proj)  # 256 x 128: too small to gain
    assert llama.seconds[way] == [1.0] * 3
    llama(ids[:, :1]).sum().backward()  # a model that has answered can be trained
    assert (
        layer.input_layernorm.weight.grad.abs().sum() > 0
        and layer.mlp.up_proj.weight.grad.abs().sum() > 0
    )
    seen.clear()
    list(stream(model.bfloat16(), ids, pixels.bfloat16(), max_new_tokens=9))
    assert seen == [True] + 8 * [False]  # bf16 does not depend on the clock

    def fail(*_):
        raise RuntimeError("in a step")

    broken = stream(model, ids, pixels.bfloat16(), max_new_tokens=3)
    next(broken)
    layer.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in a step"):
        next(broken)
    assert torch.backends.mkldnn.enabled
