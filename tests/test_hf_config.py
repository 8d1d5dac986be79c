"""config.json to our dataclasses and back, and the options that are not supported."""

import pytest
import transformers

from nanollava.config import LlamaConfig, LlavaConfig, VisionConfig
from nanollava.errors import ConfigError
from nanollava.hf.config import (
    llama_config_json,
    llava_config_json,
    parse_llama_config,
    parse_llava_config,
    parse_special_ids,
    parse_vision_config,
    vision_config_json,
)

# Published files, as far as they bear on the model.

CLIP_VISION_336 = {
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
    "vocab_size": 32000,
}
# What transformers 4.16 writes besides: every default of every model.
DEFAULTS_OF_TRANSFORMERS_4_16 = {
    "add_cross_attention": False,
    "bad_words_ids": None,
    "chunk_size_feed_forward": 0,
    "do_sample": False,
    "dropout": 0.0,
    "early_stopping": False,
    "hidden_act": "quick_gelu",
    "id2label": {"0": "LABEL_0"},
    "initializer_factor": 1.0,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "layer_norm_eps": 1e-05,
    "max_length": 20,
    "num_beams": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "pad_token_id": None,
    "pruned_heads": {},
    "remove_invalid_values": False,
    "return_dict": True,
    "return_dict_in_generate": False,
    "tie_encoder_decoder": False,
    "tie_word_embeddings": True,
    "top_k": 50,
    "torchscript": False,
    "transformers_version": "4.16.0.dev0",
    "use_bfloat16": False,
}
LLAVA_HF_7B = {
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "vision_config": CLIP_VISION_336,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}
ORIGINAL_7B = {
    "image_aspect_ratio": "pad",
    "image_grid_pinpoints": None,
    "max_length": 4096,
    "max_position_embeddings": 4096,
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "model_type": "llava",
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "tune_mm_mlp_adapter": False,
    "unfreeze_mm_vision_tower": False,
    "use_mm_proj": True,
    "vocab_size": 32000,
}


def test_clip_vit_l_336():
    assert parse_vision_config(CLIP_VISION_336) == VisionConfig(image_size=336)


def test_clip_of_an_older_transformers():
    values = CLIP_VISION_336 | DEFAULTS_OF_TRANSFORMERS_4_16
    assert parse_vision_config(values) == VisionConfig(image_size=336)


def test_llava_hf_7b():
    assert parse_llava_config(LLAVA_HF_7B) == LlavaConfig(
        vision_config=VisionConfig(image_size=336),
        text_config=LlamaConfig(vocab_size=32064),
        projector="mlp2x_gelu",
        image_token_id=32000,
        pad_token_id=32001,
    )


def test_original_llava_7b():
    assert parse_llama_config(ORIGINAL_7B) == LlamaConfig()


# Missing keys and older spellings


def test_a_missing_key_has_the_default_of_transformers():
    theirs = transformers.CLIPVisionConfig()
    ours = parse_vision_config({})
    for name in ("hidden_size", "image_size", "intermediate_size", "num_hidden_layers"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert parse_llama_config({}).rms_norm_eps == transformers.LlamaConfig().rms_norm_eps


def test_every_default_is_that_of_transformers():
    theirs = transformers.LlamaConfig()
    ours = parse_llama_config({})
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("num_attention_heads", "num_key_value_heads", "head_dim"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


def test_mistrals_defaults_are_those_of_transformers():
    theirs = transformers.MistralConfig(sliding_window=None)
    ours = parse_llama_config({"model_type": "mistral", "sliding_window": None})
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


def test_null_key_value_heads_of_a_mistral_are_as_many_as_heads():
    values = {"model_type": "mistral", "sliding_window": None, "num_key_value_heads": None}
    assert parse_llama_config(values).num_key_value_heads == 32


def test_nulls_of_a_mistral_inside_a_llava_mean_the_same():
    text = {"model_type": "mistral", "sliding_window": None, "num_key_value_heads": None}
    values = {"text_config": text | {"vocab_size": 32064}, "vision_config": {}}
    assert parse_llava_config(values).text_config.num_key_value_heads == 32


@pytest.mark.parametrize("window", [{}, {"sliding_window": 4096}, {"sliding_window": 8191}])
def test_a_mistral_with_a_sliding_window_is_an_error(window):
    values = {"model_type": "mistral", "max_position_embeddings": 8192}
    with pytest.raises(ConfigError, match="sliding_window = .* is not supported; expected null"):
        parse_llama_config(values | window)


@pytest.mark.parametrize("window", [{}, {"sliding_window": 4096}, {"sliding_window": None}])
def test_a_sliding_window_that_every_position_is_in_changes_nothing(window):
    values = {"model_type": "mistral", "max_position_embeddings": 4096}
    assert parse_llama_config(values | window).max_position_embeddings == 4096


def test_a_mistral_with_fewer_heads_than_the_default_of_key_value_heads_is_an_error():
    values = {"model_type": "mistral", "sliding_window": None, "num_attention_heads": 4}
    with pytest.raises(ConfigError, match="text config: num_attention_heads = 4 .* = 8"):
        parse_llama_config(values | {"hidden_size": 64})


def test_a_towers_activation_is_that_of_its_config():
    assert parse_vision_config({}).hidden_act == transformers.CLIPVisionConfig().hidden_act
    assert parse_vision_config({"hidden_act": "gelu"}).hidden_act == "gelu"


# Keys that change nothing

NOTES = {
    "_attn_implementation_autoset": True,
    "_attn_implementation": "sdpa",
    "_attn_implementation_internal": "flash_attention_2",
    "_commit_hash": "0123abc",
    "_flash_attn_2_enabled": True,
    "_name_or_path": "somewhere",
    "attn_implementation": "eager",
    "auto_map": {"AutoConfig": "configuration.py"},
    "gradient_checkpointing": True,
    "use_cache": False,
    "use_flash_attention_2": True,
    "unsloth_version": "2024.9",
}


@pytest.mark.parametrize("key", NOTES)
@pytest.mark.parametrize("part", ["text_config", "vision_config", None])
def test_notes_are_ignored_on_every_level(part, key):
    note = {key: NOTES[key]}
    values = LLAVA_HF_7B | (note if part is None else {part: LLAVA_HF_7B[part] | note})
    assert parse_llava_config(values) == parse_llava_config(LLAVA_HF_7B)


@pytest.mark.parametrize("parse", [parse_llama_config, parse_vision_config])
def test_every_setting_of_generation_is_ignored(parse):
    values = dict.fromkeys(vars(transformers.GenerationConfig()), 1)
    del values["transformers_version"]
    assert parse(values) == parse({})


@pytest.mark.parametrize(
    "config", [transformers.LlamaConfig(), transformers.MistralConfig(sliding_window=None)]
)
def test_everything_that_transformers_writes_is_read(config):
    parse_llama_config(config.to_dict())


def test_null_means_the_same_as_a_missing_key():
    assert parse_vision_config({"hidden_size": None}) == parse_vision_config({})


def test_special_tokens_may_be_in_the_text_part():
    values = LLAVA_HF_7B | {"text_config": LLAVA_HF_7B["text_config"] | {"eos_token_id": 7}}
    assert parse_llava_config(values).eos_token_id == 7


def test_special_tokens_of_the_top_level_win():
    text = LLAVA_HF_7B["text_config"] | {"eos_token_id": 7}
    values = LLAVA_HF_7B | {"text_config": text, "eos_token_id": 8}
    assert parse_llava_config(values).eos_token_id == 8


@pytest.mark.parametrize(
    "top_level, text, tied",
    [
        ({}, {}, False),
        ({"tie_word_embeddings": True}, {}, True),
        ({"tie_word_embeddings": True}, {"tie_word_embeddings": None}, True),
        ({"tie_word_embeddings": True}, {"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, {"tie_word_embeddings": True}, True),
        ({}, {"tie_word_embeddings": True}, True),
    ],
)
def test_embeddings_are_tied_where_either_part_says_so(top_level, text, tied):
    values = {k: v for k, v in LLAVA_HF_7B.items() if k != "tie_word_embeddings"}
    values |= top_level | {"text_config": values["text_config"] | text}
    assert parse_llava_config(values).text_config.tie_word_embeddings is tied


@pytest.mark.parametrize("token_id", [[1, 2], "2", -2, True, 1.5])
def test_a_special_token_that_is_no_id_is_an_error(token_id):
    expected = "here: eos_token_id = .*; expected"
    with pytest.raises(ConfigError, match=expected):
        parse_llava_config(LLAVA_HF_7B | {"eos_token_id": token_id}, "here")
    with pytest.raises(ConfigError, match=expected):
        parse_special_ids({"eos_token_id": token_id}, "here")


def test_the_image_token_has_two_spellings():
    values = dict(LLAVA_HF_7B)
    del values["image_token_index"]
    assert parse_llava_config(values | {"image_token_id": 9}).image_token_id == 9


def test_no_nonlinearity_means_a_linear_projector():
    values = LLAVA_HF_7B | {"projector_hidden_act": "linear"}
    assert parse_llava_config(values).projector == "linear"


# Rotary embeddings


@pytest.mark.parametrize(
    "values",
    [
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "type": "x", "factor": 4.0}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}},
    ],
)
def test_every_spelling_of_linear_rope(values):
    config = parse_llama_config(values)
    assert config.rope_theta == 5e5
    assert config.rope_factor == 4.0


@pytest.mark.parametrize("values", [{}, {"rope_scaling": None}, {"rope_parameters": {}}])
def test_rope_without_scaling(values):
    config = parse_llama_config(values)
    assert config.rope_theta == 10000.0
    assert config.rope_factor == 1.0


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0}},
            "rope_type = 'yarn', factor = 2.0 is not supported; expected 'default', or 'linear'",
        ),
        ({"rope_parameters": {"beta": 1}}, "rope_type = 'default', beta = 1 is not supported"),
        ({"rope_scaling": 5}, "rope_scaling = 5; expected an object"),
        ({"rope_parameters": {"rope_theta": -1.0}}, "rope_theta = -1.0; expected more than 0"),
        ({"rope_theta": 1e-320}, "rope_theta = 1e-320; expected at least 1.0"),
        (
            {"rope_scaling": {"type": "linear", "factor": 1e-300}},
            "rope_factor = 1e-300; expected at least 0.001",
        ),
    ],
)
def test_other_ropes_are_an_error(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_llama_config(values)


def test_an_epsilon_that_is_0_in_float32_is_an_error():
    with pytest.raises(ConfigError, match="rms_norm_eps = 1e-320; expected at least 1e-15"):
        parse_llama_config({"rms_norm_eps": 1e-320})


# Writing


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(),
        LlamaConfig(num_key_value_heads=8, head_dim=64, tie_word_embeddings=True),
        LlamaConfig(rope_theta=5e5, rope_factor=4.0),
    ],
)
def test_a_llama_config_comes_back(config):
    assert parse_llama_config(llama_config_json(config)) == config


def test_a_vision_config_comes_back():
    config = VisionConfig(image_size=336)
    assert parse_vision_config(vision_config_json(config)) == config


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_llava_config_comes_back(projector, tied):
    text_config = LlamaConfig(vocab_size=32064, tie_word_embeddings=tied)
    config = LlavaConfig(
        text_config=text_config,
        projector=projector,
        pad_token_id=32001,
        vision_feature_layer=-1,
    )
    assert parse_llava_config(llava_config_json(config)) == config


def test_transformers_reads_our_rope():
    config = LlamaConfig(rope_theta=5e5, rope_factor=4.0)
    theirs = transformers.LlamaConfig(**llama_config_json(config))
    assert theirs.rope_parameters == {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}


# What is not supported


@pytest.mark.parametrize(
    "parse, values, message",
    [
        (
            parse_llama_config,
            {"sliding_window": 4096},
            "sliding_window = 4096 is not supported; expected None",
        ),
        (
            parse_llama_config,
            {"pruned_heads": {"0": [1]}},
            "pruned_heads = {'0': .1.} is not supported; expected {}",
        ),
        (
            parse_vision_config,
            {"add_cross_attention": True},
            "add_cross_attention = True is not supported; expected False",
        ),
        (
            parse_llama_config,
            {"quantization_config": {"bits": 4}},
            "quantization_config = {'bits': 4} is not supported; LlamaConfig has",
        ),
        (
            parse_llama_config,
            {"attention_bias": True},
            "attention_bias = True is not supported; expected False",
        ),
        (
            parse_llama_config,
            {"model_type": "gemma"},
            "model_type = 'gemma' is not supported; expected 'llama' or 'mistral'",
        ),
        (
            parse_vision_config,
            {"hidden_act": "relu"},
            "hidden_act = 'relu' is not supported; expected 'quick_gelu' or 'gelu'",
        ),
        (
            parse_llama_config,
            ORIGINAL_7B | {"mm_use_im_start_end": True},
            "mm_use_im_start_end = True is not supported; expected False",
        ),
        (
            parse_llava_config,
            LLAVA_HF_7B | {"vision_feature_select_strategy": "full"},
            "vision_feature_select_strategy = 'full' is not supported; expected 'default'",
        ),
        (
            parse_llava_config,
            LLAVA_HF_7B
            | {
                "tie_word_embeddings": True,
                "text_config": LLAVA_HF_7B["text_config"] | {"tie_word_embeddings": False},
            },
            "tie_word_embeddings = True, but False in text_config; correct one of them",
        ),
    ],
)
def test_a_value_that_is_not_supported_is_an_error(parse, values, message):
    with pytest.raises(ConfigError, match=message):
        parse(values)


def test_an_unknown_key_is_an_error():
    with pytest.raises(
        ConfigError, match="num_experts = 8 is not supported; LlamaConfig has vocab_size, hidden"
    ):
        parse_llama_config({"num_experts": 8})


def test_the_keys_of_an_original_llava_are_unknown_to_a_llama():
    with pytest.raises(ConfigError, match="mm_hidden_size = 1024 is not supported"):
        parse_llama_config({"mm_hidden_size": 1024})


@pytest.mark.parametrize(
    "part, key, value",
    [
        ("vision_config", "hidden_size", "48"),
        ("vision_config", "num_attention_heads", 0),
        ("text_config", "num_key_value_heads", 0),
        ("text_config", "rope_parameters", 5),
        ("text_config", "tie_word_embeddings", "no"),
        ("text_config", "num_hidden_layers", True),
        ("text_config", "num_hidden_layers", 10**7),
        ("vision_config", "num_hidden_layers", 1025),
        ("text_config", "max_position_embeddings", 10**9),
        ("text_config", "vocab_size", 10**12),
        ("text_config", "hidden_size", 10**400),
        ("text_config", "intermediate_size", 2**21),
        ("text_config", "head_dim", -8),
        ("vision_config", "image_size", 10**6),
        ("text_config", "rms_norm_eps", 0),
        ("text_config", "rms_norm_eps", float("nan")),
        ("text_config", "rms_norm_eps", float("inf")),
        ("vision_config", "layer_norm_eps", float("nan")),
        ("vision_config", "layer_norm_eps", -1e-5),
        ("text_config", "rope_theta", float("nan")),
        ("text_config", "rope_theta", 0.0),
    ],
)
def test_a_value_of_another_type_is_an_error(part, key, value):
    values = LLAVA_HF_7B | {part: LLAVA_HF_7B[part] | {key: value}}
    with pytest.raises(ConfigError, match=f"^a/config.json: {part}: {key} = .*; expected"):
        parse_llava_config(values, "a/config.json")


def test_several_feature_layers_are_an_error():
    values = LLAVA_HF_7B | {"vision_feature_layer": [-2, -5]}
    with pytest.raises(ConfigError, match=r"vision_feature_layer = \[-2, -5\]; expected"):
        parse_llava_config(values)


@pytest.mark.parametrize("key", ["vision_config", "text_config"])
def test_a_missing_part_is_an_error(key):
    values = dict(LLAVA_HF_7B)
    del values[key]
    with pytest.raises(ConfigError, match=f"no {key}; expected the config.json of a llava-hf"):
        parse_llava_config(values)


def test_a_clip_is_no_llava():
    """A CLIP's config has a vision_config and a text_config, too."""
    clip = {"model_type": "clip", "vision_config": {}, "text_config": {}}
    with pytest.raises(ConfigError, match="a CLIP alone .* expected a complete LLaVA"):
        parse_llava_config(clip)


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="hidden_size 66 must be a multiple of .* 4, unless"):
        LlamaConfig(hidden_size=66, num_attention_heads=4)
