"""Frozen configs of the vision tower, the language model, and the LLaVA that joins them.

`hf/config.py` converts them from and to config.json.
"""

from dataclasses import dataclass, field

from .errors import ConfigError

IGNORE_INDEX = -100  # the label of a position that is not trained, as in torch's cross_entropy
ACTIVATIONS = ("quick_gelu", "gelu")  # OpenAI's CLIP; most of its successors
# Fields of LlavaConfig, and keys of config.json.
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
PROJECTORS = ("linear", "mlp2x_gelu")  # paper, v1: one linear layer; v1.5: Linear, GELU, Linear


@dataclass(frozen=True)
class VisionConfig:
    """CLIP's vision transformer. The defaults are ViT-L/14 at 224 px."""

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"  # one of ACTIVATIONS

    def __post_init__(self):
        if self.hidden_act not in ACTIVATIONS:
            expected = " or ".join(ACTIVATIONS)
            raise ConfigError(f"hidden_act {self.hidden_act!r}: expected {expected}")
        if self.image_size % self.patch_size:
            raise ConfigError(f"{self}: image_size must be a multiple of patch_size")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(f"{self}: hidden_size must be a multiple of num_attention_heads")

    @property
    def num_patches(self) -> int:
        """Patches of one image, without the class token."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class LlamaConfig:
    """LLaMA. The defaults are LLaMA-2 7B, and so Vicuna-7B v1.5.

    `num_key_value_heads` < `num_attention_heads` is grouped-query attention. If None,
    `num_key_value_heads` is `num_attention_heads`, and `head_dim` is hidden_size / heads.
    """

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
        # A frozen dataclass is assigned to through object.__setattr__.
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads = {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads = {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"{self}: head_dim must be even, because RoPE rotates pairs")


@dataclass(frozen=True)
class LlavaConfig:
    """LLaVA: vision tower g, projector W, language model, and how they are joined.

    The defaults are LLaVA-7B, its vocabulary padded behind the image token.
    """

    vision_config: VisionConfig = field(default_factory=VisionConfig)
    text_config: LlamaConfig = field(default_factory=lambda: LlamaConfig(vocab_size=32064))
    projector: str = "linear"  # one of PROJECTORS
    # Index of a hidden state of the tower: -2 is the output of the block before the last.
    vision_feature_layer: int = -2
    image_token_id: int = 32000
    # None: config.json does not say, and the tokenizer does (Tokenizer.with_special_ids).
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self):
        if self.projector not in PROJECTORS:
            raise ConfigError(f"projector {self.projector!r}: expected {' or '.join(PROJECTORS)}")
        states = self.vision_config.num_hidden_layers + 1
        if not -states <= self.vision_feature_layer < states:
            layer = self.vision_feature_layer
            raise ConfigError(f"vision_feature_layer {layer}: the tower has {states} hidden states")
        vocab_size = self.text_config.vocab_size
        if not 0 <= self.image_token_id < vocab_size:
            raise ConfigError(f"image_token_id {self.image_token_id}: vocabulary of {vocab_size}")
