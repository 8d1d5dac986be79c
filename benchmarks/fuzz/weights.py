"""Targets: weights in safetensors files, in pickles, and the index of shards."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path

import torch

from benchmarks.fuzz.case import Case, CodeExecuted, expect
from benchmarks.fuzz.configs import load_model
from benchmarks.fuzz.mutate import changed_bytes, changed_json
from nanollava.hf.files import shards
from nanollava.llava import LLaVA

DTYPES = ("F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X", "", 5, None)
SHAPES = ([], [0], [-1], [2**32, 2**32], [2**63], ["2"], [1.5], None)
LENGTHS = (0, 1, 7, 2**31, 2**63 - 1, 2**64 - 1, 100_000_001)


def safetensors(case: Case) -> None:
    """model.safetensors: its length, its header, its data."""
    kind = case.rng.choice(("llava", "clip", "llama"))
    whole = (case.world.path / kind / "model.safetensors").read_bytes()
    case.link(case.world.path / kind, "model.safetensors")
    content = changed_safetensors(case, whole)
    case.write("model.safetensors", content)
    model = load_model(case, kind)
    for name, parameter in model.named_parameters():
        expect(bool(torch.isfinite(parameter).all()), "weights are not finite")
        expect(parameter.device.type != "meta", f"{name} was not filled")
    check_header(content)


def changed_safetensors(case: Case, whole: bytes) -> bytes:
    rng = case.rng
    (size,) = struct.unpack("<Q", whole[:8])
    header = whole[8 : 8 + size]
    data = whole[8 + size :]
    kind = rng.random()
    if kind < 0.3:
        case.note = "one tensor's entry"
        header = changed_entry(rng, json.loads(header))
    elif kind < 0.5:
        case.note = "header"
        header = changed_json(rng, json.loads(header))
    elif kind < 0.6:
        case.note = "length of the header"
        length = rng.choice((*LENGTHS, size - 1, size + 1, len(whole)))
        return struct.pack("<Q", length) + whole[8:]
    elif kind < 0.7:
        case.note = "cut off"
        return whole[: rng.choice((0, 4, 8, 9, size + 8, len(whole) - 1))]
    elif kind < 0.85:
        case.note = "data"
        changed = bytearray(whole)
        start = rng.randrange(8 + size, len(whole) - 4)
        changed[start : start + 4] = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\xff", b"\0\0\0\0"))
        return bytes(changed)
    else:
        case.note = "bytes"
        return changed_bytes(rng, whole)
    return struct.pack("<Q", len(header)) + header + data


def changed_entry(rng: random.Random, header: dict) -> bytes:
    """A header with another dtype, shape, place or name of one tensor, or with a name twice."""
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    other = rng.choice(names)
    entry = header[name]
    kind = rng.randrange(6)
    if kind == 0:
        entry["dtype"] = rng.choice(DTYPES)
    elif kind == 1:
        entry["shape"] = rng.choice((*SHAPES, entry["shape"][::-1], [*entry["shape"], 1]))
    elif kind == 2:
        entry["data_offsets"] = header[other]["data_offsets"]
    elif kind == 3:
        begin, end = entry["data_offsets"]
        entry["data_offsets"] = rng.choice(([end, begin], [begin, end + 4], [-4, end], [begin]))
    elif kind == 4:
        header[rng.choice(("new", "", "lm_head.weight", "\ud800"))] = header.pop(name)
    text = json.dumps(header)
    if kind == 5:
        text = text.replace("{", "{" + f"{json.dumps(name)}: {json.dumps(header[other])}, ", 1)
    return text.encode()


def check_header(content: bytes) -> None:
    """No name may stand twice in the header of a file that was accepted."""
    (size,) = struct.unpack("<Q", content[:8])

    def check_pairs(pairs):
        names = [name for name, _ in pairs]
        expect(len(names) == len(set(names)), "a name stands twice in the header")
        return dict(pairs)

    json.loads(content[8 : 8 + size], object_pairs_hook=check_pairs)


def index(case: Case) -> None:
    """model.safetensors.index.json: shards elsewhere, missing, or of other tensors."""
    name = "model.safetensors.index.json"
    values = case.world.read_json(f"shards/{name}")
    weight_map = values["weight_map"]
    outside = os.path.relpath(case.world.path / "llava/model.safetensors", case.folder)
    odd_names = (
        outside,
        str(case.world.path / "llava/model.safetensors"),
        *("loop.safetensors", "config.json", ".", "", name, "pipe", "a\0b", "/dev/zero", "\ud800"),
        *(5, None, ["x"], {}, "x" * 5000),
    )
    tensor = case.rng.choice(list(weight_map))
    kind = case.rng.random()
    if kind < 0.3:
        weight_map[case.rng.choice((tensor, "new"))] = case.rng.choice(odd_names)
        content = json.dumps(values).encode()
    elif kind < 0.4:
        values["weight_map"] = dict.fromkeys(weight_map, case.rng.choice(odd_names))
        content = json.dumps(values).encode()
    elif kind < 0.5:
        other = case.rng.choice(list(weight_map))
        weight_map[tensor], weight_map[other] = weight_map[other], weight_map[tensor]
        content = json.dumps(values).encode()
    else:
        content = changed_json(case.rng, values)
    case.link(case.world.path / "shards", name)
    case.write(name, content)
    (case.folder / "loop.safetensors").symlink_to("loop.safetensors")
    os.mkfifo(case.folder / "pipe")
    model = LLaVA.from_pretrained(case.folder)
    for shard in shards(case.folder):
        expect(shard.parent == case.folder, "a shard outside of the model's folder")
    original = dict(case.world.model.named_parameters())
    for name, parameter in model.named_parameters():
        expect(torch.equal(parameter, original[name]), "another tensor than the shards have")


class Executes:
    """Pickles as a call, which a careless reader would execute."""

    def __init__(self, function, *arguments):
        self.function = function
        self.arguments = arguments

    def __reduce__(self):
        return self.function, self.arguments


def pickles(case: Case) -> None:
    """pytorch_model.bin: code, damaged pickles, odd tensors."""
    canary = case.folder / "canary"
    content = changed_pickle(case, canary)
    case.link(case.world.path / "clip", "model.safetensors")
    case.write("pytorch_model.bin", content)
    try:
        model = load_model(case, "clip")
    finally:
        if canary.exists():
            raise CodeExecuted("the pickle has made a directory")
    for parameter in model.vision_tower.parameters():
        expect(bool(torch.isfinite(parameter).all()), "weights are not finite")


def changed_pickle(case: Case, canary: Path) -> bytes:
    rng = case.rng
    file = case.world.path / rng.choice(("tower.bin", "legacy.bin"))
    kind = rng.random()
    if kind < 0.2:
        case.note = "code"
        return saved(rng, code(rng, canary))
    if kind < 0.5:
        case.note = "pickle inside the zip"
        return with_changed_pickle(rng, (case.world.path / "tower.bin").read_bytes())
    if kind < 0.75:
        case.note = "odd tensor"
        return saved(rng, with_odd_tensor(rng, torch.load(file, weights_only=True)))
    if kind < 0.8:
        case.note = "no checkpoint"
        return rng.choice((b"", b"PK\3\4", b"\x80\x02", b"{}", bytes(1000)))
    case.note = f"bytes of {file.name}"
    return changed_bytes(rng, file.read_bytes())


def code(rng: random.Random, canary: Path):
    """A value that makes the canary when it is unpickled."""
    calls = (
        Executes(os.mkdir, str(canary)),
        Executes(os.system, f"mkdir {canary}"),
        Executes(eval, f"__import__('os').mkdir({str(canary)!r})"),
        Executes(pickle.loads, pickle.dumps(Executes(os.mkdir, str(canary)))),
        Executes(Path.mkdir, canary),
    )
    call = rng.choice(calls)
    return rng.choice((call, {"a": call}, [call], {"embeddings.class_embedding": call}))


def saved(rng: random.Random, value) -> bytes:
    """A value as torch.save writes it, in the new format or the old one."""
    content = io.BytesIO()
    try:
        torch.save(value, content, _use_new_zipfile_serialization=rng.random() < 0.7)
    except Exception:  # the old format cannot hold everything
        content = io.BytesIO()
        torch.save(value, content)
    return content.getvalue()


def with_changed_pickle(rng: random.Random, content: bytes) -> bytes:
    """A checkpoint whose pickle is damaged, in a zip that is whole."""
    result = io.BytesIO()
    odd_pickles = (b"", b"\x80\x02N.", b"\x80\x02]q\0e.", b"\x80\x02X" + 4 * b"\xff", 9000 * b"(")
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            if name.endswith("data.pkl"):
                member = changed_bytes(rng, member)
                if rng.random() < 0.3:
                    member = rng.choice(odd_pickles)
            new.writestr(name, member)
    return result.getvalue()


def with_odd_tensor(rng: random.Random, state: dict):
    """A state dict in which one tensor is of a kind that no model has."""
    name = rng.choice(list(state))
    tensor = state[name]
    kinds = (
        lambda: tensor.to_sparse(),
        lambda: tensor.to("meta"),
        lambda: tensor.double(),
        lambda: tensor.half(),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.int(),
        lambda: tensor.to(torch.float8_e4m3fn),
        lambda: torch.full_like(tensor, float("nan")),
        lambda: torch.full_like(tensor, float("inf")),
        lambda: torch.nn.Parameter(tensor),
        lambda: tensor.new_zeros(1).expand(tensor.shape),
        lambda: torch.zeros(1).expand(2**30, 2**20),
        lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([tensor.reshape(-1)]),
        lambda: tensor.unsqueeze(0),
        lambda: tensor.new_zeros(0),
        lambda: torch.zeros(()),
        lambda: rng.choice((5, None, "x", [tensor], {"a": tensor})),
    )
    state[name] = rng.choice(kinds)()
    if rng.random() < 0.1:
        state[rng.choice((5, None, "", "x", f"vision_model.{name}"))] = tensor
    return rng.choice((state, state, state, {"state_dict": state}, list(state.items())))


def projector(case: Case) -> None:
    """mm_projector.safetensors, the result of stage 1."""
    whole = (case.world.path / "mm_projector.safetensors").read_bytes()
    path = case.write("mm_projector.safetensors", changed_safetensors(case, whole))
    parts = case.world.path
    image_token_id = case.world.tokenizer.image_token_id
    model = LLaVA.compose(parts / "clip", parts / "llama", path, image_token_id)
    for parameter in model.multi_modal_projector.parameters():
        expect(bool(torch.isfinite(parameter).all()), "weights are not finite")


TARGETS = {"safetensors": safetensors, "index": index, "pickles": pickles, "projector": projector}
