"""Which samples make up a step, and which of them each rank reads.

The order depends on the seed, the number of samples, the global batch and, with --group, on the
samples' modality and length. It never depends on the number of ranks or the micro-batch: more GPUs
train the same model. Only a Q-Former's own stage differs: it compares the samples of a micro-batch.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice, tee
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from ..conversation import IGNORE_INDEX
from .arguments import TrainConfig, micro_batch_size
from .distributed import sum_over_ranks
from .signals import ignore_stop_signals


class Counts(NamedTuple):
    """What a batch holds. In float64, so that sums of tokens over ranks are exact."""

    label_tokens: float  # tokens that are predicted and trained
    tokens: float  # all tokens, without padding
    images: float
    flops: float  # of forward and backward


class MicroBatch(NamedTuple):
    """The samples of one forward pass on one rank: arguments of `model.loss`, and their counts."""

    inputs: dict
    counts: Counts


def total_steps(config: TrainConfig, samples: int) -> int:
    """Optimizer steps of the whole run."""
    if config.max_steps is not None:
        return config.max_steps
    return config.epochs * math.ceil(samples / config.batch)


def epoch_batches(
    samples: int,
    batch_size: int,
    epoch: int,
    seed: int,
    groups: list[tuple[bool, int]] | None = None,
) -> list[list[int]]:
    """Sample indices of every step of an epoch, shuffled. The last, incomplete batch is kept.

    `groups` has (has images, length) for every sample. With it, a batch is of one modality, except
    what remains at the epoch's end, and sorted by length, so that micro-batches hold samples of
    similar length.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(samples, generator=generator).tolist()
    if groups is None:
        return split(order, batch_size)
    batches = []
    for indices in one_modality_batches(order, batch_size, groups, generator):
        batches.append(sorted(indices, key=lambda i: (-groups[i][1], i)))
    return batches


def global_batches(
    samples: int,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    groups: list[tuple[bool, int]] | None = None,
) -> Iterator[list[int]]:
    """Sample indices of every step from `first_step` on, epoch after epoch, without end."""
    steps_per_epoch = math.ceil(samples / batch_size)
    first_epoch, skipped = divmod(first_step, steps_per_epoch)
    for epoch in count(first_epoch):
        yield from epoch_batches(samples, batch_size, epoch, seed, groups)[skipped:]
        skipped = 0


def one_modality_batches(
    order: list[int], batch_size: int, groups: list[tuple[bool, int]], generator: torch.Generator
) -> list[list[int]]:
    """Full batches with images and full batches without, shuffled; then what remains of both."""
    full_batches = []
    remainder = []
    for with_images in (True, False):
        indices = [i for i in order if groups[i][0] == with_images]
        full = len(indices) // batch_size * batch_size
        full_batches += split(indices[:full], batch_size)
        remainder += indices[full:]
    shuffled = torch.randperm(len(full_batches), generator=generator).tolist()
    return [full_batches[i] for i in shuffled] + split(remainder, batch_size)


def split(indices: list[int], size: int) -> list[list[int]]:
    """Consecutive parts of `size` indices; the last one may be shorter."""
    return [indices[i : i + size] for i in range(0, len(indices), size)]


class SampleKey(NamedTuple):
    """Which sample to read, and whether its labels count."""

    index: int
    has_labels: bool


def rank_share(batch: list[int], micro: int, rank: int, world_size: int) -> list[list[SampleKey]]:
    """One rank's micro-batches of a global batch: samples rank, rank + world_size, ...

    All ranks must make the same number of forward passes, because each pass gathers weights from
    all of them. A rank that runs out of samples repeats one without its labels, which adds
    nothing.
    """
    mine = [SampleKey(i, True) for i in batch[rank::world_size]]
    rounds = math.ceil(len(batch) / (world_size * micro))
    share = []
    for start in range(0, rounds * micro, micro):
        share.append(mine[start : start + micro] or [SampleKey(batch[0], False)])
    return share


@dataclass
class KeyedSamples(Dataset):
    """The data set that a DataLoader reads: sample dicts by SampleKey."""

    data: Dataset

    def __getitem__(self, key: SampleKey) -> dict:
        sample = self.data[key.index]
        if not key.has_labels:
            sample = {**sample, "labels": torch.full_like(sample["labels"], IGNORE_INDEX)}
        return sample


@dataclass
class Collator:
    """Joins samples to a MicroBatch. A class, so that worker processes can receive it.

    `flops(lengths, images, label_tokens)` gives the FLOPs of each part (`plan.flops`), for MFU.
    """

    collate: Callable[[list[dict]], dict]
    flops: Callable[[list[int], int, int], dict] | None = None

    def __call__(self, samples: list[dict]) -> MicroBatch:
        return MicroBatch(self.collate(samples), self.count(samples))

    def count(self, samples: list[dict]) -> Counts:
        lengths = [len(sample["labels"]) for sample in samples]
        images = sum(len(sample.get("pixel_values", ())) for sample in samples)
        label_tokens = 0
        for sample in samples:  # the first token is never predicted
            label_tokens += int((sample["labels"][1:] != IGNORE_INDEX).sum())
        if label_tokens == 0:
            return Counts(0, 0, 0, 0.0)  # a repeated sample: see `rank_share`
        flops = 0.0
        if self.flops is not None:
            flops = sum(self.flops(lengths, images, label_tokens).values())
        return Counts(label_tokens, sum(lengths), images, flops)


def load_steps(
    data: Dataset, collator: Collator, batches: Iterable[list[int]], micro: int, workers: int = 0
) -> Iterator[list[MicroBatch]]:
    """This rank's micro-batches, one list per global batch, read ahead by `workers` processes."""
    rank = dist.get_rank()
    world_size = dist.get_world_size()
    # The loader and the loop below both take these shares one by one, so no list of the whole run's
    # order is kept.
    shares, shares_to_read = tee(rank_share(batch, micro, rank, world_size) for batch in batches)
    loader = DataLoader(
        KeyedSamples(data),
        batch_sampler=chain.from_iterable(shares_to_read),
        collate_fn=collator,
        num_workers=workers,
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator(),  # leaves the global random state alone
        pin_memory=torch.cuda.is_available(),
    )
    micro_batches = iter(loader)
    for share in shares:
        yield [next(micro_batches) for _ in share]


def training_steps(
    data: Dataset, collator: Collator, config: TrainConfig, first_step: int
) -> Iterator[list[MicroBatch]]:
    """This rank's micro-batches of the run's remaining steps."""
    steps = total_steps(config, len(data))
    groups = data.groups() if config.group else None
    endless = global_batches(len(data), config.batch, config.seed, first_step, groups)
    batches = islice(endless, steps - first_step)
    micro = micro_batch_size(config, dist.get_world_size())
    return load_steps(data, collator, batches, micro, config.workers)


def total_counts(micro_batches: list[MicroBatch], device: torch.device) -> Counts:
    """The counts of a whole step: all micro-batches of all ranks. All ranks must call it."""
    counts = torch.tensor([part.counts for part in micro_batches], dtype=torch.float64)
    return Counts(*sum_over_ranks(counts.sum(0).to(device)).tolist())


def to_device(inputs: dict, device: torch.device) -> dict:
    """The tensors of a batch on `device`; `pixel_values` may be None."""
    moved = {}
    for name, value in inputs.items():
        moved[name] = value
        if value is not None:
            moved[name] = value.to(device, non_blocking=True)
    return moved
