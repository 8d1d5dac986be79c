"""toy-vicuna: its training rows, its gradients, and its files in transformers."""

import hashlib
import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import transformers

from nanollava.conversation import IGNORE_INDEX
from nanollava.files import shipped
from nanollava.llama import Llama
from nanollava.tokenizer import Tokenizer
from nanollava.toyland.captions import WORDS, plural
from nanollava.toyland.pretrain import make_tokenizer, pad
from nanollava.toyland.scenes import COLORS, DISTANCES, KINDS, SIDES, scenes
from nanollava.toyland.vicuna import (
    HARDER,
    LLAMA,
    LOOK_UPS,
    PHASES,
    Lessons,
    copies,
    copy_singulars_to_plurals,
    dialogues,
    drills,
    fact_by_fact,
    text_backward,
)

TOY_VICUNA = shipped("checkpoints/toy-vicuna")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_pretrained(TOY_VICUNA)


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def test_training_rows_of_a_seed_stay_the_same():
    """Recorded before the code was rewritten. All rows come from one random stream."""
    tokenizer = make_tokenizer(0)
    pool = list(scenes("train", 120, 0))
    rng = random.Random("rows")
    assert digest(copies(rng, 12, 704)) == "7c84c4b2b5530f3e"
    assert digest(dialogues(rng, 60, tokenizer, pool)) == "5db6cb44f68a3469"
    rows = drills(rng, 60, tokenizer, pool, [LOOK_UPS, *HARDER])
    assert digest(rows) == "2d0aa0de18199321"
    rows = drills(rng, 60, tokenizer, pool, [LOOK_UPS], fact_by_fact, brief=True)
    assert digest(rows) == "800432092c823923"


def test_copies_run_both_ways_and_train_only_the_second_copy():
    for i, (ids, labels) in enumerate(copies(random.Random(0), 8, 100)):
        half = (len(ids) + 1) // 2
        words = ids[1:half]
        second = ids[half:]
        assert second == (words if i % 2 == 1 else words[::-1])
        assert len(labels) == len(ids)
        assert [label for label in labels if label != IGNORE_INDEX] == second[1:]


def test_first_descriptions_state_every_fact_next_to_its_name():
    for scene in scenes("train", 20, 0):
        parts = fact_by_fact(scene, random.Random(0)).rstrip(".").split(", ")
        expected = []
        for thing in scene.things:
            for words in (thing.color, WORDS[thing.side], WORDS[thing.distance]):
                expected.append(f"{words} {thing.kind}")
        assert sorted(parts) == sorted(expected)


def words_of_answers(tokenizer: Tokenizer, brief: bool) -> list[set[str]]:
    """The words of all answers of each row of a drill."""
    pool = [scene for scene in scenes("train", 200, 0) if len(scene.things) == 3]
    groups = [LOOK_UPS, ("what",)]
    words = []
    for _, labels in drills(random.Random(0), 20, tokenizer, pool, groups, brief=brief):
        ids = [i for i in labels if i not in (IGNORE_INDEX, tokenizer.eos_token_id)]
        words.append(set(tokenizer.decode(ids).split()))
    return words


def test_brief_answers_of_a_drill_are_single_words_of_one_group(tokenizer):
    facts = set(COLORS)
    for spot in (*SIDES, *DISTANCES):
        facts.add(WORDS[spot].split()[-1])
    rows = words_of_answers(tokenizer, brief=True)
    look_ups = [words for words in rows if words <= facts]
    kinds = [words for words in rows if words <= set(KINDS)]
    assert look_ups and kinds
    assert len(look_ups) + len(kinds) == len(rows)


def test_other_answers_of_a_drill_are_whole(tokenizer):
    assert any("the" in words for words in words_of_answers(tokenizer, brief=False))


def test_every_phase_makes_rows_that_fit_the_model():
    tokenizer = make_tokenizer(0)
    lessons = Lessons(random.Random(0), tokenizer, list(scenes("train", 200)), batch=8)
    for phase in PHASES:
        for ids, labels in phase.make_rows(lessons):
            assert len(ids) == len(labels) <= LLAMA.max_position_embeddings
            assert max(ids) < LLAMA.vocab_size
            assert any(label != IGNORE_INDEX for label in labels), phase.name


def test_two_threads_compute_the_gradient_of_the_plain_mean():
    torch.manual_seed(0)
    model = Llama(replace(LLAMA, vocab_size=100, num_hidden_layers=2))
    rows = copies(random.Random(0), 9, 100)
    with ThreadPoolExecutor(2) as threads:
        loss = text_backward(model, rows, threads, torch.float32, torch.device("cpu"))
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    ids = pad([ids for ids, _ in rows], 0)
    labels = pad([labels for _, labels in rows], IGNORE_INDEX)
    logits = model(ids)[:, :-1].transpose(1, 2)
    expected = F.cross_entropy(logits, labels[:, 1:], ignore_index=IGNORE_INDEX)
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=0, rtol=1e-5)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-4)


def test_plurals_start_from_their_singulars(tokenizer):
    model = Llama(LLAMA)
    copy_singulars_to_plurals(model, tokenizer)
    embeddings = model.model.embed_tokens.weight
    for kind in KINDS:
        singular = tokenizer.encode(f"a {kind}")[-1]
        many = tokenizer.encode(f"a {plural(kind)}")[-1]
        assert singular != many
        assert torch.equal(embeddings[singular], embeddings[many])


def test_toy_vicuna_in_transformers():
    ours = Llama.from_pretrained(TOY_VICUNA, dtype=torch.float32)
    theirs = transformers.LlamaForCausalLM.from_pretrained(TOY_VICUNA, dtype=torch.float32)
    ids = torch.tensor([Tokenizer.from_pretrained(TOY_VICUNA).encode("Where is the dog?")])
    difference = (ours(ids) - theirs(ids).logits).abs().max()
    assert difference <= 1e-4  # logits are tens: 1e-5 of their size


def test_tokenizer_in_transformers(tokenizer):
    text = "Where is the dog? on the left 新"
    ids = tokenizer.encode(text)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(TOY_VICUNA / "tokenizer.json"))
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    assert theirs.decode(ids) == text
