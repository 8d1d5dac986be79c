"""Instruction data in LLaVA's JSON form, its pictures in folders or archives, as padded batches."""

import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from .conversation import IGNORE_INDEX, IMAGE, check, encode, expand
from .errors import UserError
from .image import ImageConfig, ImageError, open_image, preprocess
from .tokenizer import Tokenizer


class DataError(UserError):
    """A data file or record that cannot be trained on; names the file and the record's index."""


def read_records(path: str | Path) -> tuple[list, int]:
    """The records of a LLaVA JSON file, unchecked, and the file's CRC-32."""
    try:
        text = Path(path).read_bytes()
        records = json.loads(text)
    except OSError as error:
        raise DataError(f"{path}: no such data file that can be read ({error})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: expected a list of records")
    return records, zlib.crc32(text)


def pictures_of(record: dict) -> list[str]:
    """The file names of a record's pictures, one for every <image> of its turns: `image` is a name, a list, or absent."""
    image = record.get("image")
    names = [] if image is None else image if isinstance(image, list) else [image]
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"image is {image!r}; expected a file name or a list of them")
    asked = sum(turn["value"].count(IMAGE) for turn in record["conversations"])
    if asked != len(names):
        raise DataError(f"{asked} {IMAGE} in the text, but {len(names)} pictures named")
    return names


def entries(archive: Path) -> Iterator[tuple[str, tuple[Path, int, int, int | None]]]:
    """Name and (archive, offset, bytes, compression: None in a tar) of every file in a zip or uncompressed tar."""
    try:
        if zipfile.is_zipfile(archive):
            for i in zipfile.ZipFile(archive).infolist():
                yield i.filename, (archive, i.header_offset, i.compress_size, i.compress_type)
        else:
            with tarfile.open(archive, "r:") as file:
                for i in file:
                    yield i.name.removeprefix("./"), (archive, i.offset_data, i.size, None)
    except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        reason = f"neither a folder nor a zip or uncompressed tar ({error})"
        raise DataError(f"{archive}: {reason}; a .tar.gz must be unpacked") from None


class Pictures:
    """Pictures by name, in folders and archives. Archives are read in place, by offset, and opened for each picture: no
    handle is shared by processes. PREFIX=ARCHIVE holds the names that begin with PREFIX/."""

    def __init__(self, sources: Iterable[str | Path]):
        self.folders, self.index = [], {}
        for source in map(str, sources):
            prefix, _, path = ("", "", source) if Path(source).exists() else source.rpartition("=")
            if Path(path).is_dir():
                self.folders.append(Path(path))
            else:
                for name, place in entries(Path(path)):  # found without its topmost folder, too
                    self.index[f"{prefix}/{name}".lstrip("/")] = place
                    self.index.setdefault(name.partition("/")[2] or name, place)

    def find(self, name: str) -> Path | tuple:
        """A file's path, or where it lies in an archive."""
        files = (folder / name for folder in self.folders if (folder / name).is_file())
        place = self.index.get(name) or next(files, None)
        if place is None:
            where = [
                *map(str, self.folders),
                *sorted({str(place[0]) for place in self.index.values()}),
            ]
            raise ImageError(f"{name}: no such picture in {', '.join(where)}")
        return place

    def open(self, name: str):
        """The decoded picture."""
        place = self.find(name)
        if isinstance(place, Path):
            return open_image(place)
        archive, offset, size, compression = place
        try:
            with open(archive, "rb") as file:
                file.seek(offset)
                if (
                    compression is not None
                ):  # behind the entry's own header, whose names' lengths stand at 26
                    file.seek(sum(struct.unpack("<HH", file.read(30)[26:])), 1)
                content = file.read(size)
            content = (
                zlib.decompress(content, -15) if compression == zipfile.ZIP_DEFLATED else content
            )
            return open_image(io.BytesIO(content))
        except (OSError, struct.error, zlib.error, ImageError):
            raise ImageError(f"{archive}, {name}: not a readable picture") from None


class InstructionData(torch.utils.data.Dataset):
    """Records as dicts of `input_ids`, `labels` (T,) and `pixel_values` (pictures, 3, H, W). `images` is a folder or
    archive, or a list of them. Call `check` and `leave_out` before the first step."""

    def __init__(
        self,
        path: str | Path,
        images,
        tokenizer: Tokenizer,
        image_config: ImageConfig,
        image_token_id: int,
        num_patches: int,
        template: str = "vicuna_v1",
        max_length: int = 2048,
    ):
        self.path, (records, self.crc32) = Path(path), read_records(path)
        self.pictures = Pictures([images] if isinstance(images, str | Path) else images)
        self.rows = list(range(len(records)))  # the records in use
        # As bytes: a list of objects would be copied by every worker that merely counts references to it.
        lines = [json.dumps(record).encode() for record in records]
        self.ends, self.lines = torch.tensor([0, *map(len, lines)]).cumsum(0), b"".join(lines)
        self.tokenizer, self.image_config, self.template = tokenizer, image_config, template
        self.image_token_id, self.num_patches, self.max_length = (
            image_token_id,
            num_patches,
            max_length,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int):
        """A record as it stands in the file, by its place among those in use."""
        begin, end = self.ends[self.rows[index] : self.rows[index] + 2].tolist()
        return json.loads(self.lines[begin:end])

    def size(self, record: dict) -> tuple[int, int]:
        """Pictures of a record, and tokens at the most: one for every byte, and some for the template."""
        text = 512 + sum(len(turn["value"].encode()) + 32 for turn in record["conversations"])
        return (n := len(pictures_of(record))), n * self.num_patches + text

    def groups(self) -> list[tuple[bool, int]]:
        """Whether a sample has pictures, and its length, not exactly: what batches are grouped by."""
        return [
            (n > 0, bound) for n, bound in (self.size(self.record(i)) for i in range(len(self)))
        ]

    def tokens(self, record: dict) -> tuple[list[int], list[int]]:
        """Ids and labels, cut at the end; a picture is never cut, and something is labelled."""
        ids, labels = encode(record["conversations"], self.tokenizer, self.template)
        ids, labels = expand(ids, labels, self.image_token_id, self.num_patches)
        if self.image_token_id in ids[self.max_length :]:
            raise DataError(f"the picture reaches past max length {self.max_length}; raise it")
        ids, labels = ids[: self.max_length], labels[: self.max_length]
        if all(label == IGNORE_INDEX for label in labels[1:]):
            raise DataError(f"no answer begins within max length {self.max_length}; raise it")
        return ids, labels

    def check(
        self, indices: Iterable[int], open_pictures: bool = False, threads: int = 0
    ) -> dict[int, str]:
        """What is wrong with which of these records: turns, pictures that are missing (or, opened, are none), length."""

        def wrong(index: int) -> str | None:
            record = self.record(index)
            if not isinstance(record, dict):
                return f"expected an object, got {type(record).__name__}"
            try:
                turns, names = check(record.get("conversations")), pictures_of(record)
                if turns[-1][0] != "gpt":
                    return "the last turn has no answer"
                for name in names:
                    _ = self.pictures.open(name) if open_pictures else self.pictures.find(name)
                if self.size(record)[1] > self.max_length:  # else it is surely short enough
                    self.tokens(record)
            except (UserError, UnicodeError, OSError) as error:  # no Unicode; a name too long
                return str(error)

        with ThreadPoolExecutor(max(1, threads)) as pool:
            return {
                i: told for i, told in zip(indices, pool.map(wrong, indices), strict=True) if told
            }

    def leave_out(self, wrong: dict[int, str], skip_bad: bool) -> str:
        """Takes the wrong records out; without `skip_bad`, or if none remains, that is an error that lists them all."""
        lines = [f"{self.path}, record {self.rows[i]}: {wrong[i]}" for i in sorted(wrong)]
        counts = f"{len(wrong)} of {len(self)} records"
        if wrong and (not skip_bad or len(wrong) == len(self)):
            lines += [f"{self.path}: {counts} are wrong; --skip-bad goes on without them"] * (
                len(wrong) > 1
            )
            raise DataError("\n".join(lines))
        self.rows = [row for i, row in enumerate(self.rows) if i not in wrong]
        return "\n".join([f"left out {counts}, the first:", *lines[:20]] if wrong else [])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        record = self.record(index)
        try:
            ids, labels = self.tokens(record)
            pixels = [
                preprocess(self.pictures.open(name), self.image_config)
                for name in pictures_of(record)
            ]
        except UserError as error:
            raise DataError(f"{self.path}, record {self.rows[index]}: {error}") from None
        sample = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
        return sample | ({"pixel_values": torch.stack(pixels)} if pixels else {})


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor | None]:
    """Pads on the right (id 0, label -100) and joins all pictures: ids and labels (B, T), pixel_values (N, 3, H, W)."""
    pad, values = torch.nn.utils.rnn.pad_sequence, {"input_ids": 0, "labels": IGNORE_INDEX}
    padded = {key: pad([s[key] for s in samples], True, value) for key, value in values.items()}
    pixels = [s["pixel_values"] for s in samples if "pixel_values" in s]
    return padded | {"pixel_values": torch.cat(pixels) if pixels else None}
