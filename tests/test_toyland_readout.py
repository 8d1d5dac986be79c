"""The linear read-out: high where features hold a fact, chance where they do not."""

import torch

from nanollava.toyland.readout import linear_readout


def test_a_fact_in_the_features_is_read_off():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (400,), generator=generator)
    directions = torch.randn(4, 16, generator=generator)
    features = directions[labels] + 0.1 * torch.randn(400, 16, generator=generator)
    accuracy = linear_readout(features[:300], labels[:300], features[300:], labels[300:], 4)
    assert accuracy == 1


def test_a_fact_that_is_not_in_the_features_stays_at_chance():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (400,), generator=generator)
    features = torch.randn(400, 16, generator=generator)
    accuracy = linear_readout(features[:300], labels[:300], features[300:], labels[300:], 4)
    assert 0.1 < accuracy < 0.4
