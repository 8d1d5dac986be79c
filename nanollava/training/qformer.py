"""What a Q-Former's stage 1 needs around the loop: the model, its data, and its result."""

from pathlib import Path

import torch
from torch import nn

from ..config import IGNORE_INDEX, ConnectorConfig, check_feature_layer
from ..connectors.qformer_objectives import MAX_TEXT, QFormerPretraining
from ..data import InstructionData
from ..device import DTYPES
from ..errors import UserError
from ..files import shipped
from ..flags import flag_name
from ..hf.connector import write_connector
from ..hf.files import save_projector
from ..hf.load import read_vision_config
from ..image import ImageConfig
from ..tokenizer import Tokenizer
from ..vit import CLIPVisionTransformer
from .arguments import TrainConfig, micro_batch_size
from .build import check_is_directory
from .connector import QFORMER_FILE, new_sizes
from .datasets import check_records
from .distributed import full_state
from .export import check_is_finite, export_errors, write_result

PRETRAINING = "pretraining."
MIN_TEXT = 3  # <s>, one token of the caption, </s>


class QFormerStage1(nn.Module):
    """A frozen vision tower, and the Q-Former that learns to read it."""

    # Two of the losses compare the samples of a micro-batch, so the result depends on its size.
    compares_samples = True

    def __init__(
        self, vision_tower: CLIPVisionTransformer, pretraining: QFormerPretraining, layer: int
    ):
        super().__init__()
        self.vision_tower = vision_tower
        self.pretraining = pretraining
        self.layer = layer  # hidden state of the tower that is read

    def loss(
        self, input_ids: torch.Tensor, labels: torch.Tensor, pixel_values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(ITC + ITM + ITG) * num_labels, and num_labels, of captions and their images.

        `input_ids` and `labels` are (B, T), images (B, 3, height, width). The three are means over
        the micro-batch. The loop divides by the labels of the step: the result is the mean of its
        micro-batches, weighted by their labels.
        """
        is_labelled = labels != IGNORE_INDEX
        num_labels = is_labelled[:, 1:].sum()
        is_text = is_labelled.clone()
        is_text[:, 0] = True  # the class token
        if num_labels == 0:  # a rank without a sample of its own: any text, which counts 0 times
            is_text[:] = True
        Z_v = self.vision_tower.features(pixel_values, self.layer)
        losses = self.pretraining(Z_v, input_ids, is_text)
        return sum(losses) * num_labels, num_labels


class CaptionData(InstructionData):
    """Image-caption pairs. The caption of a record is its answer; the question is left out."""

    def tokens(self, record: dict) -> tuple[list[int], list[int]]:
        """<s>, the caption and </s>, cut to `max_length` ids. All but the first are labels."""
        caption = record["conversations"][-1]["value"].strip()
        tokenizer = self.tokenizer
        ids = [tokenizer.bos_token_id, *tokenizer.encode(caption), tokenizer.eos_token_id]
        ids = ids[: self.max_length]
        return ids, [IGNORE_INDEX, *ids[1:]]


def build_stage_1(config: TrainConfig) -> tuple[QFormerStage1, ConnectorConfig, Tokenizer]:
    """The model, its sizes, and the tokenizer of --llm, whose ids the captions are written in.

    By the seed a new Q-Former is the same on every rank.
    """
    torch.manual_seed(config.seed)
    check_is_directory("--vision", config.vision)
    check_is_directory("--llm", config.llm)
    vision = shipped(config.vision)
    vision_config = read_vision_config(vision)
    check_feature_layer(config.vision_layer, vision_config)
    sizes = new_sizes(config, "qformer", vision_config)
    vision_tower = CLIPVisionTransformer.from_pretrained(vision)
    tokenizer = Tokenizer.from_pretrained(shipped(config.llm))
    pretraining = QFormerPretraining(
        vision_tower.config.hidden_size,
        len(tokenizer),
        sizes.num_queries,
        sizes.num_layers,
        sizes.hidden_size,
    )
    return QFormerStage1(vision_tower, pretraining, config.vision_layer), sizes, tokenizer


def load_captions(
    path: str, report: str, config: TrainConfig, tokenizer: Tokenizer, image_config: ImageConfig
) -> CaptionData:
    """One data file, checked. Its bad records are listed in the file `report` in --out.

    A caption is cut to MAX_TEXT tokens, or to --max-length if that is less.
    """
    data = CaptionData(
        path,
        config.images or Path(path).parent,
        tokenizer,
        image_config,
        image_token_id=len(tokenizer),  # no id of a caption
        num_image_tokens=0,
        template="plain",
        max_length=min(config.max_length, MAX_TEXT),
    )
    check_records(data, report, config)
    return data


def check_flags(config: TrainConfig) -> None:
    """A UserError for flags that belong to the other scripts, or have no effect here."""
    for name in ("model", "recipe", "qformer"):
        if getattr(config, name) is not None:
            raise UserError(f"{flag_name(name)}: not for train_qformer; omit it")
    for name in ("freeze_llm", "compile", "checkpoint_activations"):
        if getattr(config, name):
            raise UserError(f"{flag_name(name)}: not for train_qformer; omit it")
    for name in ("template", "image_position"):  # it reads the caption alone
        if getattr(config, name) != getattr(TrainConfig, name):
            raise UserError(f"{flag_name(name)}: not for train_qformer; omit it")
    if config.max_length < MIN_TEXT:
        raise UserError(
            f"--max-length {config.max_length}: a caption has at least {MIN_TEXT} tokens, with <s> "
            "and </s>"
        )
    if config.projector != "qformer":
        raise UserError(f"--projector {config.projector}: this trains a new qformer; omit it")
    if config.toyland_scenes or config.plan:
        raise UserError("--toyland-scenes and --plan: not for train_qformer; omit them")


def check_micro_batch(config: TrainConfig, world_size: int) -> None:
    """A UserError if a sample would be alone: two of the objectives compare samples."""
    size = micro_batch_size(config, world_size)
    if size < 2:
        raise UserError(
            f"--batch {config.batch}: {size} sample per rank and micro-batch; contrast and "
            "matching need at least 2, so raise --batch or --micro-batch"
        )


def export_qformer(config: TrainConfig, model: QFormerStage1, sizes: ConnectorConfig) -> None:
    """Write the Q-Former with all that stage 1 has trained, and connector.json."""
    with export_errors(config):
        state = {}
        for name, tensor in full_state(model, DTYPES[config.save_dtype], PRETRAINING).items():
            state[name.removeprefix(PRETRAINING)] = tensor.contiguous()

        def write(folder: Path) -> None:
            check_is_finite(state)
            write_connector(folder, "qformer", sizes)
            save_projector(state, folder / QFORMER_FILE)

        write_result(Path(config.out), write)
