"""toy-clip and toy-vicuna: their losses, their files in transformers, and that the recipe runs."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers

from nanollava.conversation import IGNORE_INDEX
from nanollava.llama import Llama
from nanollava.tokenizer import Tokenizer
from nanollava.toyland import pretrain
from nanollava.toyland.captions import WORDS, captions
from nanollava.toyland.pretrain import load_clip
from nanollava.toyland.scenes import COLORS, DISTANCES, KINDS, SIDES, scenes


def test_contrastive_loss_is_the_papers():
    """CLIP, figure 3: cross-entropy over rows and over columns of the scaled cosines, written out."""
    image, text = (
        torch.nn.functional.normalize(torch.randn(5, 8).double(), dim=-1) for _ in range(2)
    )
    rows = columns = 0.0
    for i in range(5):
        cosines = [[7.0 * (image[a] @ text[b]).item() for b in range(5)] for a in range(5)]
        row, column = torch.tensor(cosines[i]), torch.tensor([cosines[a][i] for a in range(5)])
        rows -= torch.log(row.exp()[i] / row.exp().sum()).item() / 5
        columns -= torch.log(column.exp()[i] / column.exp().sum()).item() / 5
    assert pretrain.contrastive_loss(image, text, 7.0).item() == pytest.approx(
        (rows + columns) / 2, abs=1e-6
    )


def test_variants_differ_in_one_fact():
    rng = random.Random(0)
    for _ in range(50):
        first, *others = pretrain.variants(rng, 4, "park", "rainy")
        assert first.split == "train" and len(others) == 3
        for other in others:
            facts = [set(map(str, s.facts[2:])) for s in (first, other)]
            assert other.split == "train" and (other.place, other.weather) == ("park", "rainy")
            assert first.facts != other.facts and len(facts[0] - facts[1]) <= 1


def test_under_box_is_a_mean_over_the_box():
    weight = pretrain.under_box((0.1, 0.2, 0.35, 0.4), 10).view(10, 10)
    assert weight.sum() == pytest.approx(1) and weight[2:4, 1:4].sum() == pytest.approx(1)
    assert weight[2, 3] == pytest.approx(weight[2, 1].item() / 2, rel=1e-4)


def test_toy_clip_in_transformers():
    ours, tokenizer = load_clip(Path("checkpoints/toy-clip"))
    theirs, info = transformers.CLIPModel.from_pretrained(
        "checkpoints/toy-clip", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    rng, pool = random.Random(0), list(scenes("test", 4))
    ids, ends = pretrain.encode_captions(tokenizer, [captions(s, rng)[0] for s in pool])
    pixels = pretrain.to_pixel_values(torch.stack([torch.tensor(pretrain.pixels(s)) for s in pool]))
    image, text = ours(pixels, ids, ends)
    out = theirs(input_ids=ids, pixel_values=pixels)
    torch.testing.assert_close(image, out.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, out.text_embeds, atol=1e-5, rtol=0)


def test_toy_vicuna_in_transformers():
    ours = Llama.from_pretrained("checkpoints/toy-vicuna", dtype=torch.float32)
    theirs = transformers.LlamaForCausalLM.from_pretrained(
        "checkpoints/toy-vicuna", dtype=torch.float32
    )
    text = "Where is the dog? on the left 新"
    ids = Tokenizer.from_pretrained("checkpoints/toy-vicuna").encode(text)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file="checkpoints/toy-vicuna/tokenizer.json"
    )
    assert fast(text, add_special_tokens=False)["input_ids"] == ids and fast.decode(ids) == text
    ids = torch.tensor([ids])
    assert (
        ours(ids) - theirs(ids).logits
    ).abs().max() <= 1e-4  # logits reach tens: 1e-5 of their size


def test_copies_run_both_ways_and_only_the_second_is_trained():
    for i, (row, marks) in enumerate(pretrain.copies(random.Random(0), 8, 100)):
        words, second = row[1 : (len(row) + 1) // 2], row[(len(row) + 1) // 2 :]
        assert second == (words if i % 2 else words[::-1])
        assert len(marks) == len(row) and [m for m in marks if m != IGNORE_INDEX] == second[1:]


def test_first_descriptions_tell_every_fact_beside_its_name():
    for scene in scenes("train", 20, 0):
        told = pretrain.fact_by_fact(scene, random.Random(0)).rstrip(".").split(", ")
        facts = [
            f"{w} {t.kind}"
            for t in scene.things
            for w in (t.color, WORDS[t.side], WORDS[t.distance])
        ]
        assert sorted(told) == sorted(facts)


def test_a_drill_asks_one_group_of_types_and_a_brief_answer_is_one_word():
    tokenizer = Tokenizer.from_pretrained("checkpoints/toy-vicuna")
    pool = [
        s for s in scenes("train", 200, 0) if len(s.things) == 3
    ]  # one of them alone on its side

    def answered(brief: bool) -> list[set[str]]:
        rows = pretrain.drills(
            random.Random(0), 20, tokenizer, pool, [pretrain.LOOK_UPS, ("what",)], brief=brief
        )
        labelled = (
            [i for i in marks if i not in (IGNORE_INDEX, tokenizer.eos_token_id)]
            for _, marks in rows
        )
        return [set(tokenizer.decode(ids).split()) for ids in labelled]

    found = {*COLORS, *(WORDS[spot].split()[-1] for spot in (*SIDES, *DISTANCES))}
    brief = answered(brief=True)
    assert all(words <= found or words <= {*KINDS} for words in brief)
    assert any(words <= found for words in brief) and any(words <= {*KINDS} for words in brief)
    assert any("the" in words for words in answered(brief=False))


def test_two_threads_leave_the_gradient_of_the_plain_mean():
    torch.manual_seed(0)
    cpu, model = (
        torch.device("cpu"),
        Llama(replace(pretrain.LLAMA, vocab_size=100, num_hidden_layers=2)),
    )
    rows = pretrain.copies(random.Random(0), 9, 100)
    with ThreadPoolExecutor(2) as threads:
        loss = pretrain.text_backward(model, rows, threads, torch.float32, cpu)
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    ids, labels = (
        pretrain.pad([row[i] for row in rows], fill) for i, fill in ((0, 0), (1, IGNORE_INDEX))
    )
    plain = F.cross_entropy(
        model(ids)[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORE_INDEX
    )
    plain.backward()
    torch.testing.assert_close(loss, plain, atol=0, rtol=1e-5)
    for gradient, p in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, p.grad, atol=1e-6, rtol=1e-4)


def test_recipe_runs(tmp_path):
    command = [
        sys.executable,
        "-m",
        "nanollava.toyland",
        "pretrain",
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    command += ["--scale", "0.001", "--pictures", "512"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for name in ("toy-clip", "toy-vicuna"):
        assert "--scale 0.001" in (tmp_path / name / "MADE_BY.txt").read_text()
        assert json.loads((tmp_path / name / "config.json").read_text())["model_type"] in (
            "clip",
            "llama",
        )
    load_clip(tmp_path / "toy-clip")
    Llama.from_pretrained(tmp_path / "toy-vicuna")
