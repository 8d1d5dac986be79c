"""What toy-clip and toy-vicuna share: the tokenizer and the optimizer loop."""

import hashlib
import math

import pytest
import torch
from torch import nn

from nanollava.toyland.pretrain import VOCAB_SIZE, cosine_decay, fit, make_tokenizer, pad


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(0)


def test_tokenizer_of_a_seed_stays_the_same(tokenizer):
    """Recorded before the code was rewritten, as the other digests."""
    text = tokenizer.backend.to_str()
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "d6e8020e32be5856"


def test_tokenizer_knows_every_byte(tokenizer):
    assert len(tokenizer) == VOCAB_SIZE
    text = "the red cat 新 \t é"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_words_of_toyland_are_single_tokens(tokenizer):
    for word in ("umbrella", "bicycle", "people", "cats", "purple"):
        assert len(tokenizer.encode(word)) == 1, word


def test_pad():
    assert pad([[1, 2, 3], [4]], 9).tolist() == [[1, 2, 3], [4, 9, 9]]


def test_cosine_decay_falls_from_1_to_2_percent():
    assert cosine_decay(0, 100) == 1
    assert cosine_decay(50, 100) == pytest.approx(0.51)
    assert cosine_decay(100, 100) == pytest.approx(0.02)


class Recorder:
    """Fits one parameter with given losses and records the learning rate of every step."""

    def __init__(self, losses: list[float]):
        self.losses = losses
        self.model = nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.rates = []

    def backward(self, step: int) -> tuple[torch.Tensor, dict]:
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.model.weight.grad = torch.zeros(1, 1)
        return torch.tensor(self.losses[step]), {}

    def fit(self, steps: int, warmup: int, stop_at: float | None = None) -> None:
        fit("test", self.model, self.optimizer, steps, self.backward, warmup, stop_at)


def test_learning_rate_warms_up_and_decays():
    recorder = Recorder([1.0] * 100)
    recorder.fit(steps=100, warmup=10)
    expected = []
    for step in range(100):
        decay = 0.51 + 0.49 * math.cos(math.pi * step / 100)
        expected.append(0.1 * min(1, (step + 1) / 10) * decay)
    assert recorder.rates == pytest.approx(expected)


def test_a_phase_ends_when_enough_tokens_are_right():
    recorder = Recorder([0.0] * 100)  # every token is right
    recorder.fit(steps=100, warmup=10, stop_at=0.9)
    assert len(recorder.rates) == 22  # 1 - 0.9 ** 22 is the first average above 0.9
    assert recorder.rates[-1] == pytest.approx(0.1)  # the rate stays constant


def test_a_phase_without_enough_right_tokens_takes_all_steps():
    recorder = Recorder([1.0] * 30)
    recorder.fit(steps=30, warmup=10, stop_at=0.9)
    assert len(recorder.rates) == 30
