"""The Chinese and HTML editions of the notebooks."""

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
edition = SimpleNamespace(**runpy.run_path(str(NOTEBOOKS / "edition.py")))
TRANSLATED = sorted((NOTEBOOKS / "zh").glob("*.md"))
ENGLISH = "# A title\n\nSome words, see [vit](../nanollava/vit.py)."

every_translation = pytest.mark.parametrize("path", TRANSLATED, ids=lambda path: path.stem)


def notebook(text: str = ENGLISH) -> dict:
    code = {"id": "b", "cell_type": "code", "source": ["print(1)"], "outputs": []}
    return {"cells": [{"id": "a", "cell_type": "markdown", "source": [text]}, code]}


@pytest.fixture
def translate(tmp_path, monkeypatch):
    """Writes the translation of a notebook "n" and returns the Chinese notebook."""

    def build(english: str, chinese: str) -> dict:
        text = f"%% a {edition.digest(english)}\n{chinese}\n"
        (tmp_path / "n.md").write_text(text, encoding="utf-8")
        return edition.chinese(notebook(), "n")

    monkeypatch.setitem(edition.chinese.__globals__, "TRANSLATIONS", tmp_path)
    return build


def test_a_translated_text_replaces_the_english_one(translate):
    built = translate(ENGLISH, "# 标题")
    assert edition.text_of(built["cells"][0]) == "# 标题"
    assert built["cells"][1] == notebook()["cells"][1]


def test_a_text_whose_english_has_changed_stays_english(translate):
    built = translate("# An older title", "# 旧标题")
    assert edition.text_of(built["cells"][0]) == ENGLISH


def test_a_notebook_without_translation_stays_english(tmp_path, monkeypatch):
    monkeypatch.setitem(edition.chinese.__globals__, "TRANSLATIONS", tmp_path)
    assert edition.chinese(notebook(), "n") == notebook()


def test_links_to_files_are_moved_and_links_to_notebooks_stay():
    text = "[a](../docs/a.md) [b](02_b.ipynb) [c](https://example.org)"
    moved = edition.moved_links(notebook(text), "../../../notebooks/")
    expected = "[a](../../../notebooks/../docs/a.md) [b](02_b.ipynb) [c](https://example.org)"
    assert edition.text_of(moved["cells"][0]) == expected


def test_a_figure_is_described_by_the_paragraph_before_it():
    figure = {"output_type": "display_data", "data": {"image/png": "..."}}
    built = notebook("# A title\n\nTwo lines: the red one falls.")
    built["cells"][1]["outputs"] = [figure, figure]
    assert edition.figure_descriptions(built) == ["Two lines: the red one falls."] * 2


def test_the_status_has_a_line_for_every_notebook():
    names = [line.split()[0] for line in edition.status()]
    assert names == sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


@every_translation
def test_translations_belong_to_text_cells(path):
    cells = edition.text_cells(edition.read(NOTEBOOKS / f"{path.stem}.ipynb"))
    assert set(edition.translations(path.stem)) <= {cell["id"] for cell in cells}


@every_translation
def test_every_text_has_a_translation_that_is_up_to_date(path):
    known = edition.translations(path.stem)
    outdated = []
    for cell in edition.text_cells(edition.read(NOTEBOOKS / f"{path.stem}.ipynb")):
        digest, _ = known.get(cell["id"], ("", ""))
        if digest != edition.digest(edition.text_of(cell)):
            outdated.append(cell["id"])
    assert outdated == [], "translate these texts again in notebooks/zh/"


def test_every_notebook_is_translated():
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    assert [path.stem for path in TRANSLATED] == names


def formulas(text: str) -> list[str]:
    """The displayed formulas, without the words in them: those may be translated."""
    found = re.findall(r"\$\$.*?\$\$", text, re.DOTALL)
    return [re.sub(r"\\text\{[^}]*\}", r"\\text{}", formula) for formula in found]


@every_translation
def test_translations_keep_formulas_code_and_links(path):
    known = edition.translations(path.stem)
    for cell in edition.text_cells(edition.read(NOTEBOOKS / f"{path.stem}.ipynb")):
        english = edition.text_of(cell)
        _, chinese = known[cell["id"]]
        assert formulas(chinese) == formulas(english)
        assert re.findall(r"```.*?```", chinese, re.DOTALL) == re.findall(
            r"```.*?```", english, re.DOTALL
        )
        links = re.findall(r"\]\(([^\s)]+)\)", english)
        assert sorted(re.findall(r"\]\(([^\s)]+)\)", chinese)) == sorted(links)


def test_the_chinese_notebooks_are_written(tmp_path, monkeypatch):
    monkeypatch.setitem(edition.build.__globals__, "OUT", tmp_path)
    folder = edition.build(["zh"])
    first = json.loads((folder / "00_llava_in_one_picture.ipynb").read_text(encoding="utf-8"))
    assert "一张图看懂 LLaVA" in edition.text_of(first["cells"][0])
