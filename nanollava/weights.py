"""Weights in and out: safetensors (and, in, `.bin` pickles of tensors), one file or shards with an index, strict both ways.

Every tensor of a file is matched through its layout's table or dropped by name; every parameter must be found.
"""

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .config import UserError, read_json, write_json
from .int8 import quantise

SHARD_BYTES = 4 * 2**30


class WeightsError(UserError):
    """A checkpoint that is missing, broken, or does not fit the model."""


@dataclass(frozen=True)
class Layout:
    """`prefixes` (file, ours), the first that fits counts, and the first per module is the one written;
    `drop` is a pattern of tensor names that are left out on purpose."""

    name: str
    prefixes: tuple[tuple[str, str], ...]
    drop: str = r"(.*\.)?(rotary_emb\.inv_freq|position_ids)"  # buffers in old files

    def to_ours(self, name: str) -> str | None:
        """Our name for a file's tensor, None for one that is dropped, or a WeightsError."""
        if re.fullmatch(self.drop, name):
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


LLAVA = Layout(
    "llava-hf",
    (
        ("language_model.model.", "language_model.model."),
        ("language_model.lm_head.", "language_model.lm_head."),
        ("vision_tower.vision_model.", "vision_tower."),
        ("vision_tower.", "vision_tower."),  # as transformers 5 writes it
        ("multi_modal_projector.", "multi_modal_projector."),
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.vision_model.", "vision_tower."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ),
)
CLIP_VISION = Layout(
    "Hugging Face CLIP",
    (
        ("vision_model.", ""),
        ("embeddings.", "embeddings."),  # the tower alone, as transformers 5 writes it
        ("encoder.", "encoder."),
        ("pre_layrnorm.", "pre_layrnorm."),
        ("post_layernorm.", "post_layernorm."),
        ("model.vision_tower.vision_tower.vision_model.", ""),  # inside an original LLaVA
    ),
    drop=r"(.*\.)?position_ids|text_model\..*|visual_projection\.weight|text_projection\.weight|logit_scale"
    r"|model\.(embed_tokens|layers|norm|mm_projector)\..*|lm_head\..*",
)
LLAMA = Layout(
    "Hugging Face Llama",
    (("model.", "model."), ("lm_head.", "lm_head.")),
    drop=LLAVA.drop + r"|model\.(mm_projector|vision_tower)\..*",  # an original LLaVA is a Llama with these
)
PROJECTOR = Layout(
    "projector",
    (
        ("multi_modal_projector.", ""),
        *((f"{model}mm_projector.0.", "linear_1.") for model in ("model.", "")),  # an nn.Sequential
        *((f"{model}mm_projector.2.", "linear_2.") for model in ("model.", "")),
        *((f"{model}mm_projector.", "linear_1.") for model in ("model.", "")),
    ),
    drop=LLAVA.drop + r"|model\.(embed_tokens|layers|norm|vision_tower)\..*|lm_head\..*",
)
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
    kinds = (nn.Linear, nn.Embedding, nn.Conv2d, nn.LayerNorm)
    saved = [kind.reset_parameters for kind in kinds]
    try:
        for kind in kinds:
            kind.reset_parameters = lambda module: None
        with torch.device("meta"):
            yield
    finally:
        for kind, method in zip(kinds, saved, strict=True):
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
    found: dict[str, torch.Tensor] = {}
    identity = {}  # linear_2 of a linear W written in the llava-hf layout
    for shard in shards(path):
        for name, shape, read in tensors(shard, device):
            ours = layout.to_ours(name)
            if ours is None:
                continue
            if ours not in wanted and ours.split(".")[-2] == "linear_2" and layout in (LLAVA, PROJECTOR):
                identity[name] = read()
                continue
            if ours not in wanted:
                raise WeightsError(f"{shard}: tensor {name!r} {shape} is not part of this model")
            if ours in found:
                raise WeightsError(f"{shard}: tensor {name!r} comes twice")
            if shape != tuple(wanted[ours].shape):
                expected = tuple(wanted[ours].shape)
                raise WeightsError(f"{shard}: tensor {name!r} has shape {shape}, the config says {expected}")
            tensor = read()
            if not tensor.is_floating_point():
                raise WeightsError(f"{shard}: tensor {name!r} is {tensor.dtype}; expected fp32, fp16 or bf16")
            if wanted[ours].dtype == torch.int8:
                found[ours], scale = quantise(tensor.to(device))
                found[ours.removesuffix("weight") + "scale"] = scale.to(dtype or tensor.dtype)
            else:
                found[ours] = tensor.to(device, dtype or tensor.dtype)
    for name, tensor in identity.items():
        expected = torch.eye(len(tensor)) if tensor.ndim == 2 else torch.zeros(len(tensor))
        if not torch.equal(tensor.cpu().float(), expected):
            raise WeightsError(f"{path}: {name!r} is not the identity, but the config says W is linear")
    tied = getattr(getattr(module, "language_model", module), "config", None)
    if getattr(tied, "tie_word_embeddings", False):
        for name in [n for n in wanted if n.endswith("lm_head.weight")]:
            found[name] = found.get(name.replace("lm_head", "model.embed_tokens"), found.get(name))
    missing = [layout.to_file(name) for name in wanted if found.get(name) is None]
    if missing:
        share = f"{len(missing)} of {len(wanted)} tensors are missing, the first {missing[0]!r}"
        raise WeightsError(f"{path}: {share}; expected the {layout.name} layout")
    module.load_state_dict(found, strict=False, assign=True)
    module.to(device)  # the rotary table


def save(state: dict[str, torch.Tensor], path, layout: Layout, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes a state dict into a directory, as `model.safetensors` or as shards with an index."""
    path = Path(path)
    tensors = {layout.to_file(name): tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    linear = "multi_modal_projector.linear_1.bias"
    if layout is LLAVA and linear in tensors and "multi_modal_projector.linear_2.bias" not in tensors:
        # The layout has two linear maps; with projector_hidden_act "linear" an identity behind W changes nothing.
        bias = tensors[linear]
        tensors["multi_modal_projector.linear_2.weight"] = torch.eye(len(bias), dtype=bias.dtype)
        tensors["multi_modal_projector.linear_2.bias"] = torch.zeros_like(bias)
    groups: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.nbytes > shard_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    if len(groups) == 1:
        save_file(groups[0], path / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i, group in enumerate(groups):
        file = f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        save_file(group, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, file)
    total = {"total_size": sum(t.nbytes for t in tensors.values())}
    write_json(path / "model.safetensors.index.json", {"metadata": total, "weight_map": weight_map})


def save_projector(state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Writes W alone, keys `multi_modal_projector.*`, aside and renamed."""
    aside = Path(path).with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, aside, metadata={"format": "pt"})
    aside.replace(path)
