"""The vision tower against transformers, hidden state by hidden state."""

import pytest
import torch
import transformers
from conftest import TOLERANCE, randomise, vision_config

from nanollava.vit import CLIPVisionTransformer


@pytest.fixture
def pair(tmp_path, dtype):
    theirs = randomise(transformers.CLIPVisionModel(vision_config()).to(dtype))
    theirs.save_pretrained(tmp_path)
    return theirs, CLIPVisionTransformer.from_pretrained(tmp_path)


def test_every_hidden_state(pair, dtype):
    theirs, ours = pair
    x = torch.randn(2, 3, 32, 32, dtype=dtype)
    expected = theirs(x, output_hidden_states=True)
    states = ours.hidden_states(x)
    assert len(states) == len(expected.hidden_states) == 5
    for mine, other in zip(states, expected.hidden_states, strict=True):
        assert (mine - other).abs().max() <= TOLERANCE[dtype]
    assert (ours(x) - expected.pooler_output).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("layer", [-1, -2, 0, 2])
def test_features_are_a_hidden_state_without_the_class_token(pair, dtype, layer):
    _, ours = pair
    x = torch.randn(2, 3, 32, 32, dtype=dtype)
    features = ours.features(x, layer)
    assert features.shape == (2, 16, 48)
    assert torch.equal(features, ours.hidden_states(x)[layer][:, 1:])


def test_whole_clip_directory(tmp_path):
    text = transformers.CLIPTextConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=50,
    )
    config = transformers.CLIPConfig(
        text_config=text.to_dict(), vision_config=vision_config().to_dict(), projection_dim=24
    )
    theirs = randomise(transformers.CLIPModel(config))
    theirs.save_pretrained(tmp_path)
    ours = CLIPVisionTransformer.from_pretrained(tmp_path)
    x = torch.randn(1, 3, 32, 32)
    assert (ours(x) - theirs.vision_model(x).pooler_output).abs().max() <= 1e-5


def test_the_gelu_of_other_towers(tmp_path):
    """OpenAI's towers have quick-GELU, most later ones the exact GELU."""
    theirs = randomise(transformers.CLIPVisionModel(vision_config(hidden_act="gelu")))
    theirs.save_pretrained(tmp_path)
    ours = CLIPVisionTransformer.from_pretrained(tmp_path)
    x = torch.randn(1, 3, 32, 32)
    assert (ours(x) - theirs(x).pooler_output).abs().max() <= 1e-5


def test_wrong_picture_size(pair, dtype):
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\).*3, 32, 32"):
        pair[1](torch.zeros(1, 3, 16, 16, dtype=dtype))


def test_the_epsilon_of_the_config(tmp_path):
    theirs = randomise(transformers.CLIPVisionModel(vision_config(layer_norm_eps=0.1)))
    theirs.save_pretrained(tmp_path)
    ours = CLIPVisionTransformer.from_pretrained(tmp_path)
    x = torch.randn(1, 3, 32, 32)
    assert (ours(x) - theirs(x).pooler_output).abs().max() <= 1e-5
