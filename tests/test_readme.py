"""The READMEs and docs/: the commands, flags, files, symbols and links that they name exist."""

import io
import re
import runpy
import shlex
import sys
import unicodedata
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path

import pytest

ENGLISH = Path("README.md")
CHINESE = Path("README.zh-CN.md")
PAGES = [ENGLISH, CHINESE, *sorted(Path("docs").glob("*.md")), Path("notebooks/README.md")]

OURS = ("nanollava", "benchmarks", "tests", "notebooks", "docs", "checkpoints")
PROGRAMS = ("python", "torchrun", "pip", "jupyter", "time", "export")
OTHER_FLAGS = {"--help", "--index-url"}  # of pip, and of every program
TORCHRUN_FLAGS = {"--nproc_per_node", "--nnodes", "--rdzv_backend", "--rdzv_endpoint", "--rdzv_id"}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# Reading Markdown


def code_and_prose(text: str) -> tuple[list[str], list[str]]:
    """The lines of a page inside code blocks (fenced or indented), and all other lines."""
    code = []
    prose = []
    fenced = False
    previous = ""
    for line in text.splitlines():
        indented = line.startswith("    ") and (not previous or previous.startswith("    "))
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or indented:
            code.append(line)
        else:
            prose.append(line)
        previous = line
    return code, prose


def inline_code(prose: list[str]) -> list[str]:
    return re.findall(r"`([^`]+)`", "\n".join(prose))


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", "\n".join(code_and_prose(text)[1]))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found = set()
    for line in code_and_prose(text)[1]:
        if re.match(r"#+ ", line):
            title = line.lstrip("#").strip().lower().replace("`", "")
            kept = ""
            for character in title:
                is_letter = unicodedata.category(character)[0] in "LN"
                if is_letter or character in " -_":
                    kept += character
            found.add(kept.replace(" ", "-"))
    return found


def commands(text: str) -> list[list[str]]:
    """The shell commands of code blocks and of inline code as lists of words, without comments."""
    code, prose = code_and_prose(text)
    lines = "\n".join(code).replace("\\\n", " ").splitlines() + inline_code(prose)
    found = []
    for line in lines:
        words = shlex.split(line, comments=True) if starts_a_command(line) else []
        command = []
        for word in words:
            if word == "&&":
                found.append(command)
                command = []
            else:
                command.append(word)
        if command:
            found.append(command)
    return found


def starts_a_command(line: str) -> bool:
    without_variables = re.sub(r"^\s*([A-Z_]+=\S+ )*", "", line)
    return without_variables.split(" ")[0] in PROGRAMS


def program(command: list[str]) -> tuple[str, str, list[str]] | None:
    """File, subcommand and arguments of a command that runs one of our scripts or modules."""
    for i, word in enumerate(command):
        rest = command[i + 1 :]
        if word == "-m" and rest[0].split(".")[0] not in OURS:
            return None
        if word == "-m":
            path = Path(rest[0].replace(".", "/"))
            arguments = rest[1:]
            if not path.is_dir():
                return f"{path}.py", "", arguments
            if arguments and re.fullmatch(r"[a-z]+", arguments[0]):
                return f"{path}/__main__.py", arguments[0], arguments[1:]
            return f"{path}/__main__.py", "", arguments
        if word.endswith(".py") and command[0] in PROGRAMS:
            return word, "", rest
    return None


@cache
def flags(path: str, subcommand: str) -> set[str]:
    """The flags in a program's --help."""
    if not re.search(r"argparse|arguments", read(Path(path))):
        return set()  # it takes none, and would not stop at --help
    output = io.StringIO()
    argv = sys.argv
    modules = list(sys.path)
    sys.argv = [path, *subcommand.split(), "--help"]
    try:
        with redirect_stdout(output), suppress(SystemExit):
            if "/" in path:
                module = path.removesuffix(".py").replace("/", ".").removesuffix(".__main__")
                runpy.run_module(module, run_name="__main__")
            else:
                runpy.run_path(path, run_name="__main__")
    finally:
        sys.argv = argv
        sys.path[:] = modules
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", output.getvalue()))


# What a page names and the repository lacks


def wrong_commands(text: str) -> list[str]:
    """Programs that do not exist, and flags that their program does not have."""
    wrong = []
    for command in commands(text):
        found = program(command)
        if found is None:
            continue
        path, subcommand, arguments = found
        if not Path(path).is_file():
            wrong.append(f"{' '.join(command)}: no file {path}")
            continue
        for word in arguments:
            if word.startswith("--") and word not in flags(path, subcommand) | OTHER_FLAGS:
                wrong.append(f"{' '.join(command)}: {path} has no {word}")
    return wrong


def wrong_flags(text: str, known: set[str]) -> list[str]:
    """Flags in inline code that none of our programs has."""
    wrong = []
    for code in inline_code(code_and_prose(text)[1]):
        for flag in re.findall(r"(?:^| )(--[a-z][\w-]*)", code):
            if flag not in known:
                wrong.append(flag)
    return wrong


def wrong_files(page: Path, text: str) -> list[str]:
    """Files named in code that exist neither from the root, nor from nanollava/ or the page on."""
    code, prose = code_and_prose(text)
    named = []
    for source in [*code, *inline_code(prose)]:
        named += re.findall(rf"(?<![\w/.-])(?:{'|'.join(OURS)})/[\w./*-]+", source)
    for source in inline_code(prose):
        named += re.findall(r"^[\w/]+\.py$", source)
    wrong = []
    for name in named:
        if not [*Path().glob(name), *Path("nanollava").glob(name), *page.parent.glob(name)]:
            wrong.append(name)
    return wrong


def tree(text: str) -> list[str]:
    """The files and directories that the README's tree lists."""
    block = re.search(r"^```\n(nanollava/\n.*?)```", text, re.MULTILINE | re.DOTALL)[1]
    names = []
    for line in block.splitlines():
        folder = "nanollava/" if line.startswith("  ") else ""
        for name in line.split("  ")[1 if folder else 0].split():
            names.append(folder + name)
    return names


def wrong_links(page: Path, text: str) -> list[str]:
    """Links to files that do not exist, and to headings that their page lacks."""
    wrong = []
    for link in links(text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists():
            wrong.append(link)
        elif anchor and target.suffix == ".md":
            headings = anchors(text if target == page else read(target))
            if anchor not in headings:
                wrong.append(link)
    return wrong


def wrong_symbols(text: str) -> list[str]:
    """`file.py`: `Class.method` where the file has no such name."""
    wrong = []
    for name, symbol in re.findall(r"`([\w/]+\.py)`: `([\w.]+)`", text):
        paths = [path for path in (Path(name), Path("nanollava", name)) if path.is_file()]
        source = read(paths[0]) if paths else ""
        for part in symbol.split("."):
            if not re.search(rf"^\s*(?:(?:def|class) {part}\b|{part} = )", source, re.MULTILINE):
                wrong.append(f"{name} has no {symbol}")
    return wrong


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_run_programs_that_exist_with_flags_that_exist(page):
    assert wrong_commands(read(page)) == []


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_flags_named_in_prose_exist():
    known = OTHER_FLAGS | TORCHRUN_FLAGS
    for page in PAGES:
        for command in commands(read(page)):
            found = program(command)
            if found and Path(found[0]).is_file():
                known = known | flags(found[0], found[1])
    for page in PAGES:
        assert wrong_flags(read(page), known) == [], page


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_files_exist(page):
    assert wrong_files(page, read(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    assert wrong_links(page, read(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_symbols_exist(page):
    assert wrong_symbols(read(page)) == []


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=str)
def test_the_file_tree_is_the_repositorys(page):
    names = tree(read(page))
    assert len(names) > 20
    missing = [name for name in names if not Path(name).exists()]
    assert missing == []


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=str)
def test_the_readme_stays_short(page):
    assert len(read(page).splitlines()) <= 160


def test_both_readmes_have_the_same_commands_and_links():
    english = read(ENGLISH)
    chinese = read(CHINESE)
    assert code_and_prose(english)[0] == code_and_prose(chinese)[0]
    assert commands(english) == commands(chinese)
    own_pages = {"README.md", "README.zh-CN.md"}
    assert set(links(english)) - own_pages == set(links(chinese)) - own_pages
    assert "README.zh-CN.md" in links(english)
    assert "README.md" in links(chinese)


def test_the_readme_links_every_page():
    linked = links(read(ENGLISH))
    for page in Path("docs").glob("*.md"):
        assert str(page) in linked, page


@pytest.mark.parametrize("page", [ENGLISH, CHINESE, Path("docs/design.md")], ids=str)
def test_the_diagram_of_the_model_is_shown(page):
    assert re.search(r"!\[[^]]+\]\((docs/)?llava\.svg\)", read(page))


def test_files_of_the_ci_jobs_exist():
    workflow = read(Path(".github/workflows/ci.yml"))
    named = re.findall(r"[\w./-]*\w+\.(?:py|txt|jpg)", workflow)
    assert len(named) > 5
    assert [name for name in named if not Path(name).is_file()] == []


def test_the_python_example_runs(capsys):
    example = re.search(r"```python\n(.*?)```", read(ENGLISH), re.DOTALL)[1]
    assert len([line for line in example.splitlines() if line.strip()]) <= 6
    exec(compile(example, "README.md", "exec"), {})
    assert "purple" in capsys.readouterr().out


# The checks themselves, on a small page

SMALL_PAGE = """# a
See [b](#what-it-takes), [the license](LICENSE) and `vit.py`.

    python sample.py --image cat.jpg
    python -m nanollava.toyland score --count 3  # a comment

## What it takes
| x | y |
|---|---|
| y | `llava.py`: `LLaVA.loss`, `--int8` |

```
nanollava/
  plot.py show.py  views
tests/             one file per module
```
"""


def everything_wrong(text: str) -> list[str]:
    wrong = wrong_commands(text) + wrong_files(ENGLISH, text) + wrong_symbols(text)
    wrong += wrong_links(ENGLISH, text) + wrong_flags(text, flags("sample.py", ""))
    wrong += [name for name in tree(text) if not Path(name).exists()]
    return wrong


@pytest.mark.parametrize(
    "old, new",
    [
        ("sample.py", "samples.py"),
        ("--image", "--picture"),
        ("nanollava.toyland", "nanollava.toylands"),
        ("--count", "--counts"),
        ("`vit.py`", "`vits.py`"),
        ("--int8", "--int9"),
        ("LLaVA.loss", "LLaVA.lose"),
        ("show.py", "shown.py"),
        ("tests/", "test/"),
        ("(LICENSE)", "(LICENCE)"),
        ("#what-it-takes", "#what-it-gives"),
    ],
)
def test_a_name_that_does_not_exist_is_seen(old, new):
    assert everything_wrong(SMALL_PAGE) == []
    assert everything_wrong(SMALL_PAGE.replace(old, new)) != []
