"""Frozen configs of the vision tower, the language model, and the LLaVA that joins them.

`hf/config.py` converts them from and to config.json.
"""

import math
from dataclasses import dataclass, field

from .errors import ConfigError

IGNORE_INDEX = -100  # the label of a position that is not trained, as in torch's cross_entropy
ACTIVATIONS = ("quick_gelu", "gelu")  # OpenAI's CLIP; most of its successors
# Fields of LlavaConfig, and keys of config.json.
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
PROJECTORS = ("linear", "mlp2x_gelu")  # paper, v1: one linear layer; v1.5: Linear, GELU, Linear
# What other models have in place of W; each has a file in nanollava/connectors.
CONNECTORS = ("resampler", "gated_xattn", "qformer", "minigpt4", "abstractor", "qwen")
SEES = ("last", "all")  # the images before it that a text token of gated_xattn attends to
# How the parameter names of a LLaVA's three parts begin.
TOWER = "vision_tower."
PROJECTOR = "multi_modal_projector."
LLM = "language_model."
PARTS = (TOWER, PROJECTOR, LLM)
QFORMER_HEAD_WIDTH = 64  # as BERT's


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
            if self.hidden_size % self.num_attention_heads:
                raise ConfigError(
                    f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads "
                    f"{self.num_attention_heads}, unless head_dim is given"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads = {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads = {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"{self}: head_dim must be even, because RoPE rotates pairs")


@dataclass(frozen=True)
class ConnectorConfig:
    """The sizes of a connector that is not one of PROJECTORS. No connector has them all."""

    num_queries: int = 64  # learned vectors that read the patches of an image
    num_layers: int = 6
    hidden_size: int = 768  # of a Q-Former; the others have the tower's width, or the text's
    layers_per_block: int = 1  # gated_xattn: one gated block before every so many decoder layers
    sees: str = "last"  # gated_xattn: one of SEES

    def __post_init__(self):
        for name in ("num_queries", "num_layers", "hidden_size", "layers_per_block"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: expected at least 1")
        if self.sees not in SEES:
            raise ConfigError(f"sees {self.sees!r}: expected {' or '.join(SEES)}")


def check_qwen(num_queries: int, text_config: LlamaConfig) -> None:
    """A ConfigError unless the queries form a square grid, and the text's width is a multiple of 4
    (sine and cosine of row and of column) and of the number of heads."""
    if math.isqrt(num_queries) ** 2 != num_queries:
        squares = "expected a square number, such as 16, 25 or 64"
        raise ConfigError(f"num_queries {num_queries}: qwen has a square grid of them; {squares}")
    width = text_config.hidden_size
    heads = text_config.num_attention_heads
    if width % 4 or width % heads:
        raise ConfigError(f"qwen: the text's width {width} must be a multiple of 4 and of {heads}")


def check_qformer_width(width: int) -> None:
    """A ConfigError for a width that is no multiple of that of a head."""
    if width % QFORMER_HEAD_WIDTH:
        raise ConfigError(
            f"hidden_size {width}: a Q-Former's is a multiple of {QFORMER_HEAD_WIDTH}, its heads'"
        )


def check_gated_xattn(layers_per_block: int, text_config: LlamaConfig) -> None:
    """A ConfigError if the decoder would have no gated block."""
    layers = text_config.num_hidden_layers
    if layers_per_block > layers:
        raise ConfigError(
            f"layers_per_block {layers_per_block}: the language model has {layers} layers, so it "
            "would get no gated block and see no image"
        )


def check_feature_layer(layer: int, vision_config: VisionConfig) -> None:
    """A ConfigError for a hidden state that the tower does not have."""
    states = vision_config.num_hidden_layers + 1
    if not -states <= layer < states:
        raise ConfigError(
            f"vision_feature_layer {layer}: the tower has {states} hidden states; expected "
            f"{-states} to {states - 1}"
        )


@dataclass(frozen=True)
class LlavaConfig:
    """LLaVA: vision tower g, projector W, language model, and how they are joined.

    The defaults are LLaVA-7B, its vocabulary padded after the image token.
    """

    vision_config: VisionConfig = field(default_factory=VisionConfig)
    text_config: LlamaConfig = field(default_factory=lambda: LlamaConfig(vocab_size=32064))
    projector: str = "linear"  # one of PROJECTORS or CONNECTORS
    # Index of a hidden state of the tower: -2 is the output of the block before the last.
    vision_feature_layer: int = -2
    image_token_id: int = 32000
    # None: config.json does not say, and the tokenizer does (Tokenizer.with_special_ids).
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    connector: ConnectorConfig | None = None  # the sizes, if `projector` is one of CONNECTORS

    def __post_init__(self):
        if self.projector not in PROJECTORS + CONNECTORS:
            expected = " or ".join(PROJECTORS + CONNECTORS)
            raise ConfigError(f"projector {self.projector!r}: expected {expected}")
        if (self.connector is not None) != (self.projector in CONNECTORS):
            sizes = f"connector {self.connector}, but projector {self.projector!r}"
            raise ConfigError(f"{sizes}; expected the sizes of one of {', '.join(CONNECTORS)}")
        if self.projector == "qwen":
            check_qwen(self.connector.num_queries, self.text_config)
        if self.projector in ("qformer", "minigpt4"):
            check_qformer_width(self.connector.hidden_size)
        if self.projector == "gated_xattn":
            check_gated_xattn(self.connector.layers_per_block, self.text_config)
        check_feature_layer(self.vision_feature_layer, self.vision_config)
        vocab_size = self.text_config.vocab_size
        if not 0 <= self.image_token_id < vocab_size:
            raise ConfigError(
                f"image_token_id {self.image_token_id}: expected 0 to {vocab_size - 1}, an id of "
                "the vocabulary"
            )

    @property
    def num_image_tokens(self) -> int:
        """Positions that an image takes in the language model's input."""
        if self.connector is None:
            return self.vision_config.num_patches
        if self.projector == "gated_xattn":
            return 1  # the image token itself; the decoder reads the image through gated blocks
        if self.projector == "abstractor":
            return self.connector.num_queries + 1  # a learned vector ends the image
        return self.connector.num_queries
