"""Time per training step, compared with transformers' LlavaForConditionalGeneration.

transformers runs in a plain loop that is written with the same care: the same batches, frozen
parts without gradients, fused AdamW, gradient clipping, and bf16 by autocast: trained weights in
fp32, frozen matrices in bf16. The steps of both alternate.

python -m benchmarks.training           # toy geometry on a CPU; then 1x to 8x samples; then ranks
python -m benchmarks.training --quick   # few runs: shows that it works, not how fast
python -m benchmarks.training --gpu     # 7B geometry with random weights and --layers blocks
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import train_align
import train_instruct
from benchmarks import small_world
from nanollava.config import LlamaConfig, LlavaConfig, VisionConfig
from nanollava.conversation import IGNORE_INDEX
from nanollava.device import DTYPES, matmul_rate
from nanollava.llava import LLaVA
from nanollava.training import distributed, plan
from nanollava.training.arguments import TrainConfig
from nanollava.training.loop import adamw

LR = 1e-5
TRAINABLE = {1: train_align.TRAINABLE, 2: train_instruct.TRAINABLE}  # by stage
TOY = LlavaConfig(
    VisionConfig(100, 10, 160, 640, 6, 2),
    LlamaConfig(768, 128, 384, 5, 4, max_position_embeddings=1024),
    image_token_id=705,
)
# How far the first losses of both may differ, relative: else they are not the same model.
LOSS_TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}

Step = Callable[[dict], float]  # one optimizer step on a batch; returns the loss


def make_batch(config: LlavaConfig, samples: int, device) -> dict[str, torch.Tensor]:
    """Per sample an image and 60 to 180 text tokens, of which the last half is labelled."""
    generator = torch.Generator().manual_seed(0)
    image = torch.full((config.vision_config.num_patches,), config.image_token_id)
    ids = []
    labels = []
    for _ in range(samples):
        length = int(torch.randint(60, 181, (1,), generator=generator))
        text = torch.randint(3, 700, (length,), generator=generator)
        row = torch.cat([torch.tensor([1]), image, text])
        row_labels = row.clone()
        row_labels[: -(length // 2)] = IGNORE_INDEX
        ids.append(row)
        labels.append(row_labels)
    size = config.vision_config.image_size
    pixels = torch.randn(samples, 3, size, size, generator=generator)
    return {
        "input_ids": pad_sequence(ids, batch_first=True).to(device),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX).to(device),
        "pixel_values": pixels.to(device),
    }


def update(loss: torch.Tensor, parameters: list[nn.Parameter], optimizer) -> float:
    """Backward pass, clipping and AdamW. Returns the loss."""
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def our_step(path: Path, stage: int, dtype: str, device, recompute: bool) -> Step:
    """A step of training.loop.train, without data loading and metrics."""
    model = LLaVA.from_pretrained(path, dtype=torch.float32)
    distributed.freeze(model, TRAINABLE[stage])
    config = TrainConfig(dtype=dtype, checkpoint_activations=recompute)
    blocks = model.language_model.model.layers
    distributed.shard(model, blocks, model.vision_tower, device, config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(parameters, LR)

    def step(batch: dict) -> float:
        loss_sum, num_labels = model.loss(**batch)
        loss = loss_sum / num_labels
        return update(loss, parameters, optimizer)

    return step


def their_step(path: Path, stage: int, dtype: str, device, recompute: bool) -> Step:
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
    model.to(device).train()
    # The layout has a second linear layer. If our projector is "linear", it is an identity.
    is_linear = LLaVA.from_pretrained(path).config.projector == "linear"
    for name, parameter in model.named_parameters():
        is_projector = "multi_modal_projector" in name
        is_llm = "vision_tower" not in name and not is_projector
        is_trained = is_projector or (is_llm and stage == 2)
        if is_linear and "linear_2" in name:
            is_trained = False
        parameter.requires_grad_(is_trained)
        if not is_trained and parameter.ndim > 1:  # as ours: what is frozen is cast once
            parameter.data = parameter.data.to(DTYPES[dtype])
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(parameters, LR)

    def step(batch: dict) -> float:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
            loss = model(**batch, use_cache=False).loss
        return update(loss, parameters, optimizer)

    return step


def timed(step: Step, batch: dict) -> tuple[float, float]:
    """Seconds and loss of one step."""
    start = time.perf_counter()
    loss = step(batch)
    return time.perf_counter() - start, loss


def compare(
    config: LlavaConfig,
    path: Path,
    stage: int,
    dtype: str,
    device,
    samples: int,
    runs: int,
    recompute: bool,
) -> dict:
    """One row: median seconds of both, and the median over all rounds of theirs / ours."""
    ours = our_step(path, stage, dtype, device, recompute)
    theirs = their_step(path, stage, dtype, device, recompute)
    batch = make_batch(config, samples, device)
    our_seconds = []
    their_seconds = []
    for run in range(runs + 1):
        our_time, our_loss = timed(ours, batch)
        their_time, their_loss = timed(theirs, batch)
        if run == 0:  # warm-up
            difference = abs(our_loss - their_loss) / their_loss
            assert difference < LOSS_TOLERANCE[dtype], (
                f"not the same model: {our_loss} {their_loss}"
            )
            continue
        our_seconds.append(our_time)
        their_seconds.append(their_time)
    ratios = [b / a for a, b in zip(our_seconds, their_seconds, strict=True)]

    lengths = (batch["input_ids"] != 0).sum(1).tolist()
    label_tokens = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
    work = sum(plan.flops(config, TRAINABLE[stage], lengths, samples, label_tokens).values())
    median_seconds = statistics.median(our_seconds)
    return {
        "dtype": dtype,
        "stage": stage,
        "ours": median_seconds,
        "theirs": statistics.median(their_seconds),
        "ratio": statistics.median(ratios),
        "tokens": sum(lengths) / median_seconds,
        "mfu": work / median_seconds / matmul_rate(device, DTYPES[dtype]),
    }


def against_transformers(
    config: LlavaConfig, path: Path, device, samples: int, runs: int, recompute: bool, dtypes
) -> list[dict]:
    rows = []
    for dtype in dtypes:
        for stage in (1, 2):
            row = compare(config, path, stage, dtype, device, samples, runs, recompute)
            rows.append(row)
            print(
                f"{dtype} stage {stage}: ours {row['ours']:.4f} s, transformers "
                f"{row['theirs']:.4f} s, ratio {row['ratio']:.2f}; {row['tokens']:,.0f} tokens/s, "
                f"MFU {row['mfu']:.0%} of the measured {dtype} matmul rate",
                flush=True,
            )
    return rows


def against_tokens(config: LlavaConfig, path: Path, device, samples: int, runs: int) -> list[dict]:
    """Seconds per step for 1, 2, 4 and 8 times as many samples.

    Larger batches also have more padding, so the tokens grow faster than the samples."""
    rows = []
    for stage in (1, 2):
        step = our_step(path, stage, "fp32", device, recompute=False)
        for factor in (1, 2, 4, 8):
            batch = make_batch(config, samples * factor, device)
            tokens = batch["input_ids"].numel()  # with padding
            step(batch)  # warm-up
            seconds = statistics.median(timed(step, batch)[0] for _ in range(runs))
            if factor == 1:
                base_seconds = seconds
                base_tokens = tokens
            rows.append({"stage": stage, "factor": factor, "tokens": tokens, "seconds": seconds})
            print(
                f"stage {stage}, {samples * factor} samples, {tokens / base_tokens:.1f}x padded "
                f"tokens: {seconds:.4f} s, {seconds / base_seconds:.2f}x",
                flush=True,
            )
    return rows


def against_ranks(steps: int) -> list[dict]:
    """Median seconds per step of the scripts with a global batch of 16, by number of processes."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        small_world.make(path)
        for stage in small_world.RESULTS:
            for ranks in (1, 2, 4):
                out = path / f"{stage}-{ranks}"
                if ranks == 1:
                    out = small_world.reference(path, stage)
                flags = ["--batch", 16, "--save-steps", 0]
                small_world.run(small_world.command(path, stage, out, ranks, steps, *flags))
                ends = [entry["seconds"] for entry in small_world.read_metrics(out)]
                seconds = statistics.median(b - a for a, b in zip(ends, ends[1:], strict=False))
                rows.append({"stage": stage, "ranks": ranks, "seconds": seconds})
                print(
                    f"{stage}, {ranks} ranks on {os.cpu_count()} cores: {seconds:.4f} s per step",
                    flush=True,
                )
    return rows


def save_random_model(config: LlavaConfig, path: Path) -> None:
    """Random weights of about the published scale, in the form that both sides load."""
    torch.manual_seed(0)
    model = LLaVA(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(path)


def measure_cpu(path: Path, quick: bool) -> dict:
    device = distributed.start("cpu")
    runs = 2 if quick else 15
    save_random_model(TOY, path)
    results = {
        "transformers": against_transformers(TOY, path, device, 8, runs, False, ("fp32", "bf16")),
        "work": against_tokens(TOY, path, device, 2, runs),
        "ranks": against_ranks(steps=4 if quick else 20),
    }
    distributed.finish()
    return results


def measure_gpu(path: Path, quick: bool, layers: int) -> dict:
    if not torch.cuda.is_available():
        sys.exit("--gpu: torch finds no CUDA device here; not measured")
    device = distributed.start("cuda")
    runs = 2 if quick else 15
    text = LlamaConfig(32064, num_hidden_layers=layers)
    config = LlavaConfig(VisionConfig(336), text, "mlp2x_gelu")
    save_random_model(config, path)
    rows = against_transformers(config, path, device, 8, runs, recompute=True, dtypes=("bf16",))
    distributed.finish()
    return {"gpu": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="few runs")
    parser.add_argument("--gpu", action="store_true", help="measure one CUDA device instead")
    parser.add_argument(
        "--layers",
        type=int,
        default=32,
        help="decoder blocks of --gpu; both sides are held at once, so that stage 2 takes 32 bytes "
        "per parameter",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to this file"
    )
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.gpu:
            results = measure_gpu(Path(folder), args.quick, args.layers)
        else:
            results = measure_cpu(Path(folder), args.quick)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
