"""Toyland's commands: what they write and print, and one line for input that cannot be used."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nanollava.errors import run
from nanollava.llama import Llama
from nanollava.toyland.__main__ import main
from nanollava.toyland.clip import load_clip

ROOT = Path(__file__).resolve().parent.parent


def toyland(*args, cwd: Path, timeout: int = 120) -> subprocess.CompletedProcess:
    """Runs a command of Toyland in another directory than the repository."""
    command = [sys.executable, "-m", "nanollava.toyland", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=environment
    )


def test_picture_draws_a_scene_and_prints_it(tmp_path):
    finished = toyland("picture", "--index", 3, "--size", 100, "--out", "p.png", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("Scene(place=")
    assert Image.open(tmp_path / "p.png").size == (100, 100)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_index_of_a_picture_is_that_of_the_data_set(tmp_path, split):
    flags = ["--train", 4, "--validation", 4, "--size", 64, "--seed", 1]
    toyland("data", "--out", "d", *flags, cwd=tmp_path)
    flags = ["--split", split, "--index", 2, "--seed", 1, "--size", 64]
    toyland("picture", "--out", "p.png", *flags, cwd=tmp_path)
    drawn = np.array(Image.open(tmp_path / "p.png").convert("RGB"), dtype=int)
    stored = np.array(Image.open(tmp_path / f"d/images/{split}_000002.jpg"), dtype=int)
    assert abs(drawn - stored).mean() < 6  # JPEG changes a little


def test_data_writes_a_data_set(tmp_path):
    flags = ["--train", 3, "--validation", 1, "--size", 64]
    finished = toyland("data", "--out", "d", *flags, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert len(json.loads((tmp_path / "d/align.json").read_text())) == 3


def test_score_finds_the_shipped_model_from_any_directory(tmp_path):
    finished = toyland("score", "--count", 3, "--json", "--device", "cpu", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert 0 <= result["overall"] <= 1
    assert set(result["detail"]) == {"plain", "trained", "unseen", "second turn"}


def test_plain_score_prints_one_column(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["toyland", "score", "--plain", "--count", "3"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "exact answers, % (plain language)"
    assert {len(line.split()) for line in lines[1:]} == {2}
    assert lines[-1].startswith("overall")


def test_plain_score_asks_with_the_template(monkeypatch, capsys):
    templates = []

    def plain_score(model, tokenizer, image_config, count, seed, template) -> dict:
        templates.append(template)
        return {"overall": 1.0}

    monkeypatch.setattr("nanollava.toyland.__main__.plain_score", plain_score)
    monkeypatch.setattr(sys, "argv", ["toyland", "score", "--plain", "--template", "llama_2"])
    main()
    assert templates == ["llama_2"]


def test_pretrain_makes_both_starting_points(tmp_path, monkeypatch):
    """With one step in every phase, and as few images and scenes as possible."""
    monkeypatch.setattr("nanollava.toyland.vicuna.SCENES", 200)
    flags = ["--out", str(tmp_path), "--scale", "0.0006", "--pictures", "64", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["toyland", "pretrain", *flags])
    main()
    for name, model_type in (("toy-clip", "clip"), ("toy-vicuna", "llama")):
        assert "--scale 0.0006" in (tmp_path / name / "MADE_BY.txt").read_text()
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["model_type"] == model_type
    load_clip(tmp_path / "toy-clip")
    Llama.from_pretrained(tmp_path / "toy-vicuna")


@pytest.mark.parametrize(
    "args, message",
    [
        (["picture", "--out", "p.png", "--index", -1], "--index -1: expected at least 0"),
        (["picture", "--out", "p.png", "--size", 20], "--size 20: expected at least 48 pixels"),
        (["picture", "--out", "p.unknown"], "p.unknown"),
        (["data", "--out", "."], "exists already"),
        (["data", "--out", "d", "--train", 0], "--train"),
        (["score", "--count", 2], "--count 2: expected at least 3 scenes"),
        (["score", "--model", "missing"], "missing"),
        (["natural", "--count", 0], "--count 0: expected at least 1 scenes"),
        (["natural", "--model", "missing"], "missing"),
        (["pretrain", "--pictures", 10], "--pictures 10"),
        (["pretrain", "--captions-only", "--pictures", 64], "--pictures 64: expected at least 90"),
        (["pretrain", "--out", ""], "--out ''"),
        (["pretrain", "--only", "vicuna", "--captions-only"], "--captions-only is about toy-clip"),
        (["pretrain", "--out", __file__], "test_toyland_main.py"),  # before hours of training
        (["picture", "--out", ""], "--out ''"),
        (["pretrain", "--scale", 0], "--scale 0"),
        (["pretrain", "--scale", "nan"], "--scale nan"),
        (["pretrain", "--scale", "inf"], "--scale inf"),
        (["pretrain", "--pictures", 10**20], "--pictures 100000000000000000000"),
        (["picture", "--out", "p.png", "--index", 10**20], "--index 100000000000000000000"),
        (["picture", "--out", "p.png", "--size", 10**20], "--size 100000000000000000000"),
        (["data", "--out", "d", "--validation", 10**20], "--validation 100000000000000000000"),
        (["score", "--model", ""], "--model ''"),
        (["score", "--seed", 2**64], "--seed 18446744073709551616"),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["toyland", *map(str, args)])
    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # this process has them already
@pytest.mark.parametrize(
    "module, command",
    [
        ("score", "score"),
        ("data", "data"),
        ("draw", "picture"),
        ("pretrain", "pretrain"),
        ("clip", "pretrain"),
        ("vicuna", "pretrain"),
    ],
)
def test_a_module_that_is_no_program_names_the_command(module, command, capsys):
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"nanollava.toyland.{module}", run_name="__main__")
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: this module is not a program; see python -m nanollava.toyland {command} --help\n"
    )
