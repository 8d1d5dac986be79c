"""The training loop of both stages.

It is model-agnostic: it needs a model with `loss(**batch) -> (loss_sum, num_labels)` and a data set
of dicts with `labels`. The loop counts labels beforehand, on all ranks; evaluation uses the model's
`num_labels`.
"""

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn

from ..errors import UserError
from .arguments import TrainConfig, is_due
from .batches import Collator, to_device, total_counts, total_steps, training_steps
from .distributed import sum_over_ranks
from .fingerprint import fingerprint
from .metrics import Metrics
from .resume import Checkpoints
from .signals import StopSignals, stopped


def train(
    model: nn.Module,
    data,
    collator: Collator,
    config: TrainConfig,
    device: torch.device,
    evaluate: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Train what `freeze` left trainable in a sharded model. With --group, `data` has `groups()`.

    Writes metrics.jsonl, training.json and checkpoints to config.out. Raises Stopped after a signal
    and its checkpoint, and UserError if the loss is not finite or config.out is of another run.
    """
    world_size = dist.get_world_size()
    steps = total_steps(config, len(data))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(parameters, config.lr)
    checkpoints = Checkpoints(config, model, optimizer, fingerprint(config, model, data, device))
    first_step = checkpoints.resume()
    batches = training_steps(data, collator, config, first_step)
    with StopSignals() as signals, Metrics(config, device, first_step, steps) as metrics:
        for step in range(first_step, steps):  # from 0, as in metrics.jsonl
            lr = config.lr * cosine(step, steps, config.warmup)
            set_learning_rate(optimizer, lr)
            # What a loss draws at random depends on the step, so a resumed run draws the same.
            torch.manual_seed(config.seed * 1_000_003 + step)

            # The loss is the mean over all label tokens of the step: their summed loss, over all
            # ranks and micro-batches, divided by their number. So every token weighs the same
            # wherever it is computed. FSDP averages gradients over the ranks; times world_size,
            # the average is the sum again.
            micro_batches = next(batches)  # of this rank
            counts = total_counts(micro_batches, device)  # of all ranks
            loss_sum = torch.zeros((), dtype=torch.float64, device=device)
            for inputs, _ in micro_batches:
                micro_loss, _ = model.loss(**to_device(inputs, device))
                (micro_loss * (world_size / counts.label_tokens)).backward()
                loss_sum += micro_loss.detach()
            loss = sum_over_ranks(loss_sum).item() / counts.label_tokens

            grad_norm = clip_gradients(parameters, config.max_grad_norm)
            check_finite(step, loss, grad_norm, config)
            optimizer.step()
            optimizer.zero_grad()
            metrics.end_step()

            steps_done = step + 1
            stop_signal = None
            if steps_done < steps:  # after the last step, only the result is still to be written
                stop_signal = signals.on_any_rank(device)
            evaluation = evaluate_if_due(evaluate, steps_done, stop_signal, config)
            metrics.log(step, loss, lr, grad_norm, counts, evaluation)
            path = checkpoints.save_if_due(steps_done, steps, stop_signal, device)
            if stop_signal:
                raise stopped(stop_signal, steps_done, steps, path)
            metrics.begin_step()


def evaluate_if_due(
    evaluate: Callable[[], dict[str, float]] | None,
    steps_done: int,
    stop_signal: int | None,
    config: TrainConfig,
) -> dict[str, float]:
    """What `evaluate` measures every --eval-steps; nothing when the run ends by a signal."""
    if evaluate is None or stop_signal is not None:
        return {}
    if not is_due(steps_done, config.eval_steps):
        return {}
    return evaluate()


def adamw(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """AdamW with the releases' values: betas 0.9 and 0.999, eps 1e-8 and no weight decay."""
    return torch.optim.AdamW(parameters, lr, weight_decay=0.0, fused=True)


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients down to the norm `max_norm` if it is larger. Returns the norm before."""
    return nn.utils.clip_grad_norm_(parameters, max_norm).full_tensor().item()


def cosine(step: int, steps: int, warmup: float) -> float:
    """Fraction of the peak learning rate at `step`, from 0: linear warm-up, then half a cosine.

    `warmup` is the fraction of the steps in which it rises, from more than 0, so that the first
    step learns. The cosine reaches 0 at `steps`, one after the last step.
    """
    warmup_steps = max(1, math.ceil(steps * warmup))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def check_finite(step: int, loss: float, grad_norm: float, config: TrainConfig) -> None:
    """Stop before infinities reach the weights."""
    if not math.isfinite(loss + grad_norm):
        raise UserError(
            f"step {step} (from 0): the loss is {loss}, the gradient norm {grad_norm}; start over "
            f"with --lr below {config.lr} or with --dtype fp32, and with another --out"
        )
