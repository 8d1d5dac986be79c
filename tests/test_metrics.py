"""metrics.jsonl, the progress bar's numbers, and MFU."""

import json
import sys
from pathlib import Path

import pytest
import torch

from nanollava.errors import UserError
from nanollava.training import distributed, metrics
from nanollava.training.arguments import TrainConfig
from nanollava.training.batches import Counts

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def process_group():
    distributed.start("cpu")
    yield
    distributed.finish()


@pytest.fixture
def path(tmp_path):
    """The metrics of steps 0 to 3, and a line that was cut off."""
    lines = [json.dumps({"step": step, "seconds": 1.5 * (step + 1)}) for step in range(4)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join([*lines, '{"step": 4, "seco']))
    return path


def test_the_first_line_says_where_the_training_runs(capsys):
    """ "device=auto" does not tell that no GPU was found."""
    config = TrainConfig(device="auto", dtype="auto")
    metrics.announce(config, torch.device("cpu"), ["W  10  trained"], 5, "stage 1: align")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "stage 1: align, on cpu in float32"
    assert last == "W  10  trained"


def test_a_resumed_run_drops_the_steps_that_it_repeats(path):
    assert metrics.keep_lines_before(path, first_step=2) == 3.0  # seconds
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1]


DAMAGED = [b"\xff\xfe", b"null", b"{}", b'{"step": "2", "seconds": 1}', b'{"step": 2}', b"[" * 9999]


@pytest.mark.parametrize("line", DAMAGED, ids=repr)
def test_a_damaged_line_is_dropped_with_a_warning(path, line, capsys):
    lines = path.read_bytes().split(b"\n")
    lines[1] = line
    path.write_bytes(b"\n".join(lines))
    assert metrics.keep_lines_before(path, first_step=3) == 4.5  # seconds
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 2]
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert f"warning: {path}, line 2" in output


def test_a_new_run_drops_all_steps(path):
    assert metrics.keep_lines_before(path, first_step=0) == 0
    assert path.read_text() == ""


def test_a_step_is_one_line_and_the_seconds_go_on(path, monkeypatch):
    monkeypatch.setattr(metrics, "matmul_rate", lambda device, dtype: 1e12)  # FLOP/s
    monkeypatch.setattr(metrics.time, "perf_counter", iter([90.0, 100.0, 102.0]).__next__)
    config = TrainConfig(out=str(path.parent))
    with metrics.Metrics(config, CPU, first_step=2, steps=9) as log:
        counts = Counts(label_tokens=3, tokens=50, images=2, flops=1e12)
        log.begin_step()  # 10 seconds of a checkpoint are not part of it
        log.end_step()
        log.log(2, loss=0.5, lr=0.1, grad_norm=2.0, counts=counts, evaluation={"score": 0.25})
    entry = json.loads(path.read_text().splitlines()[-1])
    assert entry.pop("memory") > 1e6
    assert entry == {
        "step": 2,
        "loss": 0.5,
        "lr": 0.1,
        "grad_norm": 2.0,
        "tokens": 50,
        "label_tokens": 3,
        "images": 2,
        "score": 0.25,
        "mfu": 0.5,  # 1e12 FLOPs in 2 seconds, of 1e12 a second
        "seconds": 5.0,
    }


def test_a_step_without_a_count_of_flops_has_no_mfu(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "matmul_rate", lambda device, dtype: 1e12)  # FLOP/s
    with metrics.Metrics(TrainConfig(out=str(tmp_path)), CPU, 0, 1) as log:
        log.end_step()
        counts = Counts(label_tokens=3, tokens=50, images=2, flops=0)
        log.log(0, loss=0.5, lr=0.1, grad_norm=2.0, counts=counts, evaluation={})
    assert "mfu" not in json.loads((tmp_path / "metrics.jsonl").read_text())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a device of Linux")
def test_a_full_disk_is_a_warning(tmp_path, capsys):
    with metrics.Metrics(TrainConfig(out=str(tmp_path)), CPU, 0, 1) as log:
        log.file.close()
        log.file = open("/dev/full", "w")
        log.write({"step": 0})
    assert "warning: /dev/full: [Errno 28] No space left on device" in capsys.readouterr().out


def test_a_full_disk_ends_the_board_and_not_the_training(tmp_path, capsys):
    class FullBoard:
        def add_scalar(self, name, value, step):
            raise OSError("No space left on device")

    with metrics.Metrics(TrainConfig(out=str(tmp_path)), CPU, 0, 2) as log:
        log.board = FullBoard()
        log.write({"step": 0})
        log.write({"step": 1})
    assert capsys.readouterr().out.count("warning: tensorboard: No space left on device") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_tensorboard_that_is_not_installed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="--tensorboard: pip install tensorboard"):
        metrics.open_tensorboard(tmp_path, 0)


@pytest.mark.parametrize(
    "value, text", [(0.00012345, "0.000123"), (12.345, "12.3"), (123456.7, "123,457")]
)
def test_numbers_in_the_progress_bar_are_short(value, text):
    assert metrics.short(value) == text
