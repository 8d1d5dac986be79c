"""What a training leaves: a failed export costs nothing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nanollava.errors import UserError
from nanollava.export import save_llava
from nanollava.files import shipped
from nanollava.hf import files as hf_files
from nanollava.hf.files import save
from nanollava.hf.names import LLAMA
from nanollava.loading import load_llava
from nanollava.training import distributed, export
from nanollava.training.arguments import TrainConfig


@pytest.fixture(scope="module", autouse=True)
def process_group():
    distributed.start("cpu")
    yield
    distributed.finish()


def write_model(folder: Path, value: float) -> None:
    """A small model, all of whose weights have this value."""
    config = {"model_type": "small"}
    save({"model.x": torch.full((3,), value)}, folder, LLAMA, config)


def values(out: Path) -> set[float]:
    """The weights that a reader finds."""
    return set(load_file(out / "model.safetensors")["model.x"].tolist())


def test_a_result_is_written_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_instruct.py", "--out", "out"])
    export.write_result(tmp_path / "new folder", lambda folder: write_model(folder, 1.0))
    assert {file.name for file in (tmp_path / "new folder").iterdir()} == {
        "MADE_BY.txt",
        "config.json",
        "model.safetensors",
    }
    command = (tmp_path / "new folder/MADE_BY.txt").read_text()
    assert command.startswith("python train_instruct.py --out out\n")


def test_the_command_of_a_module_under_torchrun(monkeypatch):
    module = shipped("nanollava/train_qformer.py").resolve()
    monkeypatch.setattr("sys.argv", [str(module), "--out", "my run"])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setattr(export.dist, "is_torchelastic_launched", lambda: True)
    expected = "torchrun --nproc_per_node 1 -m nanollava.train_qformer --out 'my run'"
    assert export.same_command() == expected


def test_config_json_comes_last(tmp_path, monkeypatch):
    """Without it nothing loads the directory: an export is complete or not there."""
    model, tokenizer, image_config = load_llava(shipped("checkpoints/toy-llava"))

    def fails(*arguments, **options) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(hf_files, "save_file", fails)
    with pytest.raises(OSError, match="no space left"):
        save_llava(tmp_path, model, tokenizer, image_config, "vicuna_v1")
    names = {file.name for file in tmp_path.iterdir()}
    assert "tokenizer.json" in names
    assert not names & {"config.json", "model.safetensors"}


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("Some tensors share memory")])
def test_a_failed_export_says_where_the_state_is_and_how_to_export_again(
    tmp_path, monkeypatch, error
):
    checkpoint = tmp_path / "checkpoints/step-00000007"
    checkpoint.mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["train_instruct.py", "--out", str(tmp_path)])
    export.write_result(tmp_path, lambda folder: write_model(folder, 1.0))

    def fails(*arguments, **options) -> None:
        raise error

    monkeypatch.setattr(hf_files, "save_file", fails)

    config = TrainConfig(out=str(tmp_path))
    with pytest.raises(UserError) as raised, export.export_errors(config):
        export.write_result(tmp_path, lambda folder: write_model(folder, 2.0))
    message = str(raised.value)
    assert "\n" not in message
    assert str(error) in message
    assert f"the state of the training is in {checkpoint}" in message
    assert message.endswith(f"python train_instruct.py --out {tmp_path}")
    assert values(tmp_path) == {1.0}


def test_weights_that_are_infinite_in_the_saved_dtype_are_no_result():
    state = {"x": torch.tensor([1e5])}
    export.check_is_finite(state)
    with pytest.raises(UserError, match="x is NaN or infinite in torch.float16; --save-dtype fp32"):
        export.check_is_finite({"x": state["x"].half()})


def test_an_infinite_result_is_refused_where_all_ranks_hear_of_it(tmp_path, monkeypatch):
    """Only rank 0 has the gathered weights, so the check belongs to what rank 0 writes."""
    checked = []
    model, _, _ = load_llava(shipped("checkpoints/toy-llava"))
    monkeypatch.setattr(export, "full_state", lambda *_: {"x": torch.tensor([torch.inf])})
    monkeypatch.setattr(export, "write_result", lambda out, write: checked.append(write))
    export.export_w(TrainConfig(out=str(tmp_path)), model, frozen={})
    (write,) = checked
    with pytest.raises(UserError, match="x is NaN or infinite"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_of_several_processes_starts_torchrun(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_align.py", "--data", "my data.json"])
    monkeypatch.setattr(export.dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(export.dist, "get_world_size", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    command = export.same_command()
    assert command == "torchrun --nproc_per_node 2 train_align.py --data 'my data.json'"


def test_the_command_of_several_nodes_must_be_given_on_each(monkeypatch):
    monkeypatch.setattr(export.dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(export.dist, "get_world_size", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert export.same_command() == "the same torchrun command on every node"


def test_a_failed_export_without_a_checkpoint_says_that_it_trains_again(tmp_path):
    config = TrainConfig(out=str(tmp_path))
    expected = pytest.raises(UserError, match="no checkpoint, so this trains again: python")
    with expected, export.export_errors(config):
        raise OSError("disk full")
