"""config.json to our dataclasses and back: the one place that knows the spelling of those files.

An option changes what a model computes, so an option that is not supported raises a ConfigError.
It names the key, its value and what is supported. Only keys that are known to change nothing are
ignored.
"""

from dataclasses import Field, asdict, fields

from .. import schema
from ..config import LlamaConfig, LlavaConfig, VisionConfig
from ..errors import ConfigError

# Keys that change nothing here: transformers writes them into every config.json.
IGNORED_KEYS = frozenset(
    # Bookkeeping: names, versions, dtypes and classes.
    "_name_or_path architectures dtype finetuning_task id2label is_composition label2id "
    "problem_type task_specific_params tokenizer_class torch_dtype torchscript "
    "transformers_version use_bfloat16 "
    # Initialization and dropout, which matter only before and during training.
    "attention_dropout classifier_dropout dropout initializer_factor initializer_range "
    "tf_legacy_loss "
    # Kinds of models that LLaVA's parts are not, and how transformers returns results.
    "add_cross_attention chunk_size_feed_forward cross_attention_hidden_size is_decoder "
    "is_encoder_decoder output_attentions output_hidden_states output_scores pretraining_tp "
    "pruned_heads return_dict return_dict_in_generate tie_encoder_decoder use_cache "
    # Defaults for text generation: `generate` has its own.
    "bad_words_ids begin_suppress_tokens decoder_start_token_id diversity_penalty do_sample "
    "early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty "
    "forced_bos_token_id forced_eos_token_id length_penalty max_length max_sequence_length "
    "min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences prefix "
    "remove_invalid_values repetition_penalty suppress_tokens temperature top_k top_p typical_p "
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
    "unfreeze_mm_vision_tower mm_vision_tower_lr "
    "tune_mm_vision_resampler freeze_mm_vision_resampler "
    "tokenizer_model_max_length tokenizer_padding_side sep_image_conv_front".split()
)

# Options of which only some values are supported. A missing key has the first value; None means
# that the key must be missing or null.
SUPPORTED_VISION_VALUES = {
    "model_type": ("clip_vision_model",),
    "hidden_act": ("quick_gelu",),
    "num_channels": (3,),
    "tie_word_embeddings": (True, False),  # a tower has no word embeddings
}
SUPPORTED_TEXT_VALUES = {
    "model_type": ("llama", "mistral"),  # Mistral without a sliding window is a Llama
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
SUPPORTED_LLAVA_VALUES = {
    "model_type": ("llava",),
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

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def parse_vision_config(values: dict, where: str = "vision config") -> VisionConfig:
    """The config of a CLIP vision tower. `where` names the file in error messages."""
    values = VISION_DEFAULTS | without_nulls(values)
    return build(VisionConfig, values, where, SUPPORTED_VISION_VALUES)


def parse_llama_config(values: dict, where: str = "text config") -> LlamaConfig:
    """The config of a Llama, or of the language model of an original LLaVA."""
    values = TEXT_DEFAULTS | without_nulls(values)
    supported = SUPPORTED_TEXT_VALUES
    if "mm_vision_tower" in values:
        supported = SUPPORTED_TEXT_VALUES | SUPPORTED_ORIGINAL_LLAVA_VALUES
        for key in ORIGINAL_LLAVA_KEYS:
            values.pop(key, None)
    theta, factor = pop_rope(values, where)
    values["rope_theta"] = theta
    values["rope_factor"] = factor
    return build(LlamaConfig, values, where, supported)


def pop_rope(values: dict, where: str) -> tuple[float, float]:
    """Take all keys of the rotary embedding out of `values`.

    Returns theta and the factor by which positions are divided. transformers 4 writes `rope_theta`
    and `rope_scaling`; 5 writes `rope_parameters`, which holds everything.
    """
    rope = {}
    for key in ("rope_scaling", "rope_parameters"):
        part = values.pop(key, {})
        if not isinstance(part, dict):
            raise ConfigError(f"{where}: {key} = {part!r}; expected an object")
        rope |= without_nulls(part)
    old_rope_type = rope.pop("type", "default")  # some files have both spellings
    rope_type = rope.pop("rope_type", old_rope_type)
    old_theta = values.pop("rope_theta", LlamaConfig.rope_theta)
    theta = rope.pop("rope_theta", old_theta)
    factor = 1.0
    if rope_type == "linear":
        factor = rope.pop("factor", 1.0)
    if rope_type not in ("default", "linear") or rope:
        options = "".join(f", {key} = {value!r}" for key, value in rope.items())
        raise ConfigError(
            f"{where}: rope_type = {rope_type!r}{options} is not supported; "
            "expected 'default', or 'linear' with a factor"
        )
    return theta, factor


def parse_llava_config(values: dict, where: str = "config") -> LlavaConfig:
    """The config of a llava-hf directory."""
    values = without_nulls(values)
    for key in ("vision_config", "text_config"):
        if not isinstance(values.get(key), dict):
            raise ConfigError(f"{where}: no {key}; expected the config.json of a llava-hf model")
    text_values = values["text_config"]
    vision_values = values["vision_config"]
    values["vision_config"] = parse_vision_config(vision_values, f"{where}: vision_config")
    values["text_config"] = parse_llama_config(text_values, f"{where}: text_config")

    # Without a nonlinearity, linear_2(linear_1(x)) is a linear map: our single W. See hf/files.py.
    if values.get("projector_hidden_act") == "linear":
        values["projector"] = "linear"
    else:
        values["projector"] = "mlp2x_gelu"

    image_token_index = values.pop("image_token_index", LlavaConfig.image_token_id)  # older name
    values.setdefault("image_token_id", image_token_index)

    values |= parse_special_ids(text_values | values, where)  # older files: in the text part

    # The text part says whether the embeddings are tied. The top level may repeat it, and False,
    # its default, says nothing.
    tied = values["text_config"].tie_word_embeddings
    tied_values = (True, False) if tied else (False,)
    supported = SUPPORTED_LLAVA_VALUES | {"tie_word_embeddings": tied_values}
    return build(LlavaConfig, values, where, supported)


def parse_special_ids(values: dict, where: str) -> dict[str, int | None]:
    """The ids of bos, eos and pad in a config.json, None where it has none."""
    ids = {}
    for key in SPECIAL_TOKENS:
        token_id = values.get(key)
        if isinstance(token_id, list) and len(token_id) == 1:
            (token_id,) = token_id
        if token_id == -1:  # how old Llamas say that there is no padding token
            token_id = None
        if token_id is not None:
            schema.check(token_id, int, f"{where}: {key}", minimum=0)
        ids[key] = token_id
    return ids


def without_nulls(values: dict) -> dict:
    """A copy without the keys that are null, which mean the same as missing ones."""
    return {key: value for key, value in values.items() if value is not None}


def build(cls: type, values: dict, where: str, supported: dict[str, tuple]):
    """Make the dataclass `cls` of a JSON object without nulls, and check every key of it.

    A key is a field of `cls`, or has one of a few `supported` values, or is ignored.
    """
    for key, supported_values in supported.items():
        value = values.get(key, supported_values[0])
        if value not in supported_values:
            expected = " or ".join(repr(value) for value in supported_values)
            raise ConfigError(f"{where}: {key} = {value!r} is not supported; expected {expected}")
    names = [field.name for field in fields(cls)]
    unknown = sorted(values.keys() - set(names) - supported.keys() - IGNORED_KEYS)
    if unknown:
        options = ", ".join(f"{key} = {values[key]!r}" for key in unknown)
        raise ConfigError(
            f"{where}: {options} is not supported; {cls.__name__} has {', '.join(names)}"
        )
    arguments = {}
    for field in fields(cls):
        if field.name in values:
            check_field(field, values[field.name], where)
            arguments[field.name] = values[field.name]
    return cls(**arguments)


def check_field(field: Field, value, where: str) -> None:
    """A ConfigError if the value is not of the field's type, or is a size that is not positive."""
    expected_type = field.type
    if expected_type is float:
        expected_type = int | float  # JSON writes 1.0 as 1
    if not isinstance(value, expected_type):
        raise ConfigError(f"{where}: {field.name} = {value!r}; expected {field.type}")
    is_number = isinstance(value, int | float) and field.type is not bool
    may_be_negative = field.name.endswith(("_id", "_layer"))  # ids and indices, not sizes
    if is_number and not may_be_negative and value <= 0:
        raise ConfigError(f"{where}: {field.name} = {value!r}; expected more than 0")


def vision_config_json(config: VisionConfig) -> dict:
    """The config.json of a CLIPVisionModel."""
    return {
        "model_type": "clip_vision_model",
        "hidden_act": "quick_gelu",
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
    """The config.json of a LlavaForConditionalGeneration."""
    special_tokens = {}
    for key in SPECIAL_TOKENS:
        if getattr(config, key) is not None:
            special_tokens[key] = getattr(config, key)
    projector_hidden_act = "linear" if config.projector == "linear" else "gelu"
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "vision_config": vision_config_json(config.vision_config),
        "text_config": llama_config_json(config.text_config) | special_tokens,
        "projector_hidden_act": projector_hidden_act,
        "multimodal_projector_bias": True,
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": "default",
        "image_token_index": config.image_token_id,
        "image_seq_length": config.vision_config.num_patches,
        "tie_word_embeddings": config.text_config.tie_word_embeddings,
        **special_tokens,
    }
