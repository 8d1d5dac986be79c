"""The files of a checkpoint: rows of tensors, read by any number of ranks."""

from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nanollava.training import state
from nanollava.training.state import CheckpointError, read_rows


def write_in_parts(tensor: torch.Tensor, ranks: int, folder) -> list:
    """A tensor as this many ranks write it, opened again."""
    parts = list(torch.chunk(tensor, ranks))
    while len(parts) < ranks:  # the last ranks have no rows
        parts.append(tensor[:0])
    files = []
    for rank, part in enumerate(parts):
        path = folder / f"rank-{rank:05d}.safetensors"
        save_file({"x": part.contiguous()}, path)
        files.append(safe_open(path, framework="pt"))
    return files


@pytest.mark.parametrize("shape", [(7, 3), (8,), (1, 2, 2)])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_any_range_of_rows_can_be_read(tmp_path, shape, ranks):
    tensor = torch.randn(shape)
    files = write_in_parts(tensor, ranks, tmp_path)
    for first in range(shape[0] + 1):
        for end in range(first, shape[0] + 1):
            rows = read_rows(files, "x", first, end, tensor.shape)
            assert torch.equal(rows, tensor[first:end])


@pytest.mark.parametrize("shape", [(6, 3), (7, 4), (7,), (7, 3, 1)])
def test_a_tensor_of_another_shape_is_refused(tmp_path, shape):
    files = write_in_parts(torch.zeros(7, 3), 2, tmp_path)
    with pytest.raises(CheckpointError, match="x: "):
        read_rows(files, "x", 0, 2, torch.Size(shape))


def test_a_number_in_place_of_a_tensor_is_refused(tmp_path):
    path = tmp_path / "rank-00000.safetensors"
    save_file({"x": torch.tensor(1.0)}, path)
    with safe_open(path, framework="pt") as file, pytest.raises(CheckpointError, match="x: "):
        read_rows([file], "x", 0, 2, torch.Size([2]))


@pytest.mark.parametrize("rows", [1, 2, 7, 8])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_a_rank_has_the_rows_of_torch_chunk(monkeypatch, rows, ranks):
    """FSDP2 cuts tensors so. A resumed run reads these rows."""
    whole = torch.arange(rows)
    parts = list(torch.chunk(whole, ranks))
    parts += [whole[:0]] * (ranks - len(parts))
    monkeypatch.setattr(state.dist, "get_world_size", lambda: ranks)
    for rank, part in enumerate(parts):
        monkeypatch.setattr(state.dist, "get_rank", lambda rank=rank: rank)
        tensor = SimpleNamespace(shape=whole.shape, to_local=lambda part=part: part)
        first, end = state.row_range(tensor)
        assert torch.equal(whole[first:end], part)
