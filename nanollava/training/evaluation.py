"""What is measured during a training: the loss on validation data, and Toyland's score."""

import torch
import torch.distributed as dist
from torch import nn

from ..toyland.score import score
from .arguments import TrainConfig, micro_batch_size
from .batches import Collator, load_steps, split, to_device
from .distributed import reshard, sum_over_ranks


def evaluate(
    model: nn.Module,
    validation,
    collator: Collator,
    tokenizer,
    image_config,
    config: TrainConfig,
    device: torch.device,
) -> dict[str, float]:
    """The loss on the validation data and Toyland's score, as far as `config` asks for them."""
    results = {}
    if validation is not None:
        micro = micro_batch_size(config, dist.get_world_size())
        results["validation_loss"] = mean_loss(model, validation, collator, micro, device)
    if config.toyland_scenes:
        # Generation calls parts of the model without a forward pass of the whole, and only the
        # latter gathers FSDP's shards.
        model.unshard()
        shares = score(
            model,
            tokenizer,
            image_config,
            config.toyland_scenes,
            template=config.template,
        )
        reshard(model)
        results["toyland_score"] = shares["overall"]
    return results


@torch.no_grad()
def mean_loss(
    model: nn.Module, data, collator: Collator, micro: int, device: torch.device
) -> float:
    """The mean loss per label token of a whole data set. All ranks share the work."""
    totals = torch.zeros(2, dtype=torch.float64, device=device)  # loss, label tokens
    batches = split(list(range(len(data))), micro * dist.get_world_size())
    for micro_batches in load_steps(data, collator, batches, micro):
        for inputs, _ in micro_batches:
            loss_sum, num_labels = model.loss(**to_device(inputs, device))
            totals += torch.stack([loss_sum.double(), num_labels.double()])
    total_loss, total_labels = sum_over_ranks(totals).tolist()
    return total_loss / total_labels
