"""The committed notebooks: their parts, outputs and size, and the table in notebooks/README.md.

`python notebooks/execute.py --check` runs them; these tests do not.
"""

import ast
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from notebook_symbols import AS_IN_NOTEBOOK_0, BORROWED, EVERYWHERE, letters

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
CELL = re.compile(r"\| \[\d\d\]\((\S+)\), `([\w-]+)` \|")


def rows_below(header: str) -> list[str]:
    """The rows of a table of README.md."""
    table = README.split(header)[1].split("\n\n")[0]
    return table.splitlines()[2:]


ROWS = rows_below("| equation | notebook and cell | module | test |")
ROWS_WITHOUT_A_MODULE = rows_below("| equation | notebook and cell | against |")
# Texts whose displayed formulas have no row in these tables: notebook and cell -> why.
WITHOUT_A_ROW = {
    "00 picture": "the whole model, which the other notebooks derive",
    "01 text-24": "CLIP's vector, row towers of notebook 2",
    "02 text-17": "the definition of zero-shot classification",
    "03 text-8": "the definition of a nearest word, a measurement",
    "04 text-4": "what the notebook leads to; asserted in chain-rule",
    "06 text-1": "what the notebook leads to; asserted in loop",
    "07 text-1": "what the notebook leads to; asserted in loop",
    "08 text-16": "the definition of a guess without the image",
    "09 text-22": "the accuracy of a group; asserted in options",
    "10 text-1": "what the notebook leads to; asserted in traffic",
    "13 shift-text": "the loss of notebook 5, row loss",
    "13 norm-find": "the mean of notebook 5, row global-division",
}
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")  # to a file of the project
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)

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


TABLE_OF_SYMBOLS = meanings(NOTEBOOKS[0])


def letters_used(path: Path) -> set[str]:
    return letters("\n".join(sources(path, "markdown")))


def borrowed(path: Path) -> set[str]:
    """The letters that a notebook uses for something else than the table of notebook 0."""
    found = set()
    for letter, uses in BORROWED.items():
        for notebooks in uses:
            if path.name[:2] in notebooks.split():
                found.add(letter)
    return found


def as_in_notebook_0(path: Path) -> set[str]:
    return set(AS_IN_NOTEBOOK_0.get(path.name[:2], "").split())


def declared(path: Path) -> set[str]:
    """The letters whose meaning is said in notebook_symbols.py, or in the notebook's own table."""
    found = set(EVERYWHERE) | borrowed(path) | as_in_notebook_0(path)
    for symbol, meaning in meanings(path).items():
        if TABLE_OF_SYMBOLS.get(symbol) == meaning:
            found |= letters(symbol)
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


def test_each_symbol_has_one_meaning_in_all_tables():
    known = {}
    for path in NOTEBOOKS:
        for symbol, meaning in meanings(path).items():
            assert known.setdefault(symbol, meaning) == meaning, path.name


@every_notebook
def test_tables_repeat_notebook_0_or_say_which_letters_they_borrow(path):
    for symbol, meaning in meanings(path).items():
        if TABLE_OF_SYMBOLS.get(symbol) != meaning:
            assert letters(symbol) <= borrowed(path), f"{symbol}: see notebook_symbols.py"


@every_notebook
def test_each_letter_of_a_formula_has_a_declared_meaning(path):
    unknown = letters_used(path) - declared(path)
    assert sorted(unknown) == [], "a new symbol? see notebook_symbols.py"


@every_notebook
def test_declared_letters_are_used(path):
    unused = (borrowed(path) | as_in_notebook_0(path)) - letters_used(path)
    assert sorted(unused) == [], "gone? see notebook_symbols.py"


@every_derivation
def test_has_two_to_six_exercises(path):
    assert 2 <= len(exercises(path)) + len(functions_to_write(path)) <= 6


@every_notebook
def test_every_code_cell_shows_something(path):
    silent = [cell["id"] for cell in run_cells(path) if not cell["outputs"]]
    assert silent == []


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


@pytest.mark.parametrize("row", ROWS + ROWS_WITHOUT_A_MODULE)
def test_row_of_the_table_names_a_cell_that_asserts(row):
    notebook, cell_id = CELL.search(row).groups()
    matches = [cell["source"] for cell in cells(HERE / notebook) if cell["id"] == cell_id]
    assert len(matches) == 1
    assert "assert" in matches[0] or "compare(" in matches[0]


def formulas_and_their_cells(path: Path) -> Iterator[tuple[str, set[str]]]:
    """The id of each text with a displayed formula, and of the code up to the next such text."""
    text_id = None
    code_ids = set()
    for cell in cells(path):
        if cell["cell_type"] == "code":
            code_ids.add(cell["id"])
        elif "$$" in FOLDED.sub("", cell["source"]):
            if text_id:
                yield text_id, code_ids
            text_id = cell["id"]
            code_ids = set()
    if text_id:
        yield text_id, code_ids


@every_notebook
def test_every_displayed_formula_is_asserted_in_a_row_or_has_a_reason(path):
    named = set()
    for row in ROWS + ROWS_WITHOUT_A_MODULE:
        notebook, cell_id = CELL.search(row).groups()
        if notebook == path.name:
            named.add(cell_id)
    missing = []
    for text_id, code_ids in formulas_and_their_cells(path):
        if not named & code_ids and f"{path.name[:2]} {text_id}" not in WITHOUT_A_ROW:
            missing.append(text_id)
    assert missing == []


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
