"""Gated cross-attention, derived again in NumPy, and a LLaVA that uses it."""

import numpy as np
import pytest
import torch
from conftest import IMAGE_TOKEN, randomise
from numpy_layers import attention, gelu, layer_norm, linear, weights_of

from nanollava.config import ConnectorConfig, LlamaConfig, LlavaConfig, VisionConfig
from nanollava.connectors.gated_llava import GatedLLaVA
from nanollava.connectors.gated_xattn import GatedBlock, image_mask, images_before
from nanollava.errors import ConfigError
from nanollava.llama import KVCache
from nanollava.llava import LLaVA

VISION = VisionConfig(32, 8, 48, 96, 4, 4)
TEXT = LlamaConfig(96, 64, 112, 3, 4, 2, max_position_embeddings=128)
LATENTS = 3
IDS = torch.tensor([[1, 7, IMAGE_TOKEN, 5, 6, IMAGE_TOKEN, 8, 9]])


def config(**changes) -> LlavaConfig:
    sizes = ConnectorConfig(num_queries=LATENTS, num_layers=1, **changes)
    return LlavaConfig(VISION, TEXT, "gated_xattn", image_token_id=IMAGE_TOKEN, connector=sizes)


def gated_model(**changes) -> GatedLLaVA:
    return randomise(GatedLLaVA(config(**changes)))


def images(count: int, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)


# The block


def block_output(x, z, mask, weights):
    """One sequence x (T, D), latents z (S, vision_width), mask (T, S)."""
    q = linear(layer_norm(x, weights, "attention.norm"), weights, "attention.q_proj")
    k = linear(z, weights, "attention.k_proj")
    v = linear(z, weights, "attention.v_proj")
    for t in range(len(x)):
        if mask[t].any():
            row = attention(q[t : t + 1], k, v, heads=8, mask=mask[t : t + 1])
            update = linear(row, weights, "attention.out_proj")[0]
            x[t] = x[t] + np.tanh(weights["attention_gate"]) * update
    hidden = gelu(linear(layer_norm(x, weights, "feed_forward.norm"), weights, "feed_forward.fc1"))
    return x + np.tanh(weights["feed_forward_gate"]) * linear(hidden, weights, "feed_forward.fc2")


@pytest.mark.parametrize("sees", ["last", "all"])
def test_equals_the_equations(sees):
    block = randomise(GatedBlock(16, 12).double())
    x = torch.randn(1, 8, 16, dtype=torch.float64)
    z = torch.randn(1, 2 * LATENTS, 12, dtype=torch.float64)
    mask = image_mask(images_before(IDS, IMAGE_TOKEN), 2, LATENTS, sees)
    y = block(x, z, mask)[0].detach().numpy()
    expected = block_output(x[0].numpy(), z[0].numpy(), mask[0].numpy(), weights_of(block))
    np.testing.assert_allclose(y, expected, atol=1e-10)


def test_the_masks_of_two_images():
    count = images_before(IDS, IMAGE_TOKEN)
    assert count.tolist() == [[0, 0, 1, 1, 1, 2, 2, 2]]
    last = image_mask(count, 2, 1, "last")[0].int().tolist()
    assert last == [[0, 0], [0, 0], [1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1]]
    all_before = image_mask(count, 2, 1, "all")[0].int().tolist()
    assert all_before == [[0, 0], [0, 0], [1, 0], [1, 0], [1, 0], [1, 1], [1, 1], [1, 1]]


# The model


def test_with_closed_gates_the_logits_are_the_language_models_bit_by_bit():
    model = gated_model()
    for block in model.multi_modal_projector.decoder_blocks().values():
        block.attention_gate.data.zero_()
        block.feed_forward_gate.data.zero_()
    assert torch.equal(model(IDS, images(2)), model.language_model(IDS))


def test_its_language_model_by_itself_sees_no_image():
    model = gated_model()
    embeds = model.language_model.model.embed_tokens(IDS)
    states = model.language_model.model.hidden_states(embeds)
    torch.testing.assert_close(states[-1], model.language_model.model(embeds))


def test_new_gates_are_closed():
    for block in GatedLLaVA(config()).multi_modal_projector.decoder_blocks().values():
        assert block.attention_gate.item() == 0
        assert block.feed_forward_gate.item() == 0


@pytest.mark.parametrize("sees", ["last", "all"])
def test_what_each_word_sees_shown_by_gradients(sees):
    """One decoder layer: a later one would read an earlier image through the words before it."""
    text = LlamaConfig(96, 64, 112, 1, 4, 2, max_position_embeddings=128)
    sizes = ConnectorConfig(num_queries=LATENTS, num_layers=1, sees=sees)
    model = randomise(
        GatedLLaVA(
            LlavaConfig(VISION, text, "gated_xattn", image_token_id=IMAGE_TOKEN, connector=sizes)
        )
    )
    # Self-attention would carry what earlier words have seen: its output is switched off.
    model.language_model.model.layers[0].self_attn.o_proj.weight.data.zero_()
    pixels = images(2).requires_grad_()
    hidden_states = model.last_hidden_state(IDS, pixels)
    seen = []
    for t in range(IDS.shape[1]):
        (gradient,) = torch.autograd.grad(hidden_states[0, t].sum(), pixels, retain_graph=True)
        seen.append([bool(gradient[0].any()), bool(gradient[1].any())])
    expected = image_mask(images_before(IDS, IMAGE_TOKEN), 2, 1, sees)[0]
    assert seen == expected.tolist()


@pytest.mark.parametrize("sees", ["last", "all"])
def test_cached_decoding_equals_recomputation(sees):
    model = gated_model(sees=sees)
    pixels = images(2)
    expected = model.last_hidden_state(IDS, pixels)
    kv_cache = model.new_cache(1)
    kv_cache.reserve(8)
    first = model.last_hidden_state(IDS[:, :4], pixels[:1], kv_cache=kv_cache)
    # A second image after what the cache holds, then words one by one.
    second = model.last_hidden_state(IDS[:, 4:6], pixels[1:], kv_cache=kv_cache)
    words = []
    for t in (6, 7):
        embeds = model.language_model.model.embed_tokens(IDS[:, t : t + 1])
        words.append(model.language_model.model(embeds, kv_cache=kv_cache))
    states = torch.cat([first, second, *words], dim=1)
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)


def test_a_truncated_cache_forgets_its_last_image():
    model = gated_model(sees="all")
    pixels = images(3)
    expected = model.last_hidden_state(IDS, pixels[[0, 2]])
    kv_cache = model.new_cache(1)
    kv_cache.reserve(8)
    model.last_hidden_state(IDS, pixels[:2], kv_cache=kv_cache)
    kv_cache.truncate(4)
    states = model.last_hidden_state(IDS[:, 4:], pixels[2:], kv_cache=kv_cache)
    torch.testing.assert_close(states, expected[:, 4:], rtol=0, atol=1e-5)


def test_answers_of_a_batch_are_those_of_each_prompt_alone():
    """Prompts of unequal length, with two images, one and none."""
    model = gated_model()
    prompts = [IDS[0], IDS[0, :5], torch.tensor([1, 4, 9])]
    pixels = images(3)
    input_ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_value=1)
    lengths = torch.tensor([len(ids) for ids in prompts])
    together = model.generate(input_ids, pixels, lengths=lengths, max_new_tokens=6)
    alone = [
        *model.generate(prompts[0][None], pixels[:2], max_new_tokens=6),
        *model.generate(prompts[1][None], pixels[2:], max_new_tokens=6),
        *model.generate(prompts[2][None], None, max_new_tokens=6),
    ]
    assert together == alone


def test_text_alone_gives_every_parameter_a_gradient():
    """All ranks run the same backward pass, whatever their samples."""
    model = gated_model()
    ids = torch.tensor([[1, 4, 5, 6]])
    loss, _ = model.loss(ids, ids)
    loss.backward()
    for name, parameter in model.multi_modal_projector.named_parameters():
        assert parameter.grad is not None, name


def test_blocks_stand_before_every_nth_layer():
    blocks = gated_model(layers_per_block=2).multi_modal_projector.decoder_blocks()
    assert list(blocks) == [1]  # of three layers: (1 + 1) is a multiple of 2


def test_the_plain_llava_refuses_it():
    with pytest.raises(ConfigError, match=r"gated_xattn: made by GatedLLaVA"):
        LLaVA(config())


def test_its_cache_is_one_of_its_own():
    assert type(gated_model().new_cache(1)) is not KVCache


def test_published_sizes():
    with torch.device("meta"):
        small = GatedBlock(2048, 1024)
        large = GatedBlock(4096, 1024)
    sizes = [sum(p.numel() for p in block.parameters()) for block in (small, large)]
    assert [round(size / 1e6, 1) for size in sizes] == [36.7, 139.5]
