"""Runs the project's own programs as processes, from any directory."""

import os
import subprocess
import sys

from ..errors import UserError, exit_with
from ..files import REPOSITORY


def run_program(*command, **environment: str) -> str:
    """Runs `python COMMAND` and returns what it prints.

    `environment` are variables beside those of this process. If the program fails, its last line is
    a UserError.
    """
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    python_path = os.pathsep.join(path for path in paths if path)
    env = {**os.environ, "PYTHONPATH": python_path, **environment}
    words = [str(word) for word in command]
    finished = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env)
    if finished.returncode != 0:
        lines = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
        raise UserError(f"{' '.join(words)}: {lines[-1]}")
    return finished.stdout


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.evals.connectors --help")
