"""Device, sharding, optimizer and the one loop of both stages. Knows neither LLaVA nor its files: a model with
`loss(**batch) -> (sum, count)` and a data set of `labels` and, perhaps, `pixel_values` are all it asks for."""

import json
import math
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import fsdp
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint as recompute
from torch.utils.data import DataLoader
from tqdm import tqdm

from .. import cpu
from ..device import matmul_rate, pick_device, pick_dtype
from ..errors import Stopped, UserError
from ..files import write_json
from . import resume
from .settings import FLAGS, Settings, micro_batch

STOP = (signal.SIGTERM, signal.SIGINT)  # each ends the training after a checkpoint


def start(device: str) -> torch.device:
    """Joins the process group of torchrun, or makes one of this process alone; returns this rank's device."""
    chosen = pick_device("cpu" if device == "auto" and not torch.cuda.is_available() else device)
    if chosen.type == "mps":
        raise UserError("--device mps: sharded training runs on cuda or cpu")
    alone = (
        {}
        if dist.is_torchelastic_launched()
        else dict(store=dist.HashStore(), rank=0, world_size=1)
    )
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", **alone)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", (chosen.index or 0) if alone else dist.get_node_local_rank())
        torch.cuda.set_device(chosen)
        torch.set_float32_matmul_precision("high")  # TF32, as the paper's runs
    return chosen


def finish() -> None:
    """Leaves the process group in order: no rank goes while another still talks to it."""
    dist.barrier()
    dist.destroy_process_group()


def announce(settings: Settings, rows: list[str], samples: int, title: str) -> None:
    """Rank 0 prints the settings and what is trained."""
    told = asdict(settings) | {"samples": samples, "ranks": dist.get_world_size()}
    if dist.get_rank() == 0:
        print(title, *(f"{k}={v}" for k, v in told.items()))
        print("\n".join(rows), flush=True)


def freeze(model: nn.Module, trainable: dict[str, bool]) -> list[str]:
    """Applies a table of name prefixes; every parameter must meet one. Returns lines that tell the counts."""
    counts, told = dict.fromkeys(trainable, 0), {True: "trained", False: "frozen"}
    for name, parameter in model.named_parameters():
        prefix = next((p for p in trainable if name.startswith(p)), None)
        if prefix is None:
            raise UserError(f"parameter {name!r} is in no row of the table {list(trainable)}")
        parameter.requires_grad_(trainable[prefix])
        counts[prefix] += parameter.numel()
    return [f"{p.rstrip('.'):24} {counts[p]:>14,}  {told[on]}" for p, on in trainable.items()]


def shard(model: nn.Module, blocks, frozen_tower: nn.Module, device, settings: Settings) -> None:
    """FSDP2: every block, then the root. What is trained becomes fp32, what is frozen the compute dtype, the frozen tower
    whole on each rank. Weights still lie in the files, mapped into memory: each rank reads a block, keeps its shard and
    lets the rest go."""
    dtype = pick_dtype(settings.dtype, device)
    mesh = dist.device_mesh.init_device_mesh(device.type, (dist.get_world_size(),))
    policy = {"mesh": mesh, "ignored_params": set(frozen_tower.parameters())}
    if device.type == "cpu" and mesh.size() == 1:  # weights are gathered once for both passes
        policy["reshard_after_forward"] = False
    if dtype != torch.float32:
        policy["mp_policy"] = fsdp.MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32
        )
    if (
        settings.offload_optimizer
    ):  # so do the shards of weights and gradients: AdamW runs on the CPU
        policy["offload_policy"] = fsdp.CPUOffloadPolicy(pin_memory=device.type == "cuda")
    cpu.products(model, device, dtype)
    frozen_tower.to(device, dtype)
    for block in blocks:
        block.forward = torch.compile(block.forward) if settings.compile else block.forward
        if settings.checkpoint_activations:
            block.forward = partial(recompute, block.forward, use_reentrant=False)
    for module in (*blocks, model):
        for parameter in (p for p in module.parameters() if not isinstance(p, DTensor)):
            parameter.data = parameter.data.to(device).to(
                torch.float32 if parameter.requires_grad else dtype
            )
        fsdp.fully_shard(module, **policy)  # moves buffers, too
    for method in ("loss", "generate"):
        fsdp.register_fsdp_forward_method(model, method)


def full_state(model: nn.Module, dtype: torch.dtype, *prefixes: str) -> dict[str, torch.Tensor]:
    """The unsharded state dict under some prefixes, on the CPU; all ranks must call it, rank 0 gets the tensors."""
    shards = ((name, t) for name, t in model.state_dict().items() if name.startswith(prefixes))
    whole = ((name, t.full_tensor() if isinstance(t, DTensor) else t) for name, t in shards)
    return {name: t.detach().to("cpu", dtype) for name, t in whole if dist.get_rank() == 0}


def cosine(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: linear warm-up over `warmup` of the steps, then a cosine to 0."""
    warm = max(1, math.ceil(steps * warmup))
    falling = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
    return (step + 1) / warm if step < warm else falling


def global_batches(
    samples: int, batch: int, epochs: int, seed: int, groups=None
) -> list[list[int]]:
    """Sample indices of every step: each epoch is shuffled by seed and its last, incomplete batch is kept. With `groups`,
    each sample's (has pictures, length), a batch is of one kind but for the last of the epoch, which takes the rests,
    and it is sorted by length, so that micro-batches hold samples of like lengths."""
    order = []
    for epoch in range(epochs):
        generator, whole = torch.Generator().manual_seed(seed * 1_000_003 + epoch), []
        rest = torch.randperm(samples, generator=generator).tolist()
        if groups:
            kinds = [[i for i in rest if groups[i][0] == kind] for kind in (True, False)]
            whole = [k[i : i + batch] for k in kinds for i in range(0, len(k) - batch + 1, batch)]
            whole = [whole[i] for i in torch.randperm(len(whole), generator=generator).tolist()]
            rest = [i for k in kinds for i in k[len(k) // batch * batch :]]
        whole += [rest[i : i + batch] for i in range(0, len(rest), batch)]
        order += [sorted(b, key=lambda i: (-groups[i][1], i)) for b in whole] if groups else whole
    return order


def share(batch: list[int], micro: int) -> list[list[tuple[int, bool]]]:
    """This rank's micro-batches of a global batch: samples rank, rank + ranks, ... A rank without a sample repeats one
    without labels (False), so that all ranks make the same calls."""
    ranks = dist.get_world_size()
    mine = [(i, True) for i in batch[dist.get_rank() :: ranks]]
    rounds = -(-len(batch) // (ranks * micro))
    return [mine[m * micro : (m + 1) * micro] or [(batch[0], False)] for m in range(rounds)]


@dataclass
class Reader:
    """Samples by (index, whether it counts), and their batches with what they hold."""

    data: torch.utils.data.Dataset
    collate: Callable
    flops: Callable | None = None

    def __getitem__(self, key: tuple[int, bool]) -> dict:
        sample = self.data[key[0]]
        return sample if key[1] else {**sample, "labels": torch.full_like(sample["labels"], -100)}

    def join(self, samples: list[dict]) -> tuple[dict, tuple]:
        """A batch, and what counts of it: labelled tokens (the first place is never predicted), tokens, pictures, FLOPs."""
        lengths = [len(s["labels"]) for s in samples]
        pictures = sum(len(s.get("pixel_values", ())) for s in samples)
        labelled = sum(int((s["labels"][1:] != -100).sum()) for s in samples)
        work = sum(self.flops(lengths, pictures, labelled).values()) if self.flops else 0.0
        return self.collate(samples), (labelled, sum(lengths), pictures, work) if labelled else (
            0,
            0,
            0,
            0.0,
        )

    def batches(self, batches: list[list[int]], micro: int, workers: int = 0) -> Iterator:
        """This rank's micro-batches of all batches in turn, read ahead by processes that leave signals to this one."""
        options = dict(num_workers=workers, worker_init_fn=ignore, generator=torch.Generator())
        options |= dict(collate_fn=self.join, pin_memory=torch.cuda.is_available())
        return iter(
            DataLoader(self, batch_sampler=[p for b in batches for p in share(b, micro)], **options)
        )


def ignore(_worker: int) -> None:
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)


def to(part: dict, device: torch.device) -> dict:
    return {k: v if v is None else v.to(device, non_blocking=True) for k, v in part.items()}


@torch.no_grad()
def mean_loss(model, data, collate, micro: int, device) -> float:
    """Loss over labelled tokens of a whole data set; all ranks share the work."""
    totals, batch = (
        torch.zeros(2, dtype=torch.float64, device=device),
        micro * dist.get_world_size(),
    )
    batches = [list(range(len(data)))[i : i + batch] for i in range(0, len(data), batch)]
    for part, _ in Reader(data, collate).batches(batches, micro):
        totals += torch.stack([x.double() for x in model.loss(**to(part, device))])
    dist.all_reduce(totals)
    return (totals[0] / totals[1]).item()


class Log:
    """metrics.jsonl, one object a step, and TensorBoard; of a run that goes on, the steps done stay and no others."""

    def __init__(self, out: Path, begin: int, tensorboard: bool):
        path = out / "metrics.jsonl"
        old = path.read_text(encoding="utf-8").splitlines() if begin and path.is_file() else []
        old = [line for line in old if line.endswith("}") and json.loads(line)["step"] < begin]
        aside = path.with_suffix(".partial")
        aside.write_text("".join(f"{line}\n" for line in old), encoding="utf-8")
        aside.replace(path)
        self.file, self.board = open(path, "a", encoding="utf-8"), None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError("--tensorboard: pip install tensorboard, or leave it out") from None
            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=begin)

    def write(self, entry: dict) -> None:
        try:
            self.file.write(json.dumps(entry) + "\n")
            self.file.flush()
        except OSError as error:  # a full disk ends no training
            print(f"warning: {self.file.name}: {error}", flush=True)
        for name, value in entry.items() if self.board else ():
            self.board.add_scalar(name, value, entry["step"])


def train(
    model: nn.Module,
    data,
    collate,
    settings: Settings,
    device: torch.device,
    flops: Callable[[list[int], int, int], dict] | None = None,
    evaluate: Callable[[], dict] | None = None,
) -> None:
    """Trains what `freeze` left trainable and writes metrics.jsonl into `settings.out`, one object a step. The loss of a
    step is the summed loss over the number of labelled tokens, both taken over all ranks and micro-batches, so that
    neither changes the result. `settings.batch` is global. `flops` counts the work on samples of these lengths with so
    many pictures and labels; what `evaluate` finds every `eval_steps` joins that step's metrics."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    micro = micro_batch(settings, ranks)
    per_epoch = -(-len(data) // settings.batch)
    steps = per_epoch * settings.epochs if settings.max_steps is None else settings.max_steps
    groups = data.groups() if settings.group else None
    batches = global_batches(
        len(data), settings.batch, -(-steps // per_epoch), settings.seed, groups
    )[:steps]

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, settings.lr, (0.9, 0.999), 1e-8, weight_decay=0.0, fused=True
    )
    out, folder = Path(settings.out), Path(settings.out) / "checkpoints"
    dtype = pick_dtype(settings.dtype, device)
    run = {
        k: v for k, v in asdict(settings).items() if not FLAGS[k].get("free")
    }  # the result hangs on it
    run |= {
        "dtype": str(dtype),
        "samples": len(data),
        "crc32 of data": getattr(data, "crc32", None),
    }
    say = partial(print, flush=True) if rank == 0 else lambda text: None
    if settings.resume == "never" and resume.found(folder):
        raise UserError(
            f"--resume never, but {folder} holds checkpoints; remove them or change --out"
        )
    told = resume.load(folder, model, optimizer, run, say)
    begin, before = told.get("step", 0), told.get("seconds", 0.0)
    kept = (
        begin > 0 or settings.save_steps > 0
    )  # a run that keeps checkpoints keeps its last step, too
    full = asdict(settings) | run | {"ranks": ranks}
    resume.on_rank_0(partial(write_json, out / "training.json", full))
    log = Log(out, begin, settings.tensorboard) if rank == 0 else None
    received, number = [], None  # signals that came, the one that ends the run
    handlers = {n: signal.signal(n, lambda number, frame: received.append(number)) for n in STOP}
    loader = Reader(data, collate, flops).batches(batches[begin:], micro, settings.workers)
    peak = max(
        matmul_rate(device, kind) for kind in {dtype, torch.float32}
    )  # a CPU takes the quicker way
    bar = tqdm(
        None, "train", steps, mininterval=0.5, disable=rank != 0, initial=begin, dynamic_ncols=True
    )
    model.train()
    start = previous = saved = time.perf_counter()
    for step in range(begin, steps):
        lr = settings.lr * cosine(step, steps, settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr
        parts, counts = zip(*(next(loader) for _ in share(batches[step], micro)), strict=True)
        totals = torch.tensor(
            [*map(sum, zip(*counts, strict=True))], dtype=torch.float64, device=device
        )
        dist.all_reduce(totals)
        labelled, tokens, pictures, work = totals.tolist()
        ends = torch.zeros(2 + len(STOP), dtype=torch.float64, device=device)
        for part in parts:
            loss, _ = model.loss(**to(part, device))
            (
                loss * (ranks / labelled)
            ).backward()  # FSDP takes the mean over ranks; the loss is a global sum
            ends[0] += loss.detach()
        norm = nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm).full_tensor().item()
        # Whether rank 0's clock asks for a checkpoint; the signals that any rank has got by now.
        late = rank == 0 and time.perf_counter() - saved >= 60 * settings.save_minutes > 0
        ends[1:] = torch.tensor([late, *(n in received for n in STOP)])
        dist.all_reduce(ends)
        loss_sum, late, *signals = ends.tolist()
        mean, done = loss_sum / labelled, step + 1
        if not math.isfinite(mean + norm):  # before it reaches the weights
            told = f"step {step}: the loss is {mean}, its gradient's norm {norm}"
            raise UserError(f"{told}; begin anew with --lr below {settings.lr}, or --dtype fp32")
        optimizer.step()
        optimizer.zero_grad()
        due = (
            evaluate
            and settings.eval_steps
            and done % settings.eval_steps == 0
            and not any(signals)
        )
        measured = evaluate() if due else {}
        now = time.perf_counter()
        if log is not None:
            seconds, resident = (
                now - previous,
                1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            )
            memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident
            entry = dict(step=step, loss=mean, lr=lr, grad_norm=norm, tokens=int(tokens))
            entry |= dict(
                label_tokens=int(labelled), pictures=int(pictures), memory=memory, **measured
            )
            entry |= dict(
                mfu=round(work / seconds / ranks / peak, 4), seconds=round(before + now - start, 3)
            )
            log.write(entry)
            shown = {
                "tokens/s": tokens / seconds,
                "pictures/s": pictures / seconds,
                "GB": memory / 1e9,
            }
            shown = dict(loss=mean, lr=lr, mfu=entry["mfu"], **shown, **measured).items()
            bar.set_postfix(
                {k: f"{v:,.3g}" if v < 1000 else f"{v:,.0f}" for k, v in shown}, refresh=False
            )
            bar.update()
        previous = now
        number = next(
            (n for n, sent in zip(STOP, signals, strict=True) if sent and done < steps), None
        )
        due = settings.save_steps and done % settings.save_steps == 0
        if number or late or due or (kept and done == steps):
            kept, saved, told = True, time.perf_counter(), {**run, "seconds": before + now - start}
            try:
                path = resume.save(folder, done, model, optimizer, told, settings.keep)
            except resume.CheckpointError as error:
                if number:
                    raise
                say(f"warning: {error}")
        if number:
            break
    bar.close()
    for n, handler in handlers.items():
        signal.signal(n, handler)
    model.eval()
    if number:
        raise Stopped(
            number, f"{signal.Signals(number).name} after step {done}/{steps}: {path} is written"
        )
