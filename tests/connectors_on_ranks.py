"""Trains every connector for a few steps in both stages, on as many ranks as torchrun starts, and a
Q-Former in its own stage.

torchrun --nproc_per_node 2 tests/connectors_on_ranks.py OUT writes the losses and the trained
weights. Four samples make up a step: with one image, with two, and two of text alone. In the
Q-Former's own stage it is eight captions.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn

from nanollava.config import (
    CONNECTORS,
    PROJECTORS,
    ConnectorConfig,
    LlamaConfig,
    LlavaConfig,
    VisionConfig,
)
from nanollava.connectors.qformer_objectives import QFormerPretraining
from nanollava.data import collate
from nanollava.loading import llava_class
from nanollava.training import distributed
from nanollava.training.arguments import TrainConfig
from nanollava.training.connector import trained_parts
from nanollava.training.distributed import full_state, sum_over_ranks
from nanollava.training.loop import adamw
from nanollava.training.qformer import QFormerStage1
from nanollava.vit import CLIPVisionTransformer

VISION = VisionConfig(32, 8, 48, 96, 3, 4)
TEXT = LlamaConfig(96, 64, 112, 2, 4, 2, max_position_embeddings=128)
SIZES = ConnectorConfig(num_queries=4, num_layers=2, hidden_size=64)
IMAGE_TOKEN = 95
STEPS = 2
STAGES = {
    "align": {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": False},
    "instruct": {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": True},
}
QFORMER_STAGE = {"vision_tower.": False, "pretraining.": True}


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


def make_captions() -> list[dict]:
    """Eight, of different lengths: two micro-batches of four, in which there is a choice of hard
    negatives."""
    generator = torch.Generator().manual_seed(2)
    samples = []
    for num_words in (5, 2, 7, 4, 1, 6, 3, 8):
        words = torch.randint(3, IMAGE_TOKEN, (num_words,), generator=generator).tolist()
        labels = torch.tensor([-100, *words, 2])
        pixels = torch.randn((1, 3, 32, 32), generator=generator)
        ids = torch.tensor([1, *words, 2])
        samples.append({"input_ids": ids, "labels": labels, "pixel_values": pixels})
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


def make_qformer_stage() -> QFormerStage1:
    torch.manual_seed(0)
    pretraining = QFormerPretraining(VISION.hidden_size, IMAGE_TOKEN, 4, 2, 64)
    return QFormerStage1(CLIPVisionTransformer(VISION), pretraining, layer=-2)


def train_connector(kind: str, table: dict[str, bool], device) -> tuple[list[float], dict]:
    """The loss of every step of a stage, and the weights at the end."""
    model = make_model(kind)
    config = TrainConfig(dtype="fp32", checkpoint_activations=True)
    distributed.freeze(model, trained_parts(table, model, config))
    distributed.shard(model, model.blocks(), model.vision_tower, device, config)
    losses = train(model, make_samples(model.config.num_image_tokens))
    return losses, full_state(model, torch.float32, "multi_modal_projector.", "language_model.")


def train_qformer(device) -> tuple[list[float], dict]:
    """The same of the Q-Former's own stage."""
    model = make_qformer_stage()
    distributed.freeze(model, QFORMER_STAGE)
    distributed.shard(model, [], model.vision_tower, device, TrainConfig(dtype="fp32"))
    losses = train(model, make_captions())
    return losses, full_state(model, torch.float32, "pretraining.")


def train(model: nn.Module, samples: list[dict]) -> list[float]:
    """The loss of every step. One rank has two micro-batches, each of two ranks has one of them."""
    micro_batches = {0: samples[0::2], 1: samples[1::2]}
    if dist.get_world_size() == 2:
        rank = dist.get_rank()
        micro_batches = {rank: micro_batches[rank]}
    num_labels = sum(int((sample["labels"] != -100).sum()) for sample in samples)
    # AdamW turns the rounding of a gradient near zero into a step of up to lr: a small one.
    optimizer = adamw([p for p in model.parameters() if p.requires_grad], 1e-4)
    losses = []
    for step in range(STEPS):
        total = torch.zeros((), dtype=torch.float64)
        for number, micro_batch in micro_batches.items():
            torch.manual_seed(10 * step + number)  # a Q-Former draws its hard negatives
            loss, _ = model.loss(**collate(micro_batch))
            (loss * dist.get_world_size() / num_labels).backward()
            total += loss.detach().double()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(sum_over_ranks(total).item())
    return losses


def train_all(out: Path) -> None:
    device = distributed.start("cpu")
    torch.set_num_threads(1)  # as torchrun sets it
    trained = {"qformer pretraining": train_qformer(device)}
    for kind in PROJECTORS + CONNECTORS:
        for stage, table in STAGES.items():
            trained[f"{kind} {stage}"] = train_connector(kind, table, device)
    results = {}
    for title, (losses, weights) in trained.items():
        results[f"{title} losses"] = torch.tensor(losses, dtype=torch.float64)
        for name, tensor in weights.items():
            results[f"{title} {name}"] = tensor
    if dist.get_rank() == 0:
        save_file(results, out)
    distributed.finish()


if __name__ == "__main__":
    train_all(Path(sys.argv[1]))
