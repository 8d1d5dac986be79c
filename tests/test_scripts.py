"""The scripts from outside: their output, and one line and exit code 2 for bad input."""

import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save

import train_align
from nanollava.training.arguments import TrainConfig

TOY = "checkpoints/toy-llava"


def run(*args, stdin: str | None = None) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        input=stdin,
        env=env,
        timeout=120,
    )


def refused(done: subprocess.CompletedProcess, message: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("usage:") or done.stderr.count("\n") == 1, done.stderr


@pytest.fixture
def in_this_process(monkeypatch, capsys):
    """Runs a script as `python SCRIPT` does, but without starting Python; it must be refused."""

    def script_refused(script: str, flags: list, message: str) -> None:
        argv = [script, *map(str, flags)]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(script, run_name="__main__")
        if dist.is_initialized():  # the program would end here
            dist.destroy_process_group()
        output = capsys.readouterr()
        refused(subprocess.CompletedProcess(argv, end.value.code, *output), message)

    return script_refused


def test_sample_answers():
    done = run("sample.py", "--image", "cat.jpg", "--prompt", "What color is the cat?")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == json.loads(Path("tests/cat.json").read_text())["color"]


def test_chat_through_a_pipe():
    done = run(
        "sample.py",
        "--image",
        "cat.jpg",
        "--chat",
        stdin="What color is the cat?\nWhere is the cat?\n",
    )
    facts = json.loads(Path("tests/cat.json").read_text())
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace("> ", "").split("\n")[:2] == [facts["color"], facts["position"]]


def test_output_cut_by_a_pipe_is_no_traceback():
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} sample.py --image cat.jpg | head -c 20",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "This picture was tak" and done.stderr == ""


def test_sample_without_a_picture_says_what_it_needs():
    refused(run("sample.py"), "give one with --image PATH")


NORM = "language_model.model.norm.weight"


@pytest.fixture
def broken_model_refused(tmp_path, in_this_process):
    """sample.py with a copy of the shipped model whose file `name` has other content."""

    def ask(name: str, content: bytes, message: str) -> None:
        path = shutil.copytree(TOY, tmp_path / "model")
        (path / name).write_bytes(content)
        in_this_process("sample.py", ["--image", "cat.jpg", "--model", path], message)

    return ask


@pytest.mark.parametrize("flag", ["--projector", "--model"])
def test_a_training_that_has_not_finished_is_no_start(tmp_path, flag):
    """A stage 1 that was stopped leaves its lock file and its checkpoints."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "training.lock").touch()
    done = run(
        "train_instruct.py", flag, tmp_path, "--data", "none.json", "--out", tmp_path / "out"
    )
    refused(done, f"{flag} {tmp_path}: its training has not finished; repeat its command")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({NORM: None}, "1 of "),
        ({NORM: torch.ones(5)}, "has shape (5,), the config says (128,)"),
        ({"language_model.model.extra.weight": torch.ones(5)}, "is not part of this model"),
    ],
    ids=["missing", "shape", "surplus"],
)
def test_a_checkpoint_with_other_tensors(broken_model_refused, changes, message):
    tensors = load_file(f"{TOY}/model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    broken_model_refused("model.safetensors", save(tensors), message)


def test_a_checkpoint_that_is_cut_off(broken_model_refused):
    content = Path(TOY, "model.safetensors").read_bytes()[:1000]
    broken_model_refused("model.safetensors", content, "not a readable safetensors file")


def test_an_empty_config(broken_model_refused):
    broken_model_refused("config.json", b"{}", "no vision_config")


def test_a_config_that_names_another_connector_than_the_weights_have(broken_model_refused):
    values = json.loads(Path(TOY, "config.json").read_text())
    sizes = {"num_queries": 4, "num_layers": 1}
    values |= {"model_type": "nanollava", "projector": "resampler", "connector": sizes}
    message = "is not part of the connector that its config.json names; use the config.json"
    broken_model_refused("config.json", json.dumps(values).encode(), message)


def test_a_checkpoint_that_is_not_there(tmp_path, in_this_process):
    flags = ["--image", "cat.jpg", "--model", tmp_path / "none"]
    in_this_process("sample.py", flags, "no such directory")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--image", "none.jpg"], "none.jpg: no such image"),
        (["--image", "README.md"], "README.md: not a readable image"),
        (["--image", "cat.jpg", "--device", "tpu"], "--device tpu: expected auto, cpu, cuda"),
        (
            ["--image", "cat.jpg", "--device", "meta"],
            "--device meta: torch finds no meta device here",
        ),
        (
            ["--image", "cat.jpg", "--device", "cpu:3"],
            "--device cpu:3: torch finds no cpu:3 device here",
        ),
        (["--image", "cat.jpg", "--temprature", "1"], "unrecognized arguments: --temprature"),
        (["--image", "cat.jpg", "--max-new-tokens", "0"], "max_new_tokens 0"),
        (["--image", "cat.jpg", "--max-new-tokens", "100000"], "the model has room for 1024"),
        (["--image", *["cat.jpg"] * 11, "--max-new-tokens", "3"], "give fewer images"),
        (["--image", "cat.jpg", "--temperature", "-1"], "temperature -1.0"),
    ],
)
def test_bad_flags_of_sample(flags, message, in_this_process):
    in_this_process("sample.py", flags, message)


@pytest.mark.parametrize(
    "script, flags, message",
    [
        ("train_align.py", ["--lr", "0"], "--lr 0.0: expected more than 0"),
        ("train_align.py", ["--batch", "none"], "argument --batch: invalid int value: 'none'"),
        ("train_align.py", ["--data", "none.json"], "none.json: no such data file"),
        (
            "train_align.py",
            ["--vision", "none", "--data", "none.json"],
            "--vision none: no such directory",
        ),
        (
            "train_align.py",
            ["--group=False"],
            "argument --group/--no-group: ignored explicit argument 'False'",
        ),
        ("train_align.py", ["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (
            "train_instruct.py",
            ["--projector", "none", "--data", "none.json"],
            "run train_align.py first",
        ),
        ("train_instruct.py", ["--micro-batch", "0"], "--micro-batch 0: expected at least 1"),
        (
            "train_align.py",
            ["--plan", "--nodes", "3"],
            "--gpus 8 (in total) is not a multiple of --nodes 3",
        ),
        (
            "train_align.py",
            ["--plan", "--batch", "12"],
            "--batch 12 (global) is not a multiple of the 8 ranks;",
        ),
    ],
)
def test_bad_flags_of_training(script, flags, message, tmp_path, in_this_process):
    in_this_process(script, ["--out", tmp_path / "out", "--device", "cpu", *flags], message)


def write_records(path: Path, *records: dict) -> Path:
    path.write_text(json.dumps(records))
    return path


TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a cat"}]
CAT = {"image": "cat.jpg", "conversations": TURNS}


@pytest.fixture
def align_refused(tmp_path, in_this_process):
    """Stage 1 on the given records and images, which is refused with a message."""

    def train(records: list[dict], images: str | Path, message: str, *flags) -> None:
        data = write_records(tmp_path / "data.json", *records)
        required = ["--data", data, "--images", images, "--out", tmp_path / "out"]
        in_this_process("train_align.py", [*required, "--device", "cpu", *flags], message)

    return train


def test_a_record_that_begins_with_an_answer(align_refused):
    backwards = {"image": "cat.jpg", "conversations": TURNS[::-1]}
    message = "data.json, record 1: turn 0: comes from 'gpt', expected 'human'"
    align_refused([CAT, backwards], ".", message)


def test_a_batch_that_the_micro_batches_cannot_share_is_refused_before_data_is_read(align_refused):
    message = "--batch 3 (global) is not a multiple of"
    align_refused([CAT], "nowhere", message, "--batch", "3", "--micro-batch", "2")


def test_images_that_are_nowhere(align_refused):
    align_refused([CAT], "nowhere", "nowhere: no such folder or archive")


@pytest.mark.parametrize("flag", ["--vision", "--llm"])
def test_a_model_that_was_not_downloaded(align_refused, flag):
    message = f"{flag} owner/model: no such directory; models are local directories: download it"
    align_refused([CAT], ".", message, flag, "owner/model")


def test_a_missing_image(align_refused, tmp_path):
    message = f"data.json, record 0: cat.jpg: no such image in {tmp_path}"
    align_refused([CAT], tmp_path, message)


def test_a_broken_image_in_the_middle_of_the_training(tmp_path):
    """A process that reads data meets it: it ends, and with it the program."""
    shutil.copy("cat.jpg", tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_text("no picture")
    records = [{**CAT, "image": f"{name}.jpg"} for name in "aaaaaaab"]
    data = write_records(tmp_path / "late.json", *records)
    flags = ["--data", data, "--images", tmp_path, "--out", tmp_path / "out", "--device", "cpu"]
    done = run("train_align.py", *flags, "--max-steps", "8", "--batch", "1", "--workers", "1")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    message = f"error: {data}, record 7: {tmp_path / 'b.jpg'}: not a readable image"
    assert message in done.stderr


def test_the_next_command_of_stage_1_keeps_what_w_was_trained_for():
    parts = {"vision": "a", "llm": "b", "vision_layer": -1}
    toyland = train_align.DEFAULTS["data"]
    config = TrainConfig(out="my run", data=toyland, image_mode="pad", **parts)
    command = "python train_instruct.py --vision a --llm b --projector 'my run' --vision-layer -1"
    assert train_align.stage_2_command(config) == f"{command} --image-mode pad"
    config = replace(config, recipe="v1.5")  # which pads in stage 2 only
    assert train_align.stage_2_command(config) == f"{command} --recipe v1.5"


def test_the_next_command_of_stage_1_asks_for_data_after_real_captions():
    config = TrainConfig(out="out/align", data="blip_laion_cc_sbu_558k.json")
    assert train_align.stage_2_command(config).endswith(" --data FILE")


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("nanollava.synthesize", ["--pictures", "none.jsonl"], "none.jsonl: no such file"),
        (
            "nanollava.evals.llava_bench",
            ["--images", "."],
            "error: real questions need --questions",
        ),
        (
            "nanollava.evals.scienceqa",
            ["--data", "none"],
            "error: none/problems.json: no such file",
        ),
        (
            "nanollava.evals.tables",
            ["--steps", "7"],
            "tables: error: argument --steps: expected 2 arguments",
        ),
    ],
)
def test_programs_of_the_package(command, flags, message, monkeypatch, capsys):
    """As `python -m` runs them: --help shows the command's name, and bad use is one line."""
    for given, code in (["--help"], 0), (flags, 2):
        monkeypatch.setattr(sys, "argv", ["", *given])
        monkeypatch.delitem(sys.modules, command, raising=False)
        with pytest.raises(SystemExit) as end:
            runpy.run_module(command, run_name="__main__", alter_sys=True)
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, err
        if code == 0:
            assert out.startswith(f"usage: python -m {command} [-h]") and err == ""
        else:
            *usage, last = err.splitlines()
            assert message in last and out == "" and (not usage or usage[0].startswith("usage:")), (
                err
            )


def test_a_program_starts_without_warnings():
    """runpy warns if a module is imported before it runs as __main__."""
    done = run("-W", "error", "-m", "nanollava.evals.llava_bench", "--images", ".")
    refused(done, "real questions need")
