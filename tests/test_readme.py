"""README.md against README.zh-CN.md, and both against the tree: commands, figures, files, flags."""

import io
import re
import runpy
import shlex
import sys
from collections import Counter
from contextlib import redirect_stdout, suppress
from functools import cache
from itertools import zip_longest
from pathlib import Path

import pytest

READMES = Path("README.md"), Path("README.zh-CN.md")
OURS = ("nanollava", "benchmarks", "tests", "notebooks", "docs", "checkpoints")
MADE = ("docs/tables.md", "metrics.jsonl")  # what the commands write, beside out/ and data/
UNIT = r"(?: ?(?:%|TFLOP/s|GiB|GB|MB|tokens/s|min|ms|x|h|s|B|M)(?![A-Za-z]))?"
FIGURE = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?" + UNIT)


def sections(text: str) -> list[dict]:
    """Level of the heading, code blocks, rows of tables (lists of cells) and prose of every section; no table in code."""
    found, fenced, before = [], False, ""
    for line in text.splitlines():
        indented = line.startswith("    ") and (not before or before.startswith("    "))
        if line.startswith("```") or fenced or indented:
            fenced ^= line.startswith("```")
            found[-1]["code"].append(line)
        elif heading := re.match(r"#+ ", line):
            found.append(
                {"level": len(heading[0]) - 1, "code": [], "rows": [], "prose": line + "\n"}
            )
        elif line.startswith("|"):
            found[-1]["rows"].append(line.strip("|").split("|"))
        else:
            found[-1]["prose"] += line + "\n"
        before = line
    return found


def inline(text: str) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def figures(text: str) -> Counter:
    """The numbers with their units that stand outside code, how often each."""
    plain = re.sub(r"`[^`]+`", "", text)
    return Counter(figure.replace(" ", "") for figure in FIGURE.findall(plain))


def links(text: str) -> Counter:
    return Counter(
        link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("README")
    )


def differences(one: str, other: str) -> list[str]:
    """What two READMEs tell differently but for their language: at each place, what either has and the other lacks."""
    told = []

    def compare(where: str, a, b) -> None:
        if a != b:
            only = (a - b, b - a) if isinstance(a, Counter) else (a, b)
            told.append(f"{where}: {only[0]} / {only[1]}")

    first, second = sections(one), sections(other)
    compare("levels of the headings", [s["level"] for s in first], [s["level"] for s in second])
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        here = f"section {i}"
        for x, y in zip_longest(a["code"], b["code"]):
            compare(f"{here}, code", x, y)
        for name, of in (
            ("inline code", lambda s: Counter(inline(s))),
            ("figures", figures),
            ("links", links),
        ):
            compare(f"{here}, {name}", of(a["prose"]), of(b["prose"]))
        compare(
            f"{here}, cells of each row",
            [len(row) for row in a["rows"]],
            [len(row) for row in b["rows"]],
        )
        for x, y in zip(sum(a["rows"], []), sum(b["rows"], []), strict=False):
            compare(f"{here}, cell {x.strip()!r}, code", Counter(inline(x)), Counter(inline(y)))
            compare(f"{here}, cell {x.strip()!r}, figures", figures(x), figures(y))
    return told


def commands(text: str) -> list[list[str]]:
    """Every command of code blocks and of inline code, in words, without comments."""
    lines = [
        code
        for s in sections(text)
        for code in "\n".join(s["code"]).replace("\\\n", " ").splitlines()
    ]
    prose = "\n".join(s["prose"] + "\n".join(map("|".join, s["rows"])) for s in sections(text))
    start = re.compile(r"\s*(?:[A-Z_]+=\S+ )*(?:time )?(?:python|torchrun|pip|cat|find) ")
    lines = [line for line in lines + inline(prose) if start.match(line)]
    words = [shlex.split(line, comments=True) for line in lines]
    return [list(part) for line in words for part in split(line, ("&&", "|"))]


def split(words: list[str], at: tuple[str, ...]) -> list[list[str]]:
    parts = [[]]
    for word in words:
        parts.append([]) if word in at else parts[-1].append(word)
    return parts


def program(words: list[str]) -> tuple[str, list[str]] | None:
    """Our script or module (as a path) that a command runs, with `score` and the like behind toyland, and its arguments."""
    for i, word in enumerate(words):
        if word == "-m" and words[i + 1].split(".")[0] in OURS:
            module = words[i + 1].replace(".", "/")
            path = f"{module}/__main__.py" if Path(module).is_dir() else f"{module}.py"
            sub = path.endswith("__main__.py")
            return path + (f" {words[i + 2]}" if sub else ""), words[i + 2 + sub :]
        if word.endswith(".py") and words[0] in ("python", "torchrun", "time"):
            return word, words[i + 1 :]
    return None


@cache
def flags(path: str) -> set[str]:
    """The flags in a program's --help."""
    path, *sub = path.split()
    if not re.search(r"argparse|arguments\(|beside\(", Path(path).read_text(encoding="utf-8")):
        return set()  # it would not stop at --help
    said, argv, modules = io.StringIO(), sys.argv, list(sys.path)
    sys.argv = [path, *sub, "--help"]
    try:
        with redirect_stdout(said), suppress(SystemExit):
            module = path.removesuffix(".py").replace("/", ".").removesuffix(".__main__")
            runpy.run_module(module, run_name="__main__") if "/" in path else runpy.run_path(
                path, run_name="__main__"
            )
    finally:
        sys.argv, sys.path[:] = argv, modules
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", said.getvalue()))


def unknown(text: str) -> list[str]:
    """Programs and files that are not there, flags that their program does not know, names that their file lacks."""
    told, known = [], {"--nproc_per_node", "--help"}
    for words in commands(text):
        if found := program(words):
            path, rest = found
            if not Path(path.split()[0]).is_file():
                told.append(f"{' '.join(words)}: there is no {path}")
                continue
            known |= flags(path)
            wrong = {word for word in rest if word.startswith("--")} - flags(path)
            told += [f"{' '.join(words)}: {flag}" for flag in wrong]
    whole = [s["prose"] + "\n".join(map("|".join, s["rows"])) for s in sections(text)]
    codes = inline("\n".join(whole))
    told += [
        flag
        for code in codes
        for flag in re.findall(r"(?:^| )(--[a-z][\w-]*)", code)
        if flag not in known
    ]

    block = "\n".join(line for s in sections(text) for line in s["code"])
    tree = re.search(r"^nanollava/\n.*?```", block, re.S | re.M)[0]
    listed = [
        ("nanollava/" if line[0] == " " else "") + name
        for line in tree.splitlines()[:-1]
        for name in re.findall(r"^ *(\S+)(?: (\S+\.py))?", line)[0]
        if name
    ]
    named = re.findall(
        rf"(?<![\w/.-])(?:{'|'.join(OURS)})/[\w./*-]+", block + "\n" + "\n".join([*codes, *whole])
    )
    named += [word for code in codes for word in code.split() if re.fullmatch(r"[\w/]+\.py", word)]
    named += [link.split("#")[0] for link in links("\n".join(whole)) if "//" not in link]
    for name in {*listed, *(name.rstrip(".") for name in named)} - set(MADE):
        if not any([*Path().glob(name), *Path("nanollava").glob(name)]):
            told.append(f"{name}: not in the repository")

    for name, symbol in re.findall(r"`([\w/]+\.py)`: `([\w.]+)`", "\n".join(whole)):
        path = next((p for p in (Path(name), Path("nanollava", name)) if p.is_file()), None)
        source = path.read_text(encoding="utf-8") if path else ""
        parts = symbol.split(".")
        if not all(
            re.search(rf"^\s*(?:(?:def|class) {part}\b|{part} = )", source, re.M) for part in parts
        ):
            told.append(f"{name} has no {symbol}")
    return told


def test_both_languages_tell_the_same():
    one, other = (path.read_text(encoding="utf-8") for path in READMES)
    assert differences(one, other) == []
    assert "(README.zh-CN.md)" in one and "(README.md)" in other


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_what_the_readme_names_is_there():
    assert unknown(READMES[0].read_text(encoding="utf-8")) == []


SMALL = """# a
Takes 4 s and 2.0x of `vit.py`, 1,024 tokens.

    python sample.py --image cat.jpg
    python -m nanollava.toyland score --count 3  # 9 s

## b
| x | y |
|---|---|
| 92.6% | `llava.py`: `LLaVA.loss`, `--int8` |

```
nanollava/
  plot.py show.py  views
tests/             one file a module
```
"""


@pytest.mark.parametrize(
    "old, new",
    [
        ("4 s", "5 s"),
        ("4 s", "4 h"),
        ("2.0x", "2.0"),
        ("2.0x", ""),
        ("92.6", "92.5"),
        ("cat.jpg", "dog.jpg"),
        ("9 s", "8 s"),
        ("1,024", "1024"),
        ("## b", "### b"),
        ("## b", "## b 2"),
        ("| x | y |", "| x |"),
        ("|---|---|\n", ""),
        ("`vit.py`", "vit"),
        ("3  #", "4  #"),
    ],
)
def test_a_change_in_one_language_is_seen(old, new):
    translated = SMALL.replace("Takes 4 s and 2.0x of `vit.py`", "`vit.py` 的 2.0x，用 4 s")
    assert differences(SMALL, translated) == []
    assert old in translated and differences(SMALL, translated.replace(old, new, 1)), (old, new)


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
    ],
)
def test_what_is_not_there_is_seen(old, new):
    assert unknown(SMALL) == []
    assert unknown(SMALL.replace(old, new)), (old, new)
