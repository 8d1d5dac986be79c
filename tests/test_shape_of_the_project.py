"""What the design card binds: imports point one way, sizes stay small."""

import ast
from pathlib import Path

BELOW = {  # a module may import these of the package, and nothing else of it
    "config": set(),
    "int8": set(),
    "weights": {"config", "int8"},
    "projector": set(),
    "vit": {"config", "weights"},
    "llama": {"config", "int8", "weights"},
    "tokenizer": {"config"},
    "conversation": {"config", "tokenizer"},
    "image": {"config"},
    "cpu": {"device", "llama"},
    "generate": {"config", "conversation", "cpu", "image", "llama", "tokenizer"},
    "llava": {"config", "conversation", "generate", "int8", "llama", "projector", "vit", "weights"},
    "data": {"config", "conversation", "image", "tokenizer"},
    "device": {"config"},
    "checkpoint": {"config"},
    "engine": {"checkpoint", "config", "cpu", "device"},
    "cli": {"checkpoint", "config", "conversation", "data", "device", "engine"},
    "synthesize": {"device"},
    "plan": {"config", "data", "tokenizer", "weights"},
    "plot": {"config", "device"},
    "convert": {"device"},
    "show": {"config", "conversation", "device", "generate", "image", "llama", "llava", "tokenizer"},
    "__init__": {"llava"},
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("nanollava")):
            module = (node.module or "").removeprefix("nanollava").strip(".")
            names |= {module.split(".")[0]} if module else {alias.name for alias in node.names}
    return names


def test_imports_point_one_way():
    modules = {path.stem: path for path in Path("nanollava").glob("*.py")}
    assert set(modules) == set(BELOW), "a new module needs a row in this table"
    for name, path in modules.items():
        assert imported(path) <= BELOW[name], name


def test_sizes():
    def lines(paths) -> int:
        return sum(len(path.read_text().splitlines()) for path in paths)

    core = [Path(f"nanollava/{name}.py") for name in ("vit", "projector", "llama", "llava")]
    assert lines([*core, Path("train_align.py"), Path("train_instruct.py")]) <= 1100
    assert lines(Path("nanollava").rglob("*.py")) <= 3500
    shipped = sum(path.stat().st_size for path in Path("checkpoints").rglob("*") if path.is_file())
    assert 0 < shipped < 20e6
