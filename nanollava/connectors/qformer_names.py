"""Tensor names: a Q-Former's body here, and in transformers' Blip2QFormerModel.

The weights themselves are the same. A model of transformers needs these options to be equal to
ours: `cross_attention_frequency=2`, GELU, and `use_qformer_text_input` where ours has text.
"""

import re

import torch

from ..hf.names import WeightsError

# Modules of a layer: (ours, theirs). Theirs nests attention, and splits a feed-forward in two:
# `intermediate` is fc1, `output` is fc2 and the norm.
LAYER_MODULES = (
    ("self_attention.q_proj", "attention.attention.query"),
    ("self_attention.k_proj", "attention.attention.key"),
    ("self_attention.v_proj", "attention.attention.value"),
    ("self_attention.out_proj", "attention.output.dense"),
    ("self_attention.norm", "attention.output.LayerNorm"),
    ("cross_attention.q_proj", "crossattention.attention.query"),
    ("cross_attention.k_proj", "crossattention.attention.key"),
    ("cross_attention.v_proj", "crossattention.attention.value"),
    ("cross_attention.out_proj", "crossattention.output.dense"),
    ("cross_attention.norm", "crossattention.output.LayerNorm"),
    ("feed_forward.fc1", "intermediate_query.dense"),
    ("feed_forward.fc2", "output_query.dense"),
    ("feed_forward.norm", "output_query.LayerNorm"),
    ("text_feed_forward.fc1", "intermediate.dense"),
    ("text_feed_forward.fc2", "output.dense"),
    ("text_feed_forward.norm", "output.LayerNorm"),
)


def to_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of a `QFormer` under the names of a Blip2QFormerModel."""
    theirs_of = dict(LAYER_MODULES)
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("layers."):
            _, layer, part = name.split(".", 2)
            module, leaf = part.rsplit(".", 1)
            renamed[f"encoder.layer.{layer}.{theirs_of[module]}.{leaf}"] = tensor
        else:
            renamed[name.replace("norm.", "layernorm.")] = tensor
    return renamed


def from_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of a Blip2QFormerModel under the names of a `QFormer`.

    Raises WeightsError for a tensor that such a model does not have.
    """
    ours_of = {theirs: ours for ours, theirs in LAYER_MODULES}
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("layernorm."):
            renamed[name.replace("layernorm.", "norm.")] = tensor
            continue
        match = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(\w+)", name)
        if match is None or match[2] not in ours_of:
            raise WeightsError(f"tensor {name!r} is not part of a Blip2QFormerModel")
        layer, module, leaf = match.groups()
        renamed[f"layers.{layer}.{ours_of[module]}.{leaf}"] = tensor
    return renamed
