"""The connector that a config names, W included."""

from ..config import PROJECTORS, LlavaConfig
from ..projector import Connector, Projector
from .abstractor import Abstractor
from .gated_xattn import GatedConnector
from .minigpt4 import MiniGPT4Connector
from .qformer import QFormerConnector
from .qwen import QwenResampler
from .resampler import ResamplerConnector


def build_connector(config: LlavaConfig) -> Connector:
    """A new connector with random weights."""
    vision_width = config.vision_config.hidden_size
    text_width = config.text_config.hidden_size
    kind = config.projector
    sizes = config.connector
    if kind in PROJECTORS:
        return Projector(vision_width, text_width, kind)
    if kind == "resampler":
        return ResamplerConnector(vision_width, text_width, sizes.num_queries, sizes.num_layers)
    if kind == "gated_xattn":
        return GatedConnector(
            vision_width,
            text_width,
            sizes.num_queries,
            sizes.num_layers,
            config.text_config.num_hidden_layers,
            sizes.layers_per_block,
        )
    if kind == "abstractor":
        heads = config.vision_config.num_attention_heads
        return Abstractor(vision_width, text_width, heads, sizes.num_queries, sizes.num_layers)
    if kind == "qwen":
        heads = config.text_config.num_attention_heads
        return QwenResampler(vision_width, text_width, heads, sizes.num_queries)
    connector_class = MiniGPT4Connector if kind == "minigpt4" else QFormerConnector
    return connector_class(
        vision_width, text_width, sizes.num_queries, sizes.num_layers, sizes.hidden_size
    )
