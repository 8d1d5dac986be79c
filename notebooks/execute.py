"""Run the notebooks on the shipped checkpoints and write their outputs, or compare with the files.

python notebooks/execute.py              # run all, write outputs and the line numbers of README.md
python notebooks/execute.py 01 04        # only these
python notebooks/execute.py --check      # run all, change no file; a text that differs is an error
python notebooks/execute.py --lines      # run nothing; only renew the line numbers of README.md

An exercise (tag "exercise") is an empty cell for the reader. The solution above it runs in its
place, and nothing of it is stored. The text of cells tagged "varies" (training, timing) is not
compared. Elsewhere a number may differ by one in its last printed digit: processors round
differently.
"""

import argparse
import ast
import os
import re
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
SECONDS = 600  # that one cell may take

DECIMAL = re.compile(r"-?\d+\.\d+")
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
SYMBOL_LINK = re.compile(r"\[`(\w+(?:\.\w+)*)`\]\(\.\./([\w/]+\.py)#L(\d+)\)")  # name, file, line


def same_text(a: str, b: str) -> bool:
    """Equal except for the last printed digit of decimal fractions."""
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


def run(notebook) -> None:
    """Runs all cells in place, an exercise's solution instead of its empty cell."""
    from nbclient import NotebookClient

    stubs = {}
    for above, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if "exercise" in tags(cell):
            stubs[cell.id] = cell.source
            cell.source = SOLUTION.search(above.source)[1]
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute(cwd=str(HERE))
    for cell in notebook.cells:
        if cell.id in stubs:
            cell.source = stubs[cell.id]
            cell.outputs = []
            cell.execution_count = None


def number_cells(cells: list) -> None:
    """Counts the code cells from 1, without the exercises."""
    count = 0
    for cell in cells:
        if cell.cell_type == "code" and "exercise" not in tags(cell):
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if "execution_count" in output:
                    output["execution_count"] = count


def execute(path: Path, check: bool) -> list[str]:
    """Runs one notebook and writes it, or returns what differs from the file."""
    import nbformat

    notebook = nbformat.read(path, 4)
    committed = [dict(cell) for cell in notebook.cells]
    start = time.time()
    run(notebook)
    print(f"{path.name}: {time.time() - start:.0f} s", flush=True)
    if check:
        return differences(committed, notebook.cells)
    number_cells(notebook.cells)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return []


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
    paths = sorted(HERE.glob("*.ipynb"))
    if args.numbers:
        paths = [path for path in paths if path.name[:2] in args.numbers]
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
