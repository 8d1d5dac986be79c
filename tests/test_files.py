"""Reading and writing small files, and the command that MADE_BY.txt records."""

import errno
import json
import os
import shlex
import stat
from pathlib import Path

import pytest

from nanollava.errors import ConfigError, UserError
from nanollava.files import (
    PACKAGE,
    check_not_input,
    check_writable,
    command_line,
    made_by,
    new_directory,
    read_json,
    read_json_lines,
    read_text,
    replacing,
    shipped,
    write_json,
    write_text,
)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object, got list"),
        ("[" * 100_000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
        ("{}".encode("utf-16"), "not valid JSON"),
        (b'{"a": "\xed\xa0\x80"}', "not valid JSON"),
    ],
    ids=["cut", "a list", "too deep", "no UTF-8", "UTF-16", "half a character"],
)
def test_a_bad_json_file_is_an_error_that_names_it(tmp_path, content, message):
    file = tmp_path / "config.json"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content)
    with pytest.raises(ConfigError, match=f"config.json: {message}"):
        read_json(file)


def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "config.json") == {"a": 1}
    assert read_text(tmp_path / "config.json") == '{"a": 1}'


def test_a_missing_json_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ConfigError, match="config.json: no such file"):
        read_json(tmp_path / "config.json")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="not a regular file, but a folder"):
        read_json(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_is_no_file(tmp_path):
    """Reading it would wait forever for its writer."""
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(
        ConfigError, match="config.json: not a regular file, but a pipe or a device"
    ):
        read_json(tmp_path / "config.json")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_device_is_no_file(tmp_path):
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(
        ConfigError, match="config.json: not a regular file, but a pipe or a device"
    ):
        read_json(tmp_path / "config.json")


def test_json_comes_back(tmp_path):
    values = {"name": "naïve 你好", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "new folder" / "a.json", values)
    assert read_json(tmp_path / "new folder" / "a.json") == values


def test_text_replaces_an_older_file(tmp_path):
    write_text(tmp_path / "a.txt", "old, and longer")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_writing_leaves_no_temporary_file(tmp_path):
    write_text(tmp_path / "a.txt", "text")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_while_writing_leaves_the_old_file_alone(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "half of it \ud800")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("text")
        assert temporary.parent == tmp_path
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "text"


def test_a_new_directory_appears_at_the_end(tmp_path):
    with new_directory(tmp_path / "folder" / "out") as temporary:
        (temporary / "a.txt").write_text("text")
        assert not (tmp_path / "folder" / "out").exists()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["out"]
    assert (tmp_path / "folder" / "out" / "a.txt").read_text() == "text"


def test_a_new_directory_leaves_nothing_after_an_error(tmp_path):
    with pytest.raises(OSError), new_directory(tmp_path / "out") as temporary:
        (temporary / "a.txt").write_text("text")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_a_users_own_files_are_no_temporary_ones(tmp_path):
    for name in ("out.partial", f"out.{os.getpid()}.partial"):
        (tmp_path / name).write_text("mine")
    with new_directory(tmp_path / "out"):
        pass
    with replacing(tmp_path / "out.txt") as first, replacing(tmp_path / "out.txt") as second:
        assert first != second
        first.touch()
        second.touch()
    for name in ("out.partial", f"out.{os.getpid()}.partial"):
        assert (tmp_path / name).read_text() == "mine"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_permissions_follow_the_umask(tmp_path):
    old_umask = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "text")
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_made_by_records_a_command_that_can_be_pasted(tmp_path):
    arguments = ["--out", "a folder", "--prompt", "what's this?", "--data", "$HOME"]
    made_by(tmp_path, command_line(["/somewhere/train_align.py", *arguments]))
    first_line = (tmp_path / "MADE_BY.txt").read_text().splitlines()[0]
    assert shlex.split(first_line) == ["python", "train_align.py", *arguments]


@pytest.mark.parametrize(
    "file, module",
    [
        ("convert.py", "nanollava.convert"),
        ("toyland/clip.py", "nanollava.toyland.clip"),
        ("toyland/__main__.py", "nanollava.toyland"),
    ],
)
def test_a_module_is_recorded_by_its_name(file, module):
    command = command_line([str(PACKAGE / file), "--seed", "1"])
    assert command == f"python -m {module} --seed 1"


def test_shipped_files_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = shipped("checkpoints/toy-llava") / "config.json"
    assert json.loads(config.read_text())["model_type"] == "llava"


def test_a_path_that_exists_is_preferred_to_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("checkpoints/toy-llava").mkdir(parents=True)
    assert shipped("checkpoints/toy-llava").resolve() == tmp_path / "checkpoints/toy-llava"


def test_the_rows_of_a_jsonl_file_with_their_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": "\u2028"}', encoding="utf-8")
    rows = list(read_json_lines(path))
    assert rows == [(f"{path}, line 1", {"a": 1}), (f"{path}, line 3", {"a": "\u2028"})]


@pytest.mark.parametrize("line", ["[1]", "{", "[" * 100_000, "null"])
def test_a_bad_row_is_an_error_that_names_its_line(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n" + line)
    with pytest.raises(ConfigError, match=r"a.jsonl, line 2: (not valid JSON|expected a JSON obj)"):
        list(read_json_lines(path))


@pytest.mark.parametrize("name", ["", "null\0character", "x" * 5000])
def test_a_path_that_is_no_file_is_an_error(tmp_path, name):
    with pytest.raises(
        ConfigError, match="not a regular file|not a file name|cannot be read|no such"
    ):
        read_text(str(tmp_path / name))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFO in a folder")
def test_a_fifo_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="config.json: not a regular file"):
        read_json(tmp_path / "config.json")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFO in a folder")
def test_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "out.json")
    with pytest.raises(ConfigError, match="out.json: not a regular file, but a pipe or a device"):
        write_text(tmp_path / "out.json", "text")
    assert stat.S_ISFIFO((tmp_path / "out.json").stat().st_mode)


@pytest.mark.parametrize("write", [replacing, new_directory])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, write):
    with pytest.raises(OSError) as error, write(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as file.write raises it
    assert str(error.value) == f"[Errno 28] No space left on device: '{tmp_path / 'out'}'"
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_not_overwritten_under_another_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(b"image")
    (tmp_path / "link.png").symlink_to("cat.png")
    for name in ("cat.png", "./cat.png", tmp_path / "cat.png", "link.png"):
        with pytest.raises(UserError, match="--out .*: would overwrite the input cat.png"):
            check_not_input("--out", name, ["missing.png", "cat.png"])
    check_not_input("--out", "new.png", ["cat.png"])


def test_a_folder_in_which_nothing_can_be_written(tmp_path):
    check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        check_writable(tmp_path / "file")
