"""python -m nanollava.plot, from outside."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from nanollava.plot import running_mean


def test_running_mean():
    assert running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1, 2, 4, 6] and running_mean([4.0], 1) == [4.0]


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    for name, base in (("one", 3.0), ("two", 2.0)):
        (tmp_path / name).mkdir()
        entries = [
            {"step": i, "loss": base / (1 + i), **({"validation_loss": 1.0} if i == 5 else {})}
            for i in range(9)
        ]
        text = "".join(json.dumps(e) + "\n" for e in entries)
        (tmp_path / name / "metrics.jsonl").write_text(
            text + '{"step": 9, "lo'
        )  # as a killed run leaves it
    command = [
        sys.executable,
        "-m",
        "nanollava.plot",
        tmp_path / "one",
        tmp_path / "two",
        "--out",
        tmp_path / "loss.png",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    colors = {c[:3] for _, c in Image.open(tmp_path / "loss.png").getcolors(1 << 20)}
    assert {(31, 119, 180), (255, 127, 14)} <= colors  # both curves
    done = subprocess.run([*command[:3], tmp_path / "none"], capture_output=True, text=True)
    assert (
        done.returncode == 2
        and "no metrics of a training" in done.stderr
        and done.stderr.count("\n") == 1
    )
