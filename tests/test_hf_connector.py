"""Connectors in files: a directory of a connector alone, and a complete LLaVA with one."""

import json

import pytest
import torch
from conftest import IMAGE_TOKEN, randomise
from safetensors.torch import load_file

from nanollava.config import CONNECTORS, ConnectorConfig, LlamaConfig, LlavaConfig, VisionConfig
from nanollava.connectors.gated_llava import GatedLLaVA
from nanollava.errors import ConfigError
from nanollava.hf.connector import connector_of, write_connector
from nanollava.hf.files import save_projector
from nanollava.hf.names import WeightsError
from nanollava.llava import LLaVA, load_projector
from nanollava.loading import llava_class

VISION = VisionConfig(32, 8, 48, 96, 4, 4)
TEXT = LlamaConfig(96, 64, 112, 2, 4, 2, max_position_embeddings=128)
SIZES = ConnectorConfig(num_queries=4, num_layers=2, hidden_size=64, sees="all")


def config(kind: str) -> LlavaConfig:
    return LlavaConfig(VISION, TEXT, kind, image_token_id=IMAGE_TOKEN, connector=SIZES)


def save_alone(model: LLaVA, folder) -> None:
    folder.mkdir()
    state = {}
    for name, tensor in model.multi_modal_projector.state_dict().items():
        state[f"multi_modal_projector.{name}"] = tensor
    save_projector(state, folder / "mm_projector.safetensors")
    write_connector(folder, model.config.projector, model.config.connector)


@pytest.mark.parametrize("kind", CONNECTORS)
def test_a_complete_llava_comes_back_as_it_was(kind, tmp_path):
    model = randomise(llava_class(kind)(config(kind)))
    model.save_pretrained(tmp_path)
    again = llava_class(kind).from_pretrained(tmp_path)
    assert again.config == model.config
    tokens = model.config.num_image_tokens
    ids = torch.tensor([[1, 5] + [IMAGE_TOKEN] * tokens + [6, 7]])
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(ids, pixels), again(ids, pixels))


def test_transformers_is_told_that_it_is_another_model(tmp_path):
    randomise(LLaVA(config("resampler"))).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["model_type"] == "nanollava"
    assert values["projector"] == "resampler"
    assert values["image_seq_length"] == 4


def test_the_decoder_has_its_usual_names(tmp_path):
    """Gated blocks are the connector's, so a decoder is found in the file as in every LLaVA."""
    randomise(GatedLLaVA(config("gated_xattn"))).save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names
    assert "multi_modal_projector.blocks.0.attention_gate" in names


@pytest.mark.parametrize("kind", CONNECTORS)
def test_a_connector_alone_comes_back_as_it_was(kind, tmp_path):
    model = randomise(llava_class(kind)(config(kind)))
    save_alone(model, tmp_path / "out")
    assert connector_of(tmp_path / "out") == (kind, SIZES)
    assert connector_of(tmp_path / "out/mm_projector.safetensors") == (kind, SIZES)
    again = load_projector(tmp_path / "out", model.config, "cpu", None)
    for name, tensor in model.multi_modal_projector.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_weights_of_another_connector_than_config_json_names(tmp_path):
    """Gated cross-attention has a resampler, too, and more."""
    randomise(GatedLLaVA(config("gated_xattn"))).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"projector": "resampler"}))
    message = r"blocks.* is not part of the connector that its config.json names; use the config"
    with pytest.raises(WeightsError, match=message):
        LLaVA.from_pretrained(tmp_path)


def test_one_connector_opened_as_another(tmp_path):
    save_alone(randomise(LLaVA(config("resampler"))), tmp_path / "out")
    write_connector(tmp_path / "out", "qformer", SIZES)
    with pytest.raises(WeightsError, match=r"no qformer of this tower.*queries is missing"):
        load_projector(tmp_path / "out", config("qformer"), "cpu", None)


def test_a_connector_of_another_tower(tmp_path):
    save_alone(randomise(LLaVA(config("abstractor"))), tmp_path / "out")
    wider = LlavaConfig(
        VisionConfig(32, 8, 64, 96, 4, 4), TEXT, "abstractor", image_token_id=95, connector=SIZES
    )
    with pytest.raises(WeightsError, match=r"queries is \(4, 48\), expected \(4, 64\)"):
        load_projector(tmp_path / "out", wider, "cpu", None)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"connector": {}}, "no 'projector'; expected a text"),
        ({"projector": "linear", "connector": {}}, "'linear'; expected one of 'resampler'"),
        ({"projector": "qwen"}, "no 'connector'; expected an object"),
        ({"projector": "qwen", "connector": {"num_queries": -1}}, "num_queries = -1"),
        ({"projector": "qwen", "connector": {"width": 3}}, "width = 3 is not supported"),
        ({"projector": "qwen", "connector": {"sees": "some"}}, "sees 'some'"),
    ],
)
def test_a_connector_json_with_errors(values, message, tmp_path):
    (tmp_path / "connector.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=message) as error:
        connector_of(tmp_path)
    assert "\n" not in str(error.value)
