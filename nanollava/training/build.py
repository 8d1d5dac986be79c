"""What a stage starts from: a finished LLaVA, or CLIP, a language model and a projector."""

import torch

from ..errors import UserError
from ..files import shipped
from ..hf.load import read_vision_config
from ..loading import Loaded, join_parts, load_llava
from .arguments import TrainConfig
from .connector import check_token_budget, load_qformer, planned_connector
from .output import LOCK_FILE, has_model
from .plan import planned_model


def build(config: TrainConfig) -> Loaded:
    """The model that a stage trains, in the dtype of its files.

    The weights stay mapped into memory until they are sharded. A new W is random; by the seed it is
    the same on every rank.
    """
    torch.manual_seed(config.seed)
    if config.model is not None:
        check_is_finished("--model", config.model)
        loaded = load_llava(shipped(config.model))
        check_token_budget(config, loaded.model.config)
    else:
        loaded = join(config)
    # The result's tokenizer has `<image>`. If it cannot, this is an error now, not at the end.
    loaded.tokenizer.with_image_token(loaded.model.config.image_token_id)
    return loaded


def join(config: TrainConfig) -> Loaded:
    """CLIP, a language model and a new or saved projector, joined."""
    check_is_directory("--vision", config.vision)
    check_is_directory("--llm", config.llm)
    check_is_finished("--projector", config.projector)
    check_token_budget(config, planned_model(config))  # before anything is allocated
    vision = shipped(config.vision)
    _, sizes = planned_connector(config, read_vision_config(vision))
    loaded = join_parts(
        vision,
        shipped(config.llm),
        shipped(config.projector),
        vision_feature_layer=config.vision_layer,
        image_mode=config.image_mode,
        connector=sizes,
    )
    if config.qformer is not None:
        load_qformer(loaded.model.multi_modal_projector, config.qformer)
    return loaded


def check_is_directory(flag: str, path: str) -> None:
    """A UserError for the name of a model that was not downloaded."""
    if not shipped(path).is_dir():
        advice = "models are local directories: download it first (docs/weights.md)"
        raise UserError(f"{flag} {path}: no such directory; {advice}")


def check_is_finished(flag: str, path: str) -> None:
    """A UserError for the directory of a training that ended before it wrote its result."""
    folder = shipped(path)
    if (folder / LOCK_FILE).is_file() and not has_model(folder):
        raise UserError(
            f"{flag} {path}: its training has not finished; repeat its command, which resumes"
        )
