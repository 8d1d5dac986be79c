"""Instruction data: records of LLaVA's JSON files become samples, and samples padded batches.

A record is {"image": NAME or a list of names, "conversations": [{"from": "human", "value": TEXT},
...]}, with one <image> in the text for every name, and no "image" if there is none.
"""

import json
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from .archives import ImageFiles
from .conversation import IGNORE_INDEX, check_caption, checked_turns, encode, expand
from .errors import ConfigError, UserError
from .files import read_bytes
from .image import ImageConfig, preprocess
from .special_tokens import IMAGE
from .tokenizer import Tokenizer

# Upper bounds for the length of a sample without encoding it: a token has at least one byte of
# text, and templates add some around the conversation and around each turn.
TEMPLATE_TOKENS = 512
TURN_TOKENS = 32

SHOWN_ERRORS = 10  # of bad records; more would push the reason off the screen


class DataError(UserError):
    """A data file or record that cannot be trained on. The message names file and record."""


class InstructionData(torch.utils.data.Dataset):
    """The records of a data file as samples.

    A sample is a dict of `input_ids` (T,), `labels` (T,) and, if the record has images,
    `pixel_values` (images, 3, H, W). Call `check` and `leave_out` before training.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path | list[str | Path],
        tokenizer: Tokenizer,
        image_config: ImageConfig,
        image_token_id: int,
        num_image_tokens: int,
        template: str = "vicuna_v1",
        max_length: int = 2048,
        image_position: str = "front",
    ):
        """`images` is a folder or archive, or a list of them. `max_length` counts tokens.

        `image_position` is one of conversation.IMAGE_POSITIONS."""
        self.path = Path(path)
        if isinstance(images, str | Path):
            images = [images]
        self.images = ImageFiles(images)
        self.tokenizer = tokenizer
        self.image_config = image_config
        self.image_token_id = image_token_id
        self.num_image_tokens = num_image_tokens
        self.template = template
        self.max_length = max_length
        self.image_position = image_position

        records, self.crc32 = read_records(path)
        self.rows = list(range(len(records)))  # the records in use, by their index in the file
        # All records as one string of bytes. Reading a Python object changes its reference count,
        # so every worker process would soon have its own copy of a list of dicts.
        lines = [json.dumps(record).encode() for record in records]
        self.text = b"".join(lines)
        self.offsets = torch.tensor([0, *map(len, lines)]).cumsum(0)  # record i: offsets i to i + 1

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        record = self.record(index)
        try:
            ids, labels = self.tokens(record)
            pixels = []
            for name in image_names(record):
                pixels.append(preprocess(self.images.open(name), self.image_config))
        except UserError as error:
            raise DataError(f"{self.path}, record {self.rows[index]}: {error}") from None
        sample = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
        if pixels:
            sample["pixel_values"] = torch.stack(pixels)
        return sample

    def record(self, index: int) -> dict:
        """One record in use, as it is in the file."""
        row = self.rows[index]
        start, end = self.offsets[row : row + 2].tolist()
        return json.loads(self.text[start:end])

    def tokens(self, record: dict) -> tuple[list[int], list[int]]:
        """Ids and labels of a record, at most `max_length` of them.

        The end is cut off. Cutting into an image, or losing all labels, is a DataError.
        """
        turns = record["conversations"]
        ids, labels = encode(turns, self.tokenizer, self.template, self.image_position)
        ids, labels = expand(ids, labels, self.image_token_id, self.num_image_tokens)
        if self.image_token_id in ids[self.max_length :]:
            raise DataError(f"an image extends beyond {self.limit()}")
        ids = ids[: self.max_length]
        labels = labels[: self.max_length]
        if all(label == IGNORE_INDEX for label in labels[1:]):
            raise DataError(f"no answer begins within {self.limit()}")
        return ids, labels

    def limit(self) -> str:
        """The end of an error message: the maximum length, and what to do about it."""
        return (
            f"{self.max_length} tokens; raise --max-length, up to the language model's positions, "
            "or shorten the record"
        )

    def groups(self) -> list[tuple[bool, int]]:
        """(has images, upper bound of the tokens) of every record in use, to group batches by."""
        groups = []
        for index in range(len(self)):
            record = self.record(index)
            groups.append((len(image_names(record)) > 0, self.token_upper_bound(record)))
        return groups

    def token_upper_bound(self, record: dict) -> int:
        """An upper bound of a record's number of tokens."""
        tokens = TEMPLATE_TOKENS + len(image_names(record)) * self.num_image_tokens
        for turn in record["conversations"]:
            tokens += TURN_TOKENS + len(turn["value"].encode())
        return tokens

    def check(
        self, indices: Iterable[int], open_images: bool = False, threads: int = 0
    ) -> dict[int, str]:
        """The errors in these records, by index; good records are not in the dict.

        Checks turns, length, and whether each image exists; with `open_images`, also whether it
        can be decoded.
        """
        indices = list(indices)
        errors = {}
        with ThreadPoolExecutor(max(1, threads)) as pool:
            results = pool.map(self.find_error, indices, repeat(open_images))
            for index, error in zip(indices, results, strict=True):
                if error is not None:
                    errors[index] = error
        return errors

    def find_error(self, index: int, open_images: bool) -> str | None:
        """What is wrong with a record, or None."""
        record = self.record(index)
        if not isinstance(record, dict):
            return f"expected an object, got {type(record).__name__}"
        try:
            turns = checked_turns(record.get("conversations"))
            check_caption(turns, self.template)
            names = image_names(record)
            last_role, _ = turns[-1]
            if last_role != "gpt":
                return "the last turn has no answer"
            if self.token_upper_bound(record) > self.max_length:  # else it fits without encoding it
                self.tokens(record)
            for name in names:  # after the length, which limits their number
                if open_images:
                    self.images.open(name)
                else:
                    self.images.find(name)
        # UnicodeError: half of a surrogate pair. OSError: a file name that is too long.
        except (UserError, UnicodeError, OSError) as error:
            return printable(str(error))
        return None

    def describe(self, errors: dict[int, str]) -> list[str]:
        """One line for each bad record: file, its number there and what is wrong."""
        lines = []
        for index in sorted(errors):
            lines.append(f"{self.path}, record {self.rows[index]}: {errors[index]}")
        return lines

    def leave_out(self, errors: dict[int, str], skip_bad: bool, report: Path | None = None) -> str:
        """Take the bad records out of use. Returns a summary, "" if there are none.

        Without `skip_bad`, or if no record would remain, raises a DataError with the summary. It
        lists the first bad records, and names the file `report`, where all of them are listed.
        """
        if not errors:
            return ""
        counts = f"{len(errors)} of {len(self)} records"
        lines = self.describe(errors)
        more = ""
        if len(lines) > SHOWN_ERRORS:
            lines = lines[:SHOWN_ERRORS]
            more = f"; the first {SHOWN_ERRORS} are above, all are in {report}"
        none_left = len(errors) == len(self)
        if not skip_bad or none_left:
            advice = "--skip-bad leaves bad records out"
            if none_left:
                advice = "no record is left to train on"
            if len(errors) == 1:
                raise DataError(f"{lines[0]}; {advice}")
            lines.append(f"{self.path}: {counts} cannot be used; {advice}{more}")
            raise DataError("\n".join(lines))
        self.rows = [row for index, row in enumerate(self.rows) if index not in errors]
        return "\n".join([*lines, f"left out {counts}{more}"])


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor | None]:
    """Join samples to a batch.

    `input_ids` and `labels` (B, T) are padded on the right; `pixel_values` (N, 3, H, W) has all
    images in reading order, or is None without any.
    """
    ids = [sample["input_ids"] for sample in samples]
    # Any id but the image token would do: no token attends to later ones, and padding has no label.
    padding = int(ids[0][0])  # BOS
    labels = [sample["labels"] for sample in samples]
    pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=padding),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        "pixel_values": torch.cat(pixels) if pixels else None,
    }


def printable(text: str) -> str:
    """The text with lone surrogates as escapes: UTF-8 cannot encode them."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_records(path: str | Path) -> tuple[list, int]:
    """The records of a data file, unchecked, and the file's CRC-32."""
    try:
        content = read_bytes(path)
        records = json.loads(content.decode("utf-8-sig"))
    except ConfigError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise DataError(f"{path}: no such data file, or it cannot be read ({reason})") from None
    except (ValueError, RecursionError) as error:
        reason = str(error)
        if reason.startswith("Extra data"):
            reason = "one record per line? Join them to one list: [{...}, {...}]"
        raise DataError(f"{path}: not valid JSON ({reason})") from None
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: expected a list of records, at least one")
    return records, zlib.crc32(content)


def image_names(record: dict) -> list[str]:
    """The file names of a record's images, one for every <image> in its turns."""
    image = record.get("image")
    if image is None:
        names = []
    elif isinstance(image, list):
        names = image
    else:
        names = [image]
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"image is {image!r}; expected a file name or a list of them")
    count = sum(turn["value"].count(IMAGE) for turn in record["conversations"])
    if count != len(names):
        raise DataError(f"{count} {IMAGE} in the text, but {len(names)} images named")
    return names
