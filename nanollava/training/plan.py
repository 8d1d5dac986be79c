"""What a training will take, computed from the config: parameters, memory, FLOPs, hours, traffic.

One quantity per line, with its unit. `--plan` prints the result; notebook 10 derives the
formulas.
"""

import math
from dataclasses import replace
from pathlib import Path

from ..config import (
    LLM,
    PARTS,
    PROJECTOR,
    TOWER,
    ConnectorConfig,
    LlamaConfig,
    LlavaConfig,
    VisionConfig,
)
from ..connectors.costs import (
    Flops,
    Parameters,
    connector_activations,
    connector_flops,
    connector_parameters,
)
from ..data import read_records
from ..errors import UserError
from ..files import read_json, shipped
from ..hf.config import parse_llava_config
from ..hf.files import projector_files, projector_kind
from ..hf.load import read_llama_config, read_vision_config
from ..hf.names import is_original
from ..hf.original import original_tower
from ..schema import optional
from ..tokenizer import Tokenizer
from .arguments import TrainConfig, micro_batch_size
from .connector import check_token_budget, planned_connector

BF16 = 2  # bytes
FP32 = 4  # bytes
GIB = 2**30  # bytes
GB = 1e9  # bytes


# Parameters


def parameters(config: LlavaConfig) -> dict[str, int]:
    """Numbers of parameters: the three PARTS, and the LLM's `block`, `embedding` and `head`."""
    text = config.text_config
    embedding = text.vocab_size * text.hidden_size
    head = text.vocab_size * text.hidden_size
    if text.tie_word_embeddings:
        head = 0  # the embedding's matrix
    block = llama_block_parameters(text)
    final_norm = text.hidden_size
    return {
        TOWER: tower_parameters(config.vision_config),
        PROJECTOR: projector_parameters(config).all,
        LLM: embedding + text.num_hidden_layers * block + final_norm + head,
        "block": block,
        "embedding": embedding,
        "head": head,
    }


def tower_parameters(vision: VisionConfig) -> int:
    """CLIP's vision transformer."""
    D = vision.hidden_size
    F = vision.intermediate_size
    patch_embedding = 3 * vision.patch_size**2 * D  # 3 colors; no bias
    class_embedding = D
    position_embedding = (vision.num_patches + 1) * D
    outer_norms = 2 * 2 * D  # before and after the blocks; weight and bias
    attention = 4 * (D * D + D)  # q, k, v, out
    mlp = (D * F + F) + (F * D + D)
    block_norms = 2 * 2 * D
    blocks = vision.num_hidden_layers * (attention + mlp + block_norms)
    return patch_embedding + class_embedding + position_embedding + outer_norms + blocks


def projector_parameters(config: LlavaConfig) -> Parameters:
    """Of W (one linear layer, or two with a nonlinearity between them) or of another connector."""
    if config.connector is not None:
        return connector_parameters(config)
    vision_width = config.vision_config.hidden_size
    text_width = config.text_config.hidden_size
    linear_1 = vision_width * text_width + text_width
    linear_2 = text_width * text_width + text_width
    total = linear_1
    if config.projector != "linear":
        total += linear_2
    return Parameters(all=total, trained=total, blocks=())


def llama_block_parameters(text: LlamaConfig) -> int:
    """Attention, SwiGLU and two norms of one block."""
    D = text.hidden_size
    q_and_out = 2 * D * text.num_attention_heads * text.head_dim
    k_and_v = 2 * D * text.num_key_value_heads * text.head_dim
    swiglu = 3 * D * text.intermediate_size  # gate, up, down
    norms = 2 * D
    return q_and_out + k_and_v + swiglu + norms


def trained_parameters(config: LlavaConfig, trainable: dict[str, bool]) -> int:
    n = parameters(config)
    n[PROJECTOR] = projector_parameters(config).trained
    return sum(n[part] for part in PARTS if trainable[part])


# FLOPs


def flops(
    config: LlavaConfig,
    trainable: dict[str, bool],
    lengths: list[int],
    images: int,
    label_tokens: int,
) -> dict[str, int]:
    """FLOPs of forward and backward over samples of `lengths` tokens, image tokens included.

    `tower`      the vision tower's forward pass; it is frozen and gets no gradient
    `forward`    projector and language model
    `by_inputs`  gradients with respect to activations; nothing before the projector needs them
    `by_weights` gradients with respect to trained weights

    A matrix product takes 2 FLOPs per weight and token in each pass. The head only runs on the
    `label_tokens`. Recomputed activations do not count: MFU is about the work that must be done.
    """
    tokens = sum(lengths)
    projector = projector_flops(config, images, tokens)
    matrices = matrix_flops(config, tokens, label_tokens)
    attention = attention_flops(config.text_config, lengths)

    forward = projector.forward + matrices + attention
    backward_share = backward_layers(config, trainable) / config.text_config.num_hidden_layers
    head = matrix_flops(config, 0, label_tokens)
    by_inputs = projector.by_inputs + head + int(backward_share * (matrices - head))
    by_inputs += int(backward_share * 2 * attention)  # two products, two inputs each
    by_weights = projector.by_weights
    if trainable[LLM]:
        by_weights += matrices
    return {
        "tower": tower_flops(config, images),
        "forward": forward,
        "by_inputs": by_inputs,
        "by_weights": by_weights,
    }


def backward_layers(config: LlavaConfig, trainable: dict[str, bool]) -> int:
    """Decoder layers that the backward pass goes through.

    With gated_xattn and a frozen language model, nothing before the first gated block is trained.
    """
    layers = config.text_config.num_hidden_layers
    if config.projector == "gated_xattn" and not trainable[LLM]:
        return layers - (config.connector.layers_per_block - 1)
    return layers


def tower_flops(config: LlavaConfig, images: int) -> int:
    """Forward pass up to the layer that the projector reads."""
    vision = config.vision_config
    D = vision.hidden_size
    F = vision.intermediate_size
    T = vision.num_patches + 1  # positions: the patches and the class token
    blocks = config.vision_feature_layer % (vision.num_hidden_layers + 1)  # -2: all but the last
    patch_embedding = 2 * vision.num_patches * 3 * vision.patch_size**2 * D
    matrices = 2 * T * (4 * D * D + 2 * D * F)
    attention = 4 * T**2 * D  # q k^T and the weighted sum of v: 2 T^2 D each
    return images * (patch_embedding + blocks * (matrices + attention))


def projector_flops(config: LlavaConfig, images: int, tokens: int) -> Flops:
    """FLOPs of the projector for `images`, biases included; with gated_xattn also of its blocks in
    the decoder for `tokens`."""
    if config.connector is not None:
        return connector_flops(config, images, tokens)
    image_tokens = images * config.vision_config.num_patches
    linear_2 = 0
    if config.projector != "linear":
        linear_2 = 2 * image_tokens * config.text_config.hidden_size**2
    all_layers = 2 * image_tokens * projector_parameters(config).all
    return Flops(forward=all_layers, by_inputs=linear_2, by_weights=all_layers)


def matrix_flops(config: LlavaConfig, tokens: int, label_tokens: int) -> int:
    """One pass through the weights of all blocks and of the head."""
    n = parameters(config)
    blocks = 2 * tokens * config.text_config.num_hidden_layers * n["block"]
    head = 2 * label_tokens * n["embedding"]  # vocab_size x hidden_size
    return blocks + head


def attention_flops(text: LlamaConfig, lengths: list[int]) -> int:
    """Causal attention, forward: 4 FLOPs per channel and pair of tokens; half of the pairs."""
    channels = text.num_attention_heads * text.head_dim
    pairs = sum(length**2 for length in lengths) / 2
    return int(4 * text.num_hidden_layers * channels * pairs)


# Memory


def activations(
    config: LlavaConfig, trainable: dict[str, bool], tokens: int, size: int = BF16
) -> tuple[int, int]:
    """Bytes that the decoder's blocks keep for the backward pass, for `tokens` in all.

    First with all activations kept; second with checkpointing: the inputs of all blocks, and
    everything of the one block that is being recomputed. `size` is the bytes per number.
    """
    text = config.text_config
    D = text.hidden_size
    F = text.intermediate_size
    queries = text.num_attention_heads * text.head_dim
    keys = text.num_key_value_heads * text.head_dim

    # Bytes per token and block.
    norm_inputs = 2 * FP32 * D  # both RMSNorms compute in float32
    attention = size * (queries + keys + keys + queries)  # q, k, v and the result
    swiglu = size * 3 * F  # gate, silu(gate), up
    block = norm_inputs + attention + swiglu
    if trainable[LLM]:
        block += 2 * size * D  # the RMSNorms' normalized inputs, for the gradients of their weights
        block += size * (2 * D + F)  # inputs of q/k/v, of gate/up and of down
    block_input = size * D

    layers = backward_layers(config, trainable)
    kept = tokens * layers * block
    checkpointed = tokens * (layers * block_input + block)
    return kept, checkpointed


def memory(
    config: LlavaConfig,
    trainable: dict[str, bool],
    gpus: int,
    micro: int,
    tokens: int,
    label_tokens: int,
    checkpointing: bool,
    offload: bool = False,
) -> dict[str, float]:
    """Bytes on each of `gpus` GPUs: bf16 computation over fp32 master weights, sharded by FSDP2.

    `micro` samples of `tokens` tokens run at once. `offload` keeps all that is sharded in CPU
    memory: weights, gradients and moments.
    """
    n = parameters(config)
    connector = projector_parameters(config)
    trained = trained_parameters(config, trainable)
    frozen = connector.all - connector.trained
    if not trainable[LLM]:
        frozen += n[LLM]

    weights = (FP32 * trained + BF16 * frozen) / gpus
    gradients = FP32 * trained / gpus
    optimizer = 2 * FP32 * trained / gpus  # AdamW's two moments
    if offload:
        weights = gradients = optimizer = 0
    weights += BF16 * n[TOWER]  # whole on each GPU

    # Bytes per logit: 2 in bf16, 4 as float32, 4 for the log-softmax that the backward pass needs.
    logits = (2 + 4 + 4) * micro * label_tokens * config.text_config.vocab_size
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "gathered": gathered(config, trainable),
        "activations": all_activations(config, trainable, micro, tokens, checkpointing),
        "logits": logits,
    }


def gathered(config: LlavaConfig, trainable: dict[str, bool]) -> int:
    """Bytes of the unsharded weights that a GPU holds at once, and of their gradients.

    FSDP gathers the root (projector, embedding, head), one block, and the next one ahead. A block
    that a connector adds before a decoder layer runs in that layer's own call, so its weights come
    on top of both.
    """
    n = parameters(config)
    connector = projector_parameters(config)
    added = sum(connector.blocks)
    root = connector.all - added + n["embedding"] + n["head"]
    weights = BF16 * (root + 2 * n["block"] + max(connector.blocks, default=0))

    root_trained = connector.trained - added
    trained_units = [*connector.blocks]
    if trainable[LLM]:
        root_trained += n["embedding"] + n["head"]
        trained_units.append(n["block"])
    if trainable[LLM] or config.connector is not None:  # W's gradient alone is small
        trained_units.append(root_trained)
    # Gradients of one unit: bf16 as computed, fp32 as reduced.
    return weights + (BF16 + FP32) * max(trained_units, default=0)


def all_activations(
    config: LlavaConfig, trainable: dict[str, bool], micro: int, tokens: int, checkpointing: bool
) -> int:
    """Bytes that decoder and connector keep for `micro` samples of `tokens` tokens and one image.

    The decoder's blocks are checkpointed, and so are those that the connector adds to it. The rest
    of the connector keeps everything.
    """
    kept, checkpointed = activations(config, trainable, micro * tokens)
    if config.connector is None:  # W keeps little
        return checkpointed if checkpointing else kept
    connector = connector_activations(config, tokens)
    if not checkpointing:
        return kept + micro * connector.all
    total = checkpointed + micro * connector.outside_blocks
    if connector.blocks:
        block_input = BF16 * micro * tokens * config.text_config.hidden_size
        total += len(connector.blocks) * block_input
        # One block at a time is recomputed. `checkpointed` has room for one of the decoder's.
        decoder_block = kept // backward_layers(config, trainable)
        total += max(0, micro * max(connector.blocks) - decoder_block)
    return total


# Traffic, time, and everything together


def bytes_sent(config: LlavaConfig, trainable: dict[str, bool], gpus: int, rounds: int) -> float:
    """Bytes that each GPU sends to its neighbor in a ring per step of `rounds` micro-batches."""
    n = parameters(config)
    blocks = backward_layers(config, trainable) * n["block"]
    blocks += sum(projector_parameters(config).blocks)
    gathered_forward = BF16 * (n[PROJECTOR] + n[LLM])  # weights
    gathered_backward = BF16 * blocks  # their weights were dropped after the forward pass
    gradients = FP32 * trained_parameters(config, trainable)
    return rounds * (gathered_forward + gathered_backward + gradients) * (gpus - 1) / gpus


def figures(
    config: LlavaConfig,
    trainable: dict[str, bool],
    gpus: int,
    batch: int,
    micro: int,
    tokens: int,
    samples: int,
    rate: float,
    offload: bool = False,
) -> dict[str, float]:
    """The plan by name of the figure.

    GiB per GPU, with checkpointing and with all activations kept; GB that each GPU sends per step;
    hours for `samples` at `rate` FLOP/s per GPU.
    """
    label_tokens = max_label_tokens(config, tokens)
    checkpointed = memory(
        config, trainable, gpus, micro, tokens, label_tokens, checkpointing=True, offload=offload
    )
    kept = memory(
        config, trainable, gpus, micro, tokens, label_tokens, checkpointing=False, offload=offload
    )
    plan = {name: size / GIB for name, size in checkpointed.items()}
    plan["all"] = sum(checkpointed.values()) / GIB
    plan["activations kept"] = kept["activations"] / GIB
    plan["all kept"] = sum(kept.values()) / GIB

    rounds = math.ceil(batch / (gpus * micro))
    plan["GB sent"] = bytes_sent(config, trainable, gpus, rounds) / GB

    sample_flops = sum(flops(config, trainable, [tokens], 1, label_tokens).values())
    seconds = samples * sample_flops / (gpus * rate)
    plan["hours"] = seconds / 3600
    return plan


def max_label_tokens(config: LlavaConfig, tokens: int) -> int:
    """The most tokens of a sample that can have labels: all but those of its image."""
    return tokens - config.num_image_tokens


# The plan of a training script's flags


def describe(config: TrainConfig, trainable: dict[str, bool]) -> str:
    """The text that --plan prints."""
    if config.gpus % config.nodes != 0:
        raise UserError(
            f"--gpus {config.gpus} (in total) is not a multiple of --nodes {config.nodes}"
        )
    model_config = planned_model(config)
    check_token_budget(config, model_config)
    if config.tokens <= model_config.num_image_tokens:
        raise UserError(
            f"--tokens {config.tokens}: a sample has more, because its image alone takes "
            f"{model_config.num_image_tokens}"
        )
    if config.freeze_llm:
        trainable = {**trainable, LLM: False}
    samples = planned_samples(config)
    rate = config.mfu * config.peak_tflops * 1e12  # FLOP/s per GPU
    plan = figures(
        model_config,
        trainable,
        config.gpus,
        config.batch,
        micro_batch_size(config, config.gpus),
        config.tokens,
        samples,
        rate,
        config.offload_optimizer,
    )
    n = parameters(model_config)
    label_tokens = max_label_tokens(model_config, config.tokens)
    passes = flops(model_config, trainable, [config.tokens], 1, label_tokens)

    lines = []
    for part in PARTS:
        state = "trained" if trainable[part] else "frozen"
        if part == PROJECTOR and model_config.connector is not None:
            state = f"{projector_parameters(model_config).trained:,} of them trained"
        lines.append(f"{part.rstrip('.'):24} {n[part]:>20,} parameters, {state}")
    lines.append(f"{'image tokens':24} {model_config.num_image_tokens:>20,} per image")
    for name, count in passes.items():
        lines.append(f"{name:24} {count:>20.3e} FLOPs per sample of {config.tokens} tokens")
    for name, value in plan.items():
        lines.append(f"{name:24} {value:>20.3f} {unit_of(name, config, samples, rate)}")
    return "\n".join(lines)


def unit_of(name: str, config: TrainConfig, samples: int, rate: float) -> str:
    """The unit of one of the `figures`, and what it refers to."""
    if name == "hours":
        return f"for {samples:,} samples, {rate:.2e} FLOP/s per GPU"
    if name == "GB sent" and config.nodes > 1:
        return "GB, by each GPU per step; each node sends as many to the next"
    if name == "GB sent":
        return "GB, by each GPU per step"
    return f"GiB on each of {config.gpus} GPUs"


def planned_model(config: TrainConfig) -> LlavaConfig:
    """The config of the LLaVA that a training script would build."""
    if config.model is not None:
        return finished_model(shipped(config.model))
    vision = read_vision_config(shipped(config.vision))
    projector, connector = planned_connector(config, vision)
    llm = shipped(config.llm)
    return joined_model(vision, llm, projector, config.vision_layer, connector)


def finished_model(path: Path) -> LlavaConfig:
    """The config of a finished LLaVA, ours, llava-hf or original."""
    where = f"{path}/config.json"
    values = read_json(path / "config.json")
    if not is_original(values):
        return parse_llava_config(values, where)
    vision = read_vision_config(original_tower(path, values, vision=None))
    projector = projector_kind(projector_files(path))
    layer = optional(values, "mm_vision_select_layer", int, where, default=-2)
    return joined_model(vision, path, projector, layer)


def joined_model(
    vision: VisionConfig,
    llm: Path,
    projector: str,
    vision_feature_layer: int,
    connector: ConnectorConfig | None = None,
) -> LlavaConfig:
    """The config of the LLaVA that LLaVA.compose makes of a tower and a language model."""
    text = read_llama_config(llm)
    if Tokenizer.from_pretrained(llm).image_token_id == text.vocab_size:
        # LLaVA.compose adds an image token and pads the vocabulary to a multiple of 64.
        text = replace(text, vocab_size=(text.vocab_size // 64 + 1) * 64)
    return LlavaConfig(
        vision,
        text,
        projector,
        vision_feature_layer,
        image_token_id=text.vocab_size - 1,  # any id: no figure depends on it
        connector=connector,
    )


def planned_samples(config: TrainConfig) -> int:
    """Samples that the whole training reads."""
    if config.max_steps is not None:
        return config.max_steps * config.batch
    samples = config.samples
    if samples is None:
        samples = len(read_records(config.data)[0])
    return config.epochs * samples
