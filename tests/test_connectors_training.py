"""The scripts with every connector: both stages, Q-Former's own stage, resume, answers, errors."""

import io
import json
import runpy
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import transformers
from conftest import randomise, text_config, vision_config
from safetensors.torch import load_file

from nanollava import load, show
from nanollava.config import CONNECTORS
from nanollava.errors import UserError
from nanollava.image import ImageConfig
from nanollava.toyland import data
from nanollava.toyland.pretrain import make_tokenizer

CONNECTORS_IN_ORDER = ("resampler", "gated_xattn", "abstractor", "qwen", "qformer", "minigpt4")
CAPTIONS = "stage1"  # directory of the Q-Former's own stage


TRAIN_QFORMER = "nanollava.train_qformer"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny random CLIP, a tiny random Llama with a tokenizer, and a little data."""
    path = tmp_path_factory.mktemp("world")
    transformers.set_seed(0)
    randomise(transformers.CLIPVisionModel(vision_config())).save_pretrained(path / "clip")
    ImageConfig(32).save_pretrained(path / "clip")
    tokenizer = make_tokenizer(0)
    config = text_config(
        vocab_size=len(tokenizer), max_position_embeddings=512, num_hidden_layers=2
    )
    randomise(transformers.LlamaForCausalLM(config)).save_pretrained(path / "llama")
    tokenizer.save_pretrained(path / "llama")
    data.write(path / "data", train=8, validation=2, size=64)
    return path


def run(world: Path, script: str, out: str, *flags) -> str:
    """Run a program as `python PROGRAM` does, but in this process. Returns what it printed."""
    argv = [script, f"--vision={world}/clip", f"--llm={world}/llama", f"--out={world}/{out}"]
    argv += ["--batch=4", "--max-steps=2", "--device=cpu", "--save-dtype=fp32", "--dtype=fp32"]
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        patch.setattr(sys, "argv", argv + [str(flag) for flag in flags])
        try:
            if script == TRAIN_QFORMER:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(script, run_name="__main__")
        finally:
            if dist.is_initialized():  # the program would end here
                dist.destroy_process_group()
    return output.getvalue()


@pytest.fixture(scope="module")
def captions(world) -> str:
    flags = ["--data", world / "data/align.json", "--connector-width", 64, "--save-steps", 1]
    return run(world, TRAIN_QFORMER, CAPTIONS, *flags)


@pytest.fixture(scope="module")
def trained(world, captions) -> Path:
    """Both stages with every connector, in directories align-KIND and instruct-KIND."""
    for kind in CONNECTORS_IN_ORDER:
        run(world, "train_align.py", f"align-{kind}", *stage_flags(world, "align", kind))
        flags = stage_flags(world, "instruct", kind)
        if kind == "gated_xattn":
            flags += ["--eval-steps", 2, "--toyland-scenes", 3]
        run(world, "train_instruct.py", f"instruct-{kind}", *flags)
    return world


def stage_flags(world: Path, stage: str, kind: str) -> list:
    """The flags of a stage, which is "align" or "instruct", with a checkpoint after every step."""
    flags = ["--data", world / f"data/{stage}.json", "--save-steps", 1]
    if stage == "instruct":
        flags += ["--projector", world / f"align-{kind}"]
        if kind == "gated_xattn":
            flags += ["--freeze-llm"]
    else:
        flags += ["--projector", kind]
        if kind in ("qformer", "minigpt4"):
            flags += ["--qformer", world / CAPTIONS]
    return flags


def test_all_connectors_are_trained_here():
    assert set(CONNECTORS_IN_ORDER) == set(CONNECTORS)


@pytest.mark.parametrize("kind", CONNECTORS)
def test_stage_1_writes_the_connector_alone(trained, kind):
    folder = trained / f"align-{kind}"
    assert json.loads((folder / "connector.json").read_text())["projector"] == kind
    names = load_file(folder / "mm_projector.safetensors").keys()
    assert all(name.startswith("multi_modal_projector.") for name in names)
    assert not (folder / "config.json").exists()


@pytest.mark.parametrize("kind", CONNECTORS)
def test_the_result_answers(trained, kind):
    assistant = load(trained / f"instruct-{kind}", device="cpu", dtype="fp32")
    assert assistant.model.config.projector == kind
    answer = assistant.ask("cat.jpg", "What color is the cat?", max_new_tokens=3)
    (together,) = assistant.batch([("cat.jpg", "What color is the cat?")], max_new_tokens=3)
    assert answer == together
    turns = [("What color is the cat?", answer)]
    assert isinstance(assistant.ask("cat.jpg", "Where?", turns, max_new_tokens=2), str)
    assert isinstance(assistant.ask(["cat.jpg", "cat.jpg"], "Which?", max_new_tokens=2), str)


@pytest.mark.parametrize("stage", ["align", "instruct"])
@pytest.mark.parametrize("kind", CONNECTORS)
def test_a_stage_resumes_bit_by_bit(trained, kind, stage):
    out = f"resumed-{stage}-{kind}"
    whole = trained / f"{stage}-{kind}"
    checkpoints = sorted((whole / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step-00000001", "step-00000002"]
    (trained / out / "checkpoints").mkdir(parents=True)
    shutil.copytree(checkpoints[0], trained / out / "checkpoints/step-00000001")
    text = run(trained, f"train_{stage}.py", out, *stage_flags(trained, stage, kind))
    assert "resuming from" in text
    file = "mm_projector.safetensors" if stage == "align" else "model.safetensors"
    expected = load_file(whole / file)
    resumed = load_file(trained / out / file)
    assert resumed.keys() == expected.keys()
    for name, tensor in resumed.items():
        assert torch.equal(tensor, expected[name]), name


def test_a_frozen_language_model_stays_as_it_was(trained):
    before = load_file(trained / "llama/model.safetensors")
    frozen = load_file(trained / "instruct-gated_xattn/model.safetensors")
    learned = load_file(trained / "instruct-qwen/model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(before[name], frozen[f"language_model.{name}"])
    assert not torch.equal(before[name], learned[f"language_model.{name}"])


def test_gates_open(trained):
    weights = load_file(trained / "instruct-gated_xattn/model.safetensors")
    gates = [tensor for name, tensor in weights.items() if name.endswith("_gate")]
    assert len(gates) == 4 and all(gate != 0 for gate in gates)


def test_minigpt4_keeps_the_q_former_as_stage_1_left_it(trained):
    stage_1 = load_file(trained / CAPTIONS / "qformer.safetensors")
    for folder in ("align", "instruct"):
        result = trained / f"{folder}-minigpt4"
        file = "mm_projector.safetensors" if folder == "align" else "model.safetensors"
        weights = load_file(result / file)
        for name in ("queries", "qformer.layers.0.cross_attention.k_proj.weight"):
            assert torch.equal(weights[f"multi_modal_projector.{name}"], stage_1[name])


def test_the_q_formers_stage_prints_what_comes_next(captions):
    assert "next: python train_align.py --projector qformer --qformer" in captions
    assert "--vision-layer -2 --image-mode crop --data FILE" in captions
    assert "pretraining" in captions and "frozen" in captions


def test_the_q_formers_stage_resumes_bit_by_bit(world, captions):
    """Its hard negatives are drawn anew in each step, by the seed and the number of the step."""
    out = "stage1-resumed"
    (world / out / "checkpoints").mkdir(parents=True)
    first = world / CAPTIONS / "checkpoints/step-00000001"
    shutil.copytree(first, world / out / "checkpoints/step-00000001")
    flags = ["--data", world / "data/align.json", "--connector-width", 64, "--save-steps", 1]
    assert "resuming from" in run(world, TRAIN_QFORMER, out, *flags)
    expected = load_file(world / CAPTIONS / "qformer.safetensors")
    for name, tensor in load_file(world / out / "qformer.safetensors").items():
        assert torch.equal(tensor, expected[name]), name


def test_the_q_formers_stage_does_not_resume_with_another_micro_batch(world, captions, capsys):
    """It compares the samples of a micro-batch, so the loss would be another one."""
    out = world / "refused"
    shutil.copytree(world / CAPTIONS / "checkpoints", out / "checkpoints")
    flags = ["--data", world / "data/align.json", "--connector-width", 64, "--save-steps", 1]
    error = refused(capsys, world, TRAIN_QFORMER, *flags, "--micro-batch", 2)
    shutil.rmtree(out)
    assert "samples compared" in error


@pytest.mark.parametrize(
    "kind, tokens", [("linear", "16"), ("gated_xattn", "1"), ("abstractor", "5"), ("minigpt4", "2")]
)
def test_the_plan_says_tokens_and_parameters(world, kind, tokens):
    flags = ["--data", world / "data/align.json", "--projector", kind, "--gpus", 1, "--plan"]
    text = run(world, "train_align.py", "planned", *flags)
    assert ["image", "tokens", tokens, "per", "image"] in [
        line.split() for line in text.split("\n")
    ]


def test_a_plan_of_minigpt4_needs_no_trained_q_former(world):
    flags = ["--data", world / "data/align.json", "--projector", "minigpt4", "--gpus", 1]
    flags += ["--plan", "--connector-width", 128]
    text = run(world, "train_align.py", "planned", *flags)
    assert "8,256 of them trained" in text  # 128 * 64 + 64: the linear map


# Bad input: one line, exit code 2.


def refused(capsys, world: Path, script: str, *flags) -> str:
    with pytest.raises(SystemExit) as end:
        run(world, script, "refused", *flags)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--projector=linear", "--image-tokens=9"], "linear has one token for each of the 16"),
        (["--projector=linear", "--sees=all"], "--sees all: linear has one token"),
        (["--projector=qwen", "--image-tokens=5"], "qwen has a square grid"),
        (["--projector=abstractor", "--image-tokens=1"], "abstractor needs 2"),
        (["--projector=resampler", "--image-tokens=600"], "an image takes 600 tokens"),
        (["--projector=resampler", "--max-length=4"], "an image takes 4 tokens"),
        (["--projector=resampler", "--image-tokens=600", "--plan"], "an image takes 600 tokens"),
        # Refused before anything is allocated:
        (["--projector=resampler", "--image-tokens=16000"], "an image takes 16000 tokens"),
        (["--projector=gated_xattn", "--image-tokens=1000000"], "expected at most 16384"),
        (["--projector=resampler", "--connector-layers=1025"], "expected at most 1024"),
        (["--projector=qformer", "--connector-width=100"], "a multiple of 64"),
        (["--projector=qwen", "--connector-layers=4"], "qwen has no such size"),
        (["--projector=resampler", "--sees=all"], "--sees all: resampler has no such size"),
        (["--projector=gated_xattn", "--layers-per-block=9"], "would get no gated block"),
        (["--projector=minigpt4"], "give the result of train_qformer with --qformer"),
        (["--projector=qwen", "--qformer=none"], "a Q-Former's weights are for a new qformer"),
        (["--projector=qformer", "--qformer=none"], "no qformer.safetensors in it"),
        (["--projector=perceiver"], "expected linear or mlp2x_gelu or resampler"),
    ],
)
def test_flags_that_do_not_fit(world, capsys, flags, message):
    data_flags = ["--data", world / "data/align.json"]
    assert message in refused(capsys, world, "train_align.py", *data_flags, *flags)


@pytest.mark.parametrize(
    "flag, value, has",
    [
        ("--image-tokens", "9", "4"),
        ("--sees", "all", "no such size"),
        ("--connector-width", "64", "no such size"),  # the default of a size that it does not have
    ],
)
def test_other_sizes_than_a_saved_connector_has(trained, capsys, flag, value, has):
    flags = ["--data", trained / "data/instruct.json", flag, value]
    flags += ["--projector", trained / "align-resampler"]
    error = refused(capsys, trained, "train_instruct.py", *flags)
    assert f"{flag} {value}: the resampler in" in error and f"has {has}; omit it" in error


def test_a_q_former_without_a_language_model_is_no_projector(trained, capsys):
    flags = ["--data", trained / "data/instruct.json", "--projector", trained / CAPTIONS]
    error = refused(capsys, trained, "train_instruct.py", *flags)
    assert "give --projector qformer --qformer" in error


def test_a_connector_without_its_json(trained, capsys):
    folder = shutil.copytree(trained / "align-resampler", trained / "without-json")
    (folder / "connector.json").unlink()
    flags = ["--data", trained / "data/instruct.json", "--projector", folder]
    error = refused(capsys, trained, "train_instruct.py", *flags)
    assert "the weights of a connector, but connector.json is missing; copy it from" in error


def test_one_connector_opened_as_another(trained, capsys):
    folder = shutil.copytree(trained / "align-resampler", trained / "mixed")
    shutil.copy(trained / "align-qformer/connector.json", folder)
    flags = ["--data", trained / "data/instruct.json", "--projector", folder]
    assert "no qformer of this tower" in refused(capsys, trained, "train_instruct.py", *flags)


def test_captions_of_several_images(world, capsys):
    records = json.loads((world / "data/align.json").read_text())
    records[0]["image"] = [records[0]["image"], records[1]["image"]]
    records[0]["conversations"][0]["value"] += "<image>"
    (world / "data/two.json").write_text(json.dumps(records[:1]))
    flags = ["--data", world / "data/two.json", "--connector-width", 64]
    message = "turn 0: 2 <image>; template 'plain' expects one image and its caption"
    assert message in refused(capsys, world, TRAIN_QFORMER, *flags)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--recipe=v1"], "--recipe: not for train_qformer"),
        (["--projector=linear"], "this trains a new qformer"),
        (["--plan"], "--plan: not for train_qformer"),
        (["--compile"], "--compile: not for train_qformer"),
        (["--connector-width=100"], "a multiple of 64"),
        (["--vision-layer=99"], "vision_feature_layer 99: the tower has"),
        (["--max-length=2"], "--max-length 2: a caption has at least 3 tokens"),
        (["--template=v0"], "--template: not for train_qformer"),
        (["--image-position=as_written"], "--image-position: not for train_qformer"),
        (["--micro-batch=1"], "1 sample per rank and micro-batch"),
    ],
)
def test_flags_of_the_other_scripts(world, capsys, monkeypatch, flags, message):
    monkeypatch.setattr("nanollava.toyland.data.write", None)  # no data are made before the error
    assert message in refused(capsys, world, TRAIN_QFORMER, *flags)


@pytest.mark.parametrize("script", ["train_align.py", "train_instruct.py", TRAIN_QFORMER])
def test_a_missing_tower_is_noticed_before_the_data_are_made(world, capsys, monkeypatch, script):
    monkeypatch.setattr("nanollava.toyland.data.write", None)
    if script.endswith(".py"):
        script = str(Path(script).resolve())
    monkeypatch.chdir(world)  # where there are no data yet
    assert "--vision nowhere" in refused(capsys, world, script, "--vision=nowhere")


@pytest.mark.parametrize("kind", CONNECTORS)
def test_the_attention_view_needs_a_token_per_patch(trained, kind):
    model = load(trained / f"instruct-{kind}", device="cpu", dtype="fp32").model
    with pytest.raises(UserError, match=f"one image token per patch, which {kind} does not have"):
        show.look(model, [1, 5], [6], torch.zeros(1, 3, 32, 32))


def test_a_model_with_gated_cross_attention_is_not_compiled(trained):
    with pytest.raises(UserError, match="--compile: not for a model with gated_xattn"):
        load(trained / "instruct-gated_xattn", device="cpu", compile=True)
