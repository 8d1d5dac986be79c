"""The directory --out: one run at a time, and no run over the results of another."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from nanollava.training import distributed, output

FINGERPRINT = {"lr": 0.1, "samples": 3}
HOLDER = """
import sys, time
from nanollava.training import distributed, output
distributed.start("cpu")
output.lock(sys.argv[1])
print("locked", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module", autouse=True)
def process_group():
    distributed.start("cpu")
    yield
    distributed.finish()


@pytest.fixture
def other_run(tmp_path):
    """Another process that trains into tmp_path."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_run_is_refused(tmp_path, other_run):
    with pytest.raises(OSError, match="another training writes to it; wait for its end"):
        output.lock(str(tmp_path))


def test_another_directory_is_free(tmp_path, other_run):
    output.lock(str(tmp_path / "other"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_process_holds_no_lock(tmp_path, other_run, number):
    other_run.send_signal(number)
    other_run.wait()
    output.lock(str(tmp_path))


def write_results(out, fingerprint=None) -> None:
    save_file({"x": torch.zeros(1)}, out / "model.safetensors")
    if fingerprint is not None:
        (out / "training.json").write_text(json.dumps(fingerprint))


def test_results_of_other_settings_are_not_replaced(tmp_path):
    write_results(tmp_path, {**FINGERPRINT, "lr": 0.2})
    with pytest.raises(ValueError, match="the results of a run with lr 0.2, now 0.1; choose"):
        output.check_previous(str(tmp_path), FINGERPRINT)


def test_metrics_of_other_settings_are_not_replaced(tmp_path):
    (tmp_path / "training.json").write_text(json.dumps({**FINGERPRINT, "samples": 4}))
    (tmp_path / "metrics.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="samples 4, now 3"):
        output.check_previous(str(tmp_path), FINGERPRINT)


def test_a_model_that_no_training_wrote_is_not_replaced(tmp_path):
    write_results(tmp_path)
    with pytest.raises(ValueError, match="contains a model that no training wrote"):
        output.check_previous(str(tmp_path), FINGERPRINT)


def test_the_same_settings_may_run_again(tmp_path):
    write_results(tmp_path, FINGERPRINT)
    output.check_previous(str(tmp_path), FINGERPRINT)


def test_a_run_that_ended_before_its_first_step_leaves_nothing_to_protect(tmp_path):
    (tmp_path / "training.json").write_text(json.dumps({"lr": 7}))
    (tmp_path / "metrics.jsonl").write_text("")
    output.check_previous(str(tmp_path), FINGERPRINT)
    output.check_previous(str(tmp_path / "new"), FINGERPRINT)
