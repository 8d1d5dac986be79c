"""What a training leaves: a failed or killed export costs nothing and mixes nothing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanollava.errors import UserError
from nanollava.training import distributed, export
from nanollava.training.arguments import TrainConfig


@pytest.fixture(scope="module", autouse=True)
def process_group():
    distributed.start("cpu")
    yield
    distributed.finish()


def write_model(folder: Path, value: int, shards: int) -> None:
    """A small model: every file has the same value."""
    names = ["model.safetensors"]
    if shards > 1:
        names = [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
        (folder / "model.safetensors.index.json").write_text(json.dumps(names))
    for name in names:
        save_file({"x": torch.tensor([value])}, folder / name)
    (folder / "config.json").write_text(json.dumps({"value": value, "shards": shards}))
    (folder / "tokenizer.json").write_text(json.dumps({"value": value}))


def values(out: Path) -> set[int]:
    """What a reader sees: the values of all files, or nothing without config.json."""
    if not (out / "config.json").is_file():
        return set()
    config = json.loads((out / "config.json").read_text())
    found = {config["value"], json.loads((out / "tokenizer.json").read_text())["value"]}
    names = ["model.safetensors"]
    if config["shards"] > 1:
        names = json.loads((out / "model.safetensors.index.json").read_text())
    for name in names:
        found.add(load_file(out / name)["x"].item())
    return found


def files(out: Path) -> set[str]:
    return {file.name for file in out.iterdir()}


@pytest.mark.parametrize("old, new", [(1, 1), (1, 3), (3, 1), (2, 3)])
def test_an_export_replaces_the_files_of_another_number_of_shards(tmp_path, old, new):
    export.replace_files(tmp_path, lambda folder: write_model(folder, 1, old))
    export.replace_files(tmp_path, lambda folder: write_model(folder, 2, new))
    assert values(tmp_path) == {2}
    other = tmp_path / "other"
    export.replace_files(other, lambda folder: write_model(folder, 2, new))
    assert files(other) == files(tmp_path) - {"other"}


class Killed(BaseException):
    pass


def kill_before_change(patch: pytest.MonkeyPatch, n: int) -> list[Path]:
    """The process ends before the n-th change of a file. Returns the changes until then."""
    changes = []

    def dies(original):
        def change(self, *arguments, **options):
            if len(changes) == n:
                raise Killed
            changes.append(self)
            return original(self, *arguments, **options)

        return change

    for name in ("replace", "unlink", "rename"):
        patch.setattr(Path, name, dies(getattr(Path, name)))
    return changes


@pytest.mark.parametrize("n", range(14))
@pytest.mark.parametrize("old, new", [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_a_kill_during_an_export_mixes_nothing(tmp_path, monkeypatch, old, new, n):
    export.replace_files(tmp_path, lambda folder: write_model(folder, 1, old))
    with monkeypatch.context() as patch:
        changes = kill_before_change(patch, n)
        try:
            export.replace_files(tmp_path, lambda folder: write_model(folder, 2, new))
        except Killed:
            assert len(changes) == n
        else:
            assert len(changes) < 14, "more changes than this test tries"
    assert len(values(tmp_path)) <= 1
    export.replace_files(tmp_path, lambda folder: write_model(folder, 2, new))
    assert values(tmp_path) == {2}


@pytest.mark.parametrize("new", [1, 3])
def test_a_kill_leaves_the_old_export_if_only_the_weights_of_one_file_differ(tmp_path, new):
    export.replace_files(tmp_path, lambda folder: write_model(folder, 1, 1))

    def write_and_die(folder: Path) -> None:
        write_model(folder, 2, new)
        raise Killed

    with pytest.raises(Killed):
        export.replace_files(tmp_path, write_and_die)
    assert values(tmp_path) == {1}


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("Some tensors share memory")])
def test_a_failed_export_says_where_the_state_is_and_how_to_export_again(
    tmp_path, monkeypatch, error
):
    checkpoint = tmp_path / "checkpoints/step-00000007"
    checkpoint.mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["train_instruct.py", "--out", str(tmp_path)])
    export.replace_files(tmp_path, lambda folder: write_model(folder, 1, 1))

    def fails(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half of")
        raise error

    config = TrainConfig(out=str(tmp_path))
    with pytest.raises(UserError) as raised, export.export_errors(config):
        export.replace_files(tmp_path, fails)
    message = str(raised.value)
    assert "\n" not in message
    assert str(error) in message
    assert f"the state of the training is in {checkpoint}" in message
    assert message.endswith(f"python train_instruct.py --out {tmp_path}")
    assert values(tmp_path) == {1}
    assert not (tmp_path / "export.partial").exists()


def test_the_command_of_several_processes_starts_torchrun(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_align.py", "--data", "my data.json"])
    monkeypatch.setattr(export.dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(export.dist, "get_world_size", lambda: 2)
    command = export.same_command()
    assert command == "torchrun --nproc_per_node 2 train_align.py --data 'my data.json'"
