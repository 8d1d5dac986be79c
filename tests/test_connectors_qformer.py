"""The Q-Former compared with transformers' Blip2QFormerModel, and its weights there and back."""

import pytest
import torch
import transformers
from conftest import randomise

from nanollava.connectors.minigpt4 import MiniGPT4Connector
from nanollava.connectors.qformer import QFormer
from nanollava.connectors.qformer_names import from_transformers, to_transformers
from nanollava.connectors.qformer_objectives import captioning_mask, matching_mask
from nanollava.hf.names import WeightsError

WIDTH = 128  # two heads
VISION_WIDTH = 24
LAYERS = 3


@pytest.fixture(scope="module")
def theirs():
    config = transformers.Blip2QFormerConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=4 * WIDTH,
        encoder_hidden_size=VISION_WIDTH,
        use_qformer_text_input=True,
    )
    return randomise(transformers.Blip2QFormerModel(config))


@pytest.fixture(scope="module")
def ours(theirs):
    qformer = QFormer(WIDTH, VISION_WIDTH, LAYERS, has_text=True)
    qformer.load_state_dict(from_transformers(theirs.state_dict()))
    return qformer.eval()


def inputs(T: int = 5):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 4, WIDTH, generator=generator)
    text = torch.randn(2, T, WIDTH, generator=generator)
    patches = torch.randn(2, 9, VISION_WIDTH, generator=generator)
    is_text = torch.ones(2, T, dtype=torch.bool)
    is_text[1, 3:] = False
    return queries, text, patches, is_text


def test_queries_equal_transformers(ours, theirs):
    queries, _, patches, _ = inputs()
    expected = theirs(queries, encoder_hidden_states=patches).last_hidden_state
    torch.testing.assert_close(ours(queries, patches=patches), expected, rtol=0, atol=1e-5)


def test_text_alone_equals_transformers(ours, theirs):
    _, text, _, is_text = inputs()
    expected = theirs(text, query_length=0, attention_mask=is_text.long()).last_hidden_state
    states = ours(text=text, mask=is_text[:, None, None, :])
    torch.testing.assert_close(states[is_text], expected[is_text], rtol=0, atol=1e-5)


@pytest.mark.parametrize("make_mask", [matching_mask, captioning_mask])
def test_queries_and_text_equal_transformers(ours, theirs, make_mask):
    queries, text, patches, is_text = inputs()
    mask = make_mask(4, is_text).expand(-1, 1, 9, 9)
    both = torch.cat([queries, text], dim=1)
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    expected = theirs(
        both, query_length=4, attention_mask=added, encoder_hidden_states=patches
    ).last_hidden_state
    states = ours(queries, text, patches, mask)
    torch.testing.assert_close(states[:, :4], expected[:, :4], rtol=0, atol=1e-5)
    is_both = torch.cat([torch.ones(2, 4, dtype=torch.bool), is_text], dim=1)
    torch.testing.assert_close(states[is_both], expected[is_both], rtol=0, atol=1e-5)


def test_weights_go_to_transformers_and_back(ours, theirs):
    state = to_transformers(ours.state_dict())
    assert state.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    back = from_transformers(state)
    assert back.keys() == ours.state_dict().keys()


@pytest.mark.parametrize("name", ["encoder.layer.0.pooler.dense.weight", "encoder.layer.0.bias"])
def test_other_tensors_are_refused(name):
    with pytest.raises(WeightsError, match=f"'{name}' is not part"):
        from_transformers({name: torch.zeros(1)})


def test_published_size_of_the_query_path():
    with torch.device("meta"):
        qformer = QFormer(768, 1408)  # BLIP-2's tower is 1,408 wide
    parameters = sum(p.numel() for p in qformer.parameters())
    assert round(parameters / 1e6, 1) == 105.1


def test_minigpt4_trains_the_linear_map_alone():
    connector = MiniGPT4Connector(24, 16, num_queries=4, num_layers=2, width=64)
    trained = []
    for name, _ in connector.named_parameters():
        if not name.startswith(connector.frozen_prefixes):
            trained.append(name)
    assert trained == ["linear.weight", "linear.bias"]
    assert connector(torch.randn(2, 9, 24)).shape == (2, 4, 16)
