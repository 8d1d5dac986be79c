"""Both stages as a user runs them, with one process and with two: what is trained and written."""

import io
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
import torch
import transformers
from conftest import batch, randomise, text_config, vision_config
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanollava import LLaVA
from nanollava.errors import UserError
from nanollava.image import ImageConfig
from nanollava.toyland import data
from nanollava.toyland.pretrain import make_tokenizer
from nanollava.training import distributed, loop
from nanollava.training.arguments import TrainConfig

STAGE_2 = {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": True}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny random CLIP, a tiny random Llama with a tokenizer, and a little data. Every second
    record of mixed.json is text only: some micro-batches of some ranks have no image.
    """
    path = tmp_path_factory.mktemp("world")
    transformers.set_seed(0)
    randomise(transformers.CLIPVisionModel(vision_config())).save_pretrained(path / "clip")
    ImageConfig(32).save_pretrained(path / "clip")
    tokenizer = make_tokenizer(0)
    config = text_config(vocab_size=len(tokenizer), max_position_embeddings=512)
    randomise(transformers.LlamaForCausalLM(config)).save_pretrained(path / "llama")
    tokenizer.save_pretrained(path / "llama")
    data.write(path / "data", train=40, validation=4, size=64)
    records = json.loads((path / "data/align.json").read_text())
    for record in records[::2]:
        record["conversations"][0]["value"] = "Say it."
        del record["image"]
    (path / "data/mixed.json").write_text(json.dumps(records))
    return path


def command_line(world: Path, script: str, out: str, flags: str) -> list[str]:
    words = [script, f"--vision={world}/clip", f"--llm={world}/llama", f"--out={world}/{out}"]
    words += ["--batch=8", "--max-steps=5", "--device=cpu", "--save-dtype=fp32", "--dtype=fp32"]
    return words + flags.split()


def train(world: Path, script: str, out: str, flags: str) -> list[dict]:
    """Run a stage as `python SCRIPT` does, but in this process. Returns its metrics."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        patch.setattr(sys, "argv", command_line(world, script, out, flags))
        runpy.run_path(script, run_name="__main__")
    assert "trained" in output.getvalue() and "frozen" in output.getvalue()
    return metrics(world / out)


@contextmanager
def two_ranks(world: Path, script: str, out: str, flags: str) -> Iterator[None]:
    """Run a stage with torchrun while the block runs, and wait for it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += command_line(world, script, out, flags)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    try:
        yield
        output, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "trained" in output and "frozen" in output


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def align(world) -> dict[str, list[dict]]:
    """Metrics of stage 1 with one rank, with two, and resumed by one from step 3 of the two."""
    flags = f"--data {world}/data/mixed.json --lr 1e-3"
    micro = "--micro-batch 2 --save-steps 3"
    runs = {}
    with two_ranks(world, "train_align.py", "align2", f"{flags} {micro}"):
        runs["one"] = train(world, "train_align.py", "align1", flags)
    runs["two"] = metrics(world / "align2")
    (world / "align2").rename(world / "kept")
    resumed = world / "resumed"
    (resumed / "checkpoints").mkdir(parents=True)
    (resumed / "metrics.jsonl").write_text((world / "kept/metrics.jsonl").read_text())
    (world / "kept/checkpoints/step-00000003").rename(resumed / "checkpoints/step-00000003")
    runs["resumed"] = train(world, "train_align.py", "resumed", f"{flags} {micro}")
    return runs


@pytest.fixture(scope="module")
def instruct(world, align) -> dict[str, list[dict]]:
    """Metrics of stage 2 with one rank, with two, and in bf16 with many options."""
    # AdamW turns the rounding of a gradient near zero into a step of up to lr: a small one.
    flags = f"--data {world}/data/instruct.json --projector {world}/align1 --lr 1e-4"
    scored = "--micro-batch 2 --eval-steps 5 --toyland-scenes 3"
    options = f"--dtype bf16 --validation {world}/data/validation.json --eval-steps 4 "
    options += "--toyland-scenes 2 --group --workers 1 --checkpoint-activations "
    options += "--offload-optimizer --check-images --tensorboard"
    script = "train_instruct.py"
    runs = {}
    with two_ranks(world, script, "instruct2", f"{flags} {scored}"):
        runs["one"] = train(world, script, "instruct1", flags)
        runs["bf16"] = train(world, script, "instruct3", f"{flags} {options}")
    runs["two"] = metrics(world / "instruct2")
    return runs


def assert_same_losses(one: list[dict], other: list[dict]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a["step"] == b["step"]
        assert a["label_tokens"] == b["label_tokens"]
        assert a["lr"] == b["lr"]
        assert abs(a["loss"] - b["loss"]) <= 1e-6 * a["loss"]


def assert_same_weights(one: Path, other: Path) -> None:
    weights = load_file(one)
    other_weights = load_file(other)
    assert weights.keys() == other_weights.keys()
    for name, tensor in weights.items():
        difference = (tensor - other_weights[name]).norm()
        assert difference <= 1e-6 * tensor.norm() + 1e-12, name


# Stage 1


def test_two_ranks_equal_one_in_stage_1(world, align):
    assert [entry["step"] for entry in align["one"]] == [0, 1, 2, 3, 4]
    assert align["one"][0]["loss"] > 1
    assert_same_losses(align["one"], align["two"])
    file = "mm_projector.safetensors"
    assert_same_weights(world / "align1" / file, world / "kept" / file)


def test_two_ranks_have_the_gradient_norm_of_one(align, instruct):
    """AdamW hardly notices a gradient of another scale; clipping does."""
    for runs in (align, instruct):
        for one, two in zip(runs["one"], runs["two"], strict=True):
            assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)


def test_one_rank_resumes_what_two_have_saved(world, align):
    """In the middle of an epoch. The steps before come from the first run's metrics."""
    assert align["resumed"][:3] == align["two"][:3]
    assert_same_losses(align["one"], align["resumed"])
    file = "mm_projector.safetensors"
    assert_same_weights(world / "align1" / file, world / "resumed" / file)


def test_a_run_with_checkpoints_saves_its_last_step(world, align):
    names = [path.name for path in (world / "kept/checkpoints").iterdir()]
    assert names == ["step-00000005"]  # step 3 was moved away


def test_stage_1_writes_the_projector_alone(world, align):
    assert set(load_file(world / "align1/mm_projector.safetensors")) == {
        "multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_1.bias",
    }


# Stage 2


def test_two_ranks_equal_one_in_stage_2(world, instruct):
    assert_same_losses(instruct["one"], instruct["two"])
    file = "model.safetensors"
    assert_same_weights(world / "instruct1" / file, world / "instruct2" / file)


@pytest.mark.parametrize("out", ["instruct1", "instruct3"])
def test_the_vision_tower_stays_as_it_was_even_in_bf16(world, instruct, out):
    before = load_file(world / "clip/model.safetensors")
    after = LLaVA.from_pretrained(world / out).vision_tower.state_dict()
    assert len(before) == len(after)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name.removeprefix("vision_model.")]), name


def test_projector_and_language_model_are_trained(world, instruct):
    model = LLaVA.from_pretrained(world / "instruct1")
    projector = load_file(world / "align1/mm_projector.safetensors")
    llama = load_file(world / "llama/model.safetensors")
    assert not torch.equal(
        projector["multi_modal_projector.linear_1.weight"],
        model.multi_modal_projector.linear_1.weight,
    )
    assert not torch.equal(
        llama["model.layers.0.mlp.up_proj.weight"],
        model.language_model.model.layers[0].mlp.up_proj.weight,
    )


def test_transformers_loads_the_result(world, instruct):
    _, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        world / "instruct1", output_loading_info=True
    )
    assert not any(report.values())


def test_transformers_processor_opens_the_result(world, instruct):
    processor = transformers.AutoProcessor.from_pretrained(world / "instruct1")
    assert processor.chat_template is not None
    assert processor.tokenizer.padding_side == "left"
    assert processor.tokenizer.pad_token is not None


def test_evaluations_are_in_the_metrics_of_their_step(instruct):
    steps = []
    for entry in instruct["bf16"]:
        if "validation_loss" in entry and "toyland_score" in entry:
            steps.append(entry["step"])
    assert steps == [3]


def test_toyland_is_scored_without_a_validation_pass_before_it(instruct):
    """FSDP has not gathered the weights for a forward pass then."""
    assert "toyland_score" in instruct["two"][-1]


def test_metrics_count_tokens_images_and_work(instruct):
    for entry in instruct["bf16"]:
        assert entry["images"] == 8
        assert 0 < entry["label_tokens"] < entry["tokens"]
        assert entry["mfu"] > 0


def test_tensorboard_has_all_metrics(world, instruct):
    board = EventAccumulator(str(world / "instruct3/tensorboard")).Reload()
    names = set()
    for entry in instruct["bf16"]:
        names |= set(entry)
    assert set(board.Tags()["scalars"]) == names
    for event, entry in zip(board.Scalars("loss"), instruct["bf16"], strict=True):
        assert event.step == entry["step"]
        assert event.value == pytest.approx(entry["loss"])


# The loss and the loop's parts


def test_the_loss_of_a_batch_is_the_sum_over_its_samples(llava_dir):
    model = LLaVA.from_pretrained(llava_dir())
    ids, labels, mask, pixels = batch(rows=4)
    labels[1, :30] = ids[1, :30]  # more labels in one row than in the others
    labels[labels == 95] = -100
    labels[mask == 0] = -100
    whole, count = model.loss(ids, labels, pixels)
    losses = []
    counts = []
    for i in range(4):
        row = slice(i, i + 1)
        loss, row_count = model.loss(ids[row], labels[row], pixels[row])
        losses.append(loss)
        counts.append(int(row_count))
    assert count == sum(counts)
    assert len(set(counts)) > 1
    torch.testing.assert_close(whole, sum(losses), rtol=1e-6, atol=0)


def test_a_few_steps_overfit_four_samples(llava_dir):
    model = LLaVA.from_pretrained(llava_dir())
    distributed.freeze(model, STAGE_2)
    tower = {name: p.clone() for name, p in model.vision_tower.named_parameters()}
    ids, labels, _, pixels = batch(rows=4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(60):
        loss, count = model.loss(ids, labels, pixels)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((loss / count).item())
    assert losses[0] > 3
    assert losses[-1] < 0.05
    for name, parameter in model.vision_tower.named_parameters():
        assert torch.equal(parameter, tower[name])


def test_the_learning_rate_rises_linearly_and_falls_to_0():
    rates = [loop.cosine(step, 100, warmup=0.03) for step in range(100)]
    assert rates[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.001


def test_a_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(UserError, match=r"step 7 \(from 0\): the loss is nan"):
        loop.check_finite(7, float("nan"), 1.0, TrainConfig())


def test_a_llama_with_tied_embeddings_is_trained_and_written(world):
    """One parameter in training and in the file; transformers finds all of it."""
    llama = world / "tied"
    config = text_config(vocab_size=704, max_position_embeddings=512, tie_word_embeddings=True)
    randomise(transformers.LlamaForCausalLM(config)).save_pretrained(llama)
    make_tokenizer(0).save_pretrained(llama)
    flags = f"--llm {llama} --projector linear --data {world}/data/mixed.json --max-steps 2"
    train(world, "train_instruct.py", "tied_out", flags)
    theirs, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        world / "tied_out", output_loading_info=True
    )
    assert not any(report.values()), report
    embedding = theirs.model.language_model.embed_tokens.weight
    assert theirs.lm_head.weight is embedding
    before = load_file(llama / "model.safetensors")["model.embed_tokens.weight"]
    assert not torch.equal(before, embedding[:704])
