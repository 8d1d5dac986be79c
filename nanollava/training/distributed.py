"""Processes and shards: the process group, freezing, FSDP2, and the collectives of a training."""

import atexit
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint as recompute_in_backward

from ..device import pick_device, pick_dtype
from ..errors import UserError
from .arguments import TrainConfig, micro_batch_size


def start(device_name: str) -> torch.device:
    """Join torchrun's process group, or form one of this process alone.

    Returns the device of this rank.
    """
    if device_name == "auto" and not torch.cuda.is_available():
        device_name = "cpu"  # never mps, on which FSDP2 does not run
    device = pick_device(device_name)
    if device.type == "mps":
        raise UserError("--device mps: sharded training runs on cuda or cpu")
    backend = "gloo"
    if device.type == "cuda":
        backend = "cpu:gloo,cuda:nccl"
    if dist.is_torchelastic_launched():
        dist.init_process_group(backend)
        index = dist.get_node_local_rank()
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        index = device.index or 0
    atexit.unregister(wait_for_gloo_threads)  # once is enough, however many groups there were
    atexit.register(wait_for_gloo_threads)
    if device.type == "cuda":
        num_gpus = torch.cuda.device_count()
        if index >= num_gpus:
            raise UserError(
                f"process {index} of this node has no GPU: torch finds {num_gpus}; start torchrun "
                f"with --nproc_per_node {num_gpus}"
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32, as in the paper's runs
    return device


def check_batch(config: TrainConfig) -> None:
    """A UserError if the ranks cannot share a batch: now, and not after the model is loaded."""
    micro_batch_size(config, dist.get_world_size())


def finish() -> None:
    """Leave the process group together: no rank exits while another still talks to it."""
    dist.barrier()
    dist.destroy_process_group()


def wait_for_gloo_threads() -> None:
    """Give gloo's threads time to release the tensors of the last collectives.

    A collective is complete before the thread that ran it has released its tensors, and for that
    the thread needs the GIL. If it asks for it while the interpreter is shutting down,
    Python (before 3.14) ends the thread in a place where C++ can only abort the process: exit code
    -6 after all work is done. torch offers no call that waits for these threads, and FSDP keeps
    them alive to the end.
    """
    time.sleep(0.2)  # releases the lock; the threads need microseconds


def freeze(model: nn.Module, trainable: dict[str, bool]) -> list[str]:
    """Apply a table of name prefixes to `requires_grad`. Every parameter must match a row.

    Returns one line of text per row, with its number of parameters.
    """
    counts = dict.fromkeys(trainable, 0)
    for name, parameter in model.named_parameters():
        prefix = matching_prefix(name, trainable)
        parameter.requires_grad_(trainable[prefix])
        counts[prefix] += parameter.numel()
    report = []
    for prefix, is_trained in trainable.items():
        state = "trained" if is_trained else "frozen"
        report.append(f"{prefix.rstrip('.'):24} {counts[prefix]:>14,}  {state}")
    return report


def matching_prefix(name: str, trainable: dict[str, bool]) -> str:
    """The first key of `trainable` that `name` begins with, so longer prefixes come first in it."""
    for prefix in trainable:
        if name.startswith(prefix):
            return prefix
    raise UserError(f"parameter {name!r} matches no row of the table {list(trainable)}")


def shard(
    model: nn.Module,
    blocks: Iterable[nn.Module],
    frozen_tower: nn.Module,
    device: torch.device,
    config: TrainConfig,
) -> None:
    """Shard the model over all ranks with FSDP2: each of `blocks` by itself, then everything else.

    What is trained becomes float32 (the master weights), what is frozen the compute dtype. The
    frozen tower is not sharded: each rank has all of it. Weights may still be memory-mapped files;
    then each rank reads one block at a time and keeps only its shard.
    """
    dtype = pick_dtype(config.dtype, device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    options = {"mesh": mesh, "ignored_params": set(frozen_tower.parameters())}
    if device.type == "cpu" and mesh.size() == 1:
        # Resharding drops gathered weights until the backward pass gathers them again. One rank has
        # the whole weights anyway, and on a CPU the copy is what costs time.
        options["reshard_after_forward"] = False
    if dtype != torch.float32:
        options["mp_policy"] = fsdp.MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32
        )
    if config.offload_optimizer:  # shards of weights and gradients, too: AdamW runs on the CPU
        options["offload_policy"] = fsdp.CPUOffloadPolicy(pin_memory=device.type == "cuda")

    frozen_tower.to(device, dtype)
    for block in blocks:
        if config.compile:
            block.forward = torch.compile(block.forward)
        if config.checkpoint_activations:
            block.forward = partial(recompute_in_backward, block.forward, use_reentrant=False)
        move_and_cast(block, device, dtype)
        fsdp.fully_shard(block, **options)
    move_and_cast(model, device, dtype)
    fsdp.fully_shard(model, **options)  # moves buffers, too
    # FSDP2 gathers weights around `forward`. `loss` runs the model without calling it.
    fsdp.register_fsdp_forward_method(model, "loss")


def reshard(model: nn.Module) -> None:
    """Leave only this rank's shards: `model.parameters()` are the optimizer's again.

    A forward pass without a backward pass, as in an evaluation, leaves weights gathered.
    """
    for module in model.modules():  # each resharding is of that module's own parameters
        if isinstance(module, fsdp.FSDPModule):
            module.reshard()


def move_and_cast(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move the parameters that are not shards yet; trained ones become float32, others `dtype`."""
    for parameter in module.parameters():
        if isinstance(parameter, DTensor):
            continue
        target = torch.float32 if parameter.requires_grad else dtype
        parameter.data = parameter.data.to(device).to(target).contiguous()  # as FSDP2 wants it


def full_state(model: nn.Module, dtype: torch.dtype, *prefixes: str) -> dict[str, torch.Tensor]:
    """The unsharded state dict of the names that start with `prefixes`, on the CPU.

    Every rank must call it; rank 0 gets the tensors, the others an empty dict.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith(prefixes):
            continue
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        if dist.get_rank() == 0:
            state[name] = tensor.detach().to("cpu", dtype)
    return state


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of each rank's `values`, in place."""
    dist.all_reduce(values)
    return values


def merge_over_ranks(mine: dict) -> dict:
    """The union of each rank's dict. Their keys differ."""
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    union = {}
    for part in parts:
        union.update(part)
    return union


def on_all_ranks(action: Callable[[], None]) -> None:
    """Run `action` on every rank. If it fails on one of them, every rank raises OSError.

    On the rank of a bug, the bug's own exception is raised.
    """
    message = None
    bug = None
    try:
        action()
    except (OSError, SafetensorError, UserError) as error:
        message = str(error)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        bug = error
    messages = [None] * dist.get_world_size()
    dist.all_gather_object(messages, message)
    if bug is not None:
        raise bug
    for message in messages:
        if message is not None:
            raise OSError(message)


def write_on_rank_0(action: Callable[[], None]) -> None:
    """Run `action` on rank 0 while the others wait. If it fails, every rank raises OSError."""

    def on_rank_0() -> None:
        if dist.get_rank() == 0:
            action()

    on_all_ranks(on_rank_0)


def print_on_rank_0(text: str) -> None:
    if dist.get_rank() == 0:
        print(text, flush=True)
