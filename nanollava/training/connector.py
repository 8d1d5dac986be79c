"""The connector that the flags ask for: its sizes, its weights from a Q-Former's stage 1, and which
of its parameters are trained."""

import math
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..config import (
    CONNECTORS,
    LLM,
    PROJECTOR,
    PROJECTORS,
    QFORMER_HEAD_WIDTH,
    ConnectorConfig,
    LlavaConfig,
    VisionConfig,
)
from ..errors import UserError
from ..files import read_json, shipped
from ..flags import flag_name
from ..hf.config import parse_connector
from ..hf.connector import CONNECTOR_FILE
from ..hf.load import read_tensors
from ..hf.names import Layout, WeightsError
from ..llava import LLaVA, new_or_saved_projector
from .arguments import CONNECTOR_FLAGS, TrainConfig

QFORMER_FILE = "qformer.safetensors"  # what train_qformer writes, next to connector.json


@dataclass(frozen=True)
class Published:
    """Sizes in the connector's paper, for a tower like CLIP ViT-L/14: 24 blocks of width 1024."""

    patches_per_token: int
    num_layers: int


PUBLISHED = {
    "resampler": Published(patches_per_token=4, num_layers=6),  # 64 latents for 256 patches
    "gated_xattn": Published(patches_per_token=4, num_layers=6),
    "qformer": Published(patches_per_token=8, num_layers=12),  # 32 queries
    "minigpt4": Published(patches_per_token=8, num_layers=12),
    "abstractor": Published(patches_per_token=4, num_layers=6),  # 64 queries
    "qwen": Published(patches_per_token=4, num_layers=1),  # 256 queries for 1,024 patches
}
# The flags that give a connector's sizes.
SIZE_FLAGS = {
    "resampler": ("image_tokens", "connector_layers"),
    "gated_xattn": ("image_tokens", "connector_layers", "layers_per_block", "sees"),
    "qformer": ("image_tokens", "connector_layers", "connector_width"),
    "minigpt4": ("image_tokens", "connector_layers", "connector_width"),
    "abstractor": ("image_tokens", "connector_layers"),
    "qwen": ("image_tokens",),
}
# The tower that `PUBLISHED` refers to, and BLIP-2's Q-Former on it.
TOWER_LAYERS = 24
TOWER_WIDTH = 1024
QFORMER_WIDTH = 768

# What a LLaVA's connector takes from a Q-Former that stage 1 trained, and what stays behind.
QFORMER_LAYOUT = Layout(
    "Q-Former of stage 1",
    prefixes=(("norm_patches.", "norm_patches."), ("queries", "queries"), ("qformer.", "qformer.")),
    drop=(
        "qformer.*.text_feed_forward.*",
        "word_*",
        "position_embedding.*",
        "image_proj.*",
        "text_proj.*",
        "match_head.*",
        "temperature",
    ),
)


def planned_connector(
    config: TrainConfig, vision: VisionConfig
) -> tuple[str, ConnectorConfig | None]:
    """One of PROJECTORS or CONNECTORS, and its sizes.

    They are new ones, those of --qformer DIR, or those of --projector DIR."""
    check_qformer_flag(config)
    projector = config.projector  # a name, or a directory
    if projector in PROJECTORS:
        check_has_no_sizes(config, vision)
        return projector, None
    if projector in CONNECTORS:
        kind = projector
        if config.qformer is None:
            return kind, new_sizes(config, kind, vision)
        sizes = read_qformer_sizes(config.qformer)
    elif (shipped(projector) / QFORMER_FILE).is_file():
        raise UserError(
            f"--projector {projector}: a Q-Former that no language model has been joined to; give "
            f"--projector qformer --qformer {projector}"
        )
    else:
        kind, sizes = new_or_saved_projector(shipped(projector))
    check_saved_sizes(config, kind, sizes, vision)
    return kind, sizes


def new_sizes(config: TrainConfig, kind: str, vision: VisionConfig) -> ConnectorConfig:
    """The sizes that flags give. The others are as published, in proportion to the tower."""
    for name in CONNECTOR_FLAGS:
        value = getattr(config, name)
        if value is not None and name not in SIZE_FLAGS[kind]:
            raise UserError(f"{flag_name(name)} {value}: {kind} has no such size; omit it")
    num_layers = config.connector_layers
    if "connector_layers" not in SIZE_FLAGS[kind]:
        num_layers = PUBLISHED[kind].num_layers  # part of its design, however deep the tower is
    if num_layers is None:
        depth = vision.num_hidden_layers / TOWER_LAYERS
        num_layers = max(1, round(PUBLISHED[kind].num_layers * depth))
    hidden_size = config.connector_width
    if hidden_size is not None and hidden_size % QFORMER_HEAD_WIDTH != 0:
        raise UserError(
            f"--connector-width {hidden_size}: expected a multiple of {QFORMER_HEAD_WIDTH}, the "
            "width of a head"
        )
    if hidden_size is None:
        heads = round(QFORMER_WIDTH * vision.hidden_size / TOWER_WIDTH / QFORMER_HEAD_WIDTH)
        hidden_size = max(1, heads) * QFORMER_HEAD_WIDTH
    return ConnectorConfig(
        number_of_queries(config.image_tokens, kind, vision),
        num_layers,
        hidden_size,
        config.layers_per_block or ConnectorConfig.layers_per_block,
        config.sees or ConnectorConfig.sees,
    )


def number_of_queries(image_tokens: int | None, kind: str, vision: VisionConfig) -> int:
    """The queries of a new connector with so many tokens per image; None: as published."""
    if image_tokens is None:
        num_queries = max(1, vision.num_patches // PUBLISHED[kind].patches_per_token)
        if kind == "qwen":
            return math.isqrt(num_queries) ** 2  # they form a square grid
        return num_queries
    if kind == "qwen" and math.isqrt(image_tokens) ** 2 != image_tokens:
        raise UserError(
            f"--image-tokens {image_tokens}: qwen has a square grid of them; expected a square "
            "number, such as 16, 25 or 64"
        )
    if kind == "abstractor":
        if image_tokens == 1:
            raise UserError("--image-tokens 1: abstractor needs 2, because one ends the image")
        return image_tokens - 1  # the last token is the vector that ends the image
    return image_tokens


def check_qformer_flag(config: TrainConfig) -> None:
    """A UserError if --qformer is missing where it is needed, or given where it makes no sense.

    A plan needs no weights.
    """
    kind = config.projector
    if kind == "minigpt4" and config.qformer is None and not config.plan:
        raise UserError(
            "--projector minigpt4: its Q-Former is frozen, so it needs a trained one; give the "
            "result of train_qformer with --qformer"
        )
    if config.qformer is not None and kind not in ("qformer", "minigpt4"):
        raise UserError(
            f"--qformer {config.qformer} and --projector {kind}: a Q-Former's weights are for a "
            "new qformer or minigpt4"
        )


def check_has_no_sizes(config: TrainConfig, vision: VisionConfig) -> None:
    """A UserError if flags give sizes to W, which has none."""
    for name in CONNECTOR_FLAGS:
        value = getattr(config, name)
        if name == "image_tokens" and value == vision.num_patches:
            continue
        if value is not None:
            raise UserError(
                f"{flag_name(name)} {value}: {config.projector} has one token for each of the "
                f"{vision.num_patches} patches and no other sizes; omit it, or choose another "
                "--projector"
            )


def check_saved_sizes(
    config: TrainConfig, kind: str, sizes: ConnectorConfig | None, vision: VisionConfig
) -> None:
    """A UserError if flags ask for other sizes than a saved connector has."""
    source = config.qformer or config.projector
    if sizes is None:
        tokens = vision.num_patches
    else:
        tokens = sizes.num_queries
        if kind == "abstractor":
            tokens += 1
    saved = {"image_tokens": tokens}
    if sizes is not None:
        saved["connector_layers"] = sizes.num_layers
        saved["connector_width"] = sizes.hidden_size
        saved["layers_per_block"] = sizes.layers_per_block
        saved["sees"] = sizes.sees
    size_flags = SIZE_FLAGS.get(kind, ("image_tokens",))  # W has no other size
    for name in CONNECTOR_FLAGS:
        value = getattr(config, name)
        if value is None:
            continue
        has = "no such size"
        if name in size_flags:
            has = saved[name]
        if value == has:
            continue
        raise UserError(f"{flag_name(name)} {value}: the {kind} in {source} has {has}; omit it")


def check_token_budget(config: TrainConfig, model_config: LlavaConfig) -> None:
    """A UserError if an image leaves no room for text."""
    tokens = model_config.num_image_tokens
    positions = model_config.text_config.max_position_embeddings
    room = min(config.max_length, positions)
    if tokens >= room:
        raise UserError(
            f"an image takes {tokens} tokens, but a sample has room for {room} (--max-length "
            f"{config.max_length}, the language model {positions}); raise --max-length, or take a "
            "tower or a connector with fewer tokens per image"
        )


def read_qformer_sizes(folder: str) -> ConnectorConfig:
    """The sizes of a Q-Former that train_qformer has written."""
    file = Path(folder) / CONNECTOR_FILE
    if not (Path(folder) / QFORMER_FILE).is_file():
        raise WeightsError(
            f"--qformer {folder}: no {QFORMER_FILE} in it; expected the result of train_qformer"
        )
    _, sizes = parse_connector(read_json(file), str(file))
    return sizes


def load_qformer(connector: nn.Module, folder: str) -> None:
    """Fills the query path of a new connector with the weights that stage 1 has trained."""
    file = Path(folder) / QFORMER_FILE
    expected = {}
    for name, parameter in connector.named_parameters():
        if not name.startswith("linear."):
            expected[name] = tuple(parameter.shape)
    weights = dict(read_tensors(file, QFORMER_LAYOUT, expected, "cpu", None))
    missing = sorted(expected.keys() - weights.keys())
    if missing:
        raise WeightsError(f"{file}: {missing[0]!r} is missing; run train_qformer again")
    connector.load_state_dict(weights, strict=False)


def trained_parts(trainable: dict[str, bool], model: LLaVA, config: TrainConfig) -> dict[str, bool]:
    """A stage's table after what the connector never trains: the first prefix that fits decides.

    --freeze-llm freezes the language model.
    """
    table = {}
    for prefix in model.multi_modal_projector.frozen_prefixes:
        table[PROJECTOR + prefix] = False
    table.update(trainable)
    if config.freeze_llm:
        table[LLM] = False
    return table
