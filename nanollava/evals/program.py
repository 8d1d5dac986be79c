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
    command = [str(word) for word in command]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{' '.join(command)}: {lines[-1]}")
    return done.stdout


if __name__ == "__main__":
    exit_with("this module is not a program; see python -m nanollava.evals.connectors --help")
