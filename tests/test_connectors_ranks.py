"""Every connector in both stages, and a Q-Former's own: two ranks train the same model as one."""

import os
import subprocess
import sys

import pytest
import torch
from connectors_on_ranks import STAGES, train_all
from safetensors.torch import load_file

from nanollava.config import CONNECTORS, PROJECTORS


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Losses and weights of one rank, in this process, and of two."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["tests/connectors_on_ranks.py", str(folder / "two")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."}
    two = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    threads = torch.get_num_threads()
    train_all(folder / "one")
    torch.set_num_threads(threads)
    output, _ = two.communicate(timeout=600)
    assert two.returncode == 0, output
    return load_file(folder / "one"), load_file(folder / "two")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", PROJECTORS + CONNECTORS)
def test_two_ranks_equal_one(results, kind, stage):
    check_equal(results, f"{kind} {stage}")


def check_equal(results, title: str) -> None:
    one, two = results
    names = [name for name in one if name.startswith(f"{title} ")]
    assert len(names) > 20
    for name in names:
        difference = (one[name] - two[name]).norm()
        assert difference <= 1e-6 * one[name].norm() + 1e-12, name


def test_two_ranks_train_a_q_former_as_one_does(results):
    """Negatives come from the micro-batch of a rank, so the micro-batches must be the same."""
    check_equal(results, "qformer pretraining")
    one, _ = results
    first, second = one["qformer pretraining losses"].tolist()
    assert second < first


@pytest.mark.parametrize("kind", PROJECTORS + CONNECTORS)
def test_both_stages_learn(results, kind):
    one, _ = results
    for stage in STAGES:
        first, second = one[f"{kind} {stage} losses"].tolist()
        assert second < first
    align = one[f"{kind} align language_model.model.norm.weight"]
    instruct = one[f"{kind} instruct language_model.model.norm.weight"]
    assert torch.equal(align, torch.ones_like(align))
    assert not torch.equal(align, instruct)
