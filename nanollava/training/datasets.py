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

# In --out: what is wrong with which records, of --data and of --validation.
BAD_RECORDS = "bad_records.txt"
BAD_VALIDATION_RECORDS = "bad_validation_records.txt"


def load_datasets(
    config: TrainConfig, tokenizer: Tokenizer, image_config: ImageConfig, model_config: LlavaConfig
) -> tuple[InstructionData, InstructionData | None]:
    """The data of --data, and those of --validation if that is given."""
    parts = (tokenizer, image_config, model_config)
    data = load_dataset(config.data, BAD_RECORDS, config, *parts)
    validation = None
    if config.validation is not None:
        validation = load_dataset(config.validation, BAD_VALIDATION_RECORDS, config, *parts)
    return data, validation


def load_dataset(
    path: str,
    report: str,
    config: TrainConfig,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    model_config: LlavaConfig,
) -> InstructionData:
    """One data file, checked. Its bad records are listed in the file `report` in --out."""
    data = InstructionData(
        path,
        config.images or Path(path).parent,
        tokenizer,
        image_config,
        image_token_id=model_config.image_token_id,
        num_image_tokens=model_config.num_image_tokens,
        template=config.template,
        max_length=min(config.max_length, model_config.text_config.max_position_embeddings),
        image_position=config.image_position,
    )
    check_records(data, report, config)
    return data


def check_records(data: InstructionData, report_name: str, config: TrainConfig) -> None:
    """Checks every record. Each rank checks a share of them.

    Bad records raise a DataError; with --skip-bad they are left out. All of them are listed in the
    file `report_name` in --out.
    """
    share = range(dist.get_rank(), len(data), dist.get_world_size())
    errors = merge_over_ranks(data.check(share, config.check_images, config.workers))
    report = Path(config.out) / report_name
    if errors:
        text = "\n".join(data.describe(errors)) + "\n"
        write_on_rank_0(partial(write_text, report, text))
    else:  # an earlier run may have left a list
        write_on_rank_0(partial(report.unlink, missing_ok=True))
    summary = data.leave_out(errors, config.skip_bad, report)
    if summary:
        print_on_rank_0(summary)
