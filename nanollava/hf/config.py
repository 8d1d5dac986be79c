"""config.json to our dataclasses and back: the one place that knows the spelling of those files.

An option changes what a model computes, so an option that is not supported raises a ConfigError.
It names the key, its value and what is supported. Only keys that are known to change nothing are
ignored.
"""

from dataclasses import Field, asdict, fields
from typing import get_args

from .. import schema
from ..config import (
    ACTIVATIONS,
    CONNECTORS,
    SPECIAL_IDS,
    ConnectorConfig,
    LlamaConfig,
    LlavaConfig,
    VisionConfig,
)
from ..errors import ConfigError
from .names import is_original

# Keys that change nothing here: transformers writes them into every config.json. Keys that begin
# with "_" are its own notes, such as `_attn_implementation_autoset`, and belong to them.
IGNORED_KEYS = frozenset(
    # Bookkeeping: names, versions, dtypes and classes.
    "architectures auto_map custom_pipelines dtype finetuning_task id2label is_composition "
    "label2id license model_name name_or_path problem_type task_specific_params tokenizer_class "
    "torch_dtype torchscript transformers_version unsloth_fixed unsloth_version use_bfloat16 "
    # Initialization and dropout, which matter only before and during training.
    "attention_dropout classifier_dropout dropout embd_pdrop hidden_dropout initializer_factor "
    "initializer_range logit_scale_init_value resid_pdrop tf_legacy_loss "
    # How the same numbers are computed: attention kernels, checkpointing, splitting.
    "attn_implementation chunk_size_feed_forward gradient_checkpointing pretraining_tp "
    "use_flash_attention use_flash_attention_2 use_flash_attn use_gradient_checkpointing use_sdpa "
    # How transformers returns results.
    "is_decoder output_attentions output_hidden_states output_logits output_scores return_dict "
    "return_dict_in_generate tie_encoder_decoder use_cache use_return_dict "
    # Defaults for text generation: `generate` has its own.
    "assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight "
    "assistant_lookbehind bad_words_ids "
    "begin_suppress_tokens cache_config cache_implementation compile_config constraints "
    "continuous_batching_config decoder_start_token_id disable_compile diversity_penalty do_sample "
    "dola_layers early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty "
    "epsilon_cutoff eta_cutoff exponential_decay_length_penalty force_words_ids "
    "forced_bos_token_id forced_decoder_ids forced_eos_token_id generation_config guidance_scale "
    "is_assistant length_penalty low_memory max_cache_len max_length max_matching_ngram_size "
    "max_new_tokens max_sequence_length max_time min_length min_new_tokens min_p "
    "no_repeat_ngram_size "
    "num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams "
    "num_return_sequences penalty_alpha prefill_chunk_size prefix prompt_lookup_num_tokens "
    "remove_invalid_values renormalize_logits repetition_penalty return_legacy_cache sequence_bias "
    "speculation_type stop_strings suppress_tokens target_lookbehind temperature token_healing "
    "top_h top_k top_p typical_p use_mtp watermarking_config "
    # Special tokens: LlavaConfig has those that count.
    "bos_token_id eos_token_id ignore_index pad_token_id sep_token_id "
    # Sizes that another part of the file repeats, or that belong to CLIP's text side.
    "image_seq_length projection_dim projector_hidden_size vocab_size".split()
)

# Keys that the original LLaVA adds to those of a Llama. `LLaVA.from_pretrained` reads the tower and
# its layer; the others record how the model was trained.
ORIGINAL_LLAVA_KEYS = frozenset(
    "mm_vision_tower mm_hidden_size mm_vision_select_layer use_mm_proj "
    "mm_patch_merge_type image_grid_pinpoints mm_use_im_patch_token "
    "tune_mm_mlp_adapter freeze_mm_mlp_adapter pretrain_mm_mlp_adapter mm_projector_lr "
    "unfreeze_mm_vision_tower mm_tunable_parts mm_vision_tower_lr "
    "tune_mm_vision_resampler freeze_mm_vision_resampler "
    "tokenizer_model_max_length tokenizer_padding_side sep_image_conv_front".split()
)

# Options of which only some values are supported. A missing key has the first value; None means
# that the key must be missing or null.
SUPPORTED_VALUES_EVERYWHERE = {
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({},),
}
SUPPORTED_VISION_VALUES = {
    "model_type": ("clip_vision_model",),
    "hidden_act": ACTIVATIONS,
    "num_channels": (3,),
    "tie_word_embeddings": (True, False),  # a tower has no word embeddings
}
SUPPORTED_TEXT_VALUES = {
    "model_type": ("llama", "mistral"),  # see parse_mistral
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "sliding_window": (None,),
}
SUPPORTED_ORIGINAL_LLAVA_VALUES = {
    "model_type": ("llava", "llava_llama"),
    "mm_projector_type": ("linear", "mlp2x_gelu"),
    "mm_vision_select_feature": ("patch",),  # the class token is left out
    "mm_use_im_start_end": (False,),
    "mm_resampler_type": (None,),
    "image_aspect_ratio": ("pad", "square"),
}
OUR_MODEL_TYPE = "nanollava"  # a LLaVA with one of CONNECTORS: transformers has no such model
SUPPORTED_LLAVA_VALUES = {
    "model_type": ("llava", OUR_MODEL_TYPE),
    "vision_feature_select_strategy": ("default",),  # the class token is left out
    "multimodal_projector_bias": (True,),
    "projector_hidden_act": ("gelu", "linear"),
}

# transformers leaves out what equals its own defaults, which are not ours.
VISION_DEFAULTS = {  # CLIP ViT-B/32
    "image_size": 224,
    "patch_size": 32,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
TEXT_DEFAULTS = {  # LLaMA 1
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
}
MISTRAL_DEFAULTS = {  # Mistral 7B
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}

# Larger values are an error before anything is built. Sizes that are not listed have the last one.
MAX_VALUES = {
    "num_hidden_layers": 1024,
    "num_layers": 1024,
    "max_position_embeddings": 2**24,
    "vocab_size": 2**24,
    "image_size": 4096,
    "patch_size": 4096,
    "layer_norm_eps": 1.0,
    "rms_norm_eps": 1.0,
    "rope_theta": 1e12,
    "rope_factor": 1e6,
}
MAX_SIZE = 2**20
# Smaller values are 0 or infinite in float32, or make it so in a few operations.
MIN_VALUES = {
    "layer_norm_eps": 1e-15,
    "rms_norm_eps": 1e-15,
    "rope_theta": 1.0,
    "rope_factor": 1e-3,
}


def parse_vision_config(values: dict, where: str = "vision config") -> VisionConfig:
    """The config of a CLIP vision tower. `where` names the file in error messages."""
    values = VISION_DEFAULTS | without_nulls(values)
    return build_config(VisionConfig, values, where, SUPPORTED_VISION_VALUES)


def parse_llama_config(values: dict, where: str = "text config") -> LlamaConfig:
    """The config of a Llama, or of the language model of an original LLaVA."""
    if values.get("model_type") == "mistral":
        values = parse_mistral(values, where)
    values = TEXT_DEFAULTS | without_nulls(values)
    supported = SUPPORTED_TEXT_VALUES
    if is_original(values):
        supported = SUPPORTED_TEXT_VALUES | SUPPORTED_ORIGINAL_LLAVA_VALUES
        for key in ORIGINAL_LLAVA_KEYS:
            values.pop(key, None)
    theta, factor = pop_rope(values, where)
    values["rope_theta"] = theta
    values["rope_factor"] = factor
    return build_config(LlamaConfig, values, where, supported)


def parse_mistral(values: dict, where: str) -> dict:
    """The options of a Mistral as those of a Llama, which it is without a sliding window.

    A missing key has Mistral's default, and null is a value: no sliding window, as many key-value
    heads as heads.
    """
    values = MISTRAL_DEFAULTS | values
    window = values.pop("sliding_window")
    positions = values["max_position_embeddings"]
    if window is None or positions is None:
        return values
    schema.check_value(window, int, f"{where}: sliding_window", minimum=1)
    schema.check_value(positions, int, f"{where}: max_position_embeddings", minimum=1)
    if window < positions:  # else every position is in the window
        raise ConfigError(
            f"{where}: sliding_window = {window} (Mistral's default, if it is not written) is not "
            f"supported; expected null, or at least max_position_embeddings = {positions}"
        )
    return values


def pop_rope(values: dict, where: str) -> tuple[float, float]:
    """Take all keys of the rotary embedding out of `values`.

    Returns theta and the factor by which positions are divided. transformers 4 writes `rope_theta`
    and `rope_scaling`; 5 writes `rope_parameters`, which holds everything.
    """
    rope = {}
    for key in ("rope_scaling", "rope_parameters"):
        rope |= without_nulls(schema.optional(values, key, dict, where, default={}))
        values.pop(key, None)
    old_rope_type = rope.pop("type", "default")  # some files have both spellings
    rope_type = rope.pop("rope_type", old_rope_type)
    old_theta = values.pop("rope_theta", LlamaConfig.rope_theta)
    theta = rope.pop("rope_theta", old_theta)
    factor = 1.0
    if rope_type == "linear":
        factor = rope.pop("factor", 1.0)
    if rope_type not in ("default", "linear") or rope:
        options = {"rope_type": rope_type, **rope}
        raise ConfigError(
            f"{where}: {list_options(options)} is not supported; "
            "expected 'default', or 'linear' with a factor"
        )
    return theta, factor


def parse_llava_config(values: dict, where: str = "config") -> LlavaConfig:
    """The config of a llava-hf directory, or of one of ours with another connector."""
    values = without_nulls(values)
    if values.get("model_type") == "clip":
        raise ConfigError(f"{where}: a CLIP alone (model_type 'clip'); expected a complete LLaVA")
    for key in ("vision_config", "text_config"):
        if not isinstance(values.get(key), dict):
            raise ConfigError(f"{where}: no {key}; expected the config.json of a llava-hf model")
    text_values = values["text_config"]  # with its nulls: a Mistral's mean something
    vision_values = values["vision_config"]
    top_level = values.pop("tie_word_embeddings", False)
    tied = tied_embeddings(top_level, without_nulls(text_values), where)
    text_values = text_values | {"tie_word_embeddings": tied}
    values["vision_config"] = parse_vision_config(vision_values, f"{where}: vision_config")
    values["text_config"] = parse_llama_config(text_values, f"{where}: text_config")

    # Without a nonlinearity, linear_2(linear_1(x)) is a linear map: our single W. See hf/files.py.
    if values.get("model_type") == OUR_MODEL_TYPE:
        values["projector"], values["connector"] = parse_connector(values, where)
    elif values.get("projector_hidden_act") == "linear":
        values["projector"] = "linear"
    else:
        values["projector"] = "mlp2x_gelu"

    image_token_index = values.pop("image_token_index", LlavaConfig.image_token_id)  # older name
    values.setdefault("image_token_id", image_token_index)

    values |= parse_special_ids(text_values | values, where)  # older files: in the text part

    return build_config(LlavaConfig, values, where, SUPPORTED_LLAVA_VALUES)


def parse_connector(values: dict, where: str) -> tuple[str, ConnectorConfig]:
    """One of CONNECTORS, and its sizes: the keys "projector" and "connector" of our own files."""
    kind = schema.require(values, "projector", str, where, choices=CONNECTORS)
    sizes = schema.require(values, "connector", dict, where)
    return kind, build_config(ConnectorConfig, sizes, f"{where}: connector", {})


def is_ours(config: LlavaConfig) -> bool:
    """Whether the connector is one that transformers' LLaVA does not have."""
    return config.projector in CONNECTORS


def connector_json(projector: str, connector: ConnectorConfig) -> dict:
    """What `parse_connector` reads."""
    return {"projector": projector, "connector": asdict(connector)}


def tied_embeddings(top_level: bool, text_values: dict, where: str) -> bool:
    """Whether a llava-hf config ties embedding and head.

    The text part says it, or the top level where that is silent. False on the top level, its
    default, says nothing.
    """
    schema.check_value(top_level, bool, f"{where}: tie_word_embeddings")
    tied = text_values.get("tie_word_embeddings", top_level)
    if top_level and tied is False:
        raise ConfigError(
            f"{where}: tie_word_embeddings = True, but False in text_config; correct one of them"
        )
    return tied


def parse_special_ids(values: dict, where: str) -> dict[str, int | None]:
    """The ids of bos, eos and pad in a config.json, None where it has none."""
    ids = {}
    for key in SPECIAL_IDS:
        token_id = values.get(key)
        if isinstance(token_id, list) and len(token_id) == 1:
            (token_id,) = token_id
        if token_id == -1:  # how old Llamas say that there is no padding token
            token_id = None
        if token_id is not None:
            schema.check_value(token_id, int, f"{where}: {key}", minimum=0)
        ids[key] = token_id
    return ids


def without_nulls(values: dict) -> dict:
    """A copy without the keys that are null, which mean the same as missing ones."""
    return {key: value for key, value in values.items() if value is not None}


def build_config(cls: type, values: dict, where: str, supported: dict[str, tuple]):
    """Make the dataclass `cls` of a JSON object without nulls, and check every key of it.

    A key is a field of `cls`, or has one of a few `supported` values, or is ignored.
    """
    supported = SUPPORTED_VALUES_EVERYWHERE | supported
    for key, supported_values in supported.items():
        value = values.get(key, supported_values[0])
        if value not in supported_values:
            expected = " or ".join(repr(value) for value in supported_values)
            raise ConfigError(
                f"{where}: {key} = {schema.short(value)} is not supported; expected {expected}"
            )
    names = [field.name for field in fields(cls)]
    known = {*names, *supported, *IGNORED_KEYS}
    unknown = {}
    for key, value in sorted(values.items()):
        if key not in known and not key.startswith("_"):
            unknown[key] = value
    if unknown:
        raise ConfigError(
            f"{where}: {list_options(unknown)} is not supported; {cls.__name__} has "
            f"{', '.join(names)}"
        )
    arguments = {}
    for field in fields(cls):
        if field.name in values:
            check_field(field, values[field.name], where)
            arguments[field.name] = values[field.name]
    try:
        return cls(**arguments)
    except ConfigError as error:  # values that do not go together
        raise ConfigError(f"{where}: {error}") from None


def list_options(options: dict) -> str:
    """Options and their values, for error messages."""
    return ", ".join(f"{key} = {schema.short(value)}" for key, value in options.items())


def check_field(field: Field, value, where: str) -> None:
    """A ConfigError if the value is not of the field's type, or not in its range."""
    field_type = field.type
    if get_args(field_type):  # int | None
        if value is None:
            return
        field_type = get_args(field_type)[0]
    name = f"{where}: {field.name}"
    if field_type not in schema.NAMES:  # a config that has been checked
        return
    if field_type not in (int, float) or field.name.endswith(("_id", "_layer")):
        schema.check_value(value, field_type, name)  # ids and indices are no sizes
        return
    schema.check_value(value, field_type, name, maximum=MAX_VALUES.get(field.name, MAX_SIZE))
    if value <= 0:
        raise ConfigError(f"{name} = {value!r}; expected more than 0")
    schema.check_value(value, field_type, name, minimum=MIN_VALUES.get(field.name))


def vision_config_json(config: VisionConfig) -> dict:
    """The config.json of a CLIPVisionModel."""
    return {
        "model_type": "clip_vision_model",
        "num_channels": 3,
        **asdict(config),
    }


def llama_config_json(config: LlamaConfig) -> dict:
    """The config.json of a LlamaForCausalLM; transformers 4 and 5 each find theta."""
    values = asdict(config)
    factor = values.pop("rope_factor")
    rope_parameters = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if factor != 1:
        rope_parameters["rope_type"] = "linear"
        rope_parameters["factor"] = factor
    return {
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        **values,
        "rope_parameters": rope_parameters,
    }


def llava_config_json(config: LlavaConfig) -> dict:
    """The config.json of a LlavaForConditionalGeneration, or of our own model type."""
    special_ids = {}
    for key in SPECIAL_IDS:
        token_id = getattr(config, key)
        if token_id is not None:
            special_ids[key] = token_id
    if is_ours(config):
        kind = {
            "architectures": ["NanoLLaVA"],
            "model_type": OUR_MODEL_TYPE,
            **connector_json(config.projector, config.connector),
        }
    else:
        kind = {
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": "llava",
            "projector_hidden_act": "linear" if config.projector == "linear" else "gelu",
            "multimodal_projector_bias": True,
        }
    return {
        **kind,
        "vision_config": vision_config_json(config.vision_config),
        "text_config": llama_config_json(config.text_config) | special_ids,
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": "default",
        "image_token_index": config.image_token_id,
        "image_seq_length": config.num_image_tokens,
        "tie_word_embeddings": config.text_config.tie_word_embeddings,
        **special_ids,
    }
