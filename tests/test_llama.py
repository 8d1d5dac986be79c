"""The decoder against transformers, layer by layer, and the cache against recomputation."""

import pytest
import torch
import transformers
from conftest import TOLERANCE, randomise, text_config

from nanollava.config import LlamaConfig
from nanollava.llama import KVCache, Llama, rope_table, rotate

VARIANTS = {
    "grouped": {},
    "full": {"num_key_value_heads": 4},
    "one key-value head": {"num_key_value_heads": 1},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    "tied": {"tie_word_embeddings": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layer(tmp_path, dtype, variant):
    config = text_config(**VARIANTS[variant])
    theirs = randomise(transformers.LlamaForCausalLM(config).to(dtype))
    theirs.save_pretrained(tmp_path)
    ours = Llama.from_pretrained(tmp_path)
    ids = torch.randint(0, 96, (2, 20))
    expected = theirs(ids, output_hidden_states=True)
    states = ours.model.hidden_states(ours.model.embed_tokens(ids))
    assert len(states) == len(expected.hidden_states) == 4
    for mine, other in zip(states, expected.hidden_states, strict=True):
        assert (mine - other).abs().max() <= TOLERANCE[dtype]
    assert (ours(ids) - expected.logits).abs().max() <= TOLERANCE[dtype]


def test_rotation_is_the_complex_one():
    """Split-half RoPE turns the pair (i, i + E/2) as a complex number by position * theta^(-2i/E)."""
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, intermediate_size=8, vocab_size=9)
    x = torch.randn(1, 2, 7, 8, dtype=torch.float64)
    pairs = torch.complex(x[..., :4], x[..., 4:])
    angle = torch.arange(7.0, dtype=torch.float64)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2).double() / 8)
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    rope = rope_table(config, 7)[:, None, None].double()
    torch.testing.assert_close(rotate(x, rope), expected, atol=1e-6, rtol=0)


def test_cache_equals_recomputation():
    config = LlamaConfig.from_dict(text_config().to_dict())
    model = randomise(Llama(config)).double()
    ids = torch.randint(0, 96, (2, 24))
    whole = model(ids)
    cache = KVCache(config, 2, 24, "cpu", torch.float64)
    states = [model.model(model.model.embed_tokens(ids[:, :10]), None, cache)]
    for t in range(10, 24):
        states.append(model.model(model.model.embed_tokens(ids[:, t : t + 1]), None, cache, start=t))
    assert cache.length == 24
    torch.testing.assert_close(model.lm_head(torch.cat(states, 1)), whole, atol=1e-10, rtol=0)
    with pytest.raises(ValueError, match="KV cache is full: 25 tokens, room for 24"):
        model.model(model.model.embed_tokens(ids[:, :1]), None, cache, start=24)


def test_too_long():
    model = Llama(LlamaConfig.from_dict(text_config(max_position_embeddings=16).to_dict()))
    with pytest.raises(ValueError, match="17 tokens: the model was built for 16"):
        model(torch.zeros(1, 17, dtype=torch.long))
