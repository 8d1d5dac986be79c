"""Loss curves: the running mean, and the program."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from nanollava import plot
from nanollava.errors import UserError

BLUE = (31, 119, 180)  # matplotlib's first two colors
ORANGE = (255, 127, 14)


def write_run(directory, scale: float):
    directory.mkdir()
    lines = []
    for step in range(9):
        entry = {"step": step, "loss": scale / (1 + step)}
        if step == 5:
            entry["validation_loss"] = 1.0
        lines.append(json.dumps(entry) + "\n")
    lines.append('{"step": 9, "lo')  # as a killed run leaves it
    (directory / "metrics.jsonl").write_text("".join(lines))
    return directory


def test_running_mean():
    assert plot.running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1, 2, 4, 6]
    assert plot.running_mean([4.0], 1) == [4.0]


def test_a_half_written_line_is_ignored(tmp_path):
    steps, losses = plot.read_metric(write_run(tmp_path / "one", 3.0), "loss")
    assert steps == list(range(9)) and losses[0] == 3.0


def test_only_lines_with_the_metric_count(tmp_path):
    assert plot.read_metric(write_run(tmp_path / "one", 3.0), "validation_loss") == ([5], [1.0])


def test_the_program_draws_a_curve_per_run(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [write_run(tmp_path / "one", 3.0), write_run(tmp_path / "two", 2.0)]
    command = [sys.executable, "-m", "nanollava.plot", *runs, "--out", tmp_path / "loss.png"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    colors = {color[:3] for _, color in Image.open(tmp_path / "loss.png").getcolors(1 << 20)}
    assert {BLUE, ORANGE} <= colors


def test_a_directory_without_metrics(tmp_path):
    with pytest.raises(UserError, match="no metrics of a training run"):
        plot.read_metric(tmp_path / "none", "loss")


def test_a_run_without_a_step(tmp_path, call):
    pytest.importorskip("matplotlib")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "validation_loss": 1.0}\n')
    with pytest.raises(UserError, match="contains no step"):
        call(plot, tmp_path, "--out", tmp_path / "loss.png")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"step": "1", "loss": 1}', "step = '1'; expected a whole number"),
        ('{"step": -1, "loss": 1}', "step = -1; expected at least 0"),
        ('{"loss": 1}', "no 'step'; expected a whole number"),
        ('{"step": 1, "loss": null}', "loss = None; expected a finite number"),
        ('{"step": 1, "loss": "1"}', "loss = '1'; expected a finite number"),
        ('{"step": 1, "loss": NaN}', "loss = nan; expected a finite number"),
        ('{"step": 1, "loss": 1e308}', "loss = 1e.308; expected at most"),
        ("broken}", "not valid JSON"),
        (b"\xff}", "not valid JSON"),
        ('{"a":' * 10_000 + "}", "not valid JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    if isinstance(line, str):
        line = line.encode()
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 0, "loss": 1}\n' + line + b"\n")
    with pytest.raises(UserError, match=f"metrics.jsonl, line 2: {message}"):
        plot.read_metric(tmp_path, "loss")


def test_metrics_that_are_no_file(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="metrics.jsonl: not a regular file"):
        plot.read_metric(tmp_path, "loss")


@pytest.mark.parametrize("name", ["loss.xyz", ""])
def test_a_file_name_that_is_no_image(tmp_path, call, name):
    pytest.importorskip("matplotlib")
    with pytest.raises(UserError, match="expected the name of an image file, such as loss.png"):
        call(plot, write_run(tmp_path / "one", 3.0), "--out", name)
