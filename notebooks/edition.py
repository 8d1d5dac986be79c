"""Builds other editions of the notebooks: HTML pages, and Chinese notebooks.

python notebooks/edition.py html               # out/notebooks/html
python notebooks/edition.py zh                 # out/notebooks/zh
python notebooks/edition.py zh html            # Chinese HTML pages: out/notebooks/zh-html
python notebooks/edition.py status             # how much is translated, and what is out of date

The Chinese edition shares code and outputs with the English one. Its texts are in notebooks/zh/,
one file per notebook, with a heading for each text cell:

    %% CELL-ID DIGEST

DIGEST belongs to the English text that was translated. A text whose English has changed since,
or that is not translated, appears in English: so the editions cannot drift apart. HTML pages need
nbconvert (pip install -r requirements-dev.txt), and load MathJax from the web for their formulas.
"""

import argparse
import copy
import hashlib
import html
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "out" / "notebooks"
TRANSLATIONS = HERE / "zh"
HEADING = re.compile(r"^%% (\S+) (\w+)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")  # to a file of the project
NO_DESCRIPTION = 'alt="No description has been provided for this image"'  # nbconvert's, in order


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def text_of(cell: dict) -> str:
    return "".join(cell["source"])


def digest(text: str) -> str:
    """A short fingerprint of an English text."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:8]


def translations(name: str) -> dict[str, tuple[str, str]]:
    """Digest and Chinese text of each translated cell of a notebook, by the cell's id."""
    path = TRANSLATIONS / f"{name}.md"
    if not path.is_file():
        return {}
    _, *parts = HEADING.split(path.read_text(encoding="utf-8"))
    result = {}
    for i in range(0, len(parts), 3):
        cell_id, translated_digest, chinese = parts[i : i + 3]
        result[cell_id] = (translated_digest, chinese.strip())
    return result


def text_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]


def chinese(notebook: dict, name: str) -> dict:
    """The notebook with its texts in Chinese, where the translation is up to date."""
    known = translations(name)
    result = copy.deepcopy(notebook)
    for cell in text_cells(result):
        translated_digest, text = known.get(cell["id"], ("", ""))
        if translated_digest == digest(text_of(cell)):
            cell["source"] = text.splitlines(keepends=True)
    return result


def moved_links(notebook: dict, depth: str) -> dict:
    """The notebook with links to files of the project that work from another folder.

    `depth` leads from there to notebooks/. Links between notebooks stay.
    """

    def target(match: re.Match) -> str:
        link = match[1]
        if ".ipynb" in link:
            return match[0]
        return f"]({depth}{link})"

    result = copy.deepcopy(notebook)
    for cell in text_cells(result):
        cell["source"] = LINK.sub(target, text_of(cell)).splitlines(keepends=True)
    return result


def figure_descriptions(notebook: dict) -> list[str]:
    """For each figure the last paragraph of the text before it, which says what it shows."""
    paragraph = ""
    descriptions = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            paragraph = text_of(cell).strip().split("\n\n")[-1]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                descriptions.append(paragraph)
    return descriptions


def write_html(notebook: dict, path: Path, language: str) -> None:
    """One page, with links to the other pages instead of notebooks, and descriptions of figures."""
    try:
        import nbformat
        from nbconvert import HTMLExporter
    except ImportError:
        sys.exit("error: HTML pages need nbconvert: pip install -r requirements-dev.txt")
    node = nbformat.reads(json.dumps(notebook), as_version=4)
    title = text_of(text_cells(notebook)[0]).splitlines()[0].removeprefix("# ")
    exporter = HTMLExporter(language_code=language)
    page, _ = exporter.from_notebook_node(node, {"metadata": {"name": title}})
    for description in figure_descriptions(notebook):
        page = page.replace(NO_DESCRIPTION, f'alt="{html.escape(description)}"', 1)
    path.write_text(page.replace('.ipynb"', '.html"'), encoding="utf-8")


def build(languages_and_form: list[str]) -> Path:
    """Writes an edition of all notebooks; returns its folder."""
    in_chinese = "zh" in languages_and_form
    as_html = "html" in languages_and_form
    folder = OUT / "-".join(sorted(languages_and_form, reverse=True))
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = read(path)
        if in_chinese:
            notebook = chinese(notebook, path.stem)
        notebook = moved_links(notebook, "../../../notebooks/")
        if as_html:
            language = "zh" if in_chinese else "en"
            write_html(notebook, folder / f"{path.stem}.html", language)
        else:
            text = json.dumps(notebook, indent=1, ensure_ascii=False)
            (folder / path.name).write_text(text + "\n", encoding="utf-8")
    return folder


def status() -> list[str]:
    """One line per notebook: translated cells, and the ids of those that are out of date."""
    lines = []
    for path in sorted(HERE.glob("*.ipynb")):
        known = translations(path.stem)
        cells = text_cells(read(path))
        current = 0
        changed = []
        for cell in cells:
            translated_digest, _ = known.get(cell["id"], ("", ""))
            if translated_digest == digest(text_of(cell)):
                current += 1
            elif translated_digest:
                changed.append(cell["id"])
        line = f"{path.stem:28} {current:2} of {len(cells):2} texts in Chinese"
        if changed:
            line += f"; out of date: {', '.join(changed)}"
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        "python notebooks/edition.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("edition", nargs="+", choices=("html", "zh", "status"))
    args = parser.parse_args()
    if "status" in args.edition:
        print("\n".join(status()))
        return
    print(build(args.edition))


if __name__ == "__main__":
    main()
