"""--model: both stages continue from a finished LLaVA, whoever wrote it."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from checkpoint_layouts import LAYOUTS, reference_model
from PIL import Image

import nanollava
import train_align
import train_instruct
from nanollava import errors
from nanollava.data import InstructionData, collate
from nanollava.llava import LLaVA
from nanollava.training import arguments, plan
from nanollava.training.batches import global_batches


def write_own_data(folder: Path, count: int = 20) -> Path:
    """A question about each of `count` images."""
    records = []
    for i in range(count):
        Image.new("RGB", (40 + i, 32), (10 * i, 0, 90)).save(folder / f"{i}.jpg")
        turns = [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": f"number {i}."},
        ]
        records.append({"image": f"{i}.jpg", "conversations": turns})
    (folder / "mine.json").write_text(json.dumps(records))
    return folder / "mine.json"


def train(script, *flags) -> None:
    """A stage in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script.__name__}.py", "--device", "cpu", *map(str, flags)])
        script.main()


def refused(script, *flags) -> None:
    with pytest.raises(SystemExit) as end:
        errors.run(lambda: train(script, *flags))
    assert end.value.code == 2
    if dist.is_initialized():  # the program would end here
        dist.destroy_process_group()


@pytest.fixture(scope="module", params=["llava-hf", "original with its tower"])
def world(request, tmp_path_factory):
    """A finished LLaVA, 20 own images, and flags of a short training in float32."""
    folder = tmp_path_factory.mktemp("finetune")
    (model,) = LAYOUTS[request.param](reference_model("gelu"), folder)
    data = write_own_data(folder)
    flags = ["--model", model, "--data", data, "--batch", 10, "--lr", 1e-3, "--save-dtype", "fp32"]
    return SimpleNamespace(folder=folder, model=model, data=data, flags=flags)


@pytest.fixture(scope="module")
def tuned(world) -> Path:
    """The result of stage 2 after three epochs."""
    out = world.folder / "tuned"
    train(train_instruct, *world.flags, "--epochs", 3, "--out", out)
    return out


def weights(path: Path) -> dict[str, torch.Tensor]:
    return LLaVA.from_pretrained(path).state_dict()


def losses(out: Path) -> list[float]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_without_steps_the_result_is_the_model_itself(world):
    out = world.folder / "untrained"
    train(train_instruct, *world.flags, "--max-steps", 0, "--out", out)
    before = weights(world.model)
    after = weights(out)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


def test_it_learns_the_own_images(tuned):
    first, *_, last = losses(tuned)
    assert len(losses(tuned)) == 6
    assert last < 0.8 * first


def test_the_first_loss_is_that_of_the_finished_model(world, tuned):
    model = LLaVA.from_pretrained(world.model)
    assistant = nanollava.load(tuned)  # for its tokenizer and image processing
    data = InstructionData(
        world.data,
        world.folder,
        assistant.tokenizer,
        assistant.image_config,
        model.config.image_token_id,
        model.config.vision_config.num_patches,
    )
    order = next(global_batches(len(data), batch_size=10, seed=0))
    inputs = collate([data[i] for i in order])
    with torch.no_grad():
        loss, count = model.loss(**inputs)
    assert losses(tuned)[0] == pytest.approx((loss / count).item(), rel=1e-5)


def test_tokenizer_and_image_processing_are_the_models(world, tuned):
    before = nanollava.load(world.model)
    after = nanollava.load(tuned)
    assert after.image_config == before.image_config
    for text in ("What is it?", "number 7.", "  two  spaces"):
        assert after.tokenizer.encode(text) == before.tokenizer.encode(text)


def test_special_ids_are_written(tuned):
    """The end token, so that answers end, and a padding token for batches in transformers."""
    config = LLaVA.from_pretrained(tuned).config
    tokenizer = nanollava.load(tuned).tokenizer
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.pad_token_id is not None


def test_a_recipe_does_not_change_the_models_image_processing(world):
    config = arguments.combine({}, arguments.RECIPES["v1.5"][2], {"model": str(world.model)})
    assert config.image_mode is None
    assert config.template == "vicuna_v1"


def test_the_tower_stays_and_the_rest_is_trained(world, tuned):
    before = weights(world.model)
    after = weights(tuned)
    for name, tensor in before.items():
        is_same = torch.equal(tensor, after[name])
        assert is_same == name.startswith("vision_tower."), name


def test_stage_1_trains_w_alone_and_writes_a_complete_llava(world):
    out = world.folder / "aligned"
    train(train_align, *world.flags, "--max-steps", 2, "--out", out)
    before = weights(world.model)
    after = weights(out)
    for name, tensor in before.items():
        is_same = torch.equal(tensor, after[name])
        assert is_same != name.startswith("multi_modal_projector."), name


def test_the_result_is_again_a_starting_point(world, tuned):
    out = world.folder / "again"
    flags = [*world.flags, "--max-steps", 1, "--out", out]
    flags[1] = tuned
    train(train_instruct, *flags)
    assert losses(out)[0] < losses(tuned)[0]


def test_the_plan_knows_the_model(world):
    config = arguments.combine({}, {}, {"model": str(world.model)})
    model = LLaVA.from_pretrained(world.model)
    n = plan.parameters(plan.planned_model(config))
    assert n[plan.PROJECTOR] == sum(p.numel() for p in model.multi_modal_projector.parameters())
    assert n[plan.TOWER] == sum(p.numel() for p in model.vision_tower.parameters())
    assert n[plan.LLM] == sum(p.numel() for p in model.language_model.parameters())


@pytest.mark.parametrize("script", [train_align, train_instruct])
@pytest.mark.parametrize(
    "flags",
    [
        ["--llm", "checkpoints/toy-vicuna"],
        ["--vision", "checkpoints/toy-clip"],
        ["--projector", "linear"],
        ["--image-mode", "pad"],
        ["--vision-layer", "-1"],
    ],
    ids=lambda flags: flags[0],
)
def test_model_and_a_part_of_it_is_an_error(script, flags, capsys):
    refused(script, "--model", "checkpoints/toy-llava", *flags)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--model checkpoints/toy-llava and {flags[0]} {flags[1]}" in error


def test_a_projector_alone_is_no_finished_model(tmp_path, capsys):
    (tmp_path / "mm_projector.safetensors").write_bytes(b"")
    out = tmp_path / "out"
    data = write_own_data(tmp_path)
    refused(train_instruct, "--model", tmp_path, "--data", data, "--out", out)
    assert "a projector alone, as train_align.py writes it" in capsys.readouterr().err


def test_an_image_token_of_another_name_is_an_error_before_the_training(tmp_path, capsys):
    """The result could not be written: its tokenizer has `<image>`."""
    model = tmp_path / "model"
    shutil.copytree("checkpoints/toy-llava", model)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (model / file).read_text(encoding="utf-8")
        (model / file).write_text(text.replace("<image>", "<|vision|>"), encoding="utf-8")
    data = write_own_data(tmp_path)
    refused(train_instruct, "--model", model, "--data", data, "--out", tmp_path / "out")
    assert "<image> becomes token" in capsys.readouterr().err
    assert not (tmp_path / "out/metrics.jsonl").exists()


def test_an_original_without_its_tower_says_how_to_join_them(tmp_path, capsys):
    original, _ = LAYOUTS["original and CLIP"](reference_model("gelu"), tmp_path)
    data = write_own_data(tmp_path)
    refused(train_instruct, "--model", original, "--data", data, "--out", tmp_path / "out")
    assert f"python -m nanollava.convert {original} CLIP OUT" in capsys.readouterr().err
