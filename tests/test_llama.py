"""The decoder against transformers, layer by layer, and the cache against recomputation."""

import pytest
import torch
import transformers
from conftest import TOLERANCE, randomise, text_config

from nanollava.config import LlamaConfig
from nanollava.hf.config import parse_llama_config
from nanollava.llama import (
    KVCache,
    Llama,
    RMSNorm,
    apply_rotary_emb,
    causal_mask,
    rope_cos_sin,
    rotate_half,
)

VARIANTS = {
    "grouped": {},
    "full": {"num_key_value_heads": 4},
    "one key-value head": {"num_key_value_heads": 1},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    "tied": {"tie_word_embeddings": True},
    "epsilon": {"rms_norm_eps": 0.1},
    "head width": {"head_dim": 32},
}


def random_llama(**changes) -> Llama:
    config = parse_llama_config(text_config(**changes).to_dict())
    return randomise(Llama(config)).double()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layer_equals_transformers(tmp_path, dtype, variant):
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


def test_hidden_states_end_in_what_forward_returns():
    model = random_llama()
    embeds = model.model.embed_tokens(torch.randint(0, 96, (2, 20)))
    assert torch.equal(model.model.hidden_states(embeds)[-1], model.model(embeds))


def test_tied_embeddings_are_one_parameter_after_loading(tmp_path):
    config = text_config(tie_word_embeddings=True)
    randomise(transformers.LlamaForCausalLM(config)).save_pretrained(tmp_path)
    for model in (
        Llama.from_pretrained(tmp_path),
        Llama.from_pretrained(tmp_path, dtype=torch.half),
    ):
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_rms_norm_does_not_overflow_in_half_precision():
    norm = RMSNorm(8, 1e-5).half()
    x = torch.full((1, 8), 1000.0).half()  # x^2 is above fp16's largest number
    torch.testing.assert_close(norm(x), torch.ones(1, 8).half())


def test_rotate_half_is_a_quarter_turn():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert rotate_half(x).tolist() == [-3.0, -4.0, 1.0, 2.0]


def test_rotary_embedding_multiplies_by_a_complex_number():
    """The pair (i, i + E/2) is turned by position * theta^(-2i/E)."""
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, intermediate_size=8, vocab_size=9)
    x = torch.randn(1, 2, 7, 8, dtype=torch.float64)
    pairs = torch.complex(x[..., :4], x[..., 4:])
    exponent = -torch.arange(0, 8, 2).double() / 8
    angle = torch.arange(7.0, dtype=torch.float64)[:, None] * 10000.0**exponent
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    cos, sin = rope_cos_sin(torch.arange(7)[None], config, like=x)
    torch.testing.assert_close(apply_rotary_emb(x, cos, sin), expected, atol=1e-6, rtol=0)


def test_rotary_scores_depend_on_the_distance_alone():
    config = LlamaConfig(hidden_size=8, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=generator)

    def score(m: int, n: int) -> torch.Tensor:
        turned_q = apply_rotary_emb(q, *rope_cos_sin(torch.tensor([[m]]), config, like=q))
        turned_k = apply_rotary_emb(k, *rope_cos_sin(torch.tensor([[n]]), config, like=k))
        return (turned_q * turned_k).sum()

    torch.testing.assert_close(score(9, 5), score(24, 20), atol=1e-5, rtol=0)
    assert abs(score(9, 5) - score(9, 4)) > 1e-3


def test_causal_mask_of_a_chunk_behind_a_cache():
    mask = causal_mask(2, 5, like=torch.zeros(1))
    assert mask.tolist() == [[True, True, True, True, False], [True, True, True, True, True]]


@pytest.mark.parametrize("ends", [[10, 11, 12, 13, 14], [7, 8, 14], [1, 13, 14]])
def test_cached_chunks_equal_recomputation(ends):
    """A chunk after a filled cache sees all of it, and its own tokens causally."""
    model = random_llama()
    ids = torch.randint(0, 96, (2, 14))
    kv_cache = KVCache(model.config, batch=2, like=model.lm_head.weight)
    states = []
    begin = 0
    for end in ends:
        kv_cache.reserve(end)
        embeds = model.model.embed_tokens(ids[:, begin:end])
        states.append(model.model(embeds, kv_cache=kv_cache))
        begin = end
    assert kv_cache.length == 14
    logits = model.lm_head(torch.cat(states, dim=1))
    torch.testing.assert_close(logits, model(ids), atol=1e-10, rtol=0)


def test_truncated_cache_forgets_the_end():
    model = random_llama()
    ids = torch.randint(0, 96, (1, 12))
    kv_cache = KVCache(model.config, batch=1, like=model.lm_head.weight)
    kv_cache.reserve(12)
    model.model(model.model.embed_tokens(torch.randint(0, 96, (1, 8))), kv_cache=kv_cache)
    kv_cache.truncate(0)
    states = model.model(model.model.embed_tokens(ids), kv_cache=kv_cache)
    torch.testing.assert_close(model.lm_head(states), model(ids), atol=1e-10, rtol=0)


def test_a_full_cache_is_an_error():
    model = random_llama()
    kv_cache = KVCache(model.config, batch=1, like=model.lm_head.weight)
    kv_cache.reserve(4)
    with pytest.raises(ValueError, match="KV cache: 5 tokens, room for 4"):
        model.model(torch.zeros(1, 5, 64).double(), kv_cache=kv_cache)


def test_too_many_tokens_are_an_error():
    model = random_llama(max_position_embeddings=16)
    with pytest.raises(ValueError, match="17 tokens: the model was built for 16"):
        model(torch.zeros(1, 17, dtype=torch.long))
