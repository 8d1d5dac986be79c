"""Reading and writing the JSON files of models and runs."""

import json
import sys
from pathlib import Path

import torch

from .errors import ConfigError

REPOSITORY = Path(__file__).resolve().parent.parent


def shipped(path: str | Path) -> Path:
    """`path`, or the same path below the repository where it does not exist here: the shipped
    checkpoints are found from any working directory."""
    if not Path(path).exists() and (REPOSITORY / path).exists():
        return REPOSITORY / path
    return Path(path)


def read_json(path: str | Path) -> dict:
    """The JSON object in a file; a missing or broken file is a ConfigError that names it."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a model directory needs it")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def write_json(path: str | Path, values: dict) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def made_by(path: Path) -> None:
    """Leaves beside weights the command that made them, seed and all its flags."""
    name = Path(sys.argv[0])
    program = f"-m nanollava.{name.parent.name}" if name.name == "__main__.py" else name.name
    text = f"python {' '.join([program, *sys.argv[1:]])}\n(torch {torch.__version__}; seed 0 unless given)\n"
    (path / "MADE_BY.txt").write_text(text, encoding="utf-8")
