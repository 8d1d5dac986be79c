"""What the tests of synthesis and evaluation share: the local endpoint, a module's main in this process, JSONL files."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.synthesis import Endpoint


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "good")
    made = []

    def start(**options) -> Endpoint:
        made.append(Endpoint(**options))
        return made[-1]

    yield start
    for one in made:
        one.shutdown()
        one.server_close()


def arguments(server: Endpoint, *more) -> list:
    return ["--base-url", server.url, "--wait", "0.01", "--per-minute", "100000", *more]


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a module's main in this process and returns what it printed on both streams."""

    def run(module, *argv) -> str:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, argv)])
        capsys.readouterr()
        module.main()
        return "".join(capsys.readouterr())

    return run


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
