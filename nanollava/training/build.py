"""What a stage starts from: a finished LLaVA, or CLIP, a language model and a projector W."""

from pathlib import Path

from ..errors import ConfigError
from ..files import shipped
from ..hf.files import PROJECTOR_FILES
from ..loading import Loaded, join_parts, load_llava
from .arguments import TrainConfig


def build(config: TrainConfig) -> Loaded:
    """The model that a stage trains, in the dtype of its files.

    The weights stay mapped into memory until they are sharded. A new W is random: set torch's seed
    before, so that it is the same on every rank.
    """
    if config.model is not None:
        path = shipped(config.model)
        check_is_complete(path)
        return load_llava(path)
    return join_parts(
        shipped(config.vision),
        shipped(config.llm),
        config.projector,
        vision_feature_layer=config.vision_layer,
        image_mode=config.image_mode,
    )


def check_is_complete(path: Path) -> None:
    """A ConfigError for the result of stage 1, which has a W and no model."""
    for name in PROJECTOR_FILES:
        if (path / name).is_file():
            raise ConfigError(f"--model {path}: a projector alone; give it as --projector {path}")
