"""Shared by the tests of synthesis and evaluation: the local endpoint, a program's main, JSONL files."""

import json
import sys
from pathlib import Path

import pytest
from fake_endpoint import FakeEndpoint


@pytest.fixture
def server(monkeypatch):
    """Starts local endpoints, and stops them after the test."""
    monkeypatch.setenv("OPENAI_API_KEY", "good")
    started = []

    def start(**options) -> FakeEndpoint:
        started.append(FakeEndpoint(**options))
        return started[-1]

    yield start
    for endpoint in started:
        endpoint.shutdown()
        endpoint.server_close()


def arguments(endpoint: FakeEndpoint, *more) -> list:
    """Flags that send a program to a local endpoint, as fast as it answers."""
    return ["--base-url", endpoint.url, "--wait", "0.01", "--per-minute", "100000", *more]


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
    """Write a JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict]:
    """Read a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
