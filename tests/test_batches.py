"""Which samples a step has, in which order, and which rank reads them."""

from itertools import islice

import pytest
import torch

from nanollava.training.arguments import TrainConfig
from nanollava.training.batches import (
    Collator,
    KeyedSamples,
    SampleKey,
    epoch_batches,
    global_batches,
    rank_share,
    total_steps,
)

# Of 41 samples: whether they have images, and their length.
GROUPS = [(i % 3 > 0, (7 * i) % 23) for i in range(41)]


def test_every_epoch_has_each_sample_once_in_another_order():
    first = epoch_batches(10, 4, epoch=0, seed=1)
    second = epoch_batches(10, 4, epoch=1, seed=1)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(10))
    assert first != second


def test_the_order_depends_on_the_seed_alone():
    assert epoch_batches(10, 4, 0, seed=1) == epoch_batches(10, 4, 0, seed=1)
    assert epoch_batches(10, 4, 0, seed=1) != epoch_batches(10, 4, 0, seed=2)


def test_the_steps_of_a_run_are_those_of_its_epochs():
    epochs = [epoch_batches(10, 4, epoch, seed=1) for epoch in range(3)]
    assert list(islice(global_batches(10, 4, seed=1), 9)) == sum(epochs, [])


def test_a_run_that_begins_later_has_the_same_steps():
    steps = list(islice(global_batches(10, 4, seed=1), 8))
    for first_step in range(8):
        later = global_batches(10, 4, 1, first_step)
        assert list(islice(later, 8 - first_step)) == steps[first_step:]


def test_a_long_run_does_not_list_its_steps_beforehand():
    assert len(next(global_batches(10, 4, 1, first_step=10**8))) in (2, 4)


@pytest.mark.parametrize("epoch", [0, 1])
def test_grouped_epochs_have_each_sample_once(epoch):
    batches = epoch_batches(41, 4, epoch, 1, GROUPS)
    assert sorted(sum(batches, [])) == list(range(41))
    assert [len(batch) for batch in batches] == [4] * 10 + [1]


def test_grouped_epochs_differ():
    assert epoch_batches(41, 4, 0, 1, GROUPS) != epoch_batches(41, 4, 1, 1, GROUPS)
    assert epoch_batches(41, 4, 0, 1, GROUPS) != epoch_batches(41, 4, 0, 2, GROUPS)


def test_a_grouped_batch_is_of_one_modality_except_the_last():
    for batch in epoch_batches(41, 4, 0, 1, GROUPS)[:-2]:
        assert len({GROUPS[i][0] for i in batch}) == 1


def test_a_grouped_batch_is_sorted_by_length():
    for epoch in (0, 1):
        for batch in epoch_batches(41, 4, epoch, 1, GROUPS):
            lengths = [GROUPS[i][1] for i in batch]
            assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("world_size, micro", [(1, 8), (1, 3), (2, 2), (3, 1), (4, 4)])
def test_the_ranks_share_a_batch(world_size, micro):
    batch = [10, 11, 12, 13, 14, 15, 16]
    indices = []
    rounds = set()
    for rank in range(world_size):
        share = rank_share(batch, micro, rank, world_size)
        rounds.add(len(share))
        for keys in share:
            assert 1 <= len(keys) <= micro
            indices += [key.index for key in keys if key.has_labels]
    assert sorted(indices) == batch
    assert len(rounds) == 1, "all ranks make the same number of forward passes"


def test_steps_are_counted_in_epochs_unless_max_steps_is_given():
    assert total_steps(TrainConfig(batch=4, epochs=2), samples=10) == 6
    assert total_steps(TrainConfig(batch=4, epochs=2, max_steps=5), samples=10) == 5
    assert total_steps(TrainConfig(batch=4, max_steps=0), samples=10) == 0


def count(has_labels: bool):
    data = [{"labels": torch.tensor([5, 6, -100, 7])}]
    samples = KeyedSamples(data)
    collator = Collator(lambda samples: {}, lambda lengths, images, label_tokens: {"all": 1.0})
    return collator([samples[SampleKey(0, has_labels)]]).counts


def test_label_tokens_leave_out_the_first_token_which_is_never_predicted():
    assert count(has_labels=True) == (2, 4, 0, 1.0)


def test_a_repeated_sample_counts_nothing():
    assert count(has_labels=False) == (0, 0, 0, 0.0)
