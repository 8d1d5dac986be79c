"""`pip install -e .`: what pyproject.toml promises, and use from any working directory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nanollava

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def settings() -> dict:
    """pyproject.toml."""
    tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run_elsewhere(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Run Python in another directory, with the package installed as by `pip install -e .`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_version_and_requirements_have_one_source(settings):
    assert set(settings["project"]["dynamic"]) == {"version", "dependencies"}
    sources = settings["tool"]["setuptools"]["dynamic"]
    assert sources["version"] == {"attr": "nanollava.__version__"}
    assert sources["dependencies"] == {"file": ["requirements.txt"]}
    assert re.fullmatch(r"\d+\.\d+\.\d+", nanollava.__version__)


def test_requirements_are_plain_lines_that_setuptools_reads():
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"[a-z-]+[=>]=[\d.]+(  # .+)?", line), line


def test_every_file_of_the_package_is_installed(settings):
    """setuptools installs the Python files; other files would need a pattern in package-data."""
    assert "package-data" not in settings["tool"]["setuptools"]
    for path in (ROOT / "nanollava").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.suffix == ".py", path


def test_every_directory_of_the_package_is_a_package():
    for path in (ROOT / "nanollava").rglob("*.py"):
        assert (path.parent / "__init__.py").is_file(), path.parent


def test_sample_answers_from_another_directory(tmp_path):
    question = ("--image", str(ROOT / "cat.jpg"), "--prompt", "What color is the cat?")
    result = run_elsewhere(tmp_path, str(ROOT / "sample.py"), *question)
    assert result.stdout.strip() == "purple", result.stderr


def test_load_finds_the_shipped_model_from_another_directory(tmp_path):
    code = f"""
from nanollava import load
assistant = load("checkpoints/toy-llava", device="cpu")
print(assistant.ask({str(ROOT / "cat.jpg")!r}, "What color is the cat?"))
"""
    result = run_elsewhere(tmp_path, "-c", code)
    assert result.stdout.strip() == "purple", result.stderr
