"""Weights in and out: safetensors, and pickles (`.bin`) in; one file, or shards with an index."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..config import PROJECTOR
from ..errors import UserError
from ..files import PARTIAL_PATTERN, flush_to_disk, json_text, read_json, replacing
from ..schema import short
from .names import LLAVA, PROJECTOR_LAYOUT, Layout, WeightsError

SHARD_BYTES = 4 * 2**30
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")  # the first is the one we write
INDEX_FILE = "model.safetensors.index.json"
# The names of shards that we write. A save uses those of the second kind if the first are in use.
SHARD_PATTERNS = ("model-?????-of-?????.safetensors", "model-next-?????-of-?????.safetensors")
PROJECTOR_FILES = ("mm_projector.safetensors", "mm_projector.bin")  # ours, the original's
CONNECTOR_FILE = "connector.json"  # next to the weights of a connector that is not W


class StoredTensor(NamedTuple):
    """A tensor in a file, not read yet."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


# ---- In ----


def shards(path: str | Path | list[Path]) -> list[Path]:
    """The files of a checkpoint.

    `path` is a directory with one file, a directory with shards and their index, a file, or a list
    of files. Where a directory has several of them, we read what transformers reads. A missing file
    is a WeightsError.
    """
    if isinstance(path, list):
        return path
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise WeightsError(f"{path}: no such model directory")
    for single_file in SINGLE_FILES:
        if (path / single_file).is_file():
            return [path / single_file]
        index = path / f"{single_file}.index.json"
        if index.is_file():
            return shards_of_index(index)
    raise WeightsError(
        f"{path}: no model.safetensors or pytorch_model.bin is there, nor an index of shards"
    )


def shards_of_index(index: Path) -> list[Path]:
    """The files that an index names. Its `weight_map` goes from tensor names to file names."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index}: expected a 'weight_map' from tensors to files")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise WeightsError(
                f"{index}: {tensor!r}: {short(name)}; expected a file in the same folder"
            )
    names = sorted(set(weight_map.values()))
    for name in names:
        if not (index.parent / name).is_file():
            raise WeightsError(f"{index} names {name}, which is missing; download it again")
    return [index.parent / name for name in names]


def shapes(path: str | Path | list[Path]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a checkpoint."""
    shape_of = {}
    for shard in shards(path):
        for tensor in tensors(shard):
            shape_of[tensor.name] = tensor.shape
    return shape_of


def tensors(shard: Path, device="cpu") -> Iterator[StoredTensor]:
    """The tensors of one file, each with its name, its shape and a function that reads it.

    A file that is broken, or that holds more than tensors, is a WeightsError.
    """
    if shard.suffix == ".safetensors":
        yield from safetensors_tensors(shard, device)
    else:
        yield from pickled_tensors(shard)


def safetensors_tensors(shard: Path, device) -> Iterator[StoredTensor]:
    """The tensors of a safetensors file, read straight to the device."""
    try:
        with safe_open(shard, framework="pt", device=str(device)) as file:
            check_names(shard)
            for name in file.keys():
                shape = tuple(file.get_slice(name).get_shape())
                yield StoredTensor(name, shape, partial(read_tensor, file, name, shard))
    except SafetensorError as error:
        raise WeightsError(f"{shard}: not a readable safetensors file ({error})") from None


def read_tensor(file: safe_open, name: str, shard: Path) -> torch.Tensor:
    """A tensor of an open safetensors file, or a WeightsError."""
    try:
        return file.get_tensor(name)
    except SafetensorError as error:  # for example a dtype that torch does not have
        raise WeightsError(f"{shard}: tensor {name!r} cannot be read ({error})") from None


def check_names(shard: Path) -> None:
    """A WeightsError if the header of a safetensors file names a tensor twice.

    The library takes the last one. The header is JSON, after 8 bytes that hold its length.
    """
    with open(shard, "rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        pairs = json.loads(file.read(header_bytes), object_pairs_hook=list)
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise WeightsError(f"{shard}: tensor {name!r} comes twice")
        seen.add(name)


def pickled_tensors(shard: Path) -> Iterator[StoredTensor]:
    """The tensors of a file that torch.save wrote, mapped into memory where its format allows.

    A pickle can run any code when it is read; `weights_only` refuses those that would.
    """
    try:
        state = torch.load(
            shard, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(shard)
        )
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{shard}: refused, because it holds more than tensors or is no checkpoint"
        ) from None
    except Exception as error:  # a broken pickle can raise anything
        first_line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WeightsError(f"{shard}: not a whole checkpoint ({first_line})") from None
    if not isinstance(state, dict):
        raise WeightsError(f"{shard}: expected names and tensors, got {type(state).__name__}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not is_dense(tensor):
            raise WeightsError(
                f"{shard}: {name!r}: {type(tensor).__name__}; expected names and dense tensors"
            )
        yield StoredTensor(name, tuple(tensor.shape), lambda tensor=tensor: tensor)


def is_dense(value) -> bool:
    """Is this a tensor with a shape, and a value of its own in the file at every position?"""
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return False
    if value.is_nested or value.is_meta or value.is_quantized:
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.itemsize


def has_model(path: Path) -> bool:
    """Whether a directory holds the weights of a whole model, or an index that names them."""
    for single_file in SINGLE_FILES:
        if (path / single_file).is_file() or (path / f"{single_file}.index.json").is_file():
            return True
    return False


def is_projector_directory(path: Path) -> bool:
    """Whether a directory holds W alone. Next to a whole model, W is a copy that nobody reads."""
    has_projector = any((path / name).is_file() for name in PROJECTOR_FILES)
    return has_projector and not has_model(path)


def projector_files(path: str | Path) -> list[Path]:
    """The files that hold W: a file, a stage 1 directory's, or the shards of an original LLaVA."""
    path = Path(path)
    if is_projector_directory(path):
        for name in PROJECTOR_FILES:
            if (path / name).is_file():
                return [path / name]
    return shards(path)


def projector_kind(files: list[Path]) -> str:
    """Which projector the files hold, "linear" or "mlp2x_gelu", by the names of its tensors."""
    names = list(shapes(files))
    our_names = [PROJECTOR_LAYOUT.to_ours_in(files[0], name) for name in names]
    if "linear_2.weight" in our_names:
        return "mlp2x_gelu"
    if "linear_1.weight" in our_names:
        return "linear"
    if any(name.startswith(PROJECTOR) for name in names):
        raise WeightsError(
            f"{files[0]}: the weights of a connector, but {CONNECTOR_FILE} is missing; copy it "
            "from the directory that they were trained in"
        )
    raise WeightsError(f"{files[0]}: no projector in it; expected tensors named *mm_projector.*")


# ---- Out ----


def save(
    state: dict[str, torch.Tensor],
    path: str | Path,
    layout: Layout,
    config: dict | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a state dict into a directory, as `model.safetensors` or as shards with an index, and
    `config`, if it is given, as config.json.

    An error leaves what was there before. After a kill, readers find the old weights or the new
    ones, never some of both. A config.json of the same content stays; another one is taken away
    before the weights change and comes back last, because no model may load with another's config.
    """
    path = Path(path)
    named_tensors = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise WeightsError(
                f"{name} is {tensor.dtype}: quantized weights cannot be saved; load the model "
                "without quantization"
            )
        named_tensors[layout.to_file(name)] = tensor.detach().cpu().contiguous()
    if layout is LLAVA:
        add_identity(named_tensors)
    remove_unfinished(path)
    remove_unused_weights(path)
    check_free_space(path, total_bytes(named_tensors))

    groups = split_into_shards(named_tensors, shard_bytes)
    config_file = path / "config.json"
    try:
        if config is None or has_text(config_file, json_text(config)):
            save_weights(groups, path)
        else:
            with replacing(config_file) as new_config:
                new_config.write_text(json_text(config), encoding="utf-8")
                save_weights(groups, path, old_config=config_file)
    except BaseException:
        remove_unused_weights(path)
        raise


def save_weights(
    groups: list[dict[str, torch.Tensor]], path: Path, old_config: Path | None = None
) -> None:
    """Write one file or shards, and switch to them by one change of the directory.

    `old_config` is removed just before.
    """
    is_single = len(groups) == 1
    single_file = path / SINGLE_FILES[0]
    index = path / INDEX_FILE
    with replacing(single_file if is_single else index) as temporary:
        if is_single:
            write_safetensors(groups[0], temporary)
        else:
            write_shards(groups, path, temporary)
        if old_config is not None:
            old_config.unlink(missing_ok=True)
    if is_single:
        index.unlink(missing_ok=True)
    else:
        single_file.unlink(missing_ok=True)  # readers prefer it to an index
    remove_unused_weights(path)


def has_text(file: Path, text: str) -> bool:
    return file.is_file() and file.read_bytes() == text.encode()


def add_identity(named_tensors: dict[str, torch.Tensor]) -> None:
    """Complete a linear W to the two layers that the llava-hf layout has.

    With `projector_hidden_act` "linear" there is no nonlinearity between them, so an identity
    after W changes nothing.
    """
    if "multi_modal_projector.linear_2.bias" in named_tensors:
        return
    bias = named_tensors["multi_modal_projector.linear_1.bias"]
    identity = torch.eye(len(bias), dtype=bias.dtype)
    named_tensors["multi_modal_projector.linear_2.weight"] = identity
    named_tensors["multi_modal_projector.linear_2.bias"] = torch.zeros_like(bias)


def total_bytes(named_tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in named_tensors.values())


def files_in_use(path: Path) -> set[str]:
    """The names of the weights that readers of a directory find; empty if there is no model.

    If the index cannot be read or names a missing shard, as after an interrupted download, all
    shards count as in use: a new model replaces them, but a failed save must not remove them.
    """
    try:
        return {file.name for file in shards(path)}
    except UserError:
        if not (path / INDEX_FILE).is_file():
            return set()
        return {file.name for pattern in SHARD_PATTERNS for file in path.glob(pattern)}


def remove_unfinished(path: Path) -> None:
    """Remove the temporary files of a save that was killed."""
    for name in (SINGLE_FILES[0], INDEX_FILE, "config.json"):
        for file in path.glob(f"{name}.{PARTIAL_PATTERN}"):
            file.unlink()


def remove_unused_weights(path: Path) -> None:
    """Remove weights that no reader finds: those of an earlier save, or of an interrupted one."""
    in_use = files_in_use(path)
    for pattern in (SINGLE_FILES[0], *SHARD_PATTERNS):
        for file in path.glob(pattern):
            if file.name not in in_use:
                file.unlink()


def check_free_space(path: Path, needed: int) -> None:
    """An OSError if the weights do not fit on the disk, before anything is written."""
    free = shutil.disk_usage(path).free
    if 0 < free < needed:  # some file systems always say 0
        raise OSError(f"{path}: {free:,} bytes free, the weights take {needed:,}")


def split_into_shards(
    named_tensors: dict[str, torch.Tensor], shard_bytes: int
) -> list[dict[str, torch.Tensor]]:
    """Fill shards in order. Each has at most `shard_bytes`, or a single larger tensor."""
    groups = [{}]
    for name, tensor in named_tensors.items():
        is_full = total_bytes(groups[-1]) + tensor.nbytes > shard_bytes
        if is_full and groups[-1]:
            groups.append({})
        groups[-1][name] = tensor
    return groups


def write_shards(groups: list[dict[str, torch.Tensor]], path: Path, index: Path) -> None:
    """Write shards under names that are not in use, and their index.

    The index says for every tensor in which shard it is.
    """
    prefix = unused_prefix(path)
    weight_map = {}
    total_size = 0
    for i, shard in enumerate(groups, start=1):
        name = f"{prefix}-{i:05d}-of-{len(groups):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, name)
        total_size += total_bytes(shard)
        try:
            write_safetensors(shard, path / name)
        except BaseException:
            for written in set(weight_map.values()):
                (path / written).unlink(missing_ok=True)
            raise
    content = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    index.write_text(json_text(content), encoding="utf-8")


def unused_prefix(path: Path) -> str:
    """How the names of new shards begin: as Hugging Face's, unless such shards are in use."""
    for name in files_in_use(path):
        if fnmatchcase(name, SHARD_PATTERNS[0]):
            return "model-next"
    return "model"


def save_projector(state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Write a projector or a Q-Former alone, under the names in `state`."""
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    for unfinished in Path(path).parent.glob(f"{Path(path).name}.{PARTIAL_PATTERN}"):
        unfinished.unlink()  # of a save that was killed
    with replacing(Path(path)) as temporary:
        write_safetensors(contiguous, temporary)


def write_safetensors(named_tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write one file and flush it to the disk. An error leaves nothing, and is an OSError.

    Other users may read it as far as the umask allows: the library's own files are private.
    """
    try:
        save_file(named_tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # for example a full disk
        path.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written ({error})") from None
    umask = os.umask(0)  # it can only be read by setting it
    os.umask(umask)
    path.chmod(0o666 & ~umask)
    flush_to_disk(path)
