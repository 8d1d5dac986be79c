"""Checkpoints: a resumed run equals an undisturbed one, whatever stopped it."""

import json
import math
import os
import pickle
import resource
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nanollava import errors
from nanollava.errors import Stopped, UserError
from nanollava.training import distributed, loop, resume
from nanollava.training.arguments import TrainConfig
from nanollava.training.batches import Collator, global_batches
from nanollava.training.evaluation import mean_loss

STEPS = 11  # 26 samples in batches of 4: epochs end in the middle, after steps 7 and 14
CPU = torch.device("cpu")


class TinyModel(nn.Module):
    """What the loop needs: two blocks, a frozen part, and a loss on labelled positions."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.tower = nn.Linear(4, 4)
        self.head = nn.Linear(4, 100)  # so a checkpoint is larger than the other files of a run

    def loss(self, x, labels):
        for layer in (self.tower, *self.blocks):
            x = torch.tanh(layer(x))
        logits = self.head(x)[:, :-1]
        labels = labels[:, 1:]
        is_labelled = labels != -100
        loss = nn.functional.cross_entropy(
            logits[is_labelled], labels[is_labelled], reduction="sum"
        )
        return loss, is_labelled.sum()


class Samples:
    """26 samples. Reading the `signal_at`-th sends this process a signal."""

    def __init__(self, signal_at: int | None = None, number=signal.SIGTERM):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(26, 6, 4, generator=generator)
        self.labels = torch.randint(0, 5, (26, 6), generator=generator)
        self.reads = 0
        self.signal_at = signal_at
        self.number = number

    def __len__(self):
        return 26

    def __getitem__(self, index):
        self.reads += 1
        if self.reads == self.signal_at:
            os.kill(os.getpid(), self.number)
        return {"x": self.x[index], "labels": self.labels[index]}


def collate(samples):
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


@pytest.fixture(scope="module", autouse=True)
def process_group():
    distributed.start("cpu")
    yield
    distributed.finish()


SETTINGS = {
    "batch": 4,
    "micro_batch": 2,
    "lr": 0.05,
    "max_steps": STEPS,
    "save_steps": 2,
    "dtype": "fp32",
}


def train(out: Path, data=None, **settings) -> dict[str, torch.Tensor]:
    """A run in the directory `out`; returns the weights."""
    torch.manual_seed(0)
    model = TinyModel()
    distributed.freeze(model, {"tower.": False, "": True})
    config = TrainConfig(out=str(out), **{**SETTINGS, **settings})
    distributed.shard(model, model.blocks, model.tower, CPU, config)
    out.mkdir(exist_ok=True)
    collator = Collator(collate)

    def evaluate() -> dict[str, float]:
        return {"validation_loss": mean_loss(model, Samples(), collator, 2, CPU)}

    loop.train(model, data or Samples(), collator, config, CPU, evaluate)
    return distributed.full_state(model, torch.float32, "")


def losses(out: Path) -> list[tuple[int, float]]:
    entries = []
    for line in (out / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        entries.append((entry["step"], entry["loss"]))
    return entries


def checkpoints(out: Path) -> list[str]:
    return [path.name for path in resume.list_checkpoints(out / "checkpoints")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Weights and losses of a run that nothing stops."""
    out = tmp_path_factory.mktemp("undisturbed")
    weights = train(out)
    return weights, losses(out)


def assert_equals_undisturbed(out: Path, weights: dict, undisturbed) -> None:
    expected_weights, expected_losses = undisturbed
    assert weights.keys() == expected_weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected_weights[name]), name
    assert losses(out) == expected_losses


# The loop itself


def plain_run(max_grad_norm: float) -> dict[str, torch.Tensor]:
    """The obvious loop: one process, the whole batch at once."""
    torch.manual_seed(0)
    model = TinyModel()
    model.tower.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    data = Samples()
    for step, indices in zip(range(STEPS), global_batches(26, 4, seed=0), strict=False):
        # One step of warm-up (3% of 11), then half a cosine over the other ten.
        rate = 1.0 if step == 0 else 0.5 * (1 + math.cos(math.pi * (step - 1) / 10))
        optimizer.param_groups[0]["lr"] = 0.05 * rate
        loss_sum, num_labels = model.loss(**collate([data[i] for i in indices]))
        (loss_sum / num_labels).backward()
        nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize("max_grad_norm", [0.1, 100.0])  # all norms are clipped, or none
def test_the_loop_equals_the_obvious_one(tmp_path, max_grad_norm):
    weights = train(tmp_path, max_grad_norm=max_grad_norm)
    for name, tensor in plain_run(max_grad_norm).items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)


def test_another_seed_is_another_order(tmp_path, undisturbed):
    train(tmp_path, seed=1)
    assert losses(tmp_path) != undisturbed[1]


def test_a_loss_that_is_not_finite_ends_the_run_before_a_checkpoint(tmp_path):
    data = Samples()
    data.x[:] = torch.nan
    with pytest.raises(UserError, match=r"step 0 \(from 0\): the loss is nan"):
        train(tmp_path, data)
    assert checkpoints(tmp_path) == []


# Signals


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path, number, code, capsys):
    with pytest.raises(SystemExit) as exit:
        errors.run(lambda: train(tmp_path, Samples(signal_at=22, number=number), save_steps=0))
    assert exit.value.code == code
    assert "step-00000006 is written" in capsys.readouterr().err
    assert checkpoints(tmp_path) == ["step-00000006"]
    assert len(losses(tmp_path)) == 6


def test_the_same_command_resumes_after_a_signal(tmp_path, undisturbed):
    with pytest.raises(Stopped):
        train(tmp_path, Samples(signal_at=22), save_steps=0)
    # As if the process had died later, while it wrote a line: steps that are repeated are dropped.
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "loss": 99.0}\n{"step": 7, "lo')
    weights = train(tmp_path, save_steps=0)
    assert_equals_undisturbed(tmp_path, weights, undisturbed)


def test_a_checkpoint_right_after_an_evaluation_resumes_like_any_other(tmp_path, undisturbed):
    """An evaluation gathers the weights, and a checkpoint is made of the shards."""
    evaluated = {"eval_steps": 2, "validation": "given to `train`"}
    train(tmp_path, **evaluated)
    shutil.rmtree(tmp_path / f"checkpoints/step-{STEPS:08d}")
    assert checkpoints(tmp_path)[0] == "step-00000010"
    assert_equals_undisturbed(tmp_path, train(tmp_path, **evaluated), undisturbed)


def test_a_resumed_run_saves_its_last_step(tmp_path):
    """What comes after the training may fail, too."""
    with pytest.raises(Stopped):
        train(tmp_path, Samples(signal_at=22), save_steps=0)
    train(tmp_path, save_steps=0)
    assert checkpoints(tmp_path)[0] == f"step-{STEPS:08d}"


def test_a_signal_in_the_middle_of_a_step_ends_the_run_after_that_step(tmp_path, monkeypatch):
    original_loss = TinyModel.loss
    calls = []

    def loss_with_signal(self, **batch):
        calls.append(batch)
        if len(calls) == 5:  # the first of the third step's two micro-batches
            os.kill(os.getpid(), signal.SIGTERM)
        return original_loss(self, **batch)

    monkeypatch.setattr(TinyModel, "loss", loss_with_signal)
    with pytest.raises(Stopped):
        train(tmp_path, save_steps=0)
    assert checkpoints(tmp_path) == ["step-00000003"]


class KillsItsProcess(Samples):
    """The data-loading process that reads sample 7 is killed, as by the out-of-memory killer."""

    def __getitem__(self, index):
        if index == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_killed_data_process_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        errors.run(lambda: train(tmp_path, KillsItsProcess(), workers=1))
    message = capsys.readouterr().err.splitlines()[-1]
    assert exit.value.code == 2
    assert message.startswith("error: RuntimeError: DataLoader worker")
    assert "fewer --workers" in message


# When checkpoints are written


def test_a_run_without_checkpoints_writes_none(tmp_path):
    train(tmp_path, save_steps=0, save_minutes=0)
    assert checkpoints(tmp_path) == []


def test_a_short_run_saves_its_last_step(tmp_path):
    """Before the export, which may fail."""
    train(tmp_path, save_steps=0)
    assert checkpoints(tmp_path) == ["step-00000011"]


def test_the_newest_checkpoints_are_kept(tmp_path):
    train(tmp_path, keep=3)
    assert checkpoints(tmp_path) == ["step-00000011", "step-00000010", "step-00000008"]


def test_checkpoints_by_time_and_data_workers_do_not_change_the_result(tmp_path, undisturbed):
    weights = train(tmp_path, workers=2, save_steps=0, save_minutes=1e-9, keep=2)
    assert_equals_undisturbed(tmp_path, weights, undisturbed)
    assert len(checkpoints(tmp_path)) == 2


def test_a_checkpoint_is_written_every_so_many_minutes(tmp_path, monkeypatch):
    now = [0.0]
    original_loss = TinyModel.loss

    def takes_a_minute(self, **inputs):
        now[0] += 60
        return original_loss(self, **inputs)

    monkeypatch.setattr(TinyModel, "loss", takes_a_minute)
    monkeypatch.setattr(resume, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    train(tmp_path, batch=2, max_steps=10, save_steps=0, save_minutes=3, keep=9)
    assert checkpoints(tmp_path) == [f"step-{step:08d}" for step in (10, 9, 6, 3)]


# Broken checkpoints


@pytest.fixture
def stopped_run(tmp_path):
    """A run that a signal has stopped after step 6."""
    with pytest.raises(Stopped):
        train(tmp_path, Samples(signal_at=22), save_steps=0)
    return tmp_path


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_broken_checkpoint_is_reported_and_the_previous_one_used(tmp_path, undisturbed, capsys):
    train(tmp_path, keep=3)
    folder = tmp_path / "checkpoints"
    flip_a_bit(folder / "step-00000011/rank-00000.safetensors")
    (folder / "step-00000010/rank-00000.safetensors").unlink()
    weights = train(tmp_path, keep=1)
    assert_equals_undisturbed(tmp_path, weights, undisturbed)
    output = capsys.readouterr().out
    assert "step-00000011 is not readable" in output
    assert "files are missing or have changed" in output
    assert "step-00000010 is not readable" in output
    assert f"resuming from {folder}/step-00000008" in output
    assert checkpoints(tmp_path) == ["step-00000011"], "broken ones are replaced"


class WritesAFile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", [".metadata", "rank-00000.safetensors", "run.json"])
def test_no_file_of_a_checkpoint_can_run_code(tmp_path, name):
    """Even if its checksums are those of the malicious file."""
    train(tmp_path, keep=1)
    checkpoint = tmp_path / "checkpoints/step-00000011"
    executed = tmp_path / "executed"
    (checkpoint / name).write_bytes(pickle.dumps(WritesAFile(executed)))
    if name != "run.json":
        record = json.loads((checkpoint / "run.json").read_text())
        del record["crc32"]
        record["files"] = resume.checksums(checkpoint)
        record["crc32"] = resume.crc32_of_record(record)
        (checkpoint / "run.json").write_text(json.dumps(record))
    with suppress(resume.CheckpointError):
        train(tmp_path)
    assert not executed.exists()


def change_record(path: Path, **changes) -> None:
    """Changes run.json as someone would with an editor."""
    file = path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("changes", [{"step": 11}, {"step": "10"}, {"fingerprint": {}}])
def test_a_changed_run_json_is_not_used(tmp_path, undisturbed, changes, capsys):
    train(tmp_path, keep=3)
    shutil.rmtree(tmp_path / "checkpoints/step-00000011")
    change_record(tmp_path / "checkpoints/step-00000010", **changes)
    weights = train(tmp_path)
    assert_equals_undisturbed(tmp_path, weights, undisturbed)
    assert "step-00000010 is not readable" in capsys.readouterr().out


def test_a_checkpoint_under_the_name_of_another_step_is_not_used(tmp_path, undisturbed, capsys):
    """It would skip steps."""
    train(tmp_path, keep=3)
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder / "step-00000011")
    (folder / "step-00000010").rename(folder / "step-00000011")
    weights = train(tmp_path)
    assert_equals_undisturbed(tmp_path, weights, undisturbed)
    assert "is of step 10, which its directory is not" in capsys.readouterr().out


def test_a_pipe_in_a_checkpoint_is_not_waited_for(tmp_path, capsys):
    train(tmp_path, keep=2)
    os.mkfifo(tmp_path / "checkpoints/step-00000011/rank-00001.safetensors")
    train(tmp_path)
    assert "step-00000011 is not readable" in capsys.readouterr().out


def test_a_damaged_line_of_the_metrics_ends_no_training(stopped_run, undisturbed, capsys):
    file = stopped_run / "metrics.jsonl"
    lines = file.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"loss", b"l\xffss")
    file.write_bytes(b"\n".join(lines))
    weights = train(stopped_run)
    assert "metrics.jsonl, line 3" in capsys.readouterr().out
    assert [step for step, _ in losses(stopped_run)] == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]
    for name, tensor in weights.items():
        assert torch.equal(tensor, undisturbed[0][name]), name


def test_a_run_without_a_readable_checkpoint_is_refused(tmp_path):
    """It must not start over silently."""
    train(tmp_path, keep=1)
    (tmp_path / "checkpoints/step-00000011/run.json").write_text("{")
    with pytest.raises(resume.CheckpointError, match="no checkpoint is readable"):
        train(tmp_path)


# Full disks


def report_free_bytes(monkeypatch, free: int) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100 - free, free)
    )


def test_a_full_disk_ends_no_training(stopped_run, undisturbed, monkeypatch, capsys):
    report_free_bytes(monkeypatch, 10)
    weights = train(stopped_run)
    assert_equals_undisturbed(stopped_run, weights, undisturbed)
    assert "10 bytes free, a checkpoint takes" in capsys.readouterr().out
    assert checkpoints(stopped_run) == ["step-00000006"]


def test_a_file_system_that_does_not_know_its_free_space_gets_checkpoints(tmp_path, monkeypatch):
    report_free_bytes(monkeypatch, 0)
    train(tmp_path, max_steps=2)
    assert checkpoints(tmp_path) == ["step-00000002"]


def test_a_disk_that_is_full_while_writing_leaves_the_previous_checkpoint(
    stopped_run, undisturbed, capsys
):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))  # bytes of a file
    try:
        train(stopped_run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "step-00000006, is still valid" in capsys.readouterr().out
    assert checkpoints(stopped_run) == ["step-00000006"]
    assert not list(stopped_run.glob("checkpoints/*.partial"))  # it would keep the disk full
    assert_equals_undisturbed(stopped_run, train(stopped_run), undisturbed)


# Other settings


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lr": 0.1}, "step-00000011 was made with lr 0.05, now 0.1; use the same flags"),
        ({"dtype": "bf16"}, "with dtype 'torch.float32', now 'torch.bfloat16'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changes, message):
    train(tmp_path)
    settings = (tmp_path / "training.json").read_text()
    with pytest.raises(resume.CheckpointError, match=message):
        train(tmp_path, **changes)
    assert (tmp_path / "training.json").read_text() == settings
    assert json.loads(settings)["lr"] == 0.05


def test_settings_that_do_not_change_the_result_may_change(tmp_path, undisturbed):
    train(tmp_path, Samples(), max_steps=STEPS)
    shutil.rmtree(tmp_path / "checkpoints/step-00000011")
    weights = train(tmp_path, micro_batch=4, keep=1)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, undisturbed[0][name])


def test_resume_never_refuses_a_directory_with_checkpoints(tmp_path):
    train(tmp_path)
    with pytest.raises(UserError, match="--resume never, but .* contains checkpoints"):
        train(tmp_path, resume="never")
