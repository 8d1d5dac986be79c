"""Int8 weights: what rounding may change, that loading quantises as it reads, and what Toyland's score loses."""

import pytest
import torch
from conftest import batch

from nanollava import LLaVA
from nanollava.image import ImageConfig
from nanollava.int8 import Int8Linear, convert, quantise
from nanollava.tokenizer import Tokenizer
from nanollava.toyland import score

TOY = "checkpoints/toy-llava"


def test_every_weight_is_off_by_half_a_step_at_most():
    weight = torch.randn(32, 48, generator=torch.Generator().manual_seed(0)) * torch.rand(32, 1)
    weight[3] = 0
    rounded, scale = quantise(weight)
    assert (
        rounded.dtype == torch.int8 and rounded.abs().amax(1).eq(127).sum() == 31
    )  # every row uses its whole range
    assert ((rounded * scale[:, None] - weight).abs() <= scale[:, None] * 0.5001).all()
    layer, x = Int8Linear(rounded, scale), torch.randn(2, 5, 48)
    torch.testing.assert_close(layer(x), x @ (rounded.float() * scale[:, None]).T)


def test_fp16_does_not_overflow():
    """A sum over Q's whole numbers passes 65504 long before the layer's result does."""
    weight = torch.full((4, 1024), 0.02)
    layer = Int8Linear(*quantise(weight)).half()
    layer.weight.data = quantise(weight)[0]
    x = torch.full((1, 1024), 3.0)
    torch.testing.assert_close(layer(x.half()).float(), x @ weight.T, rtol=2e-3, atol=0)


@pytest.mark.parametrize("act", ["gelu", "linear"])
def test_loading_quantises_as_it_reads(llava_dir, act):
    path = llava_dir() if act == "gelu" else TOY
    loaded, whole = (
        LLaVA.from_pretrained(path, dtype=torch.float32, quantised=q) for q in (True, False)
    )
    convert(whole.language_model.model.layers)
    state, expected = loaded.state_dict(), whole.state_dict()
    assert state.keys() == expected.keys() and all(
        torch.equal(state[name], expected[name]) for name in state
    )
    kinds = {
        name: tensor.dtype
        for name, tensor in state.items()
        if "_proj.weight" in name and "layers" in name
    }
    assert {kinds[name] for name in kinds if name.startswith("language_model")} == {torch.int8}
    assert {kinds[name] for name in kinds if not name.startswith("language_model")} == {
        torch.float32
    }


def test_logits_stay_near(llava_dir):
    """Rounding to 1 / 254 of a row's range moves the logits of a random model by under 3% of their spread."""
    path = llava_dir()
    ids, _, mask, pixels = batch()
    whole, small = (
        LLaVA.from_pretrained(path, quantised=q)(ids, pixels)[mask.bool()] for q in (False, True)
    )
    error = (small - whole).std() / whole.std()
    assert 1e-4 < error < 0.03, error


def test_toyland_score_falls_by_under_a_point():
    tokenizer, image = Tokenizer.from_pretrained(TOY), ImageConfig.from_pretrained(TOY)
    results = [
        score.score(
            LLaVA.from_pretrained(TOY, dtype=torch.float32, quantised=q),
            tokenizer,
            image,
            count=20,
            seed=7,
        )
        for q in (False, True)
    ]
    assert results[1]["questions"]["seen"] > 150
    assert results[1]["overall"] > results[0]["overall"] - 0.01, results
