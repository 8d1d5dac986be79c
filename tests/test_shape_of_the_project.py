"""The shape of the project: which module may import which, and what the repository may contain.

All imports are read from the source, wherever they are: at the top of a file, inside a function,
in a cell of a notebook, or as a string passed to `import_module` or `runpy`.
"""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up: a module imports modules of its own layer and of layers earlier in this list.
LAYERS = {
    "ground": ["startup", "errors", "schema", "flags", "files", "device", "config"],
    "Hugging Face files": ["hf", "quantize"],
    "model": [
        "vit",
        "projector",
        "llama",
        "connectors",
        "sampling",
        "padding",
        "generate",
        "llava",
    ],
    "words and images": [
        "sentencepiece",
        "special_tokens",
        "tokenizer",
        "conversation",
        "image_config",
        "resample",
        "image",
        "archives",
        "data",
    ],
    "answers": ["compiled", "streaming", "loading", "assistant", "export"],
    "": [""],  # nanollava/__init__.py: the public names
    "programs": ["convert", "show", "plot"],
    "Toyland": ["toyland"],
    "training": ["training", "train_qformer"],
    "data engine and evaluation": ["synthesize", "evals"],
}

IMPORT_CALLS = ("import_module", "__import__", "run_module")
A_VARIABLE = "a module that is not named by a string"


def module_name(path: Path, root: Path) -> str:
    """nanollava/hf/__init__.py -> nanollava.hf"""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def source_code(path: Path) -> str:
    """The Python code of a file; of a notebook, that of its code cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = []
    for cell in json.loads(text)["cells"]:
        if cell["cell_type"] == "code":
            cells.append("".join(cell["source"]))
    return "\n".join(cells)


def imported_modules(path: Path, root: Path) -> set[str]:
    """Full names of the modules that a file imports. `from nanollava import llama` is an import of
    nanollava.llama; `from nanollava import load` is one of nanollava, which defines that name."""
    imported = set()
    for node in ast.walk(ast.parse(source_code(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported.add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            package = node.module or ""
            if node.level > 0:
                above = path.relative_to(root).parts[: -node.level]
                package = ".".join([*above, package]).strip(".")
            for alias in node.names:
                submodule = root / package.replace(".", "/") / alias.name
                if submodule.is_dir() or submodule.with_suffix(".py").is_file():
                    imported.add(f"{package}.{alias.name}")
                else:
                    imported.add(package)
        elif isinstance(node, ast.Call):
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in IMPORT_CALLS and node.args:
                argument = node.args[0]
                if isinstance(argument, ast.Constant):
                    imported.add(argument.value)
                else:
                    imported.add(A_VARIABLE)
    return imported


def package_imports(root: Path) -> dict[str, set[str]]:
    """Every module of the package, and what it imports."""
    imports = {}
    for path in sorted((root / "nanollava").rglob("*.py")):
        imports[module_name(path, root)] = imported_modules(path, root)
    return imports


def layer(module: str) -> int:
    """Index of the layer of a module of the package, or -1."""
    name = module.removeprefix("nanollava").removeprefix(".").split(".")[0]
    for index, names in enumerate(LAYERS.values()):
        if name in names:
            return index
    return -1


def is_ours(module: str) -> bool:
    return module.split(".")[0] == "nanollava"


def foreign_imports(root: Path) -> set[str]:
    """Imports of the package's modules that leave the package for other parts of the repository."""
    directories = {path.name for path in root.iterdir() if path.is_dir()}
    scripts = {path.stem for path in root.glob("*.py")}
    wrong = set()
    for module, imported in package_imports(root).items():
        for name in imported:
            top = name.split(".")[0]
            if name == A_VARIABLE or (not is_ours(name) and top in directories | scripts):
                wrong.add(f"{module} imports {name}")
    return wrong


def upward_imports(root: Path) -> set[str]:
    """Imports of a module by one of an earlier layer, and imports of or by a module in no layer."""
    wrong = set()
    for module, imported in package_imports(root).items():
        for name in filter(is_ours, imported):
            if layer(module) < layer(name) or layer(name) == -1 or layer(module) == -1:
                wrong.add(f"{module} imports {name}")
    return wrong


def cycle(imports: dict[str, set[str]]) -> list[str]:
    """The modules of a cycle of imports, or an empty list."""
    finished = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in finished:
            return []
        for name in sorted(imports.get(module, ())):
            found = visit(name, [*trail, module])
            if found:
                return found
        finished.add(module)
        return []

    for module in imports:
        found = visit(module, [])
        if found:
            return found
    return []


def outside_imports(root: Path) -> set[str]:
    """Imports of benchmarks, checkpoints and docs by scripts, tests and notebooks."""
    paths = [*root.glob("*.py"), *(root / "tests").glob("*.py")]
    paths += [*(root / "notebooks").glob("*.py"), *(root / "notebooks").glob("*.ipynb")]
    wrong = set()
    for path in paths:
        for name in imported_modules(path, root):
            if name.split(".")[0] in ("benchmarks", "checkpoints", "docs"):
                wrong.add(f"{module_name(path, root)} imports {name}")
    return wrong


def test_every_module_of_the_package_is_in_a_layer():
    without = [module for module in package_imports(ROOT) if layer(module) == -1]
    assert without == [], "add it to LAYERS above"


def test_layers_name_modules_that_there_are():
    for names in LAYERS.values():
        for name in filter(None, names):  # "" is nanollava/__init__.py
            path = ROOT / "nanollava" / name
            assert path.is_dir() or path.with_suffix(".py").is_file(), name


def test_the_package_imports_no_other_part_of_the_repository():
    assert foreign_imports(ROOT) == set()


def test_modules_import_only_from_their_layer_and_below():
    assert upward_imports(ROOT) == set()


def test_no_import_cycles():
    assert cycle(package_imports(ROOT)) == []


def test_scripts_tests_and_notebooks_import_no_benchmarks_checkpoints_or_docs():
    assert outside_imports(ROOT) == set()


def test_checkpoints_contain_no_python():
    assert list((ROOT / "checkpoints").rglob("*.py")) == []


def test_shipped_weights_stay_below_20_mb():
    size = 0
    for path in (ROOT / "checkpoints").rglob("*"):
        if path.is_file():
            size += path.stat().st_size
    assert 0 < size < 20e6


# The checks themselves, on a small project that breaks each rule once.

SMALL_PROJECT = {
    "nanollava/__init__.py": "from .llama import Llama\n",
    "nanollava/files.py": "import json\n",
    "nanollava/hf/__init__.py": "",
    "nanollava/hf/load.py": "from ..files import read_json\nfrom . import names\n",
    "nanollava/hf/names.py": "from nanollava import files\n",
    "nanollava/llama.py": "from .hf import load\n",
    "nanollava/training/loop.py": "from nanollava import llama\n",
    "tests/test_llama.py": "from nanollava.llama import Llama\n",
    "benchmarks/speed.py": "from nanollava import Llama\n",
    "notebooks/execute.py": "",
}


@pytest.fixture
def project(tmp_path):
    for name, text in SMALL_PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_a_sound_project_passes(project):
    assert foreign_imports(project) == set()
    assert upward_imports(project) == set()
    assert outside_imports(project) == set()
    assert cycle(package_imports(project)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import benchmarks.speed",
        "from benchmarks import speed",
        "def f():\n    import benchmarks.speed",
        "import_module('benchmarks.speed')",
        "importlib.import_module('benchmarks.speed')",
        "runpy.run_module('benchmarks.speed')",
    ],
)
def test_an_import_of_benchmarks_is_seen(project, line):
    (project / "nanollava" / "training" / "loop.py").write_text(line + "\n")
    assert foreign_imports(project) == {"nanollava.training.loop imports benchmarks.speed"}


def test_an_import_by_variable_is_seen(project):
    (project / "nanollava" / "files.py").write_text("def f(name):\n    import_module(name)\n")
    assert foreign_imports(project) == {f"nanollava.files imports {A_VARIABLE}"}


@pytest.mark.parametrize(
    "line",
    [
        "from .training import loop",
        "from .training.loop import train",
        "def f():\n    from nanollava.training import loop",
        "import_module('nanollava.training.loop')",
    ],
)
def test_an_import_of_a_higher_layer_is_seen(project, line):
    (project / "nanollava" / "llama.py").write_text(line + "\n")
    assert upward_imports(project) == {"nanollava.llama imports nanollava.training.loop"}


def test_a_module_without_a_layer_is_seen(project):
    (project / "nanollava" / "helpers.py").write_text("from .files import read_json\n")
    assert upward_imports(project) == {"nanollava.helpers imports nanollava.files"}


def test_a_cycle_is_seen(project):
    (project / "nanollava" / "hf" / "names.py").write_text("def f():\n    from . import load\n")
    found = cycle(package_imports(project))
    assert set(found) == {"nanollava.hf.load", "nanollava.hf.names"}


def test_a_notebook_that_imports_benchmarks_is_seen(project):
    cells = [
        {"cell_type": "markdown", "source": ["# 1"]},
        {"cell_type": "code", "source": ["import torch\n", "from benchmarks import speed\n"]},
    ]
    (project / "notebooks" / "01_a.ipynb").write_text(json.dumps({"cells": cells}))
    assert outside_imports(project) == {"notebooks.01_a imports benchmarks.speed"}
