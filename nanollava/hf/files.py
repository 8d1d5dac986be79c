"""Weights in and out: safetensors (and, in, `.bin` pickles of tensors), one file or shards with an index."""

import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..files import read_json, write_json
from .names import LLAVA, PROJECTOR, Layout, WeightsError

SHARD_BYTES = 4 * 2**30
PROJECTOR_FILES = (
    "mm_projector.safetensors",
    "mm_projector.bin",
)  # of stage 1: ours, the original's


def projector_files(path: str | Path) -> list[Path]:
    """Where W is: a file, a stage 1 directory's, or the shards of an original LLaVA."""
    here = [Path(path) / name for name in PROJECTOR_FILES if (Path(path) / name).is_file()]
    return here[:1] or shards(path)


def projector_kind(files: list[Path]) -> str:
    """Which projector the files hold, by its tensors."""
    ours = [name for name in map(PROJECTOR.to_ours, shapes(files)) if name]
    if not ours:
        raise WeightsError(
            f"{files[0]}: holds no projector, which would be tensors *mm_projector.*"
        )
    return "mlp2x_gelu" if any(name.startswith("linear_2.") for name in ours) else "linear"


def shapes(path: str | Path | list[Path]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a checkpoint."""
    return {name: shape for shard in shards(path) for name, shape, _ in tensors(shard)}


def shards(path: str | Path | list[Path]) -> list[Path]:
    """The files of a checkpoint: a file itself, or a directory's one file or the shards its index names."""
    if isinstance(path, list) or Path(path).is_file():
        return path if isinstance(path, list) else [Path(path)]
    path = Path(path)
    if not path.is_dir():
        raise WeightsError(f"{path}: no such model directory")
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = path / f"{single}.index.json"
        if index.is_file():
            names = read_json(index).get("weight_map")
            if not isinstance(names, dict) or not names:
                raise WeightsError(f"{index}: expected a 'weight_map' from tensors to files")
            for name in names.values():
                if not (path / name).is_file():
                    raise WeightsError(f"{index} names {name}, which is missing; download it again")
            return [path / name for name in sorted(set(names.values()))]
        if (path / single).is_file():
            return [path / single]
    raise WeightsError(
        f"{path}: no model.safetensors or pytorch_model.bin is there, nor an index of shards"
    )


def tensors(
    shard: Path, device="cpu"
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], torch.Tensor]]]:
    """Yields name, shape and how to read it of each tensor of a file. A pickle may hold tensors and nothing else."""
    try:
        if shard.suffix == ".safetensors":
            with safe_open(shard, framework="pt", device=str(device)) as file:
                for name in file.keys():
                    shape = tuple(file.get_slice(name).get_shape())
                    yield name, shape, lambda name=name: file.get_tensor(name)
            return
        found = torch.load(
            shard, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(shard)
        )
    except SafetensorError as error:
        raise WeightsError(f"{shard}: not a readable safetensors file ({error})") from None
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{shard}: refused, for it holds more than tensors or is no checkpoint"
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{shard}: not a whole checkpoint ({str(error).splitlines()[0]})"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise WeightsError(f"{shard}: expected names and tensors alone")
    yield from (
        (name, tuple(tensor.shape), lambda tensor=tensor: tensor) for name, tensor in found.items()
    )


def save(
    state: dict[str, torch.Tensor], path, layout: Layout, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes a state dict into a directory, as `model.safetensors` or as shards with an index."""
    path = Path(path)
    tensors = {
        layout.to_file(name): tensor.detach().cpu().contiguous() for name, tensor in state.items()
    }
    if layout is LLAVA and "multi_modal_projector.linear_2.bias" not in tensors:
        # The layout has two linear maps; with projector_hidden_act "linear" an identity behind W changes nothing.
        bias = tensors["multi_modal_projector.linear_1.bias"]
        tensors["multi_modal_projector.linear_2.weight"] = torch.eye(len(bias), dtype=bias.dtype)
        tensors["multi_modal_projector.linear_2.bias"] = torch.zeros_like(bias)
    groups: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in tensors.items():
        if groups[-1] and sum(t.nbytes for t in groups[-1].values()) + tensor.nbytes > shard_bytes:
            groups.append({})
        groups[-1][name] = tensor
    weight_map, count = {}, len(groups)
    for old in path.glob("*.safetensors.partial"):  # of a saving that was cut off
        old.unlink()
    free, need = shutil.disk_usage(path).free, sum(t.nbytes for t in tensors.values())
    if 0 < free < need:  # some file systems say 0
        raise OSError(f"{path}: {free:,} bytes free, the weights take {need:,}")
    for i, group in enumerate(groups):
        file = (
            "model.safetensors" if count == 1 else f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        )
        save_file(group, path / f"{file}.partial", metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, file)
    for file in set(weight_map.values()):  # all are written: a failure leaves what was there before
        (path / f"{file}.partial").replace(path / file)
    names = [
        "model-?????-of-?????.safetensors",
        "model.safetensors",
        "model.safetensors.index.json",
    ]
    if count > 1:
        write_json(path / names.pop(), {"metadata": {"total_size": need}, "weight_map": weight_map})
    for old in (old for name in names for old in path.glob(name)):  # what an earlier saving left
        if old.name not in weight_map.values():
            old.unlink()


def save_projector(state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Writes W alone, keys `multi_modal_projector.*`, aside and renamed."""
    aside = Path(path).with_suffix(".partial")
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        aside,
        metadata={"format": "pt"},
    )
    aside.replace(path)
