"""The compiled decode step against the plain one."""

import shutil

import pytest
import torch
from conftest import batch

from nanollava import LLaVA
from nanollava.compiled import StaticKVCache, compile_step, power_of_two
from nanollava.generate import stream
from nanollava.llama import KVCache

COMPILERS = ("g++", "clang++", "c++", "cl")


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
@pytest.mark.parametrize("rows", [1, 2])
def test_compiled_ids_equal_plain_ids(llava_dir, rows):
    """Greedy ids of one row, and of two of unequal length. One layer, because compiling is slow."""
    model = LLaVA.from_pretrained(llava_dir(num_hidden_layers=1))
    ids, _, mask, pixels = batch(rows=rows)
    options = dict(lengths=mask.sum(1), max_new_tokens=10)
    step = compile_step(model, cpp_cache_precompile_headers=False)
    compiled = model.generate(ids, pixels, step=step, **options)
    assert compiled == model.generate(ids, pixels, **options)


def test_static_cache_equals_the_growing_one(llava_dir):
    """Masked attention over the whole capacity equals attention over the filled part."""
    model = LLaVA.from_pretrained(llava_dir(), dtype=torch.float64).language_model
    ids = torch.randint(3, 90, (1, 9))
    kv_cache = KVCache(model.config, batch=1, like=model.lm_head.weight)
    kv_cache.reserve(16)
    embeds = model.model.embed_tokens(ids)
    with torch.no_grad():
        model.model(embeds[:, :8], kv_cache=kv_cache)
        place = torch.tensor([8])
        static = StaticKVCache(kv_cache.keys, kv_cache.values, place)
        mask = (torch.arange(16) <= place)[None, None, None]
        state = model.model(embeds[:, 8:], place[None], mask, static)
        torch.testing.assert_close(model.lm_head(state), model(ids)[:, 8:])


def test_few_capacities_are_compiled(llava_dir, monkeypatch):
    """Powers of two, up to the context: each new capacity costs a compilation."""
    model = LLaVA.from_pretrained(llava_dir(max_position_embeddings=100))
    capacities = set()

    def decode(ids, keys, values, place, padding_count):
        capacities.add(keys[0].shape[2])
        return torch.zeros(1, model.config.text_config.vocab_size)

    monkeypatch.setattr(torch, "compile", lambda **options: lambda function: decode)
    step = compile_step(model)
    for new in range(2, 96):
        list(stream(model, torch.full((1, 5), 7), max_new_tokens=new, step=step))
    assert capacities == {8, 16, 32, 64, 100}


def test_power_of_two():
    assert [power_of_two(n) for n in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]
