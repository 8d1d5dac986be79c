"""One case of the fuzzer, and what can be wrong with its outcome."""

import random
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz.world import World


class Wrong(Exception):
    """A file was accepted, and the result is not what it says."""


class CodeExecuted(Exception):
    """Code inside a file was executed."""


class TimedOut(BaseException):
    """The time limit of a case. No `except Exception` may catch it."""


@dataclass
class Case:
    rng: random.Random
    world: World
    folder: Path  # an empty one
    content: bytes = b""  # of the damaged file; it is kept if the case fails
    note: str = ""  # what was done to the file
    decoded_bytes: int = 0  # the memory that the input itself takes when it is decoded

    def write(self, name: str, content: bytes) -> Path:
        """Write the damaged file."""
        self.content = content
        path = self.folder / name
        path.write_bytes(content)
        return path

    def link(self, source: Path, *without: str) -> Path:
        """Fill the case's folder with links to the files of another one, except some."""
        for file in source.iterdir():
            if file.name not in without:
                (self.folder / file.name).symlink_to(file)
        return self.folder


def expect(is_right: bool, problem: str) -> None:
    """The check of a result: Wrong with this problem if it is not right."""
    if not is_right:
        raise Wrong(problem)
