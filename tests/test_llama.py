"""The decoder against transformers, layer by layer, and the cache against recomputation."""

import pytest
import torch
import transformers
from conftest import TOLERANCE, randomise, text_config

from nanollava.config import LlamaConfig
from nanollava.hf.config import parse_llama_config
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
    angle = torch.arange(7.0, dtype=torch.float64)[:, None] * 10000.0 ** (
        -torch.arange(0, 8, 2).double() / 8
    )
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    rope = rope_table(config, 7)[:, None, None].double()  # (2, 1, 1, T, E)
    torch.testing.assert_close(rotate(x, rope), expected, atol=1e-6, rtol=0)


def test_cache_equals_recomputation():
    config = parse_llama_config(text_config().to_dict())
    model = randomise(Llama(config)).double()
    ids = torch.randint(0, 96, (2, 24))
    whole = model(ids)
    cache = KVCache(config, 2, "cpu", torch.float64)
    cache.reserve(24)
    states = [model.model(model.model.embed_tokens(ids[:, :10]), None, cache)]
    for t in range(10, 24):
        states.append(
            model.model(model.model.embed_tokens(ids[:, t : t + 1]), None, cache, start=t)
        )
    assert cache.length == 24
    torch.testing.assert_close(model.lm_head(torch.cat(states, 1)), whole, atol=1e-10, rtol=0)
    with pytest.raises(ValueError, match="KV cache is full: 65 tokens, room for 64"):
        cache.length = 64
        model.model(model.model.embed_tokens(ids[:, :1]), None, cache, start=64)


def test_chunks_and_growth_of_the_cache():
    """Several tokens behind a filled cache see all of it and each other causally; room grows and keeps what is there."""
    config = parse_llama_config(text_config().to_dict())
    model = randomise(Llama(config)).double()
    ids = torch.randint(0, 96, (1, 90))
    cache, states = KVCache(config, 1, "cpu", torch.float64), []
    for begin, end in ((0, 7), (7, 8), (8, 60), (60, 90)):
        cache.reserve(end)
        states.append(
            model.model(model.model.embed_tokens(ids[:, begin:end]), None, cache, start=begin)
        )
    assert cache.keys[0].shape[2] == 128
    torch.testing.assert_close(model.lm_head(torch.cat(states, 1)), model(ids), atol=1e-10, rtol=0)


def test_reuse_keeps_what_is_equal():
    config = parse_llama_config(text_config().to_dict())
    cache = KVCache(config, 1, "cpu", torch.float32)
    assert cache.reuse([1, 95, 95, 5, 6], 95, 2) == 0
    cache.length = 5
    assert cache.reuse([1, 95, 95, 5, 7, 8], 95, 2) == 4  # the first difference
    cache.length = 6
    assert cache.reuse([1, 95, 95, 5, 7, 8], 95, 2) == 5  # one token is always left to compute
    cache.length = 6
    assert cache.reuse([1, 95, 95, 95, 95, 8], 95, 2) == 3
    cache.length, cache.ids = 3, [1, 95, 95, 5]
    assert cache.reuse([1, 95, 3, 3], 95, 2) == 1  # half a picture is no picture
    cache.length, cache.ids = 2, [1, 2, 3, 4]
    assert cache.reuse([1, 2, 3, 4, 5], 95, 2) == 2  # ids that were never computed do not count


def test_too_long():
    model = Llama(parse_llama_config(text_config(max_position_embeddings=16).to_dict()))
    with pytest.raises(ValueError, match="17 tokens: the model was built for 16"):
        model(torch.zeros(1, 17, dtype=torch.long))
