"""How well a linear layer reads a fact off features: a measure of what the features know."""

import torch
import torch.nn.functional as F
from torch import nn


@torch.enable_grad()
def linear_readout(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor,
    classes: int,
    steps: int = 300,
) -> float:
    """Accuracy on the test features (N, D) of a softmax layer trained on the training features.

    Labels are class indices (N,).
    """
    mean = train_x.mean(0)
    std = train_x.std(0) + 1e-6
    train_x = (train_x - mean) / std
    test_x = (test_x - mean) / std
    linear = nn.Linear(train_x.shape[1], classes)
    nn.init.zeros_(linear.weight)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.02, weight_decay=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(train_x), train_y)
        loss.backward()
        optimizer.step()
    is_right = linear(test_x).argmax(1) == test_y
    return is_right.float().mean().item()
