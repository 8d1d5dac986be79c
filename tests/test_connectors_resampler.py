"""The perceiver resampler, derived again in NumPy."""

import numpy as np
import torch
from conftest import randomise
from numpy_layers import attention, gelu, layer_norm, linear, part, weights_of

from nanollava.connectors.resampler import PerceiverResampler, ResamplerConnector

WIDTH = 12
HEADS = 8


def resampled(x, weights, num_layers):
    """Latents (L, D) of one image's patches x (P, D)."""
    z = weights["latents"]
    for i in range(num_layers):
        layer = part(weights, f"layers.{i}.")
        patches = layer_norm(x, layer, "attention.norm_patches")
        latents = layer_norm(z, layer, "attention.norm_latents")
        both = np.concatenate([patches, latents])
        q = linear(latents, layer, "attention.q_proj")
        k = linear(both, layer, "attention.k_proj")
        v = linear(both, layer, "attention.v_proj")
        z = z + linear(attention(q, k, v, HEADS), layer, "attention.out_proj")
        hidden = linear(layer_norm(z, layer, "feed_forward.norm"), layer, "feed_forward.fc1")
        z = z + linear(gelu(hidden), layer, "feed_forward.fc2")
    return layer_norm(z, weights, "norm")


def test_equals_the_equations():
    resampler = randomise(PerceiverResampler(WIDTH, num_latents=3, num_layers=2).double())
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    latents = resampler(x).detach().numpy()
    for i in range(2):
        expected = resampled(x[i].numpy(), weights_of(resampler), num_layers=2)
        np.testing.assert_allclose(latents[i], expected, atol=1e-10)


def test_the_number_of_latents_does_not_depend_on_the_patches():
    connector = ResamplerConnector(WIDTH, 16, num_latents=3, num_layers=1)
    assert connector(torch.randn(2, 5, WIDTH)).shape == (2, 3, 16)
    assert connector(torch.randn(2, 50, WIDTH)).shape == (2, 3, 16)


def test_published_size():
    with torch.device("meta"):
        resampler = PerceiverResampler(1024)
    parameters = sum(p.numel() for p in resampler.parameters())
    assert round(parameters / 1e6, 1) == 63.0
