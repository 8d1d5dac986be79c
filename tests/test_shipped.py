"""The shipped LLaVA: what it scores on scenes it has never seen, and that transformers gives the same answers."""

import torch
import transformers

from nanollava import LLaVA
from nanollava.image import ImageConfig
from nanollava.tokenizer import Tokenizer
from nanollava.toyland import score

TOY = "checkpoints/toy-llava"


def test_score_on_held_out_scenes():
    model = LLaVA.from_pretrained(TOY, dtype=torch.float32)
    result = score.score(
        model, Tokenizer.from_pretrained(TOY), ImageConfig.from_pretrained(TOY), count=40, seed=5
    )
    assert set(result["types"]) == set(score.TYPES)
    # A little below what the README reports for 300 scenes: this guards the shipped weights and the code that runs them.
    assert result["overall"] >= 0.93 and result["unseen_combinations"] >= 0.85, result
    assert result["detail"]["precision"] >= 0.95 and result["detail"]["recall"] >= 0.95, result


def test_transformers_gives_the_same_answer():
    ours = LLaVA.from_pretrained(TOY, dtype=torch.float32)
    theirs, info = transformers.LlavaForConditionalGeneration.from_pretrained(
        TOY, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    ids = torch.tensor(
        [[1, *range(300, 310), *[ours.config.image_token_id] * 100, *range(310, 330)]]
    )
    pixels = torch.randn(1, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    expected = theirs(input_ids=ids, pixel_values=pixels).logits
    assert (
        ours(ids, pixels) - expected
    ).abs().max() <= 1e-4  # logits reach tens: 1e-5 of their size
    long = theirs.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=30, do_sample=False)[
        0, ids.shape[1] :
    ]
    answer = ours.generate(ids, pixels, max_new_tokens=30)[0]
    assert long.tolist()[: len(answer)] == answer
