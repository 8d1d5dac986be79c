"""Images by name in folders and archives."""

import io
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from nanollava.archives import (
    MAX_MEMBER_BYTES,
    ArchiveError,
    ImageFiles,
    Member,
    check_member,
    read_member,
)
from nanollava.image import MAX_SIDE, ImageError

ARCHIVES = ["stored.zip", "deflated.zip", "plain.tar"]


def png(color: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (3, 2), color).save(content, "PNG")
    return content.getvalue()


def write_archive(path, files: dict[str, bytes]):
    if path.suffix == ".zip":
        compression = zipfile.ZIP_DEFLATED if "deflated" in path.name else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(f"./{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def color(images: ImageFiles, name: str) -> tuple[int, int, int]:
    return images.open(name).convert("RGB").getpixel((0, 0))


@pytest.fixture(params=ARCHIVES)
def archive(request, tmp_path):
    files = {"train/a.png": png("red"), "train/b.png": png("blue"), "train/c.png": b"no image"}
    return write_archive(tmp_path / request.param, files)


def test_an_archive_has_its_images(archive):
    images = ImageFiles([archive])
    assert color(images, "train/a.png") == (255, 0, 0)
    assert color(images, "train/b.png") == (0, 0, 255)


def test_names_without_the_topmost_folder_are_found(archive):
    assert color(ImageFiles([archive]), "b.png") == (0, 0, 255)


def test_a_prefix_stands_before_the_names_of_an_archive(archive):
    images = ImageFiles([f"coco={archive}"])
    assert color(images, "coco/train/a.png") == (255, 0, 0)
    assert color(images, "coco/a.png") == (255, 0, 0)  # without the topmost folder
    for name in ("train/a.png", "a.png"):
        with pytest.raises(ImageError):
            images.find(name)


def test_a_prefix_for_a_folder_is_an_error(tmp_path):
    with pytest.raises(ArchiveError, match="a folder takes no prefix; name the folder above it"):
        ImageFiles([f"coco={tmp_path}"])


def test_a_missing_image_is_an_error_that_lists_all_sources(archive, tmp_path):
    with pytest.raises(ImageError) as error:
        ImageFiles([archive, tmp_path]).find("none.png")
    assert str(error.value) == f"none.png: no such image in {tmp_path}, {archive}"


def test_a_broken_image_is_an_error_that_names_the_archive(archive):
    images = ImageFiles([archive])
    images.find("train/c.png")  # it is there
    with pytest.raises(ImageError) as error:
        images.open("train/c.png")
    reason = "cannot identify image file"
    assert str(error.value) == f"{archive}, train/c.png: not a readable image ({reason})"


def test_an_archive_that_was_cut_off_later_is_an_error(archive):
    images = ImageFiles([archive])
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(ImageError, match="not a readable image"):
        images.open("train/b.png")


def test_folders_and_archives_together(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(png("red"))
    archive = write_archive(tmp_path / "plain.tar", {"b.png": png("blue")})
    images = ImageFiles([tmp_path / "folder", archive])
    assert color(images, "a.png") == (255, 0, 0)
    assert color(images, "b.png") == (0, 0, 255)


def test_a_path_that_contains_an_equals_sign_is_not_a_prefix(tmp_path):
    archive = write_archive(tmp_path / "x=y.zip", {"a.png": png("red")})
    assert color(ImageFiles([archive]), "a.png") == (255, 0, 0)


@pytest.mark.parametrize(
    "name, message",
    [
        ("a.tar.gz", "neither a folder nor a zip or uncompressed"),
        ("nowhere", "no such folder or archive"),
    ],
)
def test_a_source_that_cannot_be_read_is_an_error(tmp_path, name, message):
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(ArchiveError, match=f"{name}: {message}"):
        ImageFiles([tmp_path / name])


def test_a_pipe_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "a.zip")
    with pytest.raises(ArchiveError, match="a.zip: neither .*not a regular file, but a pipe"):
        ImageFiles([tmp_path / "a.zip"])


# The same name twice


def make_source(path, files: dict[str, bytes]):
    """A folder, or an archive by its suffix."""
    if path.suffix:
        return write_archive(path, files)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("second", ["b", "b.zip", "b.tar"])
@pytest.mark.parametrize("first", ["a", "a.zip", "a.tar"])
def test_a_name_in_two_sources_is_an_error_that_names_both(tmp_path, first, second):
    red = make_source(tmp_path / first, {"images/1.png": png("red"), "images/2.png": png("red")})
    blue = make_source(tmp_path / second, {"images/1.png": png("blue")})
    images = ImageFiles([red, blue])
    with pytest.raises(ImageError, match="images/1.png: two images have this name") as error:
        images.find("images/1.png")
    assert str(red) in str(error.value)
    assert str(blue) in str(error.value)
    assert color(images, "images/2.png") == (255, 0, 0)  # the others are not concerned


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_two_images_of_one_archive_may_share_a_short_name(tmp_path, kind):
    files = {"train/1.png": png("red"), "val/1.png": png("blue")}
    images = ImageFiles([write_archive(tmp_path / f"two.{kind}", files)])
    assert color(images, "val/1.png") == (0, 0, 255)
    with pytest.raises(ImageError, match="train/1.png .*val/1.png"):
        images.find("1.png")


def test_a_whole_name_is_preferred_to_a_shortened_one(tmp_path):
    whole = make_source(tmp_path / "folder", {"1.png": png("red")})
    shortened = write_archive(tmp_path / "a.zip", {"images/1.png": png("blue")})
    images = ImageFiles([shortened, whole])
    assert color(images, "1.png") == (255, 0, 0)
    assert color(images, "images/1.png") == (0, 0, 255)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_twice_in_one_archive_is_an_error(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("1.png", png("red"))
            archive.writestr("1.png", png("blue"))
    else:
        write_archive(path, {"1.png": png("red")})
        with tarfile.open(path, "a") as archive:
            info = tarfile.TarInfo("1.png")
            info.size = len(png("blue"))
            archive.addfile(info, io.BytesIO(png("blue")))
    with pytest.raises(ImageError, match="1.png: two images have this name"):
        ImageFiles([path]).find("1.png")


@pytest.mark.parametrize("name", ["folder", "a.zip"])
def test_a_source_given_twice_counts_once(tmp_path, name):
    source = make_source(tmp_path / name, {"1.png": png("red")})
    assert color(ImageFiles([source, str(source)]), "1.png") == (255, 0, 0)


def test_an_absolute_name_is_one_image(tmp_path):
    folder = make_source(tmp_path / "folder", {"1.png": png("red")})
    (tmp_path / "other").mkdir()
    assert color(ImageFiles([folder, tmp_path / "other"]), str(folder / "1.png")) == (255, 0, 0)


# Links

LINKS = {
    "hard.png": (tarfile.LNKTYPE, "images/1.png"),
    "images/soft.png": (tarfile.SYMTYPE, "1.png"),
    "above.png": (tarfile.SYMTYPE, "./images/../images/1.png"),
    "link_to_link.png": (tarfile.SYMTYPE, "images/soft.png"),
    "outside.png": (tarfile.SYMTYPE, "../../etc/passwd"),
    "absolute.png": (tarfile.SYMTYPE, "/etc/passwd"),
    "circle.png": (tarfile.SYMTYPE, "circle.png"),
}


@pytest.fixture(params=["tar", "zip"])
def linked(request, tmp_path) -> ImageFiles:
    """An archive with one image and links of all kinds."""
    path = tmp_path / f"links.{request.param}"
    if request.param == "tar":
        with tarfile.open(path, "w") as archive:
            for name, (kind, target) in LINKS.items():  # also a link that comes before its target
                info = tarfile.TarInfo(name)
                info.type = kind
                info.linkname = target
                archive.addfile(info)
            info = tarfile.TarInfo("images/1.png")
            info.size = len(png("red"))
            archive.addfile(info, io.BytesIO(png("red")))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images/1.png", png("red"))
            for name, (_, target) in LINKS.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(info, target)
    return ImageFiles([path])


@pytest.mark.parametrize("name", ["hard.png", "images/soft.png", "above.png", "link_to_link.png"])
def test_links_are_followed_inside_an_archive(linked, name):
    assert color(linked, name) == (255, 0, 0)


@pytest.mark.parametrize(
    "name, message",
    [
        ("outside.png", "is a link to ../../etc/passwd, which is not in the archive"),
        ("absolute.png", "is a link to /etc/passwd, which is not in the archive"),
        ("circle.png", "is a link that leads through more than"),
    ],
)
def test_other_links_are_refused_before_they_are_opened(linked, name, message):
    with pytest.raises(ImageError, match=f"{name}: {message}"):
        linked.find(name)
    assert color(linked, "images/1.png") == (255, 0, 0)


# What a zip says of its files


def test_zeroed_bytes_in_a_zip_are_an_error(tmp_path):
    """A BMP image has no checksum of its own: alone it would open, with black pixels."""
    image = io.BytesIO()
    Image.effect_noise((40, 40), 90).convert("RGB").save(image, "BMP")
    path = write_archive(tmp_path / "a.zip", {"1.bmp": image.getvalue()})
    content = bytearray(path.read_bytes())
    end = content.index(b"BM") + len(image.getvalue())
    content[end - 600 : end - 100] = bytes(500)
    path.write_bytes(content)
    images = ImageFiles([path])
    with pytest.raises(ImageError, match="1.bmp: not a readable image"):
        images.open("1.bmp")


def change_directory(path, offset: int, form: str, value: int) -> None:
    """Change a number in the entry of a zip's first file, in the directory at its end."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, content.rindex(b"PK\1\2") + offset, value)
    path.write_bytes(content)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("difference", [-1, 1, 10**6])
def test_another_size_than_declared_is_an_error(tmp_path, compression, difference):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        archive.writestr("1.png", png("red"))
    change_directory(tmp_path / "a.zip", 24, "<I", len(png("red")) + difference)
    with pytest.raises(ImageError, match="1.png: not a readable image"):
        ImageFiles([tmp_path / "a.zip"]).open("1.png")


@pytest.mark.parametrize(
    "offset, form, value, message",
    [
        (24, "<I", MAX_MEMBER_BYTES + 1, "has 268,435,457 bytes; expected at most 268,435,456"),
        (20, "<I", 10**9, "is cut off: the archive ends before it does"),
        (10, "<H", 12, "has zip compression 12; expected stored or deflated"),
        (8, "<H", 1, "is encrypted"),
    ],
)
def test_what_cannot_be_read_is_known_without_reading(tmp_path, offset, form, value, message):
    path = write_archive(tmp_path / "a.zip", {"1.png": png("red")})
    change_directory(path, offset, form, value)
    with pytest.raises(ImageError, match=f"1.png: {message}"):
        ImageFiles([path]).find("1.png")


def test_the_bytes_in_the_archive_have_a_limit_too():
    member = Member(Path("a.zip"), "1.png", 0, MAX_MEMBER_BYTES + 1, 8, zipfile.ZIP_DEFLATED)
    checked = check_member(member, archive_size=2 * MAX_MEMBER_BYTES)
    assert checked.problem == "has 268,435,457 bytes; expected at most 268,435,456"


def test_the_reason_why_an_image_cannot_be_read_is_that_of_a_file(tmp_path):
    file = tmp_path / "wide.png"
    Image.new("L", (MAX_SIDE + 1, 8)).save(file)
    archive = write_archive(tmp_path / "a.zip", {"wide.png": file.read_bytes()})
    with pytest.raises(
        ImageError, match=r"a\.zip, wide.png: .*131073 x 8 pixels; expected at most"
    ):
        ImageFiles([archive]).open("wide.png")


def test_more_bytes_than_declared_are_not_decompressed(tmp_path):
    """Zeros take a thousandth of their size in a zip."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", bytes(2**26))
    change_directory(tmp_path / "a.zip", 24, "<I", 1000)
    member = ImageFiles([tmp_path / "a.zip"]).find("1.png")
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="1,001 bytes or more; expected 1,000"):
        read_member(member)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_a_name_that_is_not_that_of_the_header_is_an_error(tmp_path):
    path = write_archive(tmp_path / "a.zip", {"1.png": png("red")})
    content = bytearray(path.read_bytes())
    content[content.index(b"1.png")] = ord("2")
    path.write_bytes(content)
    with pytest.raises(ImageError, match="1.png: not a readable image"):
        ImageFiles([path]).open("1.png")


@pytest.mark.parametrize("name", ["naïve.png", "猫.png", "a b.png"])
def test_names_may_have_any_characters(tmp_path, name):
    for kind in ("zip", "tar"):
        path = write_archive(tmp_path / f"a.{kind}", {name: png("red")})
        assert color(ImageFiles([path]), name) == (255, 0, 0)


def test_a_tar_that_ends_early_is_an_error(tmp_path):
    path = write_archive(tmp_path / "a.tar", {"1.png": png("red"), "2.png": bytes(3000)})
    path.write_bytes(path.read_bytes()[:2500])
    with pytest.raises(ArchiveError, match="a.tar: neither .*unexpected end of data"):
        ImageFiles([path])


def test_a_folder_in_an_archive_is_no_image(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("images/", "")
        archive.writestr("images/1.png", png("red"))
    with pytest.raises(ImageError, match="no such image"):
        ImageFiles([tmp_path / "a.zip"]).find("images/")


def test_broken_exif_in_an_archive_turns_nothing(archive, tmp_path):
    exif = b"Exif\0\0\0\x08\0\x02\x01\x12\0\x03"
    content = io.BytesIO()
    Image.new("RGB", (80, 40)).save(content, "WEBP", exif=exif)
    path = write_archive(tmp_path / f"exif{archive.suffix}", {"1.webp": content.getvalue()})
    assert ImageFiles([path]).open("1.webp").size == (80, 40)


def test_two_names_of_one_zip_member_are_an_error(archive):
    if archive.suffix != ".zip":
        return
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"train/a.png", b"train/x.png", 1))  # before the content
    images = ImageFiles([archive])
    assert color(images, "train/b.png") == (0, 0, 255)
    with pytest.raises(ImageError, match=r"train/a\.png: not a readable image"):
        images.open("train/a.png")


def test_a_zip_may_have_names_outside_of_ascii(tmp_path):
    path = write_archive(tmp_path / "stored.zip", {"é日.png": png("red")})
    assert color(ImageFiles([path]), "é日.png") == (255, 0, 0)


@pytest.mark.parametrize("kind", [b"L", b"x", b"g"])
def test_a_tar_header_that_claims_terabytes_is_an_error(tmp_path, kind):
    path = write_archive(tmp_path / "plain.tar", {"a.png": png("red")})
    content = bytearray(path.read_bytes())
    content[124:136] = b"\x80\0\0\0\0\0\0\x7f\0\0\0\0"  # the size, as a binary number
    content[156:157] = kind
    content[148:156] = 8 * b" "
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="a header of .* bytes"):
        ImageFiles([path])
