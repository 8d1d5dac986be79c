"""The training and validation data that the flags name, with every record checked before step 1."""

from functools import partial
from pathlib import Path

import torch.distributed as dist

from ..config import LlavaConfig
from ..data import InstructionData
from ..files import write_text
from ..image import ImageConfig
from ..tokenizer import Tokenizer
from .arguments import TrainConfig
from .distributed import merge_over_ranks, print_on_rank_0, write_on_rank_0


def load_datasets(
    config: TrainConfig, tokenizer: Tokenizer, image_config: ImageConfig, model_config: LlavaConfig
) -> tuple[InstructionData, InstructionData | None]:
    """The data of --data, and those of --validation if that is given."""
    data = load_dataset(config.data, config, tokenizer, image_config, model_config)
    validation = None
    if config.validation is not None:
        validation = load_dataset(config.validation, config, tokenizer, image_config, model_config)
    return data, validation


def load_dataset(
    path: str,
    config: TrainConfig,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    model_config: LlavaConfig,
) -> InstructionData:
    """One data file, checked."""
    data = InstructionData(
        path,
        config.images or Path(path).parent,
        tokenizer,
        image_config,
        model_config.image_token_id,
        model_config.num_image_tokens,
        config.template,
        min(config.max_length, model_config.text_config.max_position_embeddings),
        config.image_position,
    )
    check_records(data, config)
    return data


def check_records(data: InstructionData, config: TrainConfig) -> None:
    """Checks every record. Each rank checks a share of them.

    Bad records raise a DataError; with --skip-bad they are left out. All of them are listed in
    OUT/bad_records.txt.
    """
    share = range(dist.get_rank(), len(data), dist.get_world_size())
    errors = merge_over_ranks(data.check(share, config.check_images, config.workers))
    report = Path(config.out) / "bad_records.txt"
    if errors:
        text = "\n".join(data.describe(errors)) + "\n"
        write_on_rank_0(partial(write_text, report, text))
    summary = data.leave_out(errors, config.skip_bad, report)
    if summary:
        print_on_rank_0(summary)
