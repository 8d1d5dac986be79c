"""Nothing is lost: resume equals the undisturbed run, broken and unwritable checkpoints, signals."""

import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from nanollava.errors import Stopped, UserError
from nanollava.training import distributed, loop, resume
from nanollava.training.arguments import TrainConfig
from nanollava.training.batches import Collator

STEPS = 11  # 26 samples in batches of 4: epochs end in the middle, at steps 7 and 14


class Line(nn.Module):
    """A model of the loop's interface: two blocks, one frozen, and a loss on labelled places."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.tower = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5)

    def loss(self, x, labels):
        for layer in (self.tower, *self.blocks):
            x = torch.tanh(layer(x))
        logits = self.head(x)[:, :-1]
        trained = labels[:, 1:] != -100
        return nn.functional.cross_entropy(
            logits[trained], labels[:, 1:][trained], reduction="sum"
        ), trained.sum()

    def generate(self):
        pass


class Samples:
    def __init__(self, stop_at: int | None = None, number=signal.SIGTERM):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(26, 6, 4, generator=generator)
        self.labels = torch.randint(0, 5, (26, 6), generator=generator)
        self.calls, self.stop_at, self.number = 0, stop_at, number

    def __len__(self):
        return 26

    def __getitem__(self, index):
        self.calls += 1
        if self.calls == self.stop_at:
            os.kill(os.getpid(), self.number)
        return {"x": self.x[index], "labels": self.labels[index]}


def collate(samples):
    return {key: torch.stack([s[key] for s in samples]) for key in samples[0]}


@pytest.fixture(scope="module", autouse=True)
def group():
    distributed.start("cpu")
    yield
    distributed.finish()


def train(out: Path, data=None, **settings) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = Line()
    distributed.freeze(model, {"tower.": False, "": True})
    given = (
        dict(
            out=str(out),
            batch=4,
            micro_batch=2,
            lr=0.05,
            max_steps=STEPS,
            save_steps=2,
            dtype="fp32",
        )
        | settings
    )
    given = TrainConfig(**given)
    distributed.shard(model, model.blocks, model.tower, torch.device("cpu"), given)
    out.mkdir(exist_ok=True)
    collator = Collator(collate)
    loop.train(model, data or Samples(), collator, given, torch.device("cpu"))
    return distributed.full_state(model, torch.float32, "")


def steps(out: Path) -> list[tuple[int, float]]:
    return [
        (m["step"], m["loss"])
        for m in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    ]


def equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return train(out), steps(out)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_in_a_checkpoint_from_which_the_run_goes_on(
    tmp_path, whole, number, code, capsys
):
    from nanollava import errors

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        errors.run(lambda: train(tmp_path, Samples(stop_at=22, number=number), save_steps=0))
    assert stopped.value.code == code and "step-00000006 is written" in capsys.readouterr().err
    assert [p.name for p in resume.list_checkpoints(tmp_path / "checkpoints")] == ["step-00000006"]
    assert len(steps(tmp_path)) == 6 and signal.getsignal(number) is before
    with open(
        tmp_path / "metrics.jsonl", "a"
    ) as log:  # as if the run had died later, in the middle of a line
        log.write('{"step": 6, "loss": 99.0}\n{"step": 7, "lo')
    equal(train(tmp_path, save_steps=0), whole[0])
    assert steps(tmp_path) == whole[1]
    # A run that has kept something keeps its end: what comes after it may fail.
    assert f"step-{STEPS:08d}" == resume.list_checkpoints(tmp_path / "checkpoints")[0].name


def test_a_signal_while_a_step_is_computed_ends_with_that_step(tmp_path, monkeypatch):
    loss, calls = Line.loss, []

    def killing(self, **batch):
        calls.append(0)
        if len(calls) == 5:  # the first of the third step's two micro-batches
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, **batch)

    monkeypatch.setattr(Line, "loss", killing)
    with pytest.raises(Stopped):
        train(tmp_path, save_steps=0)
    assert [p.name for p in resume.list_checkpoints(tmp_path / "checkpoints")] == ["step-00000003"]


def test_a_short_run_keeps_nothing_unasked(tmp_path):
    train(tmp_path, save_steps=0)
    assert not resume.list_checkpoints(tmp_path / "checkpoints")


def test_the_last_few_stay_and_a_broken_one_gives_way_to_the_former(tmp_path, whole, capsys):
    train(tmp_path, keep=3)
    folder = tmp_path / "checkpoints"
    assert [p.name for p in resume.list_checkpoints(folder)] == [
        "step-00000011",
        "step-00000010",
        "step-00000008",
    ]
    file = folder / "step-00000011/__0_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)  # one bit
    (folder / "step-00000010/.metadata").unlink()
    equal(train(tmp_path, keep=1), whole[0])
    said = capsys.readouterr().out
    assert "step-00000011 is not readable" in said and "files are missing or have changed" in said
    assert (
        "step-00000010 is not readable" in said and f"resuming from {folder}/step-00000008" in said
    )
    assert [p.name for p in resume.list_checkpoints(folder)] == ["step-00000011"] and steps(
        tmp_path
    ) == whole[1]
    (folder / "step-00000011/run.json").write_text("{")
    with pytest.raises(resume.CheckpointError, match="no checkpoint is readable"):
        train(tmp_path)


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path, whole, capsys, monkeypatch):
    """Seen beforehand (free bytes), and met while writing (a limit on the size of files)."""
    folder = tmp_path / "checkpoints"
    with pytest.raises(Stopped):
        train(tmp_path, Samples(stop_at=22), save_steps=0)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
        equal(
            train(tmp_path, max_steps=STEPS), whole[0]
        )  # goes on: what is trained is not thrown away
        assert "10 bytes free, a checkpoint takes" in capsys.readouterr().out
        patch.setattr(
            shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 0)
        )  # not known
        train(tmp_path / "unknown", max_steps=2)
        assert resume.list_checkpoints(tmp_path / "unknown/checkpoints")
    assert [p.name for p in resume.list_checkpoints(folder)] == ["step-00000006"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        train(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "step-00000006, is still valid" in capsys.readouterr().out
    assert [p.name for p in resume.list_checkpoints(folder)] == ["step-00000006"]
    equal(train(tmp_path), whole[0])


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(tmp_path)
    settings = (tmp_path / "training.json").read_text()
    with pytest.raises(
        resume.CheckpointError,
        match="step-00000011 was made with lr 0.05, now 0.1; use the same flags",
    ):
        train(tmp_path, lr=0.1)
    with pytest.raises(
        resume.CheckpointError, match="with dtype 'torch.float32', now 'torch.bfloat16'"
    ):
        train(tmp_path, dtype="bf16")
    with pytest.raises(UserError, match="--resume never, but .* contains checkpoints"):
        train(tmp_path, resume="never")
    assert (tmp_path / "training.json").read_text() == settings and json.loads(settings)[
        "lr"
    ] == 0.05


def test_readers_and_minutes_change_nothing(tmp_path, whole):
    equal(train(tmp_path, workers=2, save_steps=0, save_minutes=1e-9, keep=2), whole[0])
    assert (
        len(resume.list_checkpoints(tmp_path / "checkpoints")) == 2 and steps(tmp_path) == whole[1]
    )
