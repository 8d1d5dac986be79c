"""Qwen-VL's resampler, derived again in NumPy, and its attention by torch.nn.MultiheadAttention."""

import math

import numpy as np
import torch
from conftest import randomise
from numpy_layers import attention, layer_norm, linear, weights_of

from nanollava.connectors.qwen import QwenResampler, grid_positions

TEXT_WIDTH = 16
HEADS = 4
EPS = 1e-6


def position(row: float, column: float, width: int) -> list[float]:
    """The vector of one place, number by number: sines and cosines of the column, then the row."""
    vector = []
    for coordinate in (column, row):
        angles = [coordinate / 10000 ** (2 * i / (width / 2)) for i in range(width // 4)]
        vector += [math.sin(angle) for angle in angles]
        vector += [math.cos(angle) for angle in angles]
    return vector


def positions(grid: int, query_grid: int, width: int) -> np.ndarray:
    vectors = []
    for row in range(grid):
        for column in range(grid):
            y = (row + 0.5) * query_grid / grid - 0.5
            x = (column + 0.5) * query_grid / grid - 0.5
            vectors.append(position(y, x, width))
    return np.array(vectors)


def resampled(patches, weights, grid, query_grid):
    """H_v (Q, text_width) of one image's patches (P, vision_width)."""
    x = layer_norm(linear(patches, weights, "kv_proj"), weights, "norm_patches", EPS)
    z = layer_norm(weights["queries"], weights, "norm_queries", EPS)
    q = linear(z + positions(query_grid, query_grid, TEXT_WIDTH), weights, "q_proj")
    k = linear(x + positions(grid, query_grid, TEXT_WIDTH), weights, "k_proj")
    v = linear(x, weights, "v_proj")
    y = linear(attention(q, k, v, HEADS), weights, "out_proj")
    return linear(layer_norm(y, weights, "norm", EPS), weights, "linear")


def test_equals_the_equations():
    resampler = randomise(QwenResampler(12, TEXT_WIDTH, HEADS, num_queries=4).double())
    patches = torch.randn(2, 16, 12, dtype=torch.float64)
    H_v = resampler(patches).detach().numpy()
    for i in range(2):
        expected = resampled(patches[i].numpy(), weights_of(resampler), grid=4, query_grid=2)
        np.testing.assert_allclose(H_v[i], expected, atol=1e-6)  # its angles are float32


def test_attention_equals_torch():
    """Qwen-VL itself calls torch's module."""
    resampler = randomise(QwenResampler(12, TEXT_WIDTH, HEADS, num_queries=4).double())
    theirs = torch.nn.MultiheadAttention(TEXT_WIDTH, HEADS, batch_first=True).double()
    maps = (resampler.q_proj, resampler.k_proj, resampler.v_proj)
    theirs.in_proj_weight.data = torch.cat([m.weight.data for m in maps])
    theirs.in_proj_bias.data = torch.cat([m.bias.data for m in maps])
    theirs.out_proj.load_state_dict(resampler.out_proj.state_dict())
    patches = torch.randn(2, 16, 12, dtype=torch.float64)
    x = resampler.norm_patches(resampler.kv_proj(patches))
    z = resampler.norm_queries(resampler.queries).expand(2, -1, -1)
    device = patches.device
    key = x + grid_positions(4, 2, TEXT_WIDTH, device).double()
    query = z + grid_positions(2, 2, TEXT_WIDTH, device).double()
    y, _ = theirs(query, key, x)
    torch.testing.assert_close(resampler(patches), resampler.linear(resampler.norm(y)))


def test_a_query_and_a_patch_at_the_same_place_have_the_same_position():
    both = grid_positions(4, 4, 8, torch.device("cpu"))
    assert both.shape == (16, 8)
    assert len(both.unique(dim=0)) == 16


def test_published_size():
    with torch.device("meta"):
        resampler = QwenResampler(1664, 4096, heads=32)  # the tower of Qwen-VL is 1,664 wide
    parameters = sum(p.numel() for p in resampler.parameters())
    assert round(parameters / 1e6) == 92
