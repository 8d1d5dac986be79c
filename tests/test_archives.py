"""Images by name in folders and archives."""

import io
import tarfile
import zipfile

import pytest
from PIL import Image

from nanollava.archives import ArchiveError, ImageFiles
from nanollava.image import ImageError

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
    with pytest.raises(ImageError):
        images.find("train/a.png")


def test_a_missing_image_is_an_error_that_lists_all_sources(archive, tmp_path):
    with pytest.raises(ImageError) as error:
        ImageFiles([archive, tmp_path]).find("none.png")
    assert str(error.value) == f"none.png: no such image in {tmp_path}, {archive}"


def test_a_broken_image_is_an_error_that_names_the_archive(archive):
    images = ImageFiles([archive])
    images.find("train/c.png")  # it is there
    with pytest.raises(ImageError) as error:
        images.open("train/c.png")
    assert str(error.value) == f"{archive}, train/c.png: not a readable image"


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


@pytest.mark.parametrize("name", ["a.tar.gz", "nowhere"])
def test_a_source_that_cannot_be_read_is_an_error(tmp_path, name):
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(ArchiveError, match=f"{name}: neither a folder nor a zip or uncompressed"):
        ImageFiles([tmp_path / name])
