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
README = (HERE / "README.md").read_text(encoding="utf-8")
execute = SimpleNamespace(**runpy.run_path(str(HERE / "execute.py")))

ROW = re.compile(
    r"\|.*\| \[\d\d\]\((\S+)\), `([\w-]+)` "  # notebook and cell
    r"\| \[`([\w.]+)`\]\(\.\./(\S+)#L(\d+)\) "  # symbol, file and line
    r"\| `(\S+)::(\w+)` \|"  # test
)
TABLE = README.split("## Every equation")[1]
ROWS = [line for line in TABLE.splitlines() if line.startswith("|")][2:]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")  # to a file of the project

# An overview, and answers to questions: they leave the derivations to the others.
OVERVIEWS = ("00_llava_in_one_picture", "14_what_learners_ask")
DERIVATIONS = [path for path in NOTEBOOKS if path.stem not in OVERVIEWS]

SYMBOL = re.compile(r"\| ([^|]+) \| ([^|]+) \|")  # the first two columns of a table

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
every_derivation = pytest.mark.parametrize("path", DERIVATIONS, ids=lambda path: path.stem)


def cells(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    return cells


def sources(path: Path, cell_type: str) -> list[str]:
    return [cell["source"] for cell in cells(path) if cell["cell_type"] == cell_type]


def exercises(path: Path) -> list[tuple[dict, dict]]:
    """The cell that states an open exercise and the empty cell below it, for each."""
    pairs = zip(cells(path), cells(path)[1:], strict=False)
    return [(above, cell) for above, cell in pairs if "exercise" in execute.tags(cell)]


def functions_to_write(path: Path) -> list[list[dict]]:
    """Task, stub, check and solution of each."""
    all_cells = cells(path)
    found = []
    for i, cell in enumerate(all_cells):
        if "stub" in execute.tags(cell):
            found.append(all_cells[i - 1 : i + 3])
    return found


def meanings(path: Path) -> dict[str, str]:
    """The meaning of each symbol in a notebook's table of symbols, where it has such a column."""
    found = {}
    for text in sources(path, "markdown"):
        _, _, table = text.partition("| symbol | meaning |")
        for line in table.split("\n\n")[0].splitlines()[2:]:
            symbol, meaning = SYMBOL.match(line).groups()
            found[symbol] = meaning
    return found


def compares(source: str) -> bool:
    """Does a cell compare what it computed with the package?"""
    return "assert_close(" in source or "compare(" in source


def run_cells(path: Path) -> list[dict]:
    """The cells whose outputs are stored."""
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    return [cell for cell in code if not execute.is_readers(cell)]


@every_notebook
def test_opens_with_a_title_what_it_teaches_and_what_it_needs(path):
    first = cells(path)[0]["source"]
    assert first.startswith(f"# {int(path.name[:2])}. ")
    assert "**At the end you will know**" in first
    assert "**You need**" in first


@every_notebook
def test_closes_with_the_module(path):
    assert cells(path)[-1]["source"].startswith("**The module:**")


@every_notebook
def test_links_lead_to_files(path):
    links = LINK.findall("\n".join(sources(path, "markdown")))
    assert links
    assert [link for link in links if not (HERE / link).exists()] == []


@every_derivation
def test_has_a_table_of_symbols_equations_and_comparisons(path):
    text = "\n".join(sources(path, "markdown"))
    comparisons = [source for source in sources(path, "code") if compares(source)]
    assert "| symbol | meaning | variable | shape |" in text
    assert text.count("$$") >= 4
    assert len(comparisons) >= 2


def test_each_symbol_has_one_meaning_in_all_notebooks():
    known = {}
    for path in NOTEBOOKS:
        for symbol, meaning in meanings(path).items():
            assert known.setdefault(symbol, meaning) == meaning, path.name


@every_derivation
def test_has_two_to_six_exercises(path):
    assert 2 <= len(exercises(path)) + len(functions_to_write(path)) <= 6


@every_notebook
def test_every_code_cell_shows_something(path):
    silent = [cell["id"] for cell in run_cells(path) if not cell["outputs"]]
    assert [cell_id for cell_id in silent if cell_id not in ("code-2", "code-3")] == []


@every_notebook
def test_code_cells_fit_a_screen(path):
    long = [source for source in sources(path, "code") if len(source.splitlines()) > 25]
    assert long == []


@every_notebook
def test_open_exercises_have_empty_cells(path):
    for statement, cell in exercises(path):
        assert statement["source"].startswith("**Exercise ")
        assert cell["source"].startswith("#")
        assert cell["outputs"] == []


@every_notebook
def test_solutions_are_folded_and_assert(path):
    for statement, _ in exercises(path):
        assert "<summary>Solution</summary>" in statement["source"]
        solution = execute.SOLUTION.search(statement["source"])[1]
        asserts = [node for node in ast.walk(ast.parse(solution)) if isinstance(node, ast.Assert)]
        assert asserts or "assert_close(" in solution


@every_notebook
def test_functions_to_write_have_a_stub_a_check_and_a_hidden_solution(path):
    for task, stub, check, solution in functions_to_write(path):
        assert task["source"].startswith("**Write it: ")
        assert "<summary>Hint</summary>" in task["source"]
        assert "raise NotImplementedError" in stub["source"]
        assert re.search(r"#.*\(.*\)|\"\"\".*\(.*\)", stub["source"]), "say the shapes"
        assert "check" in execute.tags(check)
        assert 'with helpers.check("' in check["source"]
        assert "passed" in execute.text_of(check)
        assert "<summary>Solution</summary>" in solution["source"]
        ast.parse(execute.SOLUTION.search(solution["source"])[1])


def test_at_least_twelve_functions_to_write():
    names = []
    for path in NOTEBOOKS:
        names += [stub["id"] for _, stub, _, _ in functions_to_write(path)]
    assert len(names) >= 12


@every_notebook
def test_is_less_than_half_a_megabyte(path):
    assert path.stat().st_size < 0.5e6


@every_notebook
def test_was_run_from_top_to_bottom(path):
    counts = [cell["execution_count"] for cell in run_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "run notebooks/execute.py"


@every_notebook
def test_stored_outputs_hold_figures_and_no_errors(path):
    outputs = []
    for cell in run_cells(path):
        outputs += cell["outputs"]
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    assert [output for output in outputs if "image/png" in output.get("data", {})]


def test_every_notebook_is_listed():
    listed = re.findall(r"^\| \[\d\d [^]]+\]\((\S+)\)", README, re.MULTILINE)
    assert listed == [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("row", ROWS)
def test_row_of_the_table_names_a_cell_that_asserts(row):
    notebook, cell_id, *_ = ROW.fullmatch(row).groups()
    matches = [cell["source"] for cell in cells(HERE / notebook) if cell["id"] == cell_id]
    assert len(matches) == 1
    assert "assert" in matches[0] or "compare(" in matches[0]


@pytest.mark.parametrize("row", ROWS)
def test_row_of_the_table_names_a_line_and_a_test(row):
    *_, symbol, file, line, test_file, test = ROW.fullmatch(row).groups()
    assert int(line) == execute.line_of(ROOT / file, symbol), "run notebooks/execute.py --lines"
    assert f"\ndef {test}(" in (ROOT / test_file).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "a, b", [("loss 1.234, layer 3", "loss 1.235, layer 3"), ("a  0.5\n", "a 0.5")]
)
def test_the_last_digit_spaces_and_rounding_may_differ(a, b):
    assert execute.same_text(a, b)


@pytest.mark.parametrize(
    "a, b",
    [
        ("loss 1.234", "loss 1.237"),
        ("layer 3", "layer 4"),
        ("a cat", "a dog"),
        ("0.5", "0.5 0.5"),
    ],
)
def test_other_differences_count(a, b):
    assert not execute.same_text(a, b)


def cell_that_printed(text: str | list[str], *tags: str) -> dict:
    return {
        "id": "a",
        "cell_type": "code",
        "metadata": {"tags": list(tags)},
        "outputs": [{"output_type": "stream", "name": "stdout", "text": text}],
    }


def test_a_cell_whose_text_differs_is_reported():
    messages = execute.differences([cell_that_printed("1")], [cell_that_printed(["2"])])
    assert messages == ["cell a:\n  committed: '1'\n  now:       '2'"]


def test_equal_texts_are_not_reported():
    assert execute.differences([cell_that_printed("1")], [cell_that_printed("1")]) == []


def test_cells_that_vary_are_not_compared():
    assert execute.differences([cell_that_printed("1", "varies")], [cell_that_printed("2")]) == []


def test_a_stub_that_passes_its_check_is_reported():
    trial = cell_that_printed("patchify: passed\n", "check")
    assert len(execute.wrong_checks([], [trial])) == 1


def test_a_solution_that_fails_its_check_is_reported():
    check = cell_that_printed("patchify: not yet. AssertionError: ", "check")
    assert len(execute.wrong_checks([check], [])) == 1


def test_a_failing_stub_and_a_passing_solution_are_right():
    trial = cell_that_printed("patchify: not yet. NotImplementedError: ", "check")
    check = cell_that_printed("patchify: passed\n", "check")
    assert execute.wrong_checks([check], [trial]) == []
