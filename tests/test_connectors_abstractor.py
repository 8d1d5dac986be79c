"""mPLUG-Owl's abstractor, derived again in NumPy."""

import numpy as np
import torch
from conftest import randomise
from numpy_layers import attention, layer_norm, linear, part, silu, weights_of

from nanollava.connectors.abstractor import Abstractor

WIDTH = 12
HEADS = 3
MLP_EPS = 1e-6


def abstracted(x, weights, num_layers):
    """H_v (Q + 1, text_width) of one image's patches x (P, D)."""
    z = weights["queries"]
    for i in range(num_layers):
        layer = part(weights, f"layers.{i}.")
        z = layer_norm(z, layer, "norm_queries")
        both = np.concatenate([z, layer_norm(x, layer, "norm_patches")])
        q = linear(z, layer, "attention.q_proj")
        k = linear(both, layer, "attention.k_proj")
        v = linear(both, layer, "attention.v_proj")
        z = z + linear(attention(q, k, v, HEADS), layer, "attention.out_proj")
        y = layer_norm(z, layer, "norm_mlp")
        hidden = silu(linear(y, layer, "mlp.w1")) * linear(y, layer, "mlp.w3")
        z = z + linear(layer_norm(hidden, layer, "mlp.norm", MLP_EPS), layer, "mlp.w2")
    return np.concatenate([linear(z, weights, "linear"), weights["end_of_image"]])


def test_equals_the_equations():
    abstractor = randomise(Abstractor(WIDTH, 16, HEADS, num_queries=4, num_layers=2).double())
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    H_v = abstractor(x).detach().numpy()
    for i in range(2):
        expected = abstracted(x[i].numpy(), weights_of(abstractor), num_layers=2)
        np.testing.assert_allclose(H_v[i], expected, atol=1e-10)


def test_published_size():
    with torch.device("meta"):
        abstractor = Abstractor(1024, 4096, heads=16)
    parameters = sum(p.numel() for p in abstractor.parameters())
    assert round(parameters / 1e6) == 105
