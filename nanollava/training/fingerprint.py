"""Everything on which the result of a training depends. A run resumes only what equals it."""

import zlib
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from ..config import CONNECTORS, PROJECTORS
from ..data import InstructionData, image_names
from ..device import pick_dtype
from ..files import check_regular_file, read_json, shipped
from ..hf.connector import CONNECTOR_FILE
from ..hf.files import projector_files, shards
from ..hf.names import is_original
from ..hf.original import original_tower
from .arguments import TrainConfig, micro_batch_size
from .connector import QFORMER_FILE
from .distributed import merge_over_ranks, on_all_ranks, sum_over_ranks

# The small files of a model directory that decide what is computed.
SMALL_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)


def fingerprint(config: TrainConfig, model: nn.Module, data, device: torch.device) -> dict:
    """The settings, and checksums of the contents. All ranks must call it; they share the work."""
    values = config.result_settings()
    values["dtype"] = str(pick_dtype(config.dtype, device))  # "auto" may differ elsewhere
    values["trained parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    values["samples"] = len(data)
    trains_qformer = getattr(model, "compares_samples", False)
    if trains_qformer:
        world_size = dist.get_world_size()
        micro = micro_batch_size(config, world_size)
        values["samples compared"] = f"{micro} on each of {world_size} ranks"
    if isinstance(data, InstructionData):
        values["crc32 of data"] = data.crc32
        values["crc32 of records in use"] = zlib.crc32(repr(data.rows).encode())
        values["checksum of images"] = checksum_of_images(data)
        files = model_files(config, reads_llm=not trains_qformer)
        values["checksum of model files"] = sum(crc32_of_files(files).values())
    return values


def differences(previous: dict, current: dict) -> str:
    """The values of a previous run that differ from those of the current one, "" if none does."""
    changes = []
    for name, value in current.items():
        if previous.get(name) != value:
            changes.append(f"{name} {previous.get(name)!r}, now {value!r}")
    return "; ".join(changes)


def checksum_of_images(data: InstructionData) -> int:
    """A sum over the names, sizes and times of all images in use; of a zip's, their CRC-32."""
    total = 0
    for index in range(dist.get_rank(), len(data), dist.get_world_size()):
        for name in image_names(data.record(index)):
            words = (data.rows[index], name, *data.images.version(name))
            total += zlib.crc32(repr(words).encode())
    return int(sum_over_ranks(torch.tensor(total)))


def model_files(config: TrainConfig, reads_llm: bool) -> list[Path]:
    """The files that the training starts from; without `reads_llm`, of the language model only the
    small ones."""
    if config.model is not None:
        path = shipped(config.model)
        values = read_json(path / "config.json")
        files = directory_files(path)
        if is_original(values):  # its tower may be elsewhere
            files += directory_files(Path(original_tower(path, values, vision=None)))
        return files
    llm = shipped(config.llm)
    files = directory_files(shipped(config.vision))
    files += directory_files(llm) if reads_llm else small_files(llm)
    if config.projector not in PROJECTORS + CONNECTORS:
        projector = shipped(config.projector)
        files += projector_files(projector)
        folder = projector.parent if projector.is_file() else projector
        files += small_file(folder, CONNECTOR_FILE)
    if config.qformer is not None:
        files += [Path(config.qformer) / QFORMER_FILE]
    return files


def small_file(folder: Path, name: str) -> list[Path]:
    """A file of a folder, or nothing if it is not there."""
    file = folder / name
    return [file] if file.is_file() else []


def small_files(path: Path) -> list[Path]:
    """The configs and the tokenizer of a model directory."""
    return [path / name for name in SMALL_FILES if (path / name).is_file()]


def directory_files(path: Path) -> list[Path]:
    """The files of a model directory that are read."""
    return small_files(path) + shards(path)


def crc32_of_files(files: list[Path]) -> dict[str, int]:
    """CRC-32 of each file, by path. Each rank reads its share. All ranks must call it.

    If a rank cannot read a file, every rank raises OSError.
    """
    sums = {}

    def read_share() -> None:
        for file in files:
            check_regular_file(file)
        for file in files[dist.get_rank() :: dist.get_world_size()]:
            sums[str(file)] = crc32_of_file(file)

    on_all_ranks(read_share)
    return merge_over_ranks(sums)


def crc32_of_file(file: Path) -> int:
    crc = 0
    with open(file, "rb") as content:
        while block := content.read(2**24):
            crc = zlib.crc32(block, crc)
    return crc
