"""Images by name, in folders, zip archives and uncompressed tar archives."""

import io
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from .errors import UserError
from .files import check_regular_file
from .image import ImageError, open_image

# A zip member begins with a header of 30 bytes, the member's name and an extra field. The lengths
# of both are the header's last two numbers, 16 bits each.
ZIP_HEADER_BYTES = 30
ZIP_LENGTHS_AT = 26
ZIP_SIGNATURE = b"PK\3\4"
ZIP_ENCRYPTED = 1  # bits of a member's flags
ZIP_UTF_8 = 0x800
ZIP_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
RAW_DEFLATE = -15  # zlib's code for a stream without zlib's own header, as in a zip

MAX_MEMBER_BYTES = 2**28  # of one image, decompressed; decompressing takes twice as much
MAX_HEADER_BYTES = 2**24  # of a tar: long names
MAX_LINKS = 16  # from link to link


class ArchiveError(UserError):
    """An image source that is neither a folder nor an archive that can be read."""


class Member(NamedTuple):
    """Where one file is inside an archive."""

    archive: Path
    name: str
    offset: int  # in a zip, of the member's header; in a tar, of its content
    stored_size: int  # bytes in the archive
    size: int  # bytes when decompressed
    compression: int | None = None  # zipfile.ZIP_STORED or ZIP_DEFLATED; None in a tar
    crc32: int | None = None  # of the content; None in a tar
    header_name: bytes | None = None  # what a zip has before the content; None in a tar
    link: str | None = None  # for a link, the name of the member that it stands for
    problem: str | None = None  # why it cannot be read, if that is known without reading it

    def __str__(self) -> str:
        return f"{self.archive}, {self.name} (byte {self.offset:,})"


Location = Path | Member


class ImageFiles:
    """Images by name, from a list of sources: folders and archives.

    A name in an archive is also found without the archive's topmost folder, unless it is the whole
    name of another image. A source PREFIX=ARCHIVE has the names that begin with PREFIX/. A name
    that stands for two images is an error when it is asked for, in folders and archives alike.

    Archives are never unpacked. Each image is read by its offset, with a file handle of its own,
    so that worker processes share nothing."""

    def __init__(self, sources: Iterable[str | Path]):
        self.folders: list[Path] = []
        self.archives: list[Path] = []
        self.members: dict[str, Member] = {}  # by the whole name
        self.members_below: dict[str, Member] = {}  # by the name without the topmost folder
        self.twins: dict[str, Member] = {}  # a second member of the same whole name
        self.twins_below: dict[str, Member] = {}
        seen = set()
        for source in sources:
            prefix, path = split_source(str(source))
            if (prefix, path.resolve()) in seen:  # the same source twice is no ambiguity
                continue
            seen.add((prefix, path.resolve()))
            if path.is_dir():
                if prefix:
                    raise ArchiveError(
                        f"--images {source}: a folder takes no prefix; name the folder above it, "
                        f"in which it is called {prefix}"
                    )
                self.folders.append(path)
            else:
                self.archives.append(path)
                self.add_archive(path, prefix)

    def add_archive(self, path: Path, prefix: str) -> None:
        for member in list_members(path):
            whole_name = f"{prefix}/{member.name}".lstrip("/")
            if whole_name in self.members:
                self.twins[whole_name] = member
            self.members.setdefault(whole_name, member)
            _top_folder, _, name_below = member.name.partition("/")
            name_below = f"{prefix}/{name_below or member.name}".lstrip("/")
            if name_below in self.members_below:
                self.twins_below[name_below] = member
            self.members_below.setdefault(name_below, member)

    def find(self, name: str) -> Location:
        """Where an image is; it is not opened.

        An ImageError if it is nowhere, if two images have the name, or if it is known to be
        unreadable.
        """
        locations = self.locations(name)
        if not locations:
            sources = ", ".join(str(path) for path in [*self.folders, *self.archives])
            raise ImageError(f"{name}: no such image in {sources}")
        if len(locations) > 1:
            raise ImageError(
                f"{name}: two images have this name, {locations[0]} and {locations[1]}; give the "
                "name with its folders, leave one source out, or give an archive as PREFIX=ARCHIVE"
            )
        location = locations[0]
        if isinstance(location, Member) and location.problem is not None:
            raise ImageError(f"{location.archive}, {name}: {location.problem}")
        return location

    def locations(self, name: str) -> list[Location]:
        """All images of a name: of the whole name, or else of the name below a topmost folder."""
        found: list[Location] = []
        for members in (self.members, self.twins):
            if name in members:
                found.append(members[name])
        for folder in self.folders:
            path = folder / name
            if path.is_file() and path not in found:
                found.append(path)
        if not found:
            for members in (self.members_below, self.twins_below):
                if name in members:
                    found.append(members[name])
        return found

    def version(self, name: str) -> tuple[int, int]:
        """Two numbers that change when an image does: size and time; in a zip, size and CRC-32."""
        location = self.find(name)
        if isinstance(location, Path):
            status = location.stat()
            return status.st_size, status.st_mtime_ns
        if location.crc32 is not None:
            return location.size, location.crc32
        return location.size, location.archive.stat().st_mtime_ns

    def open(self, name: str) -> Image.Image:
        """The decoded image. An ImageError if it is missing or broken."""
        location = self.find(name)
        if isinstance(location, Path):
            return open_image(location)
        where = f"{location.archive}, {name}"
        try:
            content = read_member(location)
        except (OSError, struct.error, zlib.error, ArchiveError) as error:
            reason = str(error).removeprefix(f"{location}: ")
            raise ImageError(f"{where}: not a readable image ({reason})") from None
        return open_image(io.BytesIO(content), where)


def split_source(source: str) -> tuple[str, Path]:
    """The prefix and the path of a source: "" and PATH, or PREFIX and ARCHIVE of PREFIX=ARCHIVE."""
    if Path(source).exists():  # also a path that contains "="
        return "", Path(source)
    prefix, _, path = source.rpartition("=")
    return prefix, Path(path)


# ---- What is in an archive ----


def list_members(archive: Path) -> list[Member]:
    """Every file in an archive. Links are followed inside of it."""
    try:
        check_regular_file(archive)
        if zipfile.is_zipfile(archive):
            members = list(zip_members(archive))
        else:
            members = list(tar_members(archive))
    except FileNotFoundError:
        raise ArchiveError(f"{archive}: no such folder or archive") from None
    except Exception as error:  # both modules raise many types for broken archives
        reason = str(error).removeprefix(f"{archive}: ")
        raise ArchiveError(
            f"{archive}: neither a folder nor a zip or uncompressed tar archive ({reason}); "
            "unpack a .tar.gz first"
        ) from None
    by_name = {member.name: member for member in members}
    archive_size = archive.stat().st_size
    return [check_member(follow(member, by_name), archive_size) for member in members]


def zip_members(archive: Path) -> Iterator[Member]:
    """The files and links of a zip."""
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if info.is_dir():
                continue
            member = Member(
                archive,
                info.filename.removeprefix("./"),
                info.header_offset,
                info.compress_size,
                info.file_size,
                info.compress_type,
                info.CRC,
                zip_header_name(info),
            )
            unix_mode = info.external_attr >> 16
            if info.flag_bits & ZIP_ENCRYPTED:
                member = member._replace(problem="is encrypted")
            elif stat.S_ISLNK(unix_mode):
                member = zip_link(member)
            yield member


def zip_header_name(info: zipfile.ZipInfo) -> bytes:
    """A member's name as the bytes that also come before its content."""
    encoding = "utf-8" if info.flag_bits & ZIP_UTF_8 else "cp437"
    return info.orig_filename.encode(encoding)


def zip_link(member: Member) -> Member:
    """A link, whose content is the path that it leads to."""
    try:
        target = read_member(check_member(member, member.archive.stat().st_size)).decode()
    except (struct.error, zlib.error, ArchiveError, UnicodeError):
        return member._replace(problem="is a link that cannot be read")
    return member._replace(link=beside(member.name, target))


class HeaderReader(io.BufferedReader):
    """Reads the headers of a tar, a few bytes at a time. A broken one can ask for terabytes, and
    memory for them would be reserved before the first byte is read."""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return super().read(size)


def tar_members(archive: Path) -> Iterator[Member]:
    """The files and links of an uncompressed tar."""
    # "r:" refuses compressed archives.
    with HeaderReader(io.FileIO(archive)) as content, tarfile.open(None, "r:", content) as file:
        for info in file:
            if info.size < 0:  # tarfile would go back, and never end
                raise tarfile.ReadError("a file of negative size")
            member = Member(
                archive, info.name.removeprefix("./"), info.offset_data, info.size, info.size
            )
            if info.issparse():
                yield member._replace(problem="is stored as a sparse file")
            elif info.isreg():
                yield member
            elif info.islnk():  # a hard link names a member
                yield member._replace(link=posixpath.normpath(info.linkname))
            elif info.issym():
                yield member._replace(link=beside(member.name, info.linkname))


def beside(name: str, target: str) -> str:
    """The name of a member by its path as seen from the folder of another."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def follow(member: Member, by_name: dict[str, Member]) -> Member:
    """The file that a link stands for, under the link's name; any other member as it is."""
    target = member
    for _ in range(MAX_LINKS):
        if target.link is None:
            return target._replace(name=member.name)
        if target.link not in by_name:
            problem = f"is a link to {target.link}, which is not in the archive"
            return member._replace(problem=problem)
        target = by_name[target.link]
    return member._replace(problem=f"is a link that leads through more than {MAX_LINKS} links")


def check_member(member: Member, archive_size: int) -> Member:
    """The member, with the problem that its sizes and compression tell of, if there is one."""
    problem = member.problem
    if problem is None and member.compression not in (None, *ZIP_COMPRESSIONS):
        problem = f"has zip compression {member.compression}; expected stored or deflated"
    if problem is None and member.offset + member.stored_size > archive_size:
        problem = "is cut off: the archive ends before it does"
    num_bytes = max(member.size, member.stored_size)
    if problem is None and num_bytes > MAX_MEMBER_BYTES:
        problem = f"has {num_bytes:,} bytes; expected at most {MAX_MEMBER_BYTES:,}"
    return member._replace(problem=problem)


# ---- What is in a member ----


def read_member(member: Member) -> bytes:
    """The content of one file in an archive, decompressed, or an ArchiveError.

    The content of a zip's member has the size and the CRC-32 that the zip says.
    """
    if member.problem is not None:
        raise ArchiveError(f"{member}: {member.problem}")
    with open(member.archive, "rb") as file:
        file.seek(member.offset)
        if member.compression is not None:
            header = file.read(ZIP_HEADER_BYTES)
            if not header.startswith(ZIP_SIGNATURE):
                raise ArchiveError(f"{member}: no header of a file")
            name_length, extra_length = struct.unpack("<HH", header[ZIP_LENGTHS_AT:])
            if file.read(name_length) != member.header_name:
                raise ArchiveError(f"{member}: another name comes before its content")
            file.seek(extra_length, io.SEEK_CUR)
        content = file.read(member.stored_size)
    if member.compression == zipfile.ZIP_DEFLATED:
        # One byte more than declared is enough to see that there are more.
        content = zlib.decompressobj(RAW_DEFLATE).decompress(content, member.size + 1)
    if len(content) != member.size:
        raise ArchiveError(f"{member}: {len(content):,} bytes or more; expected {member.size:,}")
    if member.crc32 is not None and zlib.crc32(content) != member.crc32:
        raise ArchiveError(f"{member}: its CRC-32 is not that of its content")
    return content
