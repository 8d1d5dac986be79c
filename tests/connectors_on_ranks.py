"""Trains every connector for a few steps in both stages, on as many ranks as torchrun starts.

torchrun --nproc_per_node 2 tests/connectors_on_ranks.py OUT writes the losses and the trained
weights. Four samples make up a step: with one image, with two, and two of text alone.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from nanollava.config import (
    CONNECTORS,
    PROJECTORS,
    ConnectorConfig,
    LlamaConfig,
    LlavaConfig,
    VisionConfig,
)
from nanollava.data import collate
from nanollava.loading import llava_class
from nanollava.training import distributed
from nanollava.training.arguments import TrainConfig
from nanollava.training.connector import trained_parts
from nanollava.training.distributed import full_state, sum_over_ranks
from nanollava.training.loop import adamw

VISION = VisionConfig(32, 8, 48, 96, 3, 4)
TEXT = LlamaConfig(96, 64, 112, 2, 4, 2, max_position_embeddings=128)
SIZES = ConnectorConfig(num_queries=4, num_layers=2, hidden_size=64)
IMAGE_TOKEN = 95
STEPS = 2
STAGES = {
    "align": {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": False},
    "instruct": {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": True},
}


def make_samples(num_image_tokens: int) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    samples = []
    for num_images in (1, 0, 2, 0):
        words = torch.randint(3, IMAGE_TOKEN, (6,), generator=generator).tolist()
        ids = [1, *[IMAGE_TOKEN] * (num_images * num_image_tokens), *words]
        labels = [-100] * (len(ids) - 4) + ids[-4:]
        sample = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
        if num_images:
            shape = (num_images, 3, 32, 32)
            sample["pixel_values"] = torch.randn(shape, generator=generator)
        samples.append(sample)
    return samples


def make_model(kind: str):
    torch.manual_seed(0)
    sizes = SIZES if kind in CONNECTORS else None
    config = LlavaConfig(VISION, TEXT, kind, image_token_id=IMAGE_TOKEN, connector=sizes)
    model = llava_class(kind)(config)
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            parameter.data.fill_(0.5)  # open, so that everything it gates gets a gradient
    return model


def train(kind: str, table: dict[str, bool], device) -> tuple[list[float], dict]:
    """The loss of every step, and the weights at the end."""
    rank = dist.get_rank()
    world_size = dist.get_world_size()
    model = make_model(kind)
    config = TrainConfig(dtype="fp32", checkpoint_activations=True)
    distributed.freeze(model, trained_parts(table, model, config))
    distributed.shard(model, model.blocks(), model.vision_tower, device, config)
    # AdamW turns the rounding of a gradient near zero into a step of up to lr: a small one.
    optimizer = adamw([p for p in model.parameters() if p.requires_grad], 1e-4)
    samples = make_samples(model.config.num_image_tokens)
    losses = []
    for _ in range(STEPS):
        total = torch.zeros((), dtype=torch.float64)
        micro_batches = [samples[rank::world_size]]
        if world_size == 1:
            micro_batches = [samples[0::2], samples[1::2]]
        for micro_batch in micro_batches:
            loss, _ = model.loss(**collate(micro_batch))
            (loss * world_size / 16).backward()  # 4 labels each
            total += loss.detach().double()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(sum_over_ranks(total).item())
    return losses, full_state(model, torch.float32, "multi_modal_projector.", "language_model.")


def train_all(out: Path) -> None:
    device = distributed.start("cpu")
    torch.set_num_threads(1)  # as torchrun sets it
    results = {}
    for kind in PROJECTORS + CONNECTORS:
        for stage, table in STAGES.items():
            losses, weights = train(kind, table, device)
            results[f"{kind} {stage} losses"] = torch.tensor(losses, dtype=torch.float64)
            for name, tensor in weights.items():
                results[f"{kind} {stage} {name}"] = tensor
    if dist.get_rank() == 0:
        save_file(results, out)
    distributed.finish()


if __name__ == "__main__":
    train_all(Path(sys.argv[1]))
