"""Flamingo's modules compared with an independent implementation, the package flamingo-pytorch."""

import pytest
import torch
from conftest import randomise

from nanollava.connectors.gated_xattn import GatedBlock, image_mask, images_before
from nanollava.connectors.resampler import PerceiverResampler

flamingo_pytorch = pytest.importorskip("flamingo_pytorch")

WIDTH = 16
LATENTS = 3


def copy_attention(theirs, ours) -> None:
    theirs.to_q.load_state_dict(ours.q_proj.state_dict())
    theirs.to_kv.weight.data = torch.cat([ours.k_proj.weight.data, ours.v_proj.weight.data])
    theirs.to_out.load_state_dict(ours.out_proj.state_dict())


def copy_feed_forward(theirs, ours) -> None:
    norm, fc1, _, fc2 = theirs
    norm.load_state_dict(ours.norm.state_dict())
    fc1.load_state_dict(ours.fc1.state_dict())
    fc2.load_state_dict(ours.fc2.state_dict())


def test_perceiver_resampler():
    ours = randomise(PerceiverResampler(WIDTH, LATENTS, num_layers=2))
    theirs = flamingo_pytorch.PerceiverResampler(dim=WIDTH, depth=2, num_latents=LATENTS)
    theirs.latents.data = ours.latents.data
    theirs.media_pos_emb.data.zero_()  # positions of frames, which OpenFlamingo does not have
    theirs.norm.load_state_dict(ours.norm.state_dict())
    for (attention, feed_forward), layer in zip(theirs.layers, ours.layers, strict=True):
        copy_attention(attention, layer.attention)
        attention.norm_media.load_state_dict(layer.attention.norm_patches.state_dict())
        attention.norm_latents.load_state_dict(layer.attention.norm_latents.state_dict())
        copy_feed_forward(feed_forward, layer.feed_forward)
    x = torch.randn(2, 9, WIDTH)
    torch.testing.assert_close(ours(x), theirs(x)[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("sees", ["last", "all"])
def test_gated_block(sees):
    ours = randomise(GatedBlock(WIDTH, WIDTH))
    theirs = flamingo_pytorch.GatedCrossAttentionBlock(
        dim=WIDTH, only_attend_immediate_media=sees == "last"
    )
    copy_attention(theirs.attn, ours.attention)
    theirs.attn.norm.load_state_dict(ours.attention.norm.state_dict())
    copy_feed_forward(theirs.ff, ours.feed_forward)
    theirs.attn_gate.data = ours.attention_gate.data
    theirs.ff_gate.data = ours.feed_forward_gate.data

    ids = torch.tensor([[1, 7, 95, 5, 6, 95, 8, 9], [95, 3, 4, 5, 95, 6, 7, 8]])
    x = torch.randn(2, 8, WIDTH)
    z = torch.randn(2, 2, LATENTS, WIDTH)
    count = images_before(ids, 95)
    y = ours(x, z.flatten(1, 2), image_mask(count, 2, LATENTS, sees))
    expected = theirs(x, z, media_locations=ids == 95)
    if sees == "all":  # theirs then lets words before the first image see all images
        y = y[count > 0]
        expected = expected[count > 0]
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)
