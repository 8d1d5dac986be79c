"""The scripts from outside: their output, and one line and exit code 2 for bad input."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

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


def all_refused(*cases: tuple[list, str]) -> None:
    """Commands, two at a time, each with what must be told."""
    with ThreadPoolExecutor(2) as pool:
        for done, (_, message) in zip(
            pool.map(lambda case: run(*case[0]), cases), cases, strict=True
        ):
            refused(done, message)


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
        f"{sys.executable} sample.py --image cat.jpg | head -c 20",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "This picture was tak" and done.stderr == ""


def test_sample_without_a_picture_says_what_it_needs():
    refused(run("sample.py"), "give one with --image PATH")


def test_broken_checkpoints(tmp_path):
    """Each directory must be refused by name."""
    cases = {}
    for name in ("missing", "surplus", "shape", "cut", "config"):
        path = shutil.copytree(TOY, tmp_path / name)
        tensors = load_file(path / "model.safetensors")
        if name == "missing":
            tensors.pop("language_model.model.norm.weight")
        if name == "surplus":
            tensors["language_model.model.extra.weight"] = tensors[
                "language_model.model.norm.weight"
            ].clone()
        if name == "shape":
            tensors["language_model.model.norm.weight"] = tensors[
                "language_model.model.norm.weight"
            ][:5].clone()
        save_file(tensors, path / "model.safetensors")
        if name == "cut":
            (path / "model.safetensors").write_bytes(
                (path / "model.safetensors").read_bytes()[:1000]
            )
        if name == "config":
            (path / "config.json").write_text("{}")
        cases[name] = path
    cases["none"] = tmp_path / "none"
    told = dict(
        missing="1 of ",
        surplus="is not part of this model",
        config="no vision_config",
        none="no such file",
    )
    told |= dict(
        shape="has shape (5,), the config says (128,)", cut="not a readable safetensors file"
    )
    ask = ["sample.py", "--image", "cat.jpg", "--model"]
    all_refused(*(([*ask, path], told[name]) for name, path in cases.items()))


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
        (["--image", "cat.jpg", "--temperature", "-1"], "temperature -1.0"),
    ],
)
def test_bad_flags_of_sample(flags, message):
    refused(run("sample.py", *flags), message)


@pytest.mark.parametrize(
    "script, flags, message",
    [
        ("train_align.py", ["--lr", "0"], "--lr 0.0: expected more than 0"),
        ("train_align.py", ["--batch", "none"], "argument --batch: invalid int value: 'none'"),
        ("train_align.py", ["--data", "none.json"], "none.json: no such data file"),
        (
            "train_align.py",
            ["--vision", "none", "--data", "none.json"],
            "none/config.json: no such file",
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
            ["--plan", "--batch", "12"],
            "--batch 12 (global) is not a multiple of the 8 ranks;",
        ),
    ],
)
def test_bad_flags_of_training(script, flags, message, tmp_path):
    refused(run(script, "--out", tmp_path / "out", "--device", "cpu", *flags), message)


def test_malformed_record(tmp_path):
    good = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a cat"}]
    records = [
        {"image": "cat.jpg", "conversations": good},
        {"image": "cat.jpg", "conversations": good[::-1]},
    ]
    (tmp_path / "bad.json").write_text(json.dumps(records))
    (tmp_path / "good.json").write_text(json.dumps(records[:1]))
    train = [
        "train_align.py",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
        "--max-steps",
        "1",
        "--data",
    ]
    bad, well = (
        [*train, tmp_path / "bad.json", "--images"],
        [*train, tmp_path / "good.json", "--images"],
    )
    odd = ["--batch", "3", "--micro-batch", "2"]
    shutil.copy("cat.jpg", tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_text("no picture")
    (tmp_path / "late.json").write_text(
        json.dumps([records[0] | {"image": f"{name}.jpg"} for name in "aaaaaaab"])
    )
    late = [*train, tmp_path / "late.json", "--max-steps", "8", "--batch", "1", "--workers", "1"]
    all_refused(
        (
            [*bad, ".", "--out", tmp_path / "out1"],
            "bad.json, record 1: turn 0: comes from 'gpt', expected 'human'",
        ),
        ([*well, ".", *odd, "--out", tmp_path / "out2"], "--batch 3 (global) is not a multiple of"),
        ([*well, "nowhere", "--out", tmp_path / "out3"], "nowhere: neither a folder nor a zip or"),
        ([*well, tmp_path], f"good.json, record 0: cat.jpg: no such image in {tmp_path}"),
    )
    # Met by a reader process in the middle of the training: it ends, and with it the program.
    done = run(*late)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert (
        f"error: {tmp_path / 'late.json'}, record 7: {tmp_path / 'b.jpg'}: not a readable image"
        in done.stderr
    )


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
