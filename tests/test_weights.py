"""Checkpoints: shards, and everything that must not load."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from nanollava import LLaVA
from nanollava.config import LlamaConfig, VisionConfig
from nanollava.errors import ConfigError
from nanollava.hf import files as hf_files
from nanollava.hf import names as hf_names
from nanollava.hf.config import (
    llama_config_json,
    parse_llama_config,
    parse_llava_config,
    parse_vision_config,
)
from nanollava.hf.names import WeightsError


@pytest.fixture
def path(llava_dir, tmp_path):
    return shutil.copytree(llava_dir(), tmp_path / "model")


def change(path, edit):
    tensors = load_file(path / "model.safetensors")
    edit(tensors)
    save_file(tensors, path / "model.safetensors")


def test_shards_and_bit_equality(path, tmp_path):
    model = LLaVA.from_pretrained(path)
    out = tmp_path / "shards"
    out.mkdir()
    hf_files.save(model.state_dict(), out, hf_names.LLAVA, shard_bytes=50_000)
    shutil.copy(path / "config.json", out)
    assert len(list(out.glob("model-*.safetensors"))) > 2
    again = LLaVA.from_pretrained(out)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    next(out.glob("model-*.safetensors")).unlink()
    with pytest.raises(WeightsError, match=r"names model-0.*, which is missing"):
        LLaVA.from_pretrained(out)


def test_a_second_saving_leaves_nothing_of_the_first(path, tmp_path):
    """In one file, in shards, in fewer shards, in one file: what is read is what was written last."""
    state = LLaVA.from_pretrained(path).state_dict()
    name = "multi_modal_projector.linear_1.weight"
    for value, size in enumerate((10**9, 30_000, 100_000, 10**9)):
        hf_files.save(
            state | {name: torch.full_like(state[name], value)},
            path,
            hf_names.LLAVA,
            shard_bytes=size,
        )
        theirs = transformers.LlavaForConditionalGeneration.from_pretrained(path)
        for model in (LLaVA.from_pretrained(path), theirs.model):
            assert (model.multi_modal_projector.linear_1.weight == value).all()
        files = {file.name for file in path.glob("model*")}
        assert files == (
            {file.name for file in hf_files.shards(path)} | {"model.safetensors.index.json"}
            if size < 10**9
            else {"model.safetensors"}
        )


def test_dtype(path):
    assert (
        LLaVA.from_pretrained(path, dtype=torch.float16).language_model.lm_head.weight.dtype
        == torch.float16
    )
    assert LLaVA.from_pretrained(path).language_model.lm_head.weight.dtype == torch.float32


def test_old_buffers_are_dropped_by_name(path):
    name = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    change(path, lambda t: t.update({name: torch.ones(8)}))
    LLaVA.from_pretrained(path)


@pytest.mark.parametrize(
    "edit, message",
    [
        (
            lambda t: t.pop("language_model.model.norm.weight"),
            "1 of .* tensors are missing, the first 'language_model.model.norm",
        ),
        (
            lambda t: t.update({"language_model.model.extra.weight": torch.ones(2)}),
            "extra.weight.* is not part of this model",
        ),
        (
            lambda t: t.update({"stranger": torch.ones(2)}),
            "'stranger' has no place in the llava-hf layout",
        ),
        (
            lambda t: t.update({"language_model.model.norm.weight": torch.ones(3)}),
            r"has shape \(3,\), the config says \(64,\)",
        ),
    ],
    ids=["missing", "surplus", "unknown", "shape"],
)
def test_strict(path, edit, message):
    change(path, edit)
    with pytest.raises(WeightsError, match=message):
        LLaVA.from_pretrained(path)


def test_linear_projector_needs_an_identity(path):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"projector_hidden_act": "linear"}))
    with pytest.raises(WeightsError, match=r"linear_2.* is not the identity"):
        LLaVA.from_pretrained(path)


def test_broken_files(path):
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        LLaVA.from_pretrained(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="no model.safetensors or pytorch_model.bin"):
        LLaVA.from_pretrained(path)
    (path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        LLaVA.from_pretrained(path)
    with pytest.raises(ConfigError, match="no such file"):
        LLaVA.from_pretrained(path / "nowhere")


def test_published_configs():
    """The config.json of llava-1.5-7b-hf, of llava-v1.5-7b and of CLIP ViT-L/14-336, as far as they bear on the model; in
    CLIP's, of an older transformers, every default stands, too."""
    vision = dict(
        hidden_size=1024,
        image_size=336,
        intermediate_size=4096,
        model_type="clip_vision_model",
        num_attention_heads=16,
        num_hidden_layers=24,
        patch_size=14,
        projection_dim=768,
        vocab_size=32000,
    )
    off, on = (
        "add_cross_attention do_sample early_stopping is_decoder is_encoder_decoder output_attentions".split(),
        {},
    )
    off += "output_hidden_states output_scores remove_invalid_values return_dict_in_generate torchscript".split()
    on |= dict(
        return_dict=True,
        tie_word_embeddings=True,
        top_k=50,
        max_length=20,
        id2label={"0": "LABEL_0"},
    )
    on |= dict(
        layer_norm_eps=1e-05,
        dropout=0.0,
        num_beams=1,
        pruned_heads={},
        pad_token_id=None,
        hidden_act="quick_gelu",
    )
    on |= dict(
        initializer_factor=1.0,
        chunk_size_feed_forward=0,
        transformers_version="4.16.0.dev0",
        bad_words_ids=None,
    )
    older = vision | on | dict.fromkeys([*off, "tie_encoder_decoder", "use_bfloat16"], False)
    assert parse_vision_config(older) == VisionConfig(image_size=336)
    text = dict(
        max_position_embeddings=4096,
        model_type="llama",
        rms_norm_eps=1e-5,
        torch_dtype="float16",
        vocab_size=32064,
    )
    hf = dict(
        ignore_index=-100,
        image_token_index=32000,
        model_type="llava",
        pad_token_id=32001,
        vocab_size=32064,
    )
    hf |= dict(
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    config = parse_llava_config(
        {**hf, "vision_config": vision, "text_config": text, "tie_word_embeddings": False}
    )
    assert config.vision_config == VisionConfig(image_size=336) and config.projector == "mlp2x_gelu"
    assert config.text_config == LlamaConfig(vocab_size=32064) and config.image_token_id == 32000
    original = dict(
        model_type="llava",
        vocab_size=32000,
        rms_norm_eps=1e-5,
        mm_vision_tower="openai/clip-vit-large-patch14-336",
    )
    original |= dict(
        mm_hidden_size=1024,
        mm_projector_type="mlp2x_gelu",
        mm_resampler_type=None,
        mm_use_im_start_end=False,
    )
    original |= dict(
        mm_use_im_patch_token=False,
        mm_vision_select_feature="patch",
        mm_vision_select_layer=-2,
        use_mm_proj=True,
    )
    original |= dict(
        image_aspect_ratio="pad",
        image_grid_pinpoints=None,
        tune_mm_mlp_adapter=False,
        pretraining_tp=1,
    )
    original |= dict(
        max_position_embeddings=4096,
        max_length=4096,
        rope_scaling=None,
        unfreeze_mm_vision_tower=False,
    )
    assert parse_llama_config(original) == LlamaConfig()
    with pytest.raises(ConfigError, match="mm_use_im_start_end = True"):
        parse_llama_config(original | {"mm_use_im_start_end": True})


@pytest.mark.parametrize(
    "part, key, value",
    [
        ("vision_config", "hidden_size", "48"),
        ("vision_config", "num_attention_heads", 0),
        ("text_config", "num_key_value_heads", 0),
        ("text_config", "rope_parameters", 5),
        ("text_config", "tie_word_embeddings", "no"),
        (None, "vision_feature_layer", [-2, -5]),
    ],
)
def test_values_of_another_kind(path, part, key, value):
    config = json.loads((path / "config.json").read_text())
    (config[part] if part else config)[key] = value
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=key):
        LLaVA.from_pretrained(path)


def test_config_keys():
    with pytest.raises(ConfigError, match="sliding_window = 4096 is not supported; expected None"):
        parse_llama_config({"sliding_window": 4096})
    with pytest.raises(
        ConfigError, match="hidden_act = 'gelu' is not supported; expected 'quick_gelu'"
    ):
        parse_vision_config({"hidden_act": "gelu"})
    with pytest.raises(ConfigError, match="rope_type = 'yarn'"):
        parse_llama_config({"rope_scaling": {"type": "yarn", "factor": 2.0}})
    old = parse_llama_config({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}})
    assert (old.rope_theta, old.rope_factor) == (5e5, 4.0)
    assert parse_llama_config(llama_config_json(old)) == old


def test_a_disk_too_full_is_told_before_anything_is_written(path, monkeypatch):
    model, before = LLaVA.from_pretrained(path), {f.name: f.read_bytes() for f in path.iterdir()}
    (path / "model.safetensors.partial").write_bytes(b"of a saving that was cut off")
    monkeypatch.setattr(
        hf_files.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 99, 1)
    )
    with pytest.raises(OSError, match="1 bytes free, the weights take [0-9,]{5,}"):
        model.save_pretrained(path)
    assert {f.name: f.read_bytes() for f in path.iterdir()} == before
    monkeypatch.setattr(
        hf_files.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 0)
    )
    model.save_pretrained(path)  # where nothing is known of the disk
