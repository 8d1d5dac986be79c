"""config.json to our dataclasses and back: the one place that knows those files' spelling."""

import json
from dataclasses import asdict, fields
from pathlib import Path

from ..config import LlamaConfig, LlavaConfig, VisionConfig
from ..errors import ConfigError

# Of config.json: keys that change nothing (transformers' bookkeeping; what the original LLaVA wrote besides), the only
# values computed of keys that are no fields ("original": those LLaVA adds to a Llama), and what files leave out.
KEYS = json.loads((Path(__file__).parent / "config_keys.json").read_text(encoding="utf-8"))
BOOKKEEPING, ORIGINAL_KEYS = frozenset(KEYS["bookkeeping"]), frozenset(KEYS["original"])
FIXED, DEFAULTS = KEYS["fixed"], KEYS["defaults"]
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def _build(cls, values: dict, where: str, fixed: dict):
    """Makes `cls` from a JSON object. Keys that are neither fields nor `fixed`, which have few values, are errors."""
    values = {key: value for key, value in values.items() if value is not None}  # null says nothing
    for key, allowed in fixed.items():
        if values.get(key, allowed[0]) not in allowed:
            expected = " or ".join(dict.fromkeys(map(repr, allowed)))
            raise ConfigError(
                f"{where}: {key} = {values[key]!r}, but only {expected} is implemented"
            )
    names = {f.name for f in fields(cls)}
    unknown = sorted(values.keys() - names - BOOKKEEPING - fixed.keys())
    if unknown:
        raise ConfigError(
            f"{where}: unknown keys {', '.join(unknown)}; what they mean is not computed here"
        )
    for f in (f for f in fields(cls) if f.name in values):
        value, kind = values[f.name], int | float if f.type is float else f.type
        size = (
            kind is not bool
            and isinstance(value, int | float)
            and not f.name.endswith(("_id", "_layer"))
        )
        if not isinstance(value, kind) or (size and value <= 0):
            raise ConfigError(
                f"{where}: {f.name} = {value!r}; expected {kind}{' above 0' if size else ''}"
            )
    return cls(**{key: values[key] for key in names & values.keys()})


def parse_vision_config(values: dict, where: str = "vision config") -> VisionConfig:
    # CLIP's published files leave out what equals transformers' defaults, which are those of ViT-B/32.
    return _build(VisionConfig, DEFAULTS["vision"] | values, where, FIXED["vision"])


def vision_config_json(config: VisionConfig) -> dict:
    return dict(
        model_type="clip_vision_model", hidden_act="quick_gelu", num_channels=3, **asdict(config)
    )


def parse_llama_config(values: dict, where: str = "text config") -> LlamaConfig:
    values, fixed = DEFAULTS["text"] | values, FIXED["text"]
    if "mm_vision_tower" in values:  # an original LLaVA
        values = {key: value for key, value in values.items() if key not in ORIGINAL_KEYS}
        fixed = fixed | FIXED["original"]
    # theta and scaling: `rope_theta` and `rope_scaling` up to transformers 4, `rope_parameters` from 5 on.
    parts = [values.pop(key, None) or {} for key in ("rope_scaling", "rope_parameters")]
    if not all(isinstance(part, dict) for part in parts):
        raise ConfigError(f"{where}: rope_scaling, rope_parameters {parts}; expected objects")
    rope = parts[0] | parts[1]
    kind = rope.pop("rope_type", rope.pop("type", "default"))  # some files have both
    values["rope_theta"] = rope.pop("rope_theta", values.get("rope_theta", 10000.0))
    values["rope_factor"] = rope.pop("factor", 1.0) if kind == "linear" else 1.0
    if kind not in ("default", "linear") or rope:
        raise ConfigError(f"{where}: rope {kind!r} {rope or ''}; expected 'default' or 'linear'")
    return _build(LlamaConfig, values, where, fixed)


def llama_config_json(config: LlamaConfig) -> dict:
    values = asdict(config)
    factor = values.pop("rope_factor")
    linear = {"rope_type": "linear", "factor": factor} if factor != 1 else {"rope_type": "default"}
    values["rope_parameters"] = {"rope_theta": config.rope_theta, **linear}
    return dict(
        model_type="llama", hidden_act="silu", attention_bias=False, mlp_bias=False, **values
    )


def parse_llava_config(values: dict, where: str = "config") -> LlavaConfig:
    values, text = dict(values), values.get("text_config")
    for key, part in (("vision_config", parse_vision_config), ("text_config", parse_llama_config)):
        if not isinstance(values.get(key), dict):
            raise ConfigError(f"{where}: no {key}; expected a llava-hf config.json")
        values[key] = part(values[key], f"{where}: {key}")
    # The identity as "activation" makes linear_2(linear_1(x)) a linear map: our single W (see weights.py).
    linear = values.get("projector_hidden_act") == "linear"
    values["projector"] = "linear" if linear else "mlp2x_gelu"
    values.setdefault("image_token_id", values.pop("image_token_index", LlavaConfig.image_token_id))
    # Old files keep the special ids, if anywhere, in the text part or in generation_config.json.
    special = {key: values.get(key, text.get(key)) for key in SPECIAL}
    values |= {key: index for key, index in special.items() if index is not None}
    tied = (values["text_config"].tie_word_embeddings, False)
    return _build(LlavaConfig, values, where, FIXED["llava"] | {"tie_word_embeddings": tied})


def llava_config_json(config: LlavaConfig) -> dict:
    tokens = {name: getattr(config, name) for name in SPECIAL}
    return {
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava",
        "vision_config": vision_config_json(config.vision_config), "text_config": llama_config_json(config.text_config) | tokens,
        "projector_hidden_act": "linear" if config.projector == "linear" else "gelu", "multimodal_projector_bias": True,
        "vision_feature_layer": config.vision_feature_layer, "vision_feature_select_strategy": "default",
        "image_token_index": config.image_token_id, "image_seq_length": config.vision_config.num_patches,
        "tie_word_embeddings": config.text_config.tie_word_embeddings, **tokens,
    }  # fmt: skip
