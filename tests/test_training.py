"""Both stages as a user runs them: one process and two, what is trained, what is written."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from conftest import randomise, text_config, vision_config
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanollava import LLaVA
from nanollava.image import ImageConfig
from nanollava.toyland import data
from nanollava.toyland.pretrain import make_tokenizer
from nanollava.training import distributed, loop


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny random CLIP, a tiny random Llama with a tokenizer, and a little data."""
    path = tmp_path_factory.mktemp("world")
    transformers.set_seed(0)
    randomise(transformers.CLIPVisionModel(vision_config())).save_pretrained(path / "clip")
    ImageConfig(32).save_pretrained(path / "clip")
    tokenizer = make_tokenizer(0)
    config = text_config(vocab_size=len(tokenizer), max_position_embeddings=512)
    randomise(transformers.LlamaForCausalLM(config)).save_pretrained(path / "llama")
    tokenizer.save_pretrained(path / "llama")
    data.write(path / "data", train=40, validation=4, size=64)
    return path


def launch(world, script: str, out: str, *flags: str, ranks: int | None = None) -> list[dict]:
    """Runs a stage and returns its metrics."""
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(ranks),
    ]
    command = [
        *(torchrun if ranks else [sys.executable]),
        script,
        "--vision",
        world / "clip",
        "--llm",
        world / "llama",
    ]
    command += [
        "--out",
        world / out,
        "--batch",
        "8",
        "--max-steps",
        "5",
        "--device",
        "cpu",
        "--save-dtype",
        "fp32",
    ]
    command += [] if "--dtype" in flags else ["--dtype", "fp32"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command), *flags], capture_output=True, text=True, env=env, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trained" in done.stdout and "frozen" in done.stdout
    return [json.loads(line) for line in (world / out / "metrics.jsonl").read_text().splitlines()]


def close(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor - other[name]).norm() <= 1e-6 * tensor.norm() + 1e-12, name


def test_two_ranks_equal_one_in_both_stages(world):
    records = json.loads((world / "data/align.json").read_text())
    for record in records[::2]:  # text alone: some micro-batches of some ranks hold nothing else
        record["conversations"][0]["value"] = "Say it."
        del record["image"]
    (world / "data/mixed.json").write_text(json.dumps(records))
    align = ["--data", str(world / "data/mixed.json"), "--lr", "1e-3"]
    saved = ["--micro-batch", "2", "--save-steps", "3"]
    side_by_side = ThreadPoolExecutor(2)
    one = side_by_side.submit(launch, world, "train_align.py", "align1", *align)
    two = side_by_side.submit(launch, world, "train_align.py", "align2", *align, *saved, ranks=2)
    one, two = one.result(), two.result()
    assert [m["step"] for m in one] == [0, 1, 2, 3, 4] and one[0]["loss"] > 1
    for a, b in zip(one, two, strict=True):
        assert a["label_tokens"] == b["label_tokens"] and a["lr"] == b["lr"]
        assert abs(a["loss"] - b["loss"]) <= 1e-6 * a["loss"]
    w1, w2 = (load_file(world / out / "mm_projector.safetensors") for out in ("align1", "align2"))
    assert set(w1) == {
        "multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_1.bias",
    }
    close(w1, w2)
    # The same from what two ranks saved after step 3, by one rank: in the middle of an epoch, and of its metrics.
    checkpoints = sorted((world / "align2/checkpoints").iterdir())
    assert [p.name for p in checkpoints] == ["step-00000003", "step-00000005"]
    shutil.rmtree(checkpoints[1])
    again = side_by_side.submit(launch, world, "train_align.py", "align2", *align, *saved)
    instruct = [
        "--data",
        str(world / "data/instruct.json"),
        "--projector",
        str(world / "align1"),
        "--lr",
        "1e-4",  # AdamW turns the rounding of a gradient near zero into a step of up to lr
    ]
    validation = str(world / "data/validation.json")
    more = [
        "--validation",
        validation,
        "--eval-steps",
        "4",
        "--toyland-scenes",
        "2",
        "--group",
        "--workers",
        "1",
    ]
    more += ["--checkpoint-activations", "--offload-optimizer", "--check-images", "--tensorboard"]
    stage2, scored = (
        (world, "train_instruct.py"),
        "--micro-batch 2 --eval-steps 5 --toyland-scenes 3".split(),
    )
    one = side_by_side.submit(launch, *stage2, "instruct1", *instruct)
    third = side_by_side.submit(launch, *stage2, "instruct3", *instruct, "--dtype", "bf16", *more)
    once_more = side_by_side.submit(launch, *stage2, "instruct2", *instruct, *scored, ranks=2)
    again, before, one, two, third = (
        again.result(),
        two,
        one.result(),
        once_more.result(),
        third.result(),
    )

    assert again[:3] == before[:3] and [m["step"] for m in again] == [0, 1, 2, 3, 4]
    close(w1, load_file(world / "align2/mm_projector.safetensors"))
    for a, b in zip(one, two, strict=True):
        assert abs(a["loss"] - b["loss"]) <= 1e-6 * a["loss"]
    m1, m2 = (load_file(world / out / "model.safetensors") for out in ("instruct1", "instruct2"))
    close(m1, m2)
    assert "toyland_score" in two[-1]  # though no forward pass of FSDP's came before it
    assert [m["step"] for m in third if {"validation_loss", "toyland_score"} <= m.keys()] == [3]
    assert all(
        m["pictures"] == 8 and m["mfu"] > 0 and m["label_tokens"] < m["tokens"] for m in third
    )
    board = EventAccumulator(str(world / "instruct3/tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == {name for m in third for name in m}
    for event, m in zip(board.Scalars("loss"), third, strict=True):
        assert event.step == m["step"] and event.value == pytest.approx(m["loss"])
    tower = load_file(world / "clip/model.safetensors")
    result = LLaVA.from_pretrained(world / "instruct1")
    for frozen in (result.vision_tower, LLaVA.from_pretrained(world / "instruct3").vision_tower):
        frozen = frozen.state_dict()
        assert len(frozen) == len(tower)
        for name, tensor in tower.items():
            assert torch.equal(tensor, frozen[name.removeprefix("vision_model.")]), (
                f"{name} was trained"
            )
    old = load_file(world / "llama/model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert not torch.equal(old, result.language_model.model.layers[0].mlp.up_proj.weight)
    assert not torch.equal(
        w1["multi_modal_projector.linear_1.weight"], result.multi_modal_projector.linear_1.weight
    )
    theirs = transformers.LlavaForConditionalGeneration
    assert not any(
        theirs.from_pretrained(world / "instruct1", output_loading_info=True)[1].values()
    )


def test_batch_loss_is_the_mean_over_singles_weighted_by_labels(llava_dir):
    from conftest import batch

    model = LLaVA.from_pretrained(llava_dir())
    ids, labels, mask, pixels = batch(rows=4)
    labels[1, :30] = ids[1, :30]
    labels[labels == 95] = -100
    labels[mask == 0] = -100
    whole, count = model.loss(ids, labels, pixels)
    singles = [model.loss(ids[i : i + 1], labels[i : i + 1], pixels[i : i + 1]) for i in range(4)]
    assert count == sum(n for _, n in singles) and len({int(n) for _, n in singles}) > 1
    torch.testing.assert_close(whole, sum(loss for loss, _ in singles), rtol=1e-6, atol=0)


def test_a_few_steps_overfit_four_samples(llava_dir):
    from conftest import batch

    model = LLaVA.from_pretrained(llava_dir())
    distributed.freeze(
        model, {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": True}
    )
    ids, labels, _, pixels = batch(rows=4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    before = {n: p.clone() for n, p in model.named_parameters() if n.startswith("vision_tower.")}
    losses = []
    for _ in range(60):
        loss, count = model.loss(ids, labels, pixels)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((loss / count).item())
    assert losses[0] > 3 and losses[-1] < 0.05
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)


def test_schedule():
    rates = [loop.cosine(s, 100, 0.03) for s in range(100)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0]) and rates[3] == 1.0
    assert all(a >= b for a, b in zip(rates[3:], rates[4:], strict=False)) and rates[-1] < 0.001
