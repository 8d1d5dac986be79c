"""Instruction data in LLaVA's JSON form, as padded batches."""

import json
from pathlib import Path

import torch

from .config import UserError
from .conversation import IGNORE_INDEX, IMAGE, IMAGE_INDEX, ConversationError, check, encode, expand
from .image import ImageConfig, ImageError, open_image, preprocess
from .tokenizer import Tokenizer


class DataError(UserError):
    """A data file or record that cannot be trained on; names the file and the record's index."""


def read_records(path: str | Path) -> list[dict]:
    """The records of a LLaVA JSON file, each checked: `conversations` in order and one `image` for its <image>."""
    path = Path(path)
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such data file") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: expected a list of records")
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{path}, record {i}: expected an object, got {type(record).__name__}")
        try:
            turns = check(record.get("conversations"))
        except ConversationError as error:
            raise DataError(f"{path}, record {i}: {error}") from None
        if turns[-1][0] != "gpt":
            raise DataError(f"{path}, record {i}: the last turn has no answer")
        asked = sum(text.count(IMAGE) for _, text in turns)
        given = len(pictures_of(record))
        if asked != given:
            raise DataError(f"{path}, record {i}: {asked} {IMAGE} in the text, but {given} pictures named")
    return records


def pictures_of(record: dict) -> list[str]:
    """The file names of a record's pictures: `image` is one name, a list, or absent."""
    image = record.get("image")
    return [] if image is None else [image] if isinstance(image, str) else list(image)


class InstructionData(torch.utils.data.Dataset):
    """Records as dicts of `input_ids`, `labels` (T,) and `pixel_values` (pictures, 3, H, W)."""

    def __init__(
        self, path: str | Path, images: str | Path, tokenizer: Tokenizer, image_config: ImageConfig,
        image_token_id: int, num_patches: int, template: str = "vicuna_v1", max_length: int = 2048,
    ):  # fmt: skip
        self.path, self.images = Path(path), Path(images)
        self.records = read_records(path)
        for i, record in enumerate(self.records):  # before the first step, not hours into the run
            for name in pictures_of(record):
                if not (self.images / name).is_file():
                    raise DataError(f"{path}, record {i}: {self.images / name}: no such picture")
        self.tokenizer, self.image_config, self.template = tokenizer, image_config, template
        self.image_token_id, self.num_patches, self.max_length = image_token_id, num_patches, max_length

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        record, where = self.records[index], f"{self.path}, record {index}"
        ids, labels = encode(record["conversations"], self.tokenizer, self.template)
        names = pictures_of(record)
        if ids.count(IMAGE_INDEX) != len(names):
            raise DataError(f"{where}: {len(names)} pictures, {ids.count(IMAGE_INDEX)} places for them")
        ids, labels = expand(ids, labels, self.image_token_id, self.num_patches)
        if self.image_token_id in ids[self.max_length :]:
            raise DataError(f"{where}: the picture reaches past max length {self.max_length}; raise it")
        ids, labels = ids[: self.max_length], labels[: self.max_length]
        if all(label == IGNORE_INDEX for label in labels):
            raise DataError(f"{where}: no answer begins within max length {self.max_length}; raise it")
        try:
            pixels = [preprocess(open_image(self.images / name), self.image_config) for name in names]
        except ImageError as error:
            raise DataError(f"{where}: {error}") from None
        sample = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
        return sample | ({"pixel_values": torch.stack(pixels)} if pixels else {})


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor | None]:
    """Pads on the right (id 0, label -100) and joins all pictures: ids and labels (B, T), pixel_values (N, 3, H, W)."""
    pad = torch.nn.utils.rnn.pad_sequence
    pixels = [s["pixel_values"] for s in samples if "pixel_values" in s]
    return {
        "input_ids": pad([s["input_ids"] for s in samples], batch_first=True, padding_value=0),
        "labels": pad([s["labels"] for s in samples], batch_first=True, padding_value=IGNORE_INDEX),
        "pixel_values": torch.cat(pixels) if pixels else None,
    }
