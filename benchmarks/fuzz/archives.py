"""Target: zip and tar archives of images."""

import io
import random
import re
import struct
import tarfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

from PIL import Image

from benchmarks.fuzz.case import Case, Wrong, expect
from benchmarks.fuzz.mutate import changed_bytes
from nanollava.archives import ImageFiles, Member
from nanollava.errors import UserError
from nanollava.image import open_image

ODD_NAMES = ("../up.jpg", "/etc/x.jpg", "a\\b.jpg", "é.jpg", "images/", 250 * "x", ".", "./a.jpg")
ODD_TAR_SIZES = (
    b"77777777777\0",
    12 * b"\xff",
    b"-0000000001\0",
    12 * b" ",
    b"\x80\x7f" + bytes(10),
)
# Offset and bytes of fields in a zip's list of members: flags, method, CRC-32, sizes, lengths.
ZIP_FIELDS = ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4))


def archive(case: Case) -> None:
    """A damaged zip or tar: an image out of it is the one that Python's own reader gives."""
    is_tar = case.rng.random() < 0.4
    files = {}
    for name in ("a.jpg", "b.png", "RGB.bmp", "sub/d.jpg"):
        files[f"images/{name}"] = (case.world.images / name).read_bytes()
    if case.rng.random() < 0.5:
        files[case.rng.choice(ODD_NAMES)] = files["images/a.jpg"]
    content = whole_tar(case.rng, files) if is_tar else whole_zip(case.rng, files)
    content = changed_archive(case, content, is_tar)
    path = case.write(case.rng.choice(("x.zip", "x.tar", "x")), content)
    source = case.rng.choice(("", "coco=")) + str(path)
    images = ImageFiles([source])
    for name, member in list(images.members.items())[:6]:
        with suppress(UserError):
            opened = images.open(name)
            check_member(case, opened, member, is_tar)


def changed_archive(case: Case, content: bytes, is_tar: bool) -> bytes:
    rng = case.rng
    kind = rng.random()
    case.note = "tar" if is_tar else "zip"
    if kind < 0.01 and not is_tar:
        case.note = "zip bomb"
        return zip_bomb(rng.choice((100, 2**20, 2**28, 2**31)))
    if kind < 0.05 and is_tar:
        case.note = "tar with a false size"
        return with_tar_size(rng.choice(ODD_TAR_SIZES), rng.choice((b"0", b"L", b"x")), content)
    if kind < 0.15 and not is_tar:
        case.note = "zip with a false field"
        return with_zip_field(rng, content)
    if kind < 0.25:
        case.note += " with other data"
        changed = bytearray(content)
        changed[rng.randrange(60, len(content) // 2)] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind < 0.3:
        return content[: rng.randint(0, len(content))]
    if kind < 0.7:
        return changed_bytes(rng, content)
    return content


def whole_zip(rng: random.Random, files: dict[str, bytes]) -> bytes:
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as file:
        for name, content in files.items():
            file.writestr(name, content, compress_type=rng.choice(methods))
        if rng.random() < 0.2:
            link = zipfile.ZipInfo("link.jpg")
            link.external_attr = 0o120777 << 16
            file.writestr(link, rng.choice(("/etc/passwd", "images/a.jpg", "link.jpg", "\0")))
    return result.getvalue()


def whole_tar(rng: random.Random, files: dict[str, bytes]) -> bytes:
    formats = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    link_types = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    result = io.BytesIO()
    mode = rng.choice(("w:", "w:", "w:", "w:gz"))
    with tarfile.open(fileobj=result, mode=mode, format=rng.choice(formats)) as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            with suppress(ValueError):  # a name that this format cannot hold
                file.addfile(info, io.BytesIO(content))
        if rng.random() < 0.4:
            info = tarfile.TarInfo("link.jpg")
            info.type = rng.choice(link_types)
            info.linkname = rng.choice(("images/a.jpg", "../../etc/passwd", "link.jpg"))
            file.addfile(info)
    return result.getvalue()


def zip_bomb(claimed_size: int) -> bytes:
    """2 GB of zeros that claim to be an image of fewer bytes."""
    name = b"images/a.jpg"
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    first_megabyte = compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    megabyte = compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    data = first_megabyte + 2047 * megabyte + compressor.flush()
    sizes = struct.pack("<III", 0, len(data), claimed_size)
    header = struct.pack("<IHHHHH", 0x04034B50, 20, 0, 8, 0, 0) + sizes
    local = header + struct.pack("<HH", len(name), 0) + name + data
    central = struct.pack("<IHHHHHH", 0x02014B50, 20, 20, 0, 8, 0, 0) + sizes
    central += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + end


def with_tar_size(size: bytes, kind: bytes, content: bytes) -> bytes:
    """The archive with another size and kind in its first header, whose checksum is right."""
    header = bytearray(content[:512])
    header[124:136] = size
    header[156:157] = kind  # b"0" is a file, the others are names and properties of the next file
    header[148:156] = 8 * b" "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content[512:]


def with_zip_field(rng: random.Random, content: bytes) -> bytes:
    """The archive with another value in a field of its list of members."""
    changed = bytearray(content)
    start = rng.choice([match.start() for match in re.finditer(b"PK\1\2", content)])
    offset, size = rng.choice(ZIP_FIELDS)
    value = rng.choice((0, 1, 9, 2 ** (8 * size) - 1, rng.getrandbits(8 * size)))
    changed[start + offset : start + offset + size] = value.to_bytes(size, "little")
    return bytes(changed)


def check_member(case: Case, opened: Image.Image, member: Member, is_tar: bool) -> None:
    """Wrong if Python's reader gives another image, or finds the member broken."""
    try:
        content = read_by_python(member.archive, member.offset, is_tar)
    except (NotImplementedError, RuntimeError, StopIteration, KeyError):
        return  # a method that Python lacks; a link
    except (zipfile.BadZipFile, zlib.error, EOFError, tarfile.TarError) as error:
        raise Wrong(f"an image out of a member that is broken: {type(error).__name__}") from None
    expected = open_image(io.BytesIO(content))
    expect(opened.tobytes() == expected.tobytes(), "another image than Python's reader gives")


def read_by_python(path: Path, offset: int, is_tar: bool) -> bytes:
    """The content of the member that begins at this offset."""
    if is_tar:
        with tarfile.open(path, "r:") as file:
            member = next(info for info in file if info.offset_data == offset and info.isreg())
            return file.extractfile(member).read()
    with zipfile.ZipFile(path) as file:
        member = next(info for info in file.infolist() if info.header_offset == offset)
        return file.read(member)


TARGETS = {"archive": archive}
