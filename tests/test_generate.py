"""Generation: the cache against recomputation, batches against singles, and sampling."""

import pytest
import torch
import transformers
from conftest import batch

from nanollava import LLaVA
from nanollava.generate import sample


@pytest.fixture(scope="module")
def model(llava_dir):
    return LLaVA.from_pretrained(llava_dir(), dtype=torch.float64)


def slow_generate(model, ids, pixels, count):
    """The obvious way: the whole sequence through the whole model for every token."""
    new = []
    with torch.no_grad():
        for _ in range(count):
            token = model(ids, pixels)[0, -1].argmax()
            if token == model.config.eos_token_id:
                break
            new.append(token.item())
            ids = torch.cat([ids, token.view(1, 1)], dim=1)
    return new


def test_cache_equals_recomputation_and_batch_equals_singles(model):
    ids, _, mask, pixels = batch(dtype=torch.float64)
    lengths = mask.sum(1)
    singles = [slow_generate(model, ids[i : i + 1, : lengths[i]], pixels[i : i + 1], 12) for i in range(3)]
    for i in range(3):
        found = model.generate(ids[i : i + 1, : lengths[i]], pixels[i : i + 1], max_new_tokens=12)
        assert found == [singles[i]]
    assert len(set(lengths.tolist())) > 1
    assert model.generate(ids, pixels, max_new_tokens=12, lengths=lengths) == singles


def test_equals_transformers(llava_dir):
    path = llava_dir()
    theirs, ours = (
        transformers.LlavaForConditionalGeneration.from_pretrained(path).eval(),
        LLaVA.from_pretrained(path),
    )
    ids, _, mask, pixels = batch(rows=1)
    ids = ids[:, : mask.sum()]
    expected = theirs.generate(
        input_ids=ids, pixel_values=pixels, max_new_tokens=16, do_sample=False, eos_token_id=2
    )
    expected = expected[0, ids.shape[1] :].tolist()
    found = ours.generate(ids, pixels, max_new_tokens=16)[0]
    assert found == (expected[:-1] if expected[-1] == 2 else expected)


def test_end_token_ends_a_row_alone(model):
    """A row that ends early stops growing; the others go on."""
    ids, _, mask, pixels = batch(dtype=torch.float64)
    lengths = mask.sum(1)
    long = model.generate(ids, pixels, max_new_tokens=12, lengths=lengths)
    seen = []
    from dataclasses import replace

    end = next(t for t in long[0] if t not in long[1] or long[1].index(t) != long[0].index(t))
    old, model.config = model.config, replace(model.config, eos_token_id=end)
    try:
        short = model.generate(ids, pixels, max_new_tokens=12, lengths=lengths, on_token=seen.append)
    finally:
        model.config = old
    for before, after in zip(long, short, strict=True):
        assert after == (before[: before.index(end)] if end in before else before)
    assert [[row[i] for row in seen if row[i] >= 0] for i in range(3)] == short


def test_seed_and_top_p():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(4000, 1)
    draw = sample(logits, 1.0, 1.0, torch.Generator().manual_seed(0))
    counts = torch.bincount(draw, minlength=4) / 4000
    assert (counts - torch.tensor([0.5, 0.3, 0.15, 0.05])).abs().max() < 0.03
    assert torch.equal(draw, sample(logits, 1.0, 1.0, torch.Generator().manual_seed(0)))
    nucleus = torch.bincount(sample(logits, 1.0, 0.7, torch.Generator().manual_seed(1)), minlength=4) / 4000
    assert nucleus[2] == nucleus[3] == 0 and abs(nucleus[0] - 0.625) < 0.03
    assert sample(logits, 0.0, 1.0).eq(0).all()


def test_no_room(model):
    ids, _, _, pixels = batch(dtype=torch.float64)
    with pytest.raises(ValueError, match="40 prompt tokens \\+ 100 new ones: the model has room for 128"):
        model.generate(ids, pixels, max_new_tokens=100)
    with pytest.raises(ValueError, match="max_new_tokens 0"):
        model.generate(ids, pixels, max_new_tokens=0)


def test_a_callback_may_stop(llava_dir):
    """Stop strings are the caller's: what `on_token` says True to is the last token."""
    model = LLaVA.from_pretrained(llava_dir())
    for seed in range(20):  # until an answer is long enough
        ids, _, _, pixels = batch(seed, rows=1)
        prompt = ids[:, : int((ids != 0).sum())]
        whole = model.generate(prompt, pixels, max_new_tokens=6)[0]
        if len(whole) > 3:
            break
    seen = []
    short = model.generate(
        prompt, pixels, max_new_tokens=6, on_token=lambda new: seen.append(new[0]) or len(seen) == 3
    )
    assert short[0] == seen == whole[:3] != whole
