"""Drawing the next token: the distribution, the settings, the repetition penalty."""

import pytest
import torch

from nanollava.errors import UserError
from nanollava.sampling import RepetitionPenalty, SamplingConfig, sample

PROBABILITIES = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
DRAWS = 20_000
LIMIT = 15.1  # of chi-square with 5 degrees of freedom: exceeded once in a hundred times


def chi_square(expected: torch.Tensor, **options) -> float:
    """How far 20,000 draws are from the expected probabilities."""
    logits = PROBABILITIES.log().repeat(DRAWS, 1)
    generator = torch.Generator().manual_seed(3)
    counts = torch.bincount(sample(logits, generator=generator, **options), minlength=6)
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    wanted = DRAWS * expected[kept]
    return ((counts[kept] - wanted) ** 2 / wanted).sum().item()


def likeliest(count: int, probabilities: torch.Tensor = PROBABILITIES) -> torch.Tensor:
    """The distribution of the `count` likeliest tokens alone."""
    kept = torch.where(torch.arange(6) < count, probabilities, 0.0)
    return kept / kept.sum()


def test_temperature_one_draws_from_the_distribution():
    assert chi_square(PROBABILITIES, temperature=1.0) < LIMIT


def test_the_test_can_fail():
    assert chi_square(PROBABILITIES, temperature=0.8) > 100


def test_temperature_one_half_squares_the_probabilities():
    assert chi_square(likeliest(6, PROBABILITIES**2), temperature=0.5) < LIMIT


def test_top_k_draws_from_the_likeliest():
    assert chi_square(likeliest(3), temperature=1.0, top_k=3) < LIMIT


def test_top_p_draws_from_the_smallest_set_that_reaches_it():
    assert chi_square(likeliest(3), temperature=1.0, top_p=0.7) < LIMIT


def test_top_p_counts_what_top_k_leaves():
    """Of the four likeliest the first two have 0.44 and 0.28 of the probability."""
    assert chi_square(likeliest(2), temperature=1.0, top_p=0.7, top_k=4) < LIMIT


def test_one_token_is_always_left():
    assert sample(PROBABILITIES.log()[None], 1.0, top_p=1e-300).item() == 0


def test_temperature_zero_takes_the_likeliest():
    assert sample(torch.tensor([[1.0, 3.0, 2.0]]), 0.0).tolist() == [1]


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_new_tokens", 0),
        ("temperature", -1.0),
        ("temperature", 1e-9),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-40),
        ("repetition_penalty", float("nan")),
        ("seed", 2**70),
    ],
)
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(UserError, match=f"{name} {value}: expected"):
        SamplingConfig(**{name: value})


def test_equal_seeds_give_equal_draws():
    draws = []
    for seed in (1, 1, 2):
        generator = SamplingConfig(seed=seed).generator(torch.device("cpu"))
        draws.append(torch.randn(4, generator=generator).tolist())
    assert draws[0] == draws[1] != draws[2]


def test_repetition_penalty_lowers_logits_of_either_sign():
    penalty = RepetitionPenalty(2.0, vocab_size=4)
    penalty.add(torch.tensor([[0, 1]]))
    penalized = penalty.apply(torch.tensor([[4.0, -4.0, 4.0, -4.0]]))
    assert penalized.tolist() == [[2.0, -8.0, 4.0, -4.0]]


def test_penalty_one_changes_nothing():
    penalty = RepetitionPenalty(1.0, vocab_size=4)
    penalty.add(torch.tensor([[0, 1]]))
    logits = torch.randn(1, 4)
    assert penalty.apply(logits) is logits
