"""Every connector in a LLaVA: the positions of an image, and what a text token of it changes."""

import pytest
import torch
from conftest import IMAGE_TOKEN, randomise

from nanollava.config import (
    CONNECTORS,
    PROJECTORS,
    ConnectorConfig,
    LlamaConfig,
    LlavaConfig,
    VisionConfig,
)
from nanollava.connectors.gated_llava import GatedLLaVA
from nanollava.errors import ConfigError
from nanollava.generate import decode_step, prefill
from nanollava.llava import LLaVA

VISION = VisionConfig(32, 8, 48, 96, 4, 4)
TEXT = LlamaConfig(96, 64, 112, 2, 4, 2, max_position_embeddings=128)
SIZES = ConnectorConfig(num_queries=4, num_layers=2, hidden_size=64)
NUM_TOKENS = {
    "linear": 16,
    "mlp2x_gelu": 16,
    "resampler": 4,
    "gated_xattn": 1,
    "qformer": 4,
    "minigpt4": 4,
    "abstractor": 5,
    "qwen": 4,
}


def make(kind: str) -> LLaVA:
    sizes = SIZES if kind in CONNECTORS else None
    config = LlavaConfig(VISION, TEXT, kind, image_token_id=IMAGE_TOKEN, connector=sizes)
    model_class = GatedLLaVA if kind == "gated_xattn" else LLaVA
    return randomise(model_class(config))


@pytest.mark.parametrize("kind", PROJECTORS + CONNECTORS)
def test_a_llava_with_it_reads_the_image(kind):
    model = make(kind)
    num_tokens = model.config.num_image_tokens
    assert num_tokens == NUM_TOKENS[kind]
    ids = torch.tensor([[1, 5] + [IMAGE_TOKEN] * num_tokens + [6, 7]])
    pixels = torch.randn(1, 3, 32, 32, requires_grad=True)
    logits = model(ids, pixels)
    assert logits.shape == (1, num_tokens + 4, 96)
    (gradient,) = torch.autograd.grad(logits[0, -1].sum(), pixels)
    assert gradient.abs().sum() > 0
    with pytest.raises(ValueError, match="image"):
        model(ids, torch.cat([pixels, pixels]))


@torch.no_grad()
@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.parametrize("kind", PROJECTORS + CONNECTORS)
def test_cached_decoding_equals_recomputation(kind, turns):
    """Two images, in one prefill or in one each; then single tokens on the cache."""
    model = make(kind)
    image = [IMAGE_TOKEN] * model.config.num_image_tokens
    first_turn = [1, 5, *image, 6, 7]
    ids = torch.tensor([[*first_turn, *image, 8, 9, 10, 11]])
    pixels = torch.randn(2, 3, 32, 32)
    whole = model(ids, pixels)

    prompt_length = ids.shape[1] - 3
    cache = model.new_cache(1)
    cache.reserve(ids.shape[1])
    if turns == 1:
        logits = prefill(model, ids[:, :prompt_length], pixels, None, cache)
    else:
        split = len(first_turn)
        logits = prefill(model, ids[:, :split], pixels[:1], None, cache)
        torch.testing.assert_close(logits, whole[:, split - 1])
        logits = prefill(model, ids[:, split:prompt_length], pixels[1:], None, cache)
    torch.testing.assert_close(logits, whole[:, prompt_length - 1])
    for t in range(prompt_length, ids.shape[1]):
        logits = decode_step(model, ids[:, t], None, cache)
        torch.testing.assert_close(logits, whole[:, t])


@pytest.mark.parametrize("kind", CONNECTORS)
def test_text_alone_gives_the_connector_a_gradient(kind):
    model = make(kind)
    ids = torch.tensor([[1, 4, 5, 6]])
    loss, _ = model.loss(ids, ids)
    loss.backward()
    for name, parameter in model.multi_modal_projector.named_parameters():
        assert parameter.grad is not None, name


def test_sizes_and_kind_go_together():
    with pytest.raises(ConfigError, match="connector None, but projector 'qwen'"):
        LlavaConfig(VISION, TEXT, "qwen", image_token_id=IMAGE_TOKEN)
    with pytest.raises(ConfigError, match="but projector 'linear'"):
        LlavaConfig(VISION, TEXT, "linear", image_token_id=IMAGE_TOKEN, connector=SIZES)


def test_qwen_needs_a_square():
    sizes = ConnectorConfig(num_queries=5)
    with pytest.raises(ConfigError, match="num_queries 5: qwen has a square grid"):
        LlavaConfig(VISION, TEXT, "qwen", image_token_id=IMAGE_TOKEN, connector=sizes)


def test_qwen_needs_a_width_that_its_heads_share():
    text = LlamaConfig(96, 66, 112, 2, 4, 2, head_dim=16)
    with pytest.raises(ConfigError, match="width 66 must be a multiple of 4 and of 4"):
        LlavaConfig(VISION, text, "qwen", image_token_id=IMAGE_TOKEN, connector=SIZES)


@pytest.mark.parametrize(
    "change",
    [{"num_queries": 0}, {"num_layers": 0}, {"layers_per_block": 0}, {"sees": "some"}],
)
def test_impossible_sizes_are_refused(change):
    with pytest.raises(ConfigError, match=str(next(iter(change.values())))):
        ConnectorConfig(**change)
