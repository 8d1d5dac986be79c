"""Devices and dtypes by name."""

import pytest
import torch

from nanollava.device import matmul_rate, pick_device, pick_dtype
from nanollava.errors import UserError


@pytest.fixture
def machine(monkeypatch):
    """Sets how many CUDA devices, and whether MPS, torch reports."""

    def configure(cuda: int, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return configure


@pytest.mark.parametrize(
    "cuda, mps, expected", [(2, True, "cuda"), (0, True, "mps"), (0, False, "cpu")]
)
def test_auto_is_the_best_device(machine, cuda, mps, expected):
    machine(cuda, mps)
    assert pick_device("auto").type == expected


def test_a_device_can_have_an_index(machine):
    machine(cuda=2, mps=False)
    assert pick_device("cuda:1") == torch.device("cuda:1")


def test_cpu_0_is_the_cpu():
    assert pick_device("cpu:0") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "mps", "cpu:1", "meta"])
def test_a_device_that_is_not_there_is_an_error(machine, name):
    machine(cuda=0, mps=False)
    with pytest.raises(UserError, match=f"--device {name}: torch finds no {name} device here"):
        pick_device(name)


def test_an_unknown_device_is_an_error():
    with pytest.raises(UserError, match="--device tpu: expected auto, cpu, cuda, cuda:N or mps"):
        pick_device("tpu")


@pytest.mark.parametrize(
    "name, device, expected",
    [
        ("auto", "cuda", torch.bfloat16),
        ("auto", "cpu", torch.float32),
        ("auto", "mps", torch.float32),
        ("fp16", "cpu", torch.float16),
    ],
)
def test_dtypes(name, device, expected):
    assert pick_dtype(name, torch.device(device)) == expected


def test_the_rate_of_a_matrix_product_is_positive():
    assert matmul_rate(torch.device("cpu"), torch.float32) > 0
