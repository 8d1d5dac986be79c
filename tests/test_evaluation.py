"""The validation loss during a training."""

import pytest
import torch
from torch import nn

from nanollava.training import distributed
from nanollava.training.batches import Collator
from nanollava.training.evaluation import mean_loss


@pytest.fixture(scope="module", autouse=True)
def process_group():
    distributed.start("cpu")
    yield
    distributed.finish()


class SumOfLabels(nn.Module):
    """The "loss" of a label is the label itself."""

    def loss(self, labels):
        is_labelled = labels[:, 1:] != -100
        return labels[:, 1:][is_labelled].float().sum(), is_labelled.sum()


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_the_mean_is_over_label_tokens_not_over_samples(micro):
    rows = [[0, 4, 6, -100], [0, 1, -100, -100], [9, -100, -100, 1]]
    data = [{"labels": torch.tensor(row)} for row in rows]

    def collate(samples):
        return {"labels": torch.stack([sample["labels"] for sample in samples])}

    loss = mean_loss(SumOfLabels(), data, Collator(collate), micro, torch.device("cpu"))
    assert loss == (4 + 6 + 1 + 1) / 4
