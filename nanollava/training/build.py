"""What a stage starts from: a finished LLaVA, or CLIP, a language model and a projector W."""

from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError
from ..files import shipped
from ..hf.files import PROJECTOR_FILES
from ..image import ImageConfig
from ..llava import LLaVA
from ..tokenizer import Tokenizer
from .arguments import TrainConfig


class StartingPoint(NamedTuple):
    """A model, and how its text and its images become its input."""

    model: LLaVA
    tokenizer: Tokenizer
    image_config: ImageConfig


def build(config: TrainConfig) -> StartingPoint:
    """The model that a stage trains, in the dtype of its files.

    The weights stay mapped into memory until they are sharded. A new W is random: set torch's seed
    before, so that it is the same on every rank.
    """
    if config.model is not None:
        return load_finished(shipped(config.model))
    return join_parts(config)


def load_finished(path: Path) -> StartingPoint:
    """A finished LLaVA (ours, llava-hf or original) with its own tokenizer and image processing."""
    for name in PROJECTOR_FILES:
        if (path / name).is_file():
            raise ConfigError(f"--model {path}: a projector alone; give it as --projector {path}")
    model = LLaVA.from_pretrained(path)
    tokenizer = Tokenizer.from_pretrained(path)
    model.config = tokenizer.with_special_ids(model.config, path)
    image_config = ImageConfig.from_pretrained(path, size=model.config.vision_config.image_size)
    return StartingPoint(model.train(), tokenizer, image_config)


def join_parts(config: TrainConfig) -> StartingPoint:
    """CLIP and a language model, joined by a new W or by that of stage 1."""
    vision = shipped(config.vision)
    llm = shipped(config.llm)
    tokenizer = Tokenizer.from_pretrained(llm)
    model = LLaVA.compose(
        vision,
        llm,
        config.projector,
        tokenizer.image_token_id,
        vision_feature_layer=config.vision_layer,
        dtype=None,
    )
    model.config = tokenizer.with_special_ids(model.config, llm)
    image_size = model.config.vision_config.image_size
    image_config = ImageConfig.from_pretrained(vision, config.image_mode, image_size)
    return StartingPoint(model, tokenizer, image_config)
