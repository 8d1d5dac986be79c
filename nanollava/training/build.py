"""What a stage starts from: a finished LLaVA, or CLIP, a language model and a projector W."""

from ..files import shipped
from ..loading import Loaded, join_parts, load_llava
from .arguments import TrainConfig


def build(config: TrainConfig) -> Loaded:
    """The model that a stage trains, in the dtype of its files.

    The weights stay mapped into memory until they are sharded. A new W is random: set torch's seed
    before, so that it is the same on every rank.
    """
    if config.model is not None:
        return load_llava(shipped(config.model))
    return join_parts(
        shipped(config.vision),
        shipped(config.llm),
        config.projector,
        vision_feature_layer=config.vision_layer,
        image_mode=config.image_mode,
    )
