"""Targets: a checkpoint of a training that is resumed, and metrics.jsonl."""

import io
import json
import math
import os
import pickle
import shutil
import zlib
from contextlib import redirect_stdout
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.fuzz.case import Case, CodeExecuted, expect
from benchmarks.fuzz.mutate import changed_bytes, changed_json
from benchmarks.fuzz.weights import Executes
from nanollava.files import read_json_lines
from nanollava.plot import read_metric
from nanollava.training import metrics as training_metrics
from nanollava.training.arguments import TrainConfig
from nanollava.training.resume import Checkpoints, crc32_of_record

FINGERPRINT = {"lr": 0.001, "seed": 0, "data": "x.json", "samples": 10, "crc32 of data": 1234}
STEPS = (3, 6)  # with a checkpoint
ODD_STEPS = (0, 3, 5, 7, -1, 6.5, True, "6", None, 10**9, 10**30)


def little_model() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))
    return model, torch.optim.AdamW(model.parameters(), 1e-3)


def make(path: Path) -> None:
    """Write the checkpoints of a little training, and the weights that belong to each."""
    torch.manual_seed(1)
    model, optimizer = little_model()
    for step in STEPS:
        model(torch.randn(4, 6)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        Checkpoints(TrainConfig(out=str(path)), model, optimizer, FINGERPRINT).save(step)
        torch.save(model.state_dict(), path / f"state-{step}.pt")


def resume(case: Case) -> None:
    """The newest checkpoint is damaged: it is used as it was, or the one before it, or none."""
    folder = case.folder / "checkpoints"
    canary = case.folder / "canary"
    shutil.copytree(case.world.path / "checkpoints", folder)
    damage_checkpoint(case, folder / "step-00000006", canary)
    model, optimizer = little_model()
    checkpoints = Checkpoints(TrainConfig(out=str(case.folder)), model, optimizer, FINGERPRINT)
    report = io.StringIO()
    try:
        with redirect_stdout(report):
            record = checkpoints.load()
    finally:
        if canary.exists():
            raise CodeExecuted("a file of the checkpoint has made a directory")
    if record is None:
        return
    step = record["step"]
    expect(type(step) is int and step in STEPS, "resumes at a step that was not saved")
    says_so = "using the previous one" in report.getvalue()
    expect(says_so == (step == STEPS[0]), "uses the previous checkpoint without a word")
    expected = torch.load(case.world.path / f"state-{step}.pt", weights_only=True)
    for name, tensor in model.state_dict().items():
        expect(torch.equal(tensor, expected[name]), "resumes with other weights")


def damage_checkpoint(case: Case, checkpoint: Path, canary: Path) -> None:
    rng = case.rng
    file = rng.choice(sorted(checkpoint.iterdir()))
    record_path = checkpoint / "run.json"
    record = json.loads(record_path.read_text())
    kind = rng.random()
    case.note = file.name
    if kind < 0.3:
        content = changed_bytes(rng, file.read_bytes())
    elif kind < 0.4:
        case.note = f"without {file.name}"
        file.unlink()
        if rng.random() < 0.3:
            rng.choice((file.mkdir, lambda: file.symlink_to(file.name), lambda: os.mkfifo(file)))()
        return
    elif kind < 0.6:
        file = record_path
        content = changed_json(rng, record)
    elif kind < 0.75:
        file = record_path
        record["step"] = rng.choice(ODD_STEPS)
        content = json.dumps(record).encode()
    elif kind < 0.85:
        case.note = "another name"
        checkpoint.rename(checkpoint.with_name("step-00000007"))
        return
    else:
        case.note = f"a pickle in {file.name}"
        file = checkpoint / rng.choice((file.name, ".metadata"))
        content = pickle.dumps(Executes(os.mkdir, str(canary)))
        del record["crc32"]
        record["files"][file.name] = zlib.crc32(content)
        record["crc32"] = crc32_of_record(record)  # as if the pickle had always been there
        record_path.write_text(json.dumps(record))
    case.content = content
    file.write_bytes(content)


def metrics(case: Case) -> None:
    """metrics.jsonl of a run that resumes, and of a plot."""
    lines = []
    for step in range(6):
        entry = {"step": step, "loss": 1 / (step + 1), "validation_loss": 1.0, "seconds": 2.0}
        line = json.dumps(entry).encode()
        if case.rng.random() < 0.2:
            line = changed_json(case.rng, entry)
        lines.append(line)
    ends = (b"\n", b"", b"\n{", b'\n{"step": 7', b"\n}\n", b"\n\xff}\n", b"\n\0\0\0\n")
    path = case.write("metrics.jsonl", b"\n".join(lines) + case.rng.choice(ends))
    if case.rng.random() < 0.5:
        case.note = "plot"
        steps, losses = read_metric(case.folder, "loss")
        for value in (*steps, *losses):
            expect(isinstance(value, int | float) and math.isfinite(value), "no finite number")
        return
    case.note = "resume"
    seconds = training_metrics.keep_lines_before(path, 4)
    expect(math.isfinite(seconds), "seconds are not finite")
    for where, entry in read_json_lines(path):
        expect(entry["step"] < 4, f"{where}: keeps a step that is repeated")


TARGETS = {"resume": resume, "metrics": metrics}
