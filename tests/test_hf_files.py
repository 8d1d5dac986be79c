"""Weights in and out: shards and their index, broken files, full disks, the projector alone."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nanollava import LLaVA
from nanollava.files import read_json
from nanollava.hf import files as hf_files
from nanollava.hf.files import (
    projector_files,
    projector_kind,
    save,
    save_projector,
    shapes,
    shards,
    tensors,
)
from nanollava.hf.names import LLAMA, LLAVA, WeightsError

ONE_FILE = 10**9  # bytes per shard


@pytest.fixture
def path(llava_dir, tmp_path):
    """A directory that transformers has written, 250 kB in one file."""
    return shutil.copytree(llava_dir(), tmp_path / "model")


@pytest.fixture
def state(path):
    return LLaVA.from_pretrained(path).state_dict()


def tensors_of(count: int) -> dict[str, torch.Tensor]:
    """Tensors of 400 bytes."""
    return {f"model.{i}": torch.full((100,), float(i)) for i in range(count)}


def file_names(path) -> set[str]:
    return {file.name for file in path.iterdir()}


# Writing


def test_few_bytes_are_one_file(tmp_path):
    save(tensors_of(3), tmp_path, LLAMA)
    assert file_names(tmp_path) == {"model.safetensors"}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(tensor, tensors_of(3)[name])


def test_many_bytes_are_shards_with_an_index(tmp_path):
    save(tensors_of(5), tmp_path, LLAMA, shard_bytes=800)
    assert file_names(tmp_path) == {
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    }
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 2000}
    assert index["weight_map"]["model.2"] == "model-00002-of-00003.safetensors"


def test_a_tensor_larger_than_a_shard_has_a_shard_of_its_own(tmp_path):
    save(tensors_of(2), tmp_path, LLAMA, shard_bytes=100)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_shards_come_back_bit_by_bit(path, state, tmp_path):
    out = tmp_path / "shards"
    out.mkdir()
    shutil.copy(path / "config.json", out)
    save(state, out, LLAVA, shard_bytes=50_000)
    assert len(list(out.glob("model-*.safetensors"))) > 2
    again = LLaVA.from_pretrained(out).state_dict()
    for name, tensor in state.items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize(
    "first, second",
    [(ONE_FILE, 30_000), (30_000, 100_000), (30_000, ONE_FILE), (ONE_FILE, ONE_FILE)],
    ids=["one file, then shards", "then fewer shards", "shards, then one file", "one file twice"],
)
def test_a_second_save_leaves_nothing_of_the_first(path, state, first, second):
    name = "multi_modal_projector.linear_1.weight"
    save(state | {name: torch.zeros_like(state[name])}, path, LLAVA, shard_bytes=first)
    save(state | {name: torch.ones_like(state[name])}, path, LLAVA, shard_bytes=second)
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(path)
    ours = LLaVA.from_pretrained(path)
    assert (theirs.model.multi_modal_projector.linear_1.weight == 1).all()
    assert (ours.multi_modal_projector.linear_1.weight == 1).all()
    expected = {file.name for file in shards(path)}
    if second != ONE_FILE:
        expected.add("model.safetensors.index.json")
    assert {file.name for file in path.glob("model*")} == expected


def test_a_linear_projector_is_completed_by_an_identity(state, tmp_path):
    del state["multi_modal_projector.linear_2.weight"]
    del state["multi_modal_projector.linear_2.bias"]
    save(state, tmp_path, LLAVA)
    saved = load_file(tmp_path / "model.safetensors")
    assert torch.equal(saved["multi_modal_projector.linear_2.weight"], torch.eye(64))
    assert torch.equal(saved["multi_modal_projector.linear_2.bias"], torch.zeros(64))


def disk_with(free: int):
    return lambda folder: shutil._ntuple_diskusage(total=100, used=100 - free, free=free)


def test_a_full_disk_is_an_error_before_anything_is_written(path, state, monkeypatch):
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    monkeypatch.setattr(hf_files.shutil, "disk_usage", disk_with(free=1))
    with pytest.raises(OSError, match="1 bytes free, the weights take [0-9,]{5,}"):
        save(state, path, LLAVA)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors.0a1b2c3d.partial",
        "config.json.0a1b2c3d.partial",
        "model-00001-of-00002.safetensors",
        "model-next-00001-of-00002.safetensors",
    ],
)
def test_what_an_interrupted_save_has_left_is_removed(path, state, name):
    (path / name).write_bytes(b"half of it")
    save(state, path, LLAVA)
    assert not (path / name).exists()


def test_a_users_own_files_stay(path, state):
    for name in ("model.safetensors.partial", "model-notes.safetensors", "config.json.old"):
        (path / name).write_bytes(b"mine")
    save(state, path, LLAVA, shard_bytes=50_000)
    for name in ("model.safetensors.partial", "model-notes.safetensors", "config.json.old"):
        assert (path / name).read_bytes() == b"mine"


def test_a_file_system_that_always_says_0_is_written_to(path, state, monkeypatch):
    monkeypatch.setattr(hf_files.shutil, "disk_usage", disk_with(free=0))
    save(state, path, LLAVA)


SHARD_BYTES = {"one file": ONE_FILE, "two shards": 800, "three shards": 400}
CONFIG = {"hidden_size": 1}
OTHER_CONFIG = {"hidden_size": 2}


def save_values(path, value: float, num_files: str, config: dict = CONFIG) -> None:
    """A model whose tensors all have this value."""
    state = {f"model.{i}": torch.full((100,), value) for i in range(3)}
    save(state, path, LLAMA, config, SHARD_BYTES[num_files])


def values_in(path) -> set[float]:
    """The values of the tensors that a reader finds."""
    values = set()
    for file in shards(path):
        for tensor in load_file(file).values():
            values.update(tensor.tolist())
    return values


@pytest.mark.parametrize("new", SHARD_BYTES)
@pytest.mark.parametrize("old", SHARD_BYTES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_error_while_writing_leaves_the_old_model(tmp_path, monkeypatch, old, new, n):
    save_values(tmp_path, 1.0, old)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    calls = []

    def fail_at_call_n(*arguments, **options):
        calls.append(arguments)
        if len(calls) == n:
            arguments[1].write_bytes(b"half of it")
            raise SafetensorError("I/O error: No space left on device")
        save_file(*arguments, **options)

    save_file = hf_files.save_file
    monkeypatch.setattr(hf_files, "save_file", fail_at_call_n)
    try:
        save_values(tmp_path, 2.0, new, OTHER_CONFIG)
    except OSError as error:
        assert "No space left" in str(error)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    else:
        assert len(calls) < n


class Killed(BaseException):
    pass


def kill_before_change(patch: pytest.MonkeyPatch, n: int) -> None:
    """The process ends before the n-th change of a file: from then on nothing changes any more."""
    changes = []

    def dies(original):
        def change(*arguments, **options):
            if len(changes) >= n:
                raise Killed
            changes.append(arguments)
            return original(*arguments, **options)

        return change

    for name in ("replace", "unlink", "rename", "write_text"):
        patch.setattr(Path, name, dies(getattr(Path, name)))
    patch.setattr(hf_files, "save_file", dies(hf_files.save_file))


@pytest.mark.parametrize("new", SHARD_BYTES)
@pytest.mark.parametrize("old", SHARD_BYTES)
@pytest.mark.parametrize("config", [CONFIG, OTHER_CONFIG], ids=["same config", "other config"])
def test_a_kill_leaves_the_old_model_or_the_new_one(tmp_path, monkeypatch, old, new, config):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # hundreds of them would take seconds
    for n in range(100):
        path = tmp_path / str(n)
        path.mkdir()
        save_values(path, 1.0, old)
        is_killed = False
        with monkeypatch.context() as patch:
            kill_before_change(patch, n)
            try:
                save_values(path, 2.0, new, config)
            except Killed:
                is_killed = True
        values = values_in(path)
        assert values in ({1.0}, {2.0})
        if (path / "config.json").is_file():
            hidden_size = read_json(path / "config.json")["hidden_size"]
            assert config == CONFIG or values == {float(hidden_size)}
        else:
            assert config != CONFIG, "a config that does not change must always be there"
        save_values(path, 2.0, new, config)
        assert values_in(path) == {2.0}
        assert not list(path.glob("*.partial"))
        if not is_killed:
            return
    raise AssertionError("a save changes more files than this test tries")


def test_quantized_weights_are_not_saved(tmp_path):
    state = {"model.0": torch.zeros(3, dtype=torch.int8)}
    with pytest.raises(WeightsError, match="model.0 is torch.int8: quantized weights cannot be"):
        save(state, tmp_path, LLAMA)
    assert list(tmp_path.iterdir()) == []


# Reading


def test_of_one_file_and_shards_we_read_what_transformers_reads(path, state):
    """The library prefers one file to an index, whatever else is there."""
    single_file = (path / "model.safetensors").read_bytes()
    name = "multi_modal_projector.linear_1.weight"
    save(state | {name: torch.ones_like(state[name])}, path, LLAVA, shard_bytes=50_000)
    (path / "model.safetensors").write_bytes(single_file)
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(path)
    ours = LLaVA.from_pretrained(path)
    weight = theirs.model.multi_modal_projector.linear_1.weight
    assert torch.equal(ours.multi_modal_projector.linear_1.weight, weight)
    assert not (weight == 1).all()


def test_shapes_are_those_of_all_shards(tmp_path):
    save(tensors_of(5), tmp_path, LLAMA, shard_bytes=800)
    assert shapes(tmp_path) == {f"model.{i}": (100,) for i in range(5)}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_pickles_of_torch_are_read(tmp_path, zipped):
    file = tmp_path / "pytorch_model.bin"
    torch.save(tensors_of(2), file, _use_new_zipfile_serialization=zipped)
    (first, second) = tensors(file)
    assert (first.name, first.shape) == ("model.0", (100,))
    assert torch.equal(second.read(), tensors_of(2)["model.1"])


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "expected names and tensors, got list"),
        ({"step": 3}, "'step': int; expected names and dense tensors"),
        ({3: torch.ones(2)}, "3: Tensor; expected names"),
        ({"x": torch.ones(2).to_sparse()}, "'x': Tensor; expected names and dense"),
    ],
)
def test_a_pickle_of_other_things_is_an_error(tmp_path, content, message):
    torch.save(content, tmp_path / "model.bin")
    with pytest.raises(WeightsError, match=message):
        list(tensors(tmp_path / "model.bin"))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, device="meta"),
        torch.ones(1).expand(10**9),  # claims 4 GB, holds 4 bytes
    ],
    ids=["sparse", "meta", "expanded"],
)
def test_a_tensor_without_values_of_its_own_is_an_error(tmp_path, tensor):
    torch.save({"model.0": tensor}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pytorch_model.bin: "):
        list(tensors(tmp_path / "pytorch_model.bin"))


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match="nowhere: no such model directory"):
        shards(tmp_path / "nowhere")


def test_a_directory_without_weights_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match="no model.safetensors or pytorch_model.bin"):
        shards(tmp_path)


def test_a_missing_shard_is_an_error(tmp_path):
    save(tensors_of(5), tmp_path, LLAMA, shard_bytes=800)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"names model-00002.*, which is missing"):
        shards(tmp_path)


def test_a_save_that_fails_leaves_the_shards_of_an_unfinished_download(tmp_path, monkeypatch):
    save(tensors_of(5), tmp_path, LLAMA, shard_bytes=800)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    before = file_names(tmp_path)
    num_written = 0

    def write(named_tensors, path) -> None:
        nonlocal num_written
        num_written += 1
        if num_written == 2:
            raise OSError("no space left")
        save_file(named_tensors, path)

    monkeypatch.setattr(hf_files, "write_safetensors", write)
    with pytest.raises(OSError, match="no space left"):
        save(tensors_of(5), tmp_path, LLAMA, shard_bytes=800)
    assert file_names(tmp_path) == before


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["model.0"]}])
def test_an_index_without_a_weight_map_is_an_error(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="expected a 'weight_map' from tensors to files"):
        shards(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.bin", 5, None])
def test_an_index_that_leaves_its_folder_is_an_error(tmp_path, name):
    index = {"weight_map": {"model.0": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="'model.0': .*; expected a file in the same folder"):
        shards(tmp_path)


def test_a_name_twice_in_one_safetensors_file_is_an_error(tmp_path):
    """The library would take the second tensor without a word."""
    file = tmp_path / "model.safetensors"
    entries = [
        '"model.0": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}',
        '"model.0": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}',
    ]
    header = ("{" + ", ".join(entries) + "}").encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(WeightsError, match="comes twice|not a readable safetensors file"):
        list(tensors(file))


def test_a_pipe_in_place_of_weights_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="no model.safetensors"):
        shards(tmp_path)


def test_a_safetensors_file_cut_in_half_is_an_error(path):
    file = path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        list(tensors(file))


# The projector alone

LINEAR = {"multi_modal_projector.linear_1.weight": torch.ones(4, 3)}
MLP = LINEAR | {"multi_modal_projector.linear_2.weight": torch.ones(4, 4)}


def test_the_projector_of_stage_1_is_found_in_its_directory(tmp_path):
    save_projector(LINEAR, tmp_path / "mm_projector.safetensors")
    assert projector_files(tmp_path) == [tmp_path / "mm_projector.safetensors"]


def test_saving_a_projector_removes_what_a_killed_save_has_left(tmp_path):
    (tmp_path / "mm_projector.safetensors.12345678.partial").touch()
    save_projector(LINEAR, tmp_path / "mm_projector.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["mm_projector.safetensors"]


def test_the_projector_of_an_original_llava_is_in_its_shards(tmp_path):
    save(tensors_of(5), tmp_path, LLAMA, shard_bytes=800)
    assert projector_files(tmp_path) == shards(tmp_path)


def test_a_copy_of_the_projector_beside_a_model_is_not_read(tmp_path):
    """The published LLaVA v1.5 has one."""
    save(tensors_of(5), tmp_path, LLAMA, shard_bytes=800)
    save_projector(LINEAR, tmp_path / "mm_projector.safetensors")
    assert projector_files(tmp_path) == shards(tmp_path)


def test_a_tensor_of_an_unknown_dtype_is_an_error(tmp_path):
    header = {"model.0": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(3)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="model.safetensors"):
        for tensor in tensors(tmp_path / "model.safetensors"):
            tensor.read()


@pytest.mark.parametrize("state, kind", [(LINEAR, "linear"), (MLP, "mlp2x_gelu")])
def test_the_names_tell_which_projector_it_is(tmp_path, state, kind):
    file = tmp_path / "mm_projector.safetensors"
    save_projector(state, file)
    assert projector_kind([file]) == kind


def test_a_file_without_a_projector_is_an_error(tmp_path):
    torch.save({"model.norm.weight": torch.ones(3)}, tmp_path / "mm_projector.bin")
    with pytest.raises(WeightsError, match=r"no projector in it; expected .* \*mm_projector"):
        projector_kind([tmp_path / "mm_projector.bin"])


def test_a_file_that_is_no_projector_is_named(tmp_path):
    save_file({"logit_scale": torch.ones(1)}, tmp_path / "clip.safetensors")
    with pytest.raises(WeightsError, match="clip.safetensors: tensor 'logit_scale' has no place"):
        projector_kind([tmp_path / "clip.safetensors"])


def test_a_saved_projector_leaves_no_temporary_file(tmp_path):
    save_projector(LINEAR, tmp_path / "mm_projector.safetensors")
    assert file_names(tmp_path) == {"mm_projector.safetensors"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_weights_get_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        hf_files.save_projector({"linear_1.weight": torch.zeros(2, 2)}, tmp_path / "W.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "W.safetensors").stat().st_mode & 0o777 == 0o644
