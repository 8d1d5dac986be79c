"""The committed notebooks: their parts, outputs and size, and the table in notebooks/README.md.

`python notebooks/execute.py --check` runs them; these tests do not.
"""

import ast
import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "notebooks"
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
execute = SimpleNamespace(**runpy.run_path(str(HERE / "execute.py")))

ROW = re.compile(
    r"\|.*\| \[\d\d\]\((\S+)\), `([\w-]+)` "  # notebook and cell
    r"\| \[`([\w.]+)`\]\(\.\./(\S+)#L(\d+)\) "  # symbol, file and line
    r"\| `(\S+)::(\w+)` \|"  # test
)
TABLE = (HERE / "README.md").read_text(encoding="utf-8").split("## Every equation")[1]
ROWS = [line for line in TABLE.splitlines() if line.startswith("|")][2:]


def cells(path: Path) -> list[dict]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parts(path):
    found = cells(path)
    first, last = found[0]["source"], found[-1]["source"]
    assert first.startswith(f"# {int(path.name[:2])}. ")
    assert "**At the end you will know**" in first and "**You need**" in first
    assert last.startswith("**The module:**")
    links = [
        t
        for c in found
        for t in re.findall(r"\]\((?!https?:)([^)#]+)\)", c["source"])
        if c["cell_type"] == "markdown"
    ]
    assert links and all((HERE / link).is_file() for link in links), links
    text = "\n".join(c["source"] for c in found if c["cell_type"] == "markdown")
    assert "| symbol | variable | shape |" in text and text.count("$$") >= 4
    assert sum("assert_close(" in c["source"] for c in found if c["cell_type"] == "code") >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exercises_have_folded_solutions_that_assert(path):
    found = cells(path)
    answers = [i for i, c in enumerate(found) if "exercise" in tags(c)]
    assert 2 <= len(answers) <= 3
    for i in answers:
        statement = found[i - 1]["source"]
        solution = execute.SOLUTION.search(statement)[1]
        assert statement.startswith("**Exercise ") and "<summary>Solution</summary>" in statement
        assert (
            any(isinstance(n, ast.Assert) for n in ast.walk(ast.parse(solution)))
            or "assert_close(" in solution
        )
        assert not found[i]["outputs"] and found[i]["source"].startswith("#")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs(path):
    assert path.stat().st_size < 0.5e6
    code = [c for c in cells(path) if c["cell_type"] == "code" and "exercise" not in tags(c)]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1)), (
        "run notebooks/execute.py"
    )
    outputs = [output for c in code for output in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)


def test_every_notebook_is_listed():
    listed = re.findall(
        r"^\| \[\d\d [^]]+\]\((\S+)\)",
        (HERE / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert listed == [path.name for path in NOTEBOOKS]
    assert {ROW.fullmatch(row)[1] for row in ROWS} <= set(listed)


@pytest.mark.parametrize("row", ROWS)
def test_row_of_the_table(row):
    notebook, cell, name, module, line, test_file, test = ROW.fullmatch(row).groups()
    source = next((c["source"] for c in cells(HERE / notebook) if c["id"] == cell), None)
    assert source is not None, f"{notebook} has no cell {cell!r}"
    assert "assert" in source
    assert int(line) == execute.line_of(ROOT / module, name), "run notebooks/execute.py"
    assert f"\ndef {test}(" in (ROOT / test_file).read_text(encoding="utf-8")


def test_comparison_of_texts():
    same = execute.same_text
    assert same("loss 1.234, layer 3", "loss 1.235, layer 3") and same("a  0.5\n", "a 0.5")
    assert not same("loss 1.234", "loss 1.237")
    assert (
        not same("layer 3", "layer 4") and not same("a cat", "a dog") and not same("0.5", "0.5 0.5")
    )
    old = {
        "id": "a",
        "cell_type": "code",
        "metadata": {},
        "outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}],
    }
    new = old | {"outputs": [{"output_type": "stream", "name": "stdout", "text": ["2"]}]}
    assert len(execute.differences([old], [new])) == 1 and not execute.differences([old], [old])
    assert not execute.differences([old | {"metadata": {"tags": ["varies"]}}], [new])
