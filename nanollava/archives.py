"""Images by name, in folders, zip archives and uncompressed tar archives."""

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from .errors import UserError
from .image import ImageError, open_image

# A zip member begins with a header of 30 bytes, the member's name and an extra field. The lengths
# of both are the header's last two numbers, 16 bits each.
ZIP_HEADER_BYTES = 30
ZIP_LENGTHS_AT = 26
RAW_DEFLATE = -15  # zlib's code for a stream without zlib's own header, as in a zip


class ArchiveError(UserError):
    """An image source that is neither a folder nor an archive that can be read."""


class Member(NamedTuple):
    """Where one file is inside an archive."""

    archive: Path
    offset: int  # in a zip, of the member's header; in a tar, of its content
    size: int  # bytes, as stored
    compression: int | None  # zipfile.ZIP_STORED or ZIP_DEFLATED; None in a tar


class ImageFiles:
    """Images by name, from a list of sources: folders and archives.

    A name in an archive is also found without the archive's topmost folder. A source
    PREFIX=ARCHIVE has the names that begin with PREFIX/.

    Archives are never unpacked. Each image is read by its offset, with a file handle of its own,
    so that worker processes share nothing.
    """

    def __init__(self, sources: Iterable[str | Path]):
        self.folders: list[Path] = []
        self.archives: list[Path] = []
        self.members: dict[str, Member] = {}
        for source in sources:
            prefix, path = split_source(str(source))
            if path.is_dir():
                self.folders.append(path)
            else:
                self.archives.append(path)
                self.add_archive(path, prefix)

    def add_archive(self, path: Path, prefix: str) -> None:
        for name, member in list_members(path):
            self.members[f"{prefix}/{name}".lstrip("/")] = member
            _top_folder, _, name_below = name.partition("/")
            self.members.setdefault(name_below or name, member)

    def find(self, name: str) -> Path | Member:
        """Where an image is. An ImageError if it is nowhere; it is not opened."""
        if name in self.members:
            return self.members[name]
        for folder in self.folders:
            if (folder / name).is_file():
                return folder / name
        sources = ", ".join(str(path) for path in [*self.folders, *self.archives])
        raise ImageError(f"{name}: no such image in {sources}")

    def open(self, name: str) -> Image.Image:
        """The decoded image. An ImageError if it is missing or broken."""
        location = self.find(name)
        if isinstance(location, Path):
            return open_image(location)
        try:
            return open_image(io.BytesIO(read_member(location)))
        except (OSError, struct.error, zlib.error, ImageError):
            raise ImageError(f"{location.archive}, {name}: not a readable image") from None


def split_source(source: str) -> tuple[str, Path]:
    """The prefix and the path of a source: "" and PATH, or PREFIX and ARCHIVE of PREFIX=ARCHIVE."""
    if Path(source).exists():  # also a path that contains "="
        return "", Path(source)
    prefix, _, path = source.rpartition("=")
    return prefix, Path(path)


def list_members(archive: Path) -> Iterator[tuple[str, Member]]:
    """Name and location of every file in an archive."""
    try:
        if zipfile.is_zipfile(archive):
            for info in zipfile.ZipFile(archive).infolist():
                member = Member(archive, info.header_offset, info.compress_size, info.compress_type)
                yield info.filename, member
        else:
            with tarfile.open(archive, "r:") as file:  # "r:" refuses compressed archives
                for info in file:
                    member = Member(archive, info.offset_data, info.size, None)
                    yield info.name.removeprefix("./"), member
    except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        raise ArchiveError(
            f"{archive}: neither a folder nor a zip or uncompressed tar archive ({error}); "
            "unpack a .tar.gz first"
        ) from None


def read_member(member: Member) -> bytes:
    """The content of one file in an archive, decompressed."""
    with open(member.archive, "rb") as file:
        file.seek(member.offset)
        if member.compression is not None:
            header = file.read(ZIP_HEADER_BYTES)
            name_length, extra_length = struct.unpack("<HH", header[ZIP_LENGTHS_AT:])
            file.seek(name_length + extra_length, io.SEEK_CUR)
        content = file.read(member.size)
    if member.compression == zipfile.ZIP_DEFLATED:
        return zlib.decompress(content, RAW_DEFLATE)
    return content
