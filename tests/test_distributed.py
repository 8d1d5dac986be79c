"""The process group, freezing, and what sharding does to a model."""

import pytest
import torch
from conftest import batch
from torch import nn

from nanollava import LLaVA
from nanollava.errors import UserError
from nanollava.training import distributed
from nanollava.training.arguments import TrainConfig

STAGE_2 = {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": True}


def test_one_process_on_cuda_uses_the_first_device(monkeypatch):
    """torch.cuda.set_device needs a device with an index; without torchrun nothing sets it."""
    devices = []
    for name in ("is_available", "device_count"):
        monkeypatch.setattr(torch.cuda, name, lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **options: None)
    assert distributed.start("cuda") == torch.device("cuda", 0)
    assert distributed.start("auto") == torch.device("cuda", 0)
    assert devices == [torch.device("cuda", 0)] * 2


def test_more_processes_than_gpus_are_an_error(monkeypatch):
    for name in ("is_available", "device_count"):
        monkeypatch.setattr(torch.cuda, name, lambda: 1)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **options: None)
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_node_local_rank", lambda: 1)
    with pytest.raises(UserError, match="no GPU: torch finds 1; start torchrun with --nproc_per"):
        distributed.start("cuda")


def test_training_does_not_run_on_mps(monkeypatch):
    """FSDP2 has no backend for it: auto takes the CPU, and mps is refused."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **options: None)
    assert distributed.start("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="--device mps: sharded training runs on cuda or cpu"):
        distributed.start("mps")


def test_freeze_follows_the_table(llava_dir):
    model = LLaVA.from_pretrained(llava_dir())
    report = distributed.freeze(model, STAGE_2)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith("vision_tower."))
    assert [line.split()[-1] for line in report] == ["frozen", "trained", "trained"]


def test_freeze_needs_a_row_for_every_parameter(llava_dir):
    model = LLaVA.from_pretrained(llava_dir())
    with pytest.raises(UserError, match="matches no row of the table"):
        distributed.freeze(model, {"vision_tower.": False, "language_model.": True})


class LinearWithLoss(nn.Linear):
    def loss(self, x):
        return self(x).sum()


def test_a_weight_that_a_file_stores_transposed_is_sharded():
    """FSDP2 takes contiguous parameters only, and a pickle keeps the order of its tensors."""
    model = LinearWithLoss(3, 2)
    model.weight = nn.Parameter(torch.randn(3, 2).t())
    expected = model.weight.detach().clone()
    device = distributed.start("cpu")
    try:
        distributed.freeze(model, {"": True})
        distributed.shard(model, [], nn.Module(), device, TrainConfig(dtype="fp32"))
        assert torch.equal(distributed.full_state(model, torch.float32, "")["weight"], expected)
    finally:
        distributed.finish()


def test_bf16_is_the_dtype_of_the_computation(llava_dir):
    device = distributed.start("cpu")
    try:
        model = LLaVA.from_pretrained(llava_dir(), dtype=torch.float32)
        distributed.freeze(model, STAGE_2)
        blocks = model.language_model.model.layers
        distributed.shard(model, blocks, model.vision_tower, device, TrainConfig(dtype="bf16"))
        dtypes = []
        blocks[0].register_forward_hook(lambda block, inputs, x: dtypes.append(x.dtype))
        ids, labels, _, pixels = batch()
        model.loss(ids, labels, pixels)
        assert dtypes == [torch.bfloat16]
    finally:
        distributed.finish()


def test_sharded_bf16_training_has_fp32_gradients_near_those_of_fp32(llava_dir):
    ids, labels, _, pixels = batch()
    path = llava_dir()
    plain = LLaVA.from_pretrained(path, dtype=torch.float32)
    distributed.freeze(plain, STAGE_2)
    expected, count = plain.loss(ids, labels, pixels)
    (expected / count).backward()
    device = distributed.start("cpu")
    try:
        model = LLaVA.from_pretrained(path, dtype=torch.float32)
        distributed.freeze(model, STAGE_2)
        blocks = model.language_model.model.layers
        config = TrainConfig(dtype="bf16")
        distributed.shard(model, blocks, model.vision_tower, device, config)
        loss, count = model.loss(ids, labels, pixels)
        (loss / count).backward()
        torch.testing.assert_close(loss.detach(), expected.detach(), rtol=0.02, atol=0)
        for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
            if p.requires_grad:
                gradient = p.grad.full_tensor()
                assert gradient.dtype == torch.float32, name
                assert (gradient - q.grad).norm() < 0.1 * q.grad.norm(), name
    finally:
        distributed.finish()
