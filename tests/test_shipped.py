"""The shipped LLaVA: its score on scenes it has never seen, and transformers' answers.

And the shipped W of stage 1, which fits the shipped toy-clip and toy-vicuna."""

import random

import pytest
import torch
import transformers

from nanollava import LLaVA, convert
from nanollava.files import shipped
from nanollava.image import ImageConfig
from nanollava.loading import load_llava
from nanollava.tokenizer import Tokenizer
from nanollava.toyland.grammar import WORDING_SPLITS
from nanollava.toyland.questions import TYPES
from nanollava.toyland.scenes import scenes
from nanollava.toyland.score import PLAIN, SECOND_TURN, Scorer, ask, facts_of_texts, score, shares
from nanollava.toyland.teacher import detail
from nanollava.training.arguments import TrainConfig
from nanollava.training.build import build

TOY_LLAVA = shipped("checkpoints/toy-llava")
TOY_PROJECTOR = "checkpoints/toy-projector"


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


@pytest.fixture(scope="module")
def result(ours):
    tokenizer = Tokenizer.from_pretrained(TOY_LLAVA)
    image_config = ImageConfig.from_pretrained(TOY_LLAVA)
    return score(ours, tokenizer, image_config, count=40, seed=5)


def test_score_on_held_out_scenes(result):
    """Guards weights and code: a little below the figures of docs/toyland.md (300 scenes)."""
    assert set(result["types"]) == set(TYPES)
    assert result["overall"] >= 0.93, result
    assert result["unseen_wordings"]["overall"] >= 0.88, result
    assert result["unseen_combinations"]["overall"] >= 0.83, result
    # A form of asking that was never trained on is now and then taken for a short question.
    least_recall = {"trained": 0.95, "unseen": 0.9, SECOND_TURN: 0.95}
    for name, recall in least_recall.items():
        assert result["detail"][name]["precision"] >= 0.95, result
        assert result["detail"][name]["recall"] >= recall, result


@pytest.mark.parametrize("split", WORDING_SPLITS)
def test_follow_ups_on_held_out_scenes(ours, split):
    """On more scenes than the score above, of which a third has follow-ups: too few to tell."""
    tokenizer = Tokenizer.from_pretrained(TOY_LLAVA)
    image_config = ImageConfig.from_pretrained(TOY_LLAVA)
    scorer = Scorer(ours, tokenizer, image_config, random.Random(5))
    pool = list(scenes("test", 150, seed=5, unseen=False))
    assert scorer.follow_ups(pool, split) >= 0.85


def test_score_in_plain_language(ours, result):
    assert result["plain"]["overall"] >= 0.93, result
    assert result["detail"]["plain"]["precision"] >= 0.95, result
    assert result["detail"]["plain"]["recall"] >= 0.95, result
    tokenizer = Tokenizer.from_pretrained(TOY_LLAVA)
    image_config = ImageConfig.from_pretrained(TOY_LLAVA)
    scorer = Scorer(ours, tokenizer, image_config, random.Random(5))
    pool = list(scenes("test", 20, seed=5, unseen=True))
    combinations = shares(scorer.short_questions(pool, PLAIN))
    assert combinations["overall"] >= 0.85, combinations


@pytest.mark.xfail(strict=True, reason="relations miss the goal (docs/toyland.md)")
def test_no_type_of_question_is_weak(result):
    assert min(result["types"].values()) >= 0.85, result


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
    end = expected.index(2) if 2 in expected else len(expected)  # 2 is </s>
    assert ours.generate(ids, pixels, max_new_tokens=30)[0] == expected[:end]


# The W of stage 1


def test_the_projector_is_w_alone():
    """In float16, and next to it only the command that made it."""
    folder = shipped(TOY_PROJECTOR)
    assert {file.name for file in folder.iterdir()} == {"MADE_BY.txt", "mm_projector.safetensors"}
    W = build(TrainConfig(projector=TOY_PROJECTOR)).model.multi_modal_projector
    num_weights = sum(parameter.numel() for parameter in W.parameters())
    header = (folder / "mm_projector.safetensors").stat().st_size - 2 * num_weights
    assert 0 < header < 1000
    assert (folder / "MADE_BY.txt").read_text().startswith("python train_align.py")


def test_stage_2_finds_the_projector_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build(TrainConfig(projector=TOY_PROJECTOR)).model
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_projector_makes_a_llava_that_describes_images(tmp_path, call):
    """Before stage 2, in plain language. A W of other models describes other scenes."""
    parts = [shipped(f"checkpoints/{name}") for name in ("toy-clip", "toy-vicuna")]
    call(convert, *parts, shipped(TOY_PROJECTOR), tmp_path / "stage1")
    loaded = load_llava(tmp_path / "stage1", dtype=torch.float32)
    pool = list(scenes("test", 20, seed=5, unseen=False))
    asked = [(scene, ["Describe the picture in detail."]) for scene in pool]
    stated = facts_of_texts([text for (text,) in ask(*loaded, asked, max_new_tokens=128)])
    true = facts_of_texts([detail(scene) for scene in pool])
    assert len(stated & true) / len(stated) >= 0.4
    assert len(stated & true) / len(true) >= 0.4
