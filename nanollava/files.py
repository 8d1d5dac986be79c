"""Small files: one checked reader, one atomic writer, and where shipped files are."""

import json
import os
import secrets
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from .errors import ConfigError, UserError

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent
PARTIAL_PATTERN = "????????.partial"  # how the names of `temporary_name` end


def shipped(path: str | Path) -> Path:
    """`path`, or the same path below the repository where it does not exist here.

    This finds the shipped checkpoints from any working directory.
    """
    if not Path(path).exists() and (REPOSITORY / path).exists():
        return REPOSITORY / path
    return Path(path)


def check_regular_file(path: str | Path) -> None:
    """A ConfigError for a folder, a pipe or a device: reading them fails, or might never end.

    A missing file is a FileNotFoundError.
    """
    if "\0" in str(path):
        raise ConfigError(f"{str(path)!r}: not a file name")
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{path}: not a regular file, but a folder")
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path}: not a regular file, but a pipe or a device")


def read_bytes(path: str | Path) -> bytes:
    """The content of a file. A file that cannot be read is a ConfigError that names it."""
    try:
        check_regular_file(path)
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file."""
    try:
        return read_bytes(path).decode("utf-8-sig")  # some editors write a mark first
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a UTF-8 text file ({error})") from None


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text. If it is not valid, a ConfigError names `where` it comes from."""
    try:
        if isinstance(text, bytes):  # json.loads would also take UTF-16, and halves of characters
            text = text.decode("utf-8-sig")
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: too many nested lists
        raise ConfigError(f"{where}: not valid JSON ({error})") from None


def parse_object(text: str | bytes, where: str) -> dict:
    """The JSON object in a text; any other value is a ConfigError."""
    values = parse_json(text, where)
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a JSON object, got {type(values).__name__}")
    return values


def read_json(path: str | Path) -> dict:
    """The JSON object in a file. A missing or broken file is a ConfigError that names it."""
    return parse_object(read_bytes(path), str(path))


def read_json_lines(path: str | Path) -> Iterator[tuple[str, dict]]:
    """The JSON object of every line of a JSONL file, after the words that name the line.

    Empty lines are skipped. Anything else that is no object is a ConfigError."""
    # Not splitlines(): JSON texts may contain other line separators, such as U+2028.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, parse_object(line, where)


def json_text(values: dict | list) -> str:
    """The text of a JSON file."""
    return json.dumps(values, indent=2) + "\n"


def write_json(path: str | Path, values: dict | list) -> None:
    """Write a JSON file atomically, and the folders above it."""
    write_text(path, json_text(values))


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) atomically, and the folders above it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, which becomes `path` at the end of the block.

    Readers see the old file or the new one, never half of it. If the block fails, the old file
    stays. Writers use `open`, so the new file gets the permissions that the umask gives. A device
    or a pipe is never replaced: that would be a ConfigError.
    """
    with suppress(FileNotFoundError):
        check_regular_file(path)
    temporary = temporary_name(path)
    try:
        with naming(path):
            yield temporary
            flush_to_disk(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # there is one only after an error


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content is on the disk. Only then should its final name point to it."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the path in an OSError that names none, such as "No space left on device"."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def check_writable(folder: Path) -> None:
    """An OSError now, and not after hours of work, if nothing can be written into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_not_input(flag: str, path: str | Path, inputs: Iterable[str | Path]) -> None:
    """A UserError if a file to be written is one of the inputs, even under another name."""
    for file in inputs:
        # os.path.exists is False, too, for a name that cannot be looked up; writing then fails.
        if os.path.exists(path) and os.path.exists(file) and os.path.samefile(path, file):
            raise UserError(f"{flag} {path}: would overwrite the input {file}; choose another")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary directory in the same folder, which becomes `path` at the end of the block.

    So `path`, which must not exist, is complete or absent. If the block fails, nothing is left.
    """
    temporary = temporary_name(path)
    temporary.mkdir(parents=True)
    try:
        with naming(path):
            yield temporary
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # there is one only after an error


def temporary_name(path: Path) -> Path:
    """A path in the same folder that nobody else uses: not a second run, nor a user's own file."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")


def made_by(path: Path, command: str) -> None:
    """Write into a folder of weights the command that made them, ready to be pasted."""
    text = f"{command}\n(torch {torch.__version__}; seed 0 unless given)\n"
    write_text(path / "MADE_BY.txt", text)


def command_line(argv: list[str]) -> str:
    """The shell command of a Python program, by its `sys.argv`."""
    program = Path(argv[0]).resolve()
    if program.is_relative_to(PACKAGE):  # python -m nanollava...
        names = program.relative_to(REPOSITORY).with_suffix("").parts
        module = ".".join(names).removesuffix(".__main__")
        words = ["python", "-m", module]
    else:
        words = ["python", program.name]
    return shlex.join([*words, *argv[1:]])
