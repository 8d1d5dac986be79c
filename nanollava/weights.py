"""Weights in and out: safetensors (and, in, `.bin` pickles of tensors), one file or shards with an index, strict both ways:
every tensor of a file is matched through its layout's table or dropped by name; every parameter must be found."""

import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .config import UserError, read_json, write_json
from .int8 import quantise

SHARD_BYTES = 4 * 2**30
BUFFERS = (".rotary_emb.inv_freq", ".position_ids")  # in old files


class WeightsError(UserError):
    """A checkpoint that is missing, broken, or does not fit the model."""


@dataclass(frozen=True)
class Layout:
    """`prefixes` (file, ours), the first that fits counts, and the first per module is the one written;
    `drop` are patterns of tensor names that are left out on purpose."""

    name: str
    prefixes: Sequence[tuple[str, str]]
    drop: Sequence[str] = ()

    def to_ours(self, name: str) -> str | None:
        """Our name for a file's tensor, None for one that is dropped, or a WeightsError."""
        if f".{name}".endswith(BUFFERS) or any(fnmatchcase(name, pattern) for pattern in self.drop):
            return None
        for theirs, ours in self.prefixes:
            if name.startswith(theirs):
                return ours + name[len(theirs) :]
        raise WeightsError(f"tensor {name!r} has no place in the {self.name} layout")

    def to_file(self, name: str) -> str:
        for theirs, ours in self.prefixes:
            if name.startswith(ours):
                return theirs + name[len(ours) :]
        raise WeightsError(f"parameter {name!r} has no name in the {self.name} layout")


# Prefixes of transformers 4 and 5, whose towers differ, and of the original LLaVA, whose projector is an nn.Sequential.
_tables = read_json(Path(__file__).with_name("layouts.json"))
LLAVA, CLIP_VISION, LLAMA, PROJECTOR = (Layout(name, **table) for name, table in _tables.items())
PROJECTOR_FILES = ("mm_projector.safetensors", "mm_projector.bin")  # of stage 1: ours, the original's


def projector_files(path: str | Path) -> list[Path]:
    """Where W is: a file, a stage 1 directory's, or the shards of an original LLaVA."""
    here = [Path(path) / name for name in PROJECTOR_FILES if (Path(path) / name).is_file()]
    return here[:1] or shards(path)


def projector_kind(files: list[Path]) -> str:
    """Which projector the files hold, by its tensors."""
    ours = [name for name in map(PROJECTOR.to_ours, shapes(files)) if name]
    if not ours:
        raise WeightsError(f"{files[0]}: holds no projector, which would be tensors *mm_projector.*")
    return "mlp2x_gelu" if any(name.startswith("linear_2.") for name in ours) else "linear"


def shapes(path: str | Path | list[Path]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a checkpoint."""
    return {name: shape for shard in shards(path) for name, shape, _ in tensors(shard)}


@contextmanager
def uninitialised():
    """Builds modules on the meta device and skips their initialisers: the values come from a file."""
    saved = {kind: kind.reset_parameters for kind in (nn.Linear, nn.Embedding, nn.Conv2d, nn.LayerNorm)}
    try:
        for kind in saved:
            kind.reset_parameters = lambda module: None
        with torch.device("meta"):
            yield
    finally:
        for kind, method in saved.items():
            kind.reset_parameters = method


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
    raise WeightsError(f"{path}: no model.safetensors or pytorch_model.bin is there, nor an index of shards")


def tensors(shard: Path, device="cpu") -> Iterator[tuple[str, tuple[int, ...], Callable[[], torch.Tensor]]]:
    """Yields name, shape and how to read it of each tensor of a file. A pickle may hold tensors and nothing else."""
    try:
        if shard.suffix == ".safetensors":
            with safe_open(shard, framework="pt", device=str(device)) as file:
                for name in file.keys():
                    shape = tuple(file.get_slice(name).get_shape())
                    yield name, shape, lambda name=name: file.get_tensor(name)
            return
        found = torch.load(shard, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(shard))
    except SafetensorError as error:
        raise WeightsError(f"{shard}: not a readable safetensors file ({error})") from None
    except pickle.UnpicklingError:
        raise WeightsError(f"{shard}: refused, for it holds more than tensors or is no checkpoint") from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise WeightsError(f"{shard}: not a whole checkpoint ({str(error).splitlines()[0]})") from None
    if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise WeightsError(f"{shard}: expected names and tensors alone")
    yield from ((name, tuple(tensor.shape), lambda tensor=tensor: tensor) for name, tensor in found.items())


def load(module: nn.Module, path, layout: Layout, device="cpu", dtype: torch.dtype | None = None) -> None:
    """Fills a module built by `uninitialised` from a checkpoint, each tensor read once, straight to its device and dtype;
    nothing is changed if anything does not fit."""
    wanted = dict(module.named_parameters(remove_duplicate=False))
    found: dict[str, torch.Tensor | Future] = {}
    threads = ThreadPoolExecutor(4)
    for shard in shards(path):
        for name, shape, read in tensors(shard, device):
            if (ours := layout.to_ours(name)) is None:
                continue
            if ours not in wanted and "linear_2" in ours.split(".") and layout in (LLAVA, PROJECTOR):
                tensor = read().cpu().float()  # behind a linear W, written in the llava-hf layout
                identity = torch.eye(len(tensor)) if tensor.ndim == 2 else torch.zeros_like(tensor)
                if not torch.equal(tensor, identity):
                    raise WeightsError(f"{shard}: {name!r} is not the identity behind the config's linear W")
                continue
            if ours not in wanted:
                raise WeightsError(f"{shard}: tensor {name!r} {shape} is not part of this model")
            if ours in found:
                raise WeightsError(f"{shard}: tensor {name!r} comes twice")
            if shape != (expected := tuple(wanted[ours].shape)):
                raise WeightsError(f"{shard}: tensor {name!r} has shape {shape}, the config says {expected}")
            tensor = read()
            if not tensor.is_floating_point():
                raise WeightsError(f"{shard}: tensor {name!r} is {tensor.dtype}; expected fp32, fp16 or bf16")
            if wanted[ours].dtype == torch.int8:
                found[ours], scale = quantise(tensor.to(device))
                found[ours.removesuffix("weight") + "scale"] = scale.to(dtype or tensor.dtype)
            else:
                convert = dtype not in (None, tensor.dtype)
                found[ours] = threads.submit(tensor.to, device, dtype) if convert else tensor.to(device)
    found = {name: t.result() if isinstance(t, Future) else t for name, t in found.items()}
    first = {id(parameter): name for name, parameter in module.named_parameters()}  # of tied ones the first
    found |= {name: found[first[id(p)]] for name, p in wanted.items() if first[id(p)] in found}
    missing = [layout.to_file(name) for name in wanted if name not in found]
    if missing:
        share = f"{len(missing)} of {len(wanted)} tensors are missing, the first {missing[0]!r}"
        raise WeightsError(f"{path}: {share}; expected the {layout.name} layout")
    module.load_state_dict(found, strict=False, assign=True)
    if torch.device(device).type != "cpu":
        module.to(device)  # the rotary table


def save(state: dict[str, torch.Tensor], path, layout: Layout, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes a state dict into a directory, as `model.safetensors` or as shards with an index."""
    path = Path(path)
    tensors = {layout.to_file(name): tensor.detach().cpu().contiguous() for name, tensor in state.items()}
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
        file = "model.safetensors" if count == 1 else f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        save_file(group, path / f"{file}.partial", metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, file)
    for file in set(weight_map.values()):  # all are written: a failure leaves what was there before
        (path / f"{file}.partial").replace(path / file)
    names = ["model-?????-of-?????.safetensors", "model.safetensors", "model.safetensors.index.json"]
    if count > 1:
        write_json(path / names.pop(), {"metadata": {"total_size": need}, "weight_map": weight_map})
    for old in (old for name in names for old in path.glob(name)):  # what an earlier saving left
        if old.name not in weight_map.values():
            old.unlink()


def save_projector(state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Writes W alone, keys `multi_modal_projector.*`, aside and renamed."""
    aside = Path(path).with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, aside, metadata={"format": "pt"})
    aside.replace(path)
