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
from nanollava.toyland.captions import WEATHER_WORDS, WORDS, plural, with_article
from nanollava.toyland.pretrain import make_tokenizer, pad
from nanollava.toyland.questions import QA
from nanollava.toyland.scenes import COLORS, DISTANCES, KINDS, SIDES, scenes
from nanollava.toyland.vicuna import (
    HARDER,
    LLAMA,
    LOOK_UPS,
    PHASES,
    Lessons,
    as_list,
    brief_answers,
    copies,
    copy_kinds_to_other_words,
    dialogues,
    drills,
    fact_by_fact,
    in_words,
    text_backward,
)
from nanollava.toyland.wordings import OTHER_NAMES

TOY_VICUNA = shipped("checkpoints/toy-vicuna")
VOCAB = 400  # of the rows of copies, which start behind the bytes


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(0)


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def test_training_rows_of_a_seed_stay_the_same(tokenizer):
    """All rows come from one random stream."""
    pool = list(scenes("train", 120, 0))
    rng = random.Random("rows")
    assert digest(copies(rng, 12, LLAMA.vocab_size)) == "9a71891e7d0d1417"
    assert digest(dialogues(rng, 60, tokenizer, pool)) == "4c0e5baf5c0de793"
    rows = drills(rng, 60, tokenizer, pool, [LOOK_UPS, *HARDER], forms="plain")
    assert digest(rows) == "ed1141c293b9c4c3"
    rows = drills(rng, 60, tokenizer, pool, [LOOK_UPS], fact_by_fact, brief=True)
    assert digest(rows) == "8c49cb8b408768fa"


def test_copies_run_both_ways_and_train_only_the_second_copy():
    for i, (ids, labels) in enumerate(copies(random.Random(0), 8, VOCAB)):
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


def test_a_list_also_states_place_and_weather():
    for scene in scenes("train", 20, 0):
        place, weather, facts = as_list(scene, random.Random(0)).split(", ", 2)
        assert place == WORDS[scene.place]
        assert weather in WEATHER_WORDS[scene.weather]
        assert len(facts.split(", ")) == 3 * len(scene.things)


def test_a_description_states_the_facts_of_a_thing_before_its_name():
    for scene in scenes("train", 40, 0):
        for seed in range(4):
            text = in_words(scene, random.Random(seed)).lower()
            for thing in scene.things:
                spots = (
                    f"{WORDS[thing.side]} {WORDS[thing.distance]}",
                    f"{WORDS[thing.distance]} {WORDS[thing.side]}",
                )
                name = with_article(thing.color, thing.kind)
                assert any(f"{spot} there is {name}" in text for spot in spots)


def test_a_brief_answer_is_the_last_word_of_a_question_about_one_thing():
    qas = [
        QA("position", "Where is the cat?", "on the left"),
        QA("false premise", "Where is the dog?", "There is no dog."),
        QA("color", "What color are the cats?", "red and blue"),
        QA("color", "What color is the thing on the left?", "red"),
        QA("what", "What is behind the cat?", "nothing"),
    ]
    assert [qa.answer for qa in brief_answers(qas)] == ["left"]


def test_answers_of_a_brief_drill_are_single_words(tokenizer):
    pool = [scene for scene in scenes("train", 200, 0) if len(scene.things) == 3]
    words = {*COLORS, *KINDS}
    for spot in (*SIDES, *DISTANCES):
        words |= {spot, WORDS[spot].split()[-1]}
    groups = [LOOK_UPS, ("what",)]
    for _, labels in drills(random.Random(0), 20, tokenizer, pool, groups, brief=True):
        ids = [i for i in labels if i not in (IGNORE_INDEX, tokenizer.eos_token_id)]
        assert set(tokenizer.decode(ids).split()) <= words


def test_every_phase_makes_rows_that_fit_the_model(tokenizer):
    lessons = Lessons(random.Random(0), tokenizer, list(scenes("train", 200)), batch=8)
    for phase in PHASES:
        for ids, labels in phase.make_rows(lessons):
            assert len(ids) == len(labels) <= LLAMA.max_position_embeddings
            assert max(ids) < LLAMA.vocab_size
            assert any(label != IGNORE_INDEX for label in labels), phase.name


def test_two_threads_compute_the_gradient_of_the_plain_mean():
    torch.manual_seed(0)
    model = Llama(replace(LLAMA, vocab_size=VOCAB, num_hidden_layers=2))
    rows = copies(random.Random(0), 9, VOCAB)
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


def test_plurals_and_other_names_start_from_their_kind(tokenizer):
    model = Llama(LLAMA)
    copy_kinds_to_other_words(model, tokenizer)
    embeddings = model.model.embed_tokens.weight
    for kind in KINDS:
        a_kind = tokenizer.encode(f"a {kind}")[-1]
        for word in (plural(kind), *OTHER_NAMES.get(kind, ())):
            a_word = tokenizer.encode(f"a {word}")
            if len(a_word) == 2:
                assert a_word[-1] != a_kind
                assert torch.equal(embeddings[a_word[-1]], embeddings[a_kind])
    assert len(tokenizer.encode("a cats")) == 2


def test_toy_vicuna_in_transformers():
    ours = Llama.from_pretrained(TOY_VICUNA, dtype=torch.float32)
    theirs = transformers.LlamaForCausalLM.from_pretrained(TOY_VICUNA, dtype=torch.float32)
    ids = torch.tensor([Tokenizer.from_pretrained(TOY_VICUNA).encode("Where is the dog?")])
    difference = (ours(ids) - theirs(ids).logits).abs().max()
    assert difference <= 1e-4  # logits are tens: 1e-5 of their size


def test_tokenizer_in_transformers():
    tokenizer = Tokenizer.from_pretrained(TOY_VICUNA)
    text = "Where is the dog? on the left 新"
    ids = tokenizer.encode(text)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(TOY_VICUNA / "tokenizer.json"))
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    assert theirs.decode(ids) == text
