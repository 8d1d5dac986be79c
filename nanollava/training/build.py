"""What a stage starts from: a finished LLaVA, or CLIP, a language model and a projector."""

from ..files import shipped
from ..hf.load import read_vision_config
from ..loading import Loaded, join_parts, load_llava
from .arguments import TrainConfig
from .connector import check_token_budget, load_qformer, planned_connector


def build(config: TrainConfig) -> Loaded:
    """The model that a stage trains, in the dtype of its files.

    The weights stay mapped into memory until they are sharded. A new W is random: set torch's seed
    before, so that it is the same on every rank.
    """
    if config.model is not None:
        loaded = load_llava(shipped(config.model))
    else:
        loaded = join(config)
    check_token_budget(config, loaded.model.config)
    return loaded


def join(config: TrainConfig) -> Loaded:
    """CLIP, a language model and a new or saved projector, joined."""
    vision = shipped(config.vision)
    _, sizes = planned_connector(config, read_vision_config(vision))
    loaded = join_parts(
        vision,
        shipped(config.llm),
        config.projector,
        vision_feature_layer=config.vision_layer,
        image_mode=config.image_mode,
        connector=sizes,
    )
    if config.qformer is not None:
        load_qformer(loaded.model.multi_modal_projector, config.qformer)
    return loaded
