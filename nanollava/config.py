"""Frozen configs, read from and written to Hugging Face `config.json`: the one place that knows those files' spelling."""

import json
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from pathlib import Path

# Of config.json: keys that change nothing (transformers' bookkeeping; what the original LLaVA wrote besides), the only
# values computed of keys that are no fields ("original": those LLaVA adds to a Llama), and what files leave out.
KEYS = json.loads((Path(__file__).parent / "config_keys.json").read_text(encoding="utf-8"))
BOOKKEEPING, ORIGINAL_KEYS = frozenset(KEYS["bookkeeping"]), frozenset(KEYS["original"])
FIXED, DEFAULTS = KEYS["fixed"], KEYS["defaults"]
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
# What a training is told: every flag's type, default and meaning; `free` are those on which the result does not depend.
FLAGS = json.loads((Path(__file__).parent / "flags.json").read_text(encoding="utf-8"))
_named = [(name, object, field(default=flag.get("default"))) for name, flag in FLAGS.items()]
Settings = make_dataclass("Settings", _named, frozen=True)


class UserError(ValueError):
    """What the user gave cannot be used; scripts print its one line and exit with code 2."""


def micro_batch(settings: Settings, ranks: int) -> int:
    """Samples that one rank computes at once; over all ranks and rounds they must make up the global batch."""
    micro = settings.micro_batch or max(1, settings.batch // ranks)
    if settings.batch % (ranks * micro):
        given = f"--batch {settings.batch} (global) is no multiple of {ranks} ranks x --micro-batch {micro}"
        raise UserError(f"{given}; change one of the three")
    return micro


class ConfigError(UserError):
    """A config.json that does not describe a model this package can build."""


def _build(cls, values: dict, where: str, fixed: dict):
    """Makes `cls` from a JSON object. Keys that are neither fields nor `fixed`, which have few values, are errors."""
    values = {key: value for key, value in values.items() if value is not None}  # null says nothing
    for key, allowed in fixed.items():
        if values.get(key, allowed[0]) not in allowed:
            expected = " or ".join(dict.fromkeys(map(repr, allowed)))
            raise ConfigError(f"{where}: {key} = {values[key]!r}, but only {expected} is implemented")
    names = {f.name for f in fields(cls)}
    unknown = sorted(values.keys() - names - BOOKKEEPING - fixed.keys())
    if unknown:
        raise ConfigError(f"{where}: unknown keys {', '.join(unknown)}; what they mean is not computed here")
    for f in (f for f in fields(cls) if f.name in values):
        value, kind = values[f.name], int | float if f.type is float else f.type
        size = kind is not bool and isinstance(value, int | float) and not f.name.endswith(("_id", "_layer"))
        if not isinstance(value, kind) or (size and value <= 0):
            raise ConfigError(f"{where}: {f.name} = {value!r}; expected {kind}{' above 0' if size else ''}")
    return cls(**{key: values[key] for key in names & values.keys()})


@dataclass(frozen=True)
class VisionConfig:
    """CLIP's vision transformer (defaults: ViT-L/14 at 224 px)."""

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    layer_norm_eps: float = 1e-5

    def __post_init__(self):
        if self.image_size % self.patch_size or self.hidden_size % self.num_attention_heads:
            raise ConfigError(f"{self}: image_size must be a multiple of patch_size, hidden_size of heads")

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def from_dict(cls, values: dict, where: str = "vision config") -> "VisionConfig":
        # CLIP's published files leave out what equals transformers' defaults, which are those of ViT-B/32.
        return _build(cls, DEFAULTS["vision"] | values, where, FIXED["vision"])

    def to_dict(self) -> dict:
        return dict(model_type="clip_vision_model", hidden_act="quick_gelu", num_channels=3, **asdict(self))


@dataclass(frozen=True)
class LlamaConfig:
    """LLaMA (defaults: 7B). `num_key_value_heads` < `num_attention_heads` is grouped-query attention."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_factor: float = 1.0  # linear position interpolation: positions are divided by it
    tie_word_embeddings: bool = False

    def __post_init__(self):
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads or self.head_dim % 2:
            raise ConfigError(f"{self}: heads must be a multiple of key-value heads, and head_dim even")

    @classmethod
    def from_dict(cls, values: dict, where: str = "text config") -> "LlamaConfig":
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
        return _build(cls, values, where, fixed)

    def to_dict(self) -> dict:
        values = asdict(self)
        factor = values.pop("rope_factor")
        linear = {"rope_type": "linear", "factor": factor} if factor != 1 else {"rope_type": "default"}
        values["rope_parameters"] = {"rope_theta": self.rope_theta, **linear}
        return dict(model_type="llama", hidden_act="silu", attention_bias=False, mlp_bias=False, **values)


@dataclass(frozen=True)
class LlavaConfig:
    """LLaVA: vision tower g, projector W and language model, and how they are joined."""

    vision_config: VisionConfig = field(default_factory=VisionConfig)
    text_config: LlamaConfig = field(default_factory=LlamaConfig)
    projector: str = "linear"  # "linear" (paper, v1) or "mlp2x_gelu" (v1.5)
    vision_feature_layer: int = -2  # a hidden state's index: -2 is the output of the block before the last
    image_token_id: int = 32000
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0

    def __post_init__(self):
        depth, words = self.vision_config.num_hidden_layers + 1, self.text_config.vocab_size
        if self.projector not in ("linear", "mlp2x_gelu"):
            raise ConfigError(f"projector {self.projector!r}: expected 'linear' or 'mlp2x_gelu'")
        if not -depth <= self.vision_feature_layer < depth:
            raise ConfigError(f"vision_feature_layer {self.vision_feature_layer}: of {depth} hidden states")
        if not 0 <= self.image_token_id < words:
            raise ConfigError(f"image_token_id {self.image_token_id}: vocabulary of {words}")

    @classmethod
    def from_dict(cls, values: dict, where: str = "config") -> "LlavaConfig":
        values, text = dict(values), values.get("text_config")
        for key, part in (("vision_config", VisionConfig), ("text_config", LlamaConfig)):
            if not isinstance(values.get(key), dict):
                raise ConfigError(f"{where}: no {key}; expected a llava-hf config.json")
            values[key] = part.from_dict(values[key], f"{where}: {key}")
        # The identity as "activation" makes linear_2(linear_1(x)) a linear map: our single W (see weights.py).
        linear = values.get("projector_hidden_act") == "linear"
        values["projector"] = "linear" if linear else "mlp2x_gelu"
        values.setdefault("image_token_id", values.pop("image_token_index", cls.image_token_id))
        # Old files keep the special ids, if anywhere, in the text part or in generation_config.json.
        special = {key: values.get(key, text.get(key)) for key in SPECIAL}
        values |= {key: index for key, index in special.items() if index is not None}
        tied = (values["text_config"].tie_word_embeddings, False)
        return _build(cls, values, where, FIXED["llava"] | {"tie_word_embeddings": tied})

    def to_dict(self) -> dict:
        tokens = {name: getattr(self, name) for name in SPECIAL}
        return {
            "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava",
            "vision_config": self.vision_config.to_dict(), "text_config": self.text_config.to_dict() | tokens,
            "projector_hidden_act": "linear" if self.projector == "linear" else "gelu", "multimodal_projector_bias": True,
            "vision_feature_layer": self.vision_feature_layer, "vision_feature_select_strategy": "default",
            "image_token_index": self.image_token_id, "image_seq_length": self.vision_config.num_patches,
            "tie_word_embeddings": self.text_config.tie_word_embeddings, **tokens,
        }  # fmt: skip


def read_json(path: str | Path) -> dict:
    """The JSON object in a file; a missing or broken file is a ConfigError that names it."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a model directory needs it")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def write_json(path: str | Path, values: dict) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
