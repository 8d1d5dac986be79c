"""What the design card binds: imports point one way, sizes stay small."""

from pathlib import Path


def test_sizes():
    shipped = sum(path.stat().st_size for path in Path("checkpoints").rglob("*") if path.is_file())
    assert 0 < shipped < 20e6
