"""The shipped LLaVA: its score on scenes it has never seen, and transformers' answers."""

import pytest
import torch
import transformers

from nanollava import LLaVA
from nanollava.files import shipped
from nanollava.image import ImageConfig
from nanollava.tokenizer import Tokenizer
from nanollava.toyland.score import score
from nanollava.toyland.teacher import TYPES

TOY_LLAVA = shipped("checkpoints/toy-llava")


@pytest.fixture(scope="module")
def ours():
    return LLaVA.from_pretrained(TOY_LLAVA, dtype=torch.float32)


@pytest.fixture(scope="module")
def theirs():
    model, info = transformers.LlavaForConditionalGeneration.from_pretrained(
        TOY_LLAVA, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    return model


@pytest.fixture(scope="module")
def inputs(ours):
    """Ids of a prompt with an image between words, and random pixels."""
    image_tokens = [ours.config.image_token_id] * 100
    ids = torch.tensor([[1, *range(300, 310), *image_tokens, *range(310, 330)]])
    generator = torch.Generator().manual_seed(0)
    return ids, torch.randn(1, 3, 100, 100, generator=generator)


def test_score_on_held_out_scenes(ours):
    """A little below what is reported for 300 scenes: guards the weights and the code."""
    tokenizer = Tokenizer.from_pretrained(TOY_LLAVA)
    image_config = ImageConfig.from_pretrained(TOY_LLAVA)
    result = score(ours, tokenizer, image_config, count=40, seed=5)
    assert set(result["types"]) == set(TYPES)
    assert result["overall"] >= 0.93, result
    assert result["unseen_combinations"] >= 0.85, result
    assert result["detail"]["precision"] >= 0.95, result
    assert result["detail"]["recall"] >= 0.95, result


def test_transformers_computes_the_same_logits(ours, theirs, inputs):
    ids, pixels = inputs
    expected = theirs(input_ids=ids, pixel_values=pixels).logits
    difference = (ours(ids, pixels) - expected).abs().max()
    assert difference <= 1e-4  # logits are tens: 1e-5 of their size


def test_transformers_generates_the_same_answer(ours, theirs, inputs):
    ids, pixels = inputs
    generated = theirs.generate(
        input_ids=ids, pixel_values=pixels, max_new_tokens=30, do_sample=False
    )
    expected = generated[0, ids.shape[1] :].tolist()
    answer = ours.generate(ids, pixels, max_new_tokens=30)[0]
    assert expected[: len(answer)] == answer
