"""Frozen configs, read from and written to Hugging Face `config.json`: the one place that knows those files' spelling."""

import json
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from pathlib import Path

# Keys of config.json that change nothing here: transformers' bookkeeping, and what the original LLaVA wrote besides.
KEYS = json.loads((Path(__file__).parent / "config_keys.json").read_text(encoding="utf-8"))
BOOKKEEPING, ORIGINAL_KEYS = frozenset(KEYS["bookkeeping"]), frozenset(KEYS["original"])

# What the original LLaVA adds to a Llama's config.json: keys of which only some values are computed, and the others.
ORIGINAL_FIXED = {
    "mm_projector_type": ("linear", "mlp2x_gelu", None), "mm_vision_select_feature": ("patch",),
    "mm_use_im_start_end": (False, None), "mm_resampler_type": (None,), "image_aspect_ratio": ("pad", "square", None),
}  # fmt: skip
# What a training is told: every flag's type, default and meaning; `free` are those on which the result does not depend.
FLAGS = json.loads((Path(__file__).parent / "flags.json").read_text(encoding="utf-8"))
_named = [(name, object, field(default=flag.get("default"))) for name, flag in FLAGS.items()]
Settings = make_dataclass("Settings", _named, frozen=True)


class UserError(ValueError):
    """What the user gave cannot be used; scripts print its one line and exit with code 2."""


class ConfigError(UserError):
    """A config.json that does not describe a model this package can build."""


def _build(cls, values: dict, where: str, fixed: dict | None = None, also: tuple[str, ...] = ()):
    """Makes `cls` from a JSON object. Keys that are neither fields nor bookkeeping are errors.

    `fixed` holds keys of which only one value is implemented; `also` names keys that the caller has dealt with.
    """
    names = {f.name for f in fields(cls)}
    for key, allowed in (fixed or {}).items():
        if values.get(key, allowed[0]) not in allowed:
            raise ConfigError(f"{where}: {key} = {values[key]!r}, but only {allowed[0]!r} is implemented")
    unknown = sorted(set(values) - names - BOOKKEEPING - set(fixed or ()) - set(also))
    if unknown:
        raise ConfigError(f"{where}: unknown keys {', '.join(unknown)}; what they mean is not computed here")
    missing = [f.name for f in fields(cls) if f.name not in values and f.default is f.default_factory]
    if missing:
        raise ConfigError(f"{where}: missing keys {', '.join(missing)}")
    return cls(**{k: v for k, v in values.items() if k in names})


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
            raise ConfigError(
                f"{self}: image_size must be a multiple of patch_size, hidden_size of the heads"
            )

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def from_dict(cls, values: dict, where: str = "vision config") -> "VisionConfig":
        # CLIP's published files leave out what equals transformers' defaults, which are those of ViT-B/32.
        base = dict(image_size=224, patch_size=32, hidden_size=768, intermediate_size=3072)
        base |= dict(num_hidden_layers=12, num_attention_heads=12)
        fixed = {"hidden_act": ("quick_gelu",), "num_channels": (3,), "model_type": ("clip_vision_model",)}
        return _build(cls, base | values, where, fixed, also=("vocab_size",))

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
        # Defaults of transformers' LlamaConfig, which files may leave out.
        base = dict(rms_norm_eps=1e-6, max_position_embeddings=2048)
        fixed = {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)}
        fixed["sliding_window"] = (None,)  # as in Mistral's first versions, it would change long texts
        values = dict(values)
        if "mm_vision_tower" in values:  # an original LLaVA
            values = {k: v for k, v in values.items() if k not in ORIGINAL_KEYS}
            fixed |= {"model_type": ("llava", "llava_llama"), **ORIGINAL_FIXED}
        else:
            fixed["model_type"] = ("llama", "mistral")
        # theta and scaling: `rope_theta` and `rope_scaling` up to transformers 4, `rope_parameters` from 5 on.
        rope = {**(values.pop("rope_scaling", None) or {}), **(values.pop("rope_parameters", None) or {})}
        kind = rope.pop("rope_type", rope.pop("type", "default"))
        values["rope_theta"] = rope.pop("rope_theta", values.get("rope_theta", 10000.0))
        rope.pop("type", None)  # files of both spellings carry it twice
        values["rope_factor"] = rope.pop("factor", 1.0) if kind == "linear" else 1.0
        if kind not in ("default", "linear") or rope:
            raise ConfigError(f"{where}: rope {kind!r} {rope or ''}; expected 'default' or 'linear'")
        return _build(cls, base | values, where, fixed)

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
    vision_feature_layer: int = -2  # hidden state: the output of the block before the last
    image_token_id: int = 32000
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0

    def __post_init__(self):
        depth = self.vision_config.num_hidden_layers + 1
        if self.projector not in ("linear", "mlp2x_gelu"):
            raise ConfigError(f"projector {self.projector!r}: expected 'linear' or 'mlp2x_gelu'")
        if not -depth <= self.vision_feature_layer < depth:
            raise ConfigError(
                f"vision_feature_layer {self.vision_feature_layer}: there are {depth} hidden states"
            )
        if not 0 <= self.image_token_id < self.text_config.vocab_size:
            size = self.text_config.vocab_size
            raise ConfigError(f"image_token_id {self.image_token_id} lies outside the vocabulary of {size}")

    @classmethod
    def from_dict(cls, values: dict, where: str = "config") -> "LlavaConfig":
        values = dict(values)
        for key in ("vision_config", "text_config"):
            if not isinstance(values.get(key), dict):
                raise ConfigError(f"{where}: no {key}; expected a llava-hf config.json")
        text = values.pop("text_config")
        vision = VisionConfig.from_dict(values.pop("vision_config"), f"{where}: vision_config")
        llama = LlamaConfig.from_dict(text, f"{where}: text_config")
        # The identity as "activation" makes linear_2(linear_1(x)) a linear map: our single W (see weights.py).
        act = values.pop("projector_hidden_act", "gelu")
        if act not in ("gelu", "linear"):
            raise ConfigError(f"{where}: projector_hidden_act = {act!r}; expected 'gelu' or 'linear'")
        fixed = dict(model_type=("llava",), vision_feature_select_strategy=("default",))
        fixed |= dict(
            multimodal_projector_bias=(True,), tie_word_embeddings=(llama.tie_word_embeddings, False)
        )
        token = values.pop("image_token_index", 32000)
        image_token = {"image_token_id": values.get("image_token_id", token)}
        # Old files keep the special ids, if anywhere, in the text part or in generation_config.json.
        special = {k: values.get(k, text.get(k)) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
        special = {k: v for k, v in special.items() if v is not None}
        values |= dict(vision_config=vision, text_config=llama, **image_token, **special)
        values["projector"] = {"gelu": "mlp2x_gelu", "linear": "linear"}[act]
        values.setdefault("vision_feature_layer", -2)
        return _build(cls, values, where, fixed, also=("vocab_size",))

    def to_dict(self) -> dict:
        tokens = {name: getattr(self, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        return {
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": "llava",
            "vision_config": self.vision_config.to_dict(),
            "text_config": {**self.text_config.to_dict(), **tokens},
            "projector_hidden_act": "gelu" if self.projector == "mlp2x_gelu" else "linear",
            "multimodal_projector_bias": True,
            "vision_feature_layer": self.vision_feature_layer,
            "vision_feature_select_strategy": "default",
            "image_token_index": self.image_token_id,
            "image_seq_length": self.vision_config.num_patches,
            "tie_word_embeddings": self.text_config.tie_word_embeddings,
            **tokens,
        }


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
    Path(path).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
