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
NUMBER = re.compile(r"-?\d+\.\d+")
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
ROW = re.compile(r"\[`(\w+(?:\.\w+)*)`\]\(\.\./([\w/]+\.py)#L(\d+)\)")


def same_text(a: str, b: str) -> bool:
    """Equal except for the last printed digit of decimal fractions."""
    ours, theirs = NUMBER.findall(a), NUMBER.findall(b)
    if len(ours) != len(theirs) or NUMBER.sub("#", a).split() != NUMBER.sub("#", b).split():
        return False
    for x, y in zip(ours, theirs, strict=True):
        digits = min(len(v.split(".")[1]) for v in (x, y))
        if abs(float(x) - float(y)) > 1.01 * 10.0**-digits:
            return False
    return True


def text_of(cell: dict) -> str:
    """What a cell printed or returned as text, without figures and warnings."""
    parts = []
    for output in cell.get("outputs", []):
        if output["output_type"] == "stream" and output["name"] == "stdout":
            parts.append(output["text"])
        elif output["output_type"] == "execute_result":
            parts.append(output["data"].get("text/plain", ""))
    return "".join("".join(part) for part in parts)


def differences(before: list[dict], after: list[dict]) -> list[str]:
    """The cells whose text differs, except those tagged "varies"."""
    found = []
    for old, new in zip(before, after, strict=True):
        varies = "varies" in old["metadata"].get("tags", [])
        if old["cell_type"] == "code" and not varies and not same_text(text_of(old), text_of(new)):
            found.append(
                f"cell {old['id']}:\n  committed: {text_of(old)!r}\n  now:       {text_of(new)!r}"
            )
    return found


def line_of(path: Path, name: str) -> int:
    """The line on which a class, function, method or constant `name` of a module begins."""
    node = ast.parse(path.read_text(encoding="utf-8"))
    for part in name.split("."):
        for child in node.body:
            targets = [t.id for t in getattr(child, "targets", []) if isinstance(t, ast.Name)]
            if part in (getattr(child, "name", None), *targets):
                node = child
                break
        else:
            raise LookupError(f"{path}: no {name!r}")
    return node.lineno


def with_lines(readme: str) -> str:
    """The text of README.md with the current line numbers of the modules."""
    return ROW.sub(lambda m: f"[`{m[1]}`](../{m[2]}#L{line_of(HERE.parent / m[2], m[1])})", readme)


def execute(path: Path, check: bool) -> list[str]:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, 4)
    committed = [dict(cell) for cell in notebook.cells]
    stubs = {}
    for above, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if "exercise" in cell.metadata.get("tags", []):
            stubs[cell.id] = cell.source
            cell.source = SOLUTION.search(above.source)[1]
    start = time.time()
    options = dict(timeout=600, kernel_name="python3", record_timing=False, coalesce_streams=True)
    client = NotebookClient(notebook, extra_arguments=["--log-level=ERROR"], **options)
    client.execute(cwd=str(HERE))
    print(f"{path.name}: {time.time() - start:.0f} s", flush=True)
    for cell in notebook.cells:
        if cell.id in stubs:
            cell.source, cell.outputs, cell.execution_count = stubs[cell.id], [], None
    if check:
        return differences(committed, notebook.cells)
    count = 0
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id not in stubs:
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if "execution_count" in output:
                    output["execution_count"] = count
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "numbers", nargs="*", help="numbers of the notebooks to run, as 01 (default: all)"
    )
    parser.add_argument("--check", action="store_true", help="compare, change no file")
    parser.add_argument("--lines", action="store_true", help="only renew README.md's line numbers")
    args = parser.parse_args()
    readme = HERE / "README.md"
    if args.lines:
        readme.write_text(with_lines(readme.read_text(encoding="utf-8")), encoding="utf-8")
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    paths = [
        p for p in sorted(HERE.glob("*.ipynb")) if not args.numbers or p.name[:2] in args.numbers
    ]
    wrong = [f"{path.name}, {line}" for path in paths for line in execute(path, args.check)]
    if not args.check:
        readme.write_text(with_lines(readme.read_text(encoding="utf-8")), encoding="utf-8")
    print("\n".join(wrong) or f"{len(paths)} notebooks ran")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
