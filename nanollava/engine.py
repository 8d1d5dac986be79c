"""Device, sharding, optimizer and the one loop of both stages. Knows neither LLaVA nor the data: a model with
`loss(**batch) -> (sum, count)` and a data set with a collate function are all it asks for."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from .config import UserError
from .device import pick_device, pick_dtype  # noqa: F401


class SettingsError(UserError):
    """Flags that contradict each other or the machine."""


@dataclass(frozen=True)
class Settings:
    """How to train. `batch` is global: samples of one optimizer step, over all ranks and micro-batches."""

    out: str
    batch: int
    lr: float
    micro_batch: int | None = None  # samples of one forward pass on one rank; None takes batch / ranks
    epochs: int = 1
    max_steps: int | None = None
    warmup: float = 0.03  # share of the steps
    clip: float = 1.0
    seed: int = 0


def start(device: str) -> torch.device:
    """Joins the process group of torchrun, or makes one of this process alone; returns this rank's device."""
    chosen = pick_device("cpu" if device == "auto" and not torch.cuda.is_available() else device)
    if chosen.type == "mps":
        raise SettingsError("--device mps: sharded training runs on cuda or cpu")
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    if dist.is_torchelastic_launched():
        dist.init_process_group(backend)
        if chosen.type == "cuda":
            chosen = torch.device("cuda", dist.get_node_local_rank())
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen


def announce(args, rows: list[str], samples: int, title: str) -> None:
    """Rank 0 makes the output directory and prints the run's flags and the table of what is trained."""
    if dist.get_rank() == 0:
        try:
            Path(args.out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"--out {args.out}: cannot be made ({error})") from None
        print(title, *(f"{k}={v}" for k, v in vars(args).items()))
        print("\n".join(rows))
        print(f"{samples:,} samples, {dist.get_world_size()} rank(s)", flush=True)


def freeze(model: nn.Module, trainable: dict[str, bool]) -> list[str]:
    """Applies a table of name prefixes; every parameter must meet one. Returns lines that tell the counts."""
    counts = dict.fromkeys(trainable, 0)
    for name, parameter in model.named_parameters():
        prefix = next((p for p in trainable if name.startswith(p)), None)
        if prefix is None:
            raise SettingsError(f"parameter {name!r} is in no row of the table {list(trainable)}")
        parameter.requires_grad_(trainable[prefix])
        counts[prefix] += parameter.numel()
    state = {True: "trained", False: "frozen"}
    return [f"{p.rstrip('.'):24} {counts[p]:>14,}  {state[on]}" for p, on in trainable.items()]


def shard(model: nn.Module, blocks, frozen_tower: nn.Module, device, dtype: torch.dtype) -> None:
    """FSDP2: every block, then the root. The frozen tower stays whole on each rank, in the compute dtype."""
    mesh = dist.device_mesh.init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    policy = policy if dtype != torch.float32 else MixedPrecisionPolicy()
    frozen_tower.to(device, dtype)
    model.to(device)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=set(frozen_tower.parameters()))
    register_fsdp_forward_method(model, "loss")


def full_state(model: nn.Module, dtype: torch.dtype | None = None, prefix="") -> dict[str, torch.Tensor]:
    """The unsharded state dict under a prefix, on the CPU; all ranks must call it, rank 0 gets the tensors."""
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix):
            tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if dist.get_rank() == 0:
                state[name] = tensor.detach().to("cpu", dtype or tensor.dtype)
    return state


def cosine(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: linear warm-up over `warmup` of the steps, then a cosine to 0."""
    warm = max(1, math.ceil(steps * warmup))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def global_batches(samples: int, batch: int, epochs: int, seed: int) -> list[list[int]]:
    """Sample indices of every step: each epoch is shuffled by seed and its last, incomplete batch is kept."""
    order = []
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        shuffled = torch.randperm(samples, generator=generator).tolist()
        order += [shuffled[i : i + batch] for i in range(0, samples, batch)]
    return order


def train(model: nn.Module, data, collate, settings: Settings, device: torch.device) -> None:
    """Trains what `freeze` left trainable and writes metrics.jsonl into `settings.out`, one object a step.

    The loss of a step is the summed loss over the number of labelled tokens, both taken over all ranks and
    micro-batches, so that neither changes the result.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    micro = settings.micro_batch or max(1, settings.batch // ranks)
    if settings.batch % (ranks * micro):
        given = f"--batch {settings.batch} (global) is no multiple of {ranks} ranks x --micro-batch {micro}"
        raise SettingsError(f"{given}; change either")
    batches = global_batches(len(data), settings.batch, settings.epochs, settings.seed)
    steps = len(batches) if settings.max_steps is None else settings.max_steps
    rounds = -(-steps // len(batches))
    if rounds > 1:
        batches = global_batches(len(data), settings.batch, settings.epochs * rounds, settings.seed)
    batches = batches[:steps]

    # Rank r takes samples r, r + ranks, ... of the global batch, cut into micro-batches; a short last batch may leave
    # a rank without a sample, which then repeats one without labels so that all ranks make the same calls.
    plan = []
    for batch in batches:
        accumulate = -(-len(batch) // (ranks * micro))
        mine = batch[rank::ranks]
        parts = [mine[m * micro : (m + 1) * micro] for m in range(accumulate)]
        plan += [[(i, True) for i in part] or [(batch[0], False)] for part in parts]
    rows = [[index for index, _ in part] for part in plan]
    loader = iter(DataLoader(data, batch_sampler=rows, collate_fn=collate))
    real = iter([part[0][1] for part in plan])
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, settings.lr, (0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True
    )
    out = Path(settings.out)
    log = open(out / "metrics.jsonl", "w", encoding="utf-8") if rank == 0 else None
    bar = tqdm(batches, desc="train", disable=rank != 0, mininterval=0.5, dynamic_ncols=True)
    model.train()
    begin = previous = time.perf_counter()
    for step, batch in enumerate(bar):
        lr = settings.lr * cosine(step, steps, settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr
        parts = []
        for _ in range(-(-len(batch) // (ranks * micro))):
            part = next(loader)
            if not next(real):
                part["labels"] = torch.full_like(part["labels"], -100)
            parts.append(part)
        # labelled tokens (the first place is never predicted) and all tokens of the step, over all ranks
        labels = [p["labels"] for p in parts]
        counts = [sum((x[:, 1:] != -100).sum().item() for x in labels), sum(x.numel() for x in labels)]
        totals = torch.tensor(counts, dtype=torch.float64, device=device)
        dist.all_reduce(totals)
        labelled, tokens = totals.tolist()
        total = torch.zeros((), dtype=torch.float64, device=device)
        for part in parts:
            part = {k: v if v is None else v.to(device, non_blocking=True) for k, v in part.items()}
            loss, _ = model.loss(**part)
            (loss * (ranks / labelled)).backward()  # FSDP takes the mean over ranks; the loss is a global sum
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(parameters, settings.clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        optimizer.step()
        optimizer.zero_grad()
        dist.all_reduce(total)
        mean = total.item() / labelled
        if not math.isfinite(mean):
            raise SettingsError(
                f"step {step}: the loss is {mean}; lower --lr {settings.lr} or take --dtype fp32"
            )
        if log is not None:
            now = time.perf_counter()
            entry = dict(step=step, loss=mean, lr=lr, tokens=int(tokens), label_tokens=int(labelled))
            entry |= dict(grad_norm=norm.item(), seconds=round(now - begin, 3))
            log.write(json.dumps(entry) + "\n")
            log.flush()
            speed = f"{tokens / (now - previous):,.0f}"
            bar.set_postfix({"loss": f"{mean:.3f}", "lr": f"{lr:.1e}", "tokens/s": speed}, refresh=False)
            previous = now
    if log is not None:
        log.close()
    model.eval()
