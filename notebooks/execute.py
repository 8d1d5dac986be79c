"""Run the notebooks on the shipped checkpoints and write their outputs, or compare with the files.

python notebooks/execute.py              # run all, write outputs and the line numbers of README.md
python notebooks/execute.py 01 04        # only these
python notebooks/execute.py --check      # run all, change no file; a text that differs is an error
python notebooks/execute.py --lines      # run nothing; only renew the line numbers of README.md

Two kinds of exercises. An open one (tag "exercise") is an empty cell for the reader: the solution
above it runs in its place, and nothing of it is stored. A function to write is four cells: the
task, a stub (tag "stub"), a check (tag "check") and the folded solution. The check runs twice, with
the stub and with the solution; it must say "not yet" the first time and "passed" the second.

The text of cells tagged "varies" (training, timing) is not compared. Elsewhere a number may differ
by one in its last printed digit, and largest differences are not compared: processors round
differently.
"""

import argparse
import ast
import copy
import os
import re
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
SECONDS = 600  # that one cell, or the start of the kernel, may take

DECIMAL = re.compile(r"-?\d+\.\d+")
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
LARGEST_DIFFERENCE = re.compile(r"largest difference \S+")  # as helpers.compare prints it
SYMBOL_LINK = re.compile(r"\[`(\w+(?:\.\w+)*)`\]\(\.\./([\w/]+\.py)#L(\d+)\)")  # name, file, line


def same_text(a: str, b: str) -> bool:
    """Equal except for the last printed digit of decimal fractions, and for rounding."""
    a = LARGEST_DIFFERENCE.sub("largest difference", a)
    b = LARGEST_DIFFERENCE.sub("largest difference", b)
    if DECIMAL.sub("#", a).split() != DECIMAL.sub("#", b).split():
        return False
    for x, y in zip(DECIMAL.findall(a), DECIMAL.findall(b), strict=True):
        digits = min(decimals(x), decimals(y))
        if abs(float(x) - float(y)) > 1.01 * 10.0**-digits:
            return False
    return True


def decimals(number: str) -> int:
    """Digits behind the point."""
    return len(number.split(".")[1])


def text_of(cell: dict) -> str:
    """What a cell printed or returned as text, without figures and warnings."""
    parts = []
    for output in cell.get("outputs", []):
        if output["output_type"] == "stream" and output["name"] == "stdout":
            parts.append("".join(output["text"]))
        elif output["output_type"] == "execute_result":
            parts.append("".join(output["data"].get("text/plain", "")))
    return "".join(parts)


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def is_readers(cell: dict) -> bool:
    """A cell in which the reader writes: it is committed without outputs."""
    return "exercise" in tags(cell) or "stub" in tags(cell)


def differences(before: list[dict], after: list[dict]) -> list[str]:
    """The cells whose text differs, except those tagged "varies"."""
    messages = []
    for old, new in zip(before, after, strict=True):
        if old["cell_type"] != "code" or "varies" in tags(old):
            continue
        committed = text_of(old)
        now = text_of(new)
        if not same_text(committed, now):
            cell = f"cell {old['id']}:"
            messages.append(f"{cell}\n  committed: {committed!r}\n  now:       {now!r}")
    return messages


def line_of(path: Path, name: str) -> int:
    """The line on which a class, function, method or constant `name` of a module begins."""
    node = ast.parse(path.read_text(encoding="utf-8"))
    for part in name.split("."):
        node = definition(node, part)
        if node is None:
            raise LookupError(f"{path}: no {name!r}")
    return node.lineno


def definition(scope: ast.AST, name: str) -> ast.AST | None:
    """The statement that defines `name` in a module or class."""
    for statement in scope.body:
        if getattr(statement, "name", None) == name:
            return statement
        for target in getattr(statement, "targets", []):
            if isinstance(target, ast.Name) and target.id == name:
                return statement
    return None


def renew_lines() -> None:
    """Writes the current line numbers of the modules into README.md."""

    def link(match: re.Match) -> str:
        name, file, _ = match.groups()
        return f"[`{name}`](../{file}#L{line_of(HERE.parent / file, name)})"

    text = README.read_text(encoding="utf-8")
    README.write_text(SYMBOL_LINK.sub(link, text), encoding="utf-8")


def run(notebook) -> list[str]:
    """Runs all cells in place, with the solutions of the exercises; returns what their checks say
    wrong."""
    from nbclient import NotebookClient

    stubs = put_solutions(notebook.cells)
    cells = notebook.cells
    trials, notebook.cells = with_trials(cells, stubs)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        startup_timeout=SECONDS,  # on a busy machine the imports of the kernel take minutes
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute(cwd=str(HERE))
    notebook.cells = cells
    for cell in cells:
        if cell.id in stubs:
            cell.source = stubs[cell.id]
            cell.outputs = []
            cell.execution_count = None
    return wrong_checks(cells, trials)


def put_solutions(cells: list) -> dict[str, str]:
    """Replaces the reader's cells by the solutions; returns their sources by id."""
    stubs = {}
    for i, cell in enumerate(cells):
        if "exercise" in tags(cell):
            solution = cells[i - 1]
        elif "stub" in tags(cell):
            solution = cells[i + 2]
        else:
            continue
        stubs[cell.id] = cell.source
        cell.source = SOLUTION.search(solution.source)[1]
    return stubs


def with_trials(cells: list, stubs: dict[str, str]) -> tuple[list, list]:
    """The check of every stub, and all cells with each stub and its check before the solution."""
    trials = []
    run_cells = []
    for i, cell in enumerate(cells):
        if "stub" in tags(cell):
            stub = copy.deepcopy(cell)
            stub.id += "-trial"
            stub.source = stubs[cell.id]
            trial = copy.deepcopy(cells[i + 1])
            trial.id += "-trial"
            run_cells += [stub, trial]
            trials.append(trial)
        run_cells.append(cell)
    return trials, run_cells


def wrong_checks(cells: list, trials: list) -> list[str]:
    """Checks that a stub passes, and checks that a solution does not pass."""
    messages = []
    for trial in trials:
        if "not yet" not in text_of(trial):
            messages.append(f"cell {trial['id']}: the stub passes the check: {text_of(trial)!r}")
    for cell in cells:
        if "check" in tags(cell) and "passed" not in text_of(cell):
            messages.append(f"cell {cell['id']}: the solution does not pass: {text_of(cell)!r}")
    return messages


def number_cells(cells: list) -> None:
    """Counts the code cells from 1, without those of the reader."""
    count = 0
    for cell in cells:
        if cell.cell_type == "code" and not is_readers(cell):
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if "execution_count" in output:
                    output["execution_count"] = count


def execute(path: Path, check: bool) -> list[str]:
    """Runs one notebook and writes it; returns what is wrong, with `check` what differs."""
    import nbformat

    notebook = nbformat.read(path, 4)
    committed = [dict(cell) for cell in notebook.cells]
    start = time.time()
    messages = run(notebook)
    print(f"{path.name}: {time.time() - start:.0f} s", flush=True)
    if check:
        return messages + differences(committed, notebook.cells)
    number_cells(notebook.cells)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return messages


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python notebooks/execute.py", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "numbers",
        nargs="*",
        metavar="NUMBER",
        help="numbers of the notebooks to run, such as 01 (default: all)",
    )
    parser.add_argument("--check", action="store_true", help="compare the texts; change no file")
    parser.add_argument("--lines", action="store_true", help="only renew README.md's line numbers")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.lines:
        renew_lines()
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["NANOLLAVA_STATIC"] = "1"  # figures instead of sliders
    paths = sorted(HERE.glob("*.ipynb"))
    if args.numbers:
        paths = [path for path in paths if path.name[:2] in args.numbers]
        if not paths:
            numbers = " or ".join(args.numbers)
            sys.exit(f"error: no notebook has the number {numbers}; expected two digits, as in 01")
    messages = []
    for path in paths:
        for message in execute(path, args.check):
            messages.append(f"{path.name}, {message}")
    if not args.check:
        renew_lines()
    if messages:
        print("\n".join(messages))
        sys.exit(1)
    print(f"{len(paths)} notebooks ran")


if __name__ == "__main__":
    main()
