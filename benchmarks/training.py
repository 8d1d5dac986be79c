"""Step time of both stages against transformers' LlavaForConditionalGeneration in an equally careful plain loop: the same
batches, frozen parts without gradients, fused AdamW, gradient clipping, bf16 by autocast over fp32 weights. Interleaved.

python -m benchmarks.training                 # the toy geometry on this CPU; then 1x to 8x tokens, then 1, 2 and 4 ranks
python -m benchmarks.training --quick
python -m benchmarks.training --gpu           # 7B geometry, random weights, as many decoder layers as --layers says
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.faults import command, run, world
from nanollava.config import LlamaConfig, LlavaConfig, VisionConfig
from nanollava.device import matmul_rate
from nanollava.llava import LLaVA
from nanollava.training import distributed, plan
from nanollava.training.arguments import TrainConfig

STAGES = [
    {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": on}
    for on in (False, True)
]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOY = LlavaConfig(
    VisionConfig(100, 10, 160, 640, 6, 2),
    LlamaConfig(768, 128, 384, 5, 4, max_position_embeddings=1024),
    image_token_id=705,
)


def batch(config: LlavaConfig, samples: int, device) -> dict[str, torch.Tensor]:
    """A picture and 60 to 180 tokens of text each, the last half of it labelled; padded on the right."""
    generator = torch.Generator().manual_seed(0)
    P, rows, labels = config.vision_config.num_patches, [], []
    for _ in range(samples):
        text = torch.randint(
            3, 700, (int(torch.randint(60, 181, (1,), generator=generator)),), generator=generator
        )
        rows.append(torch.cat([torch.tensor([1]), torch.full((P,), config.image_token_id), text]))
        labels.append(rows[-1].clone())
        labels[-1][: -(len(text) // 2)] = -100
    pad = nn.utils.rnn.pad_sequence
    size = config.vision_config.image_size
    return {
        "input_ids": pad(rows, batch_first=True).to(device),
        "labels": pad(labels, batch_first=True, padding_value=-100).to(device),
        "pixel_values": torch.randn(samples, 3, size, size, generator=generator).to(device),
    }


def ours(config: LlavaConfig, stage: int, dtype: str, device, recompute: bool, path: Path):
    """A step of loop.train, without its reader and log."""
    model = LLaVA.from_pretrained(path, dtype=torch.float32)
    distributed.freeze(model, STAGES[stage - 1])
    settings = TrainConfig(dtype=dtype, checkpoint_activations=recompute)
    distributed.shard(
        model, model.language_model.model.layers, model.vision_tower, device, settings
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-5, weight_decay=0.0, fused=True)

    def step(inputs) -> float:
        loss, count = model.loss(**inputs)
        (loss / count).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return (loss / count).item()

    return step


def theirs(config: LlavaConfig, stage: int, dtype: str, device, recompute: bool, path: Path):
    from transformers import LlavaForConditionalGeneration

    model = (
        LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32).to(device).train()
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            "multi_modal_projector" in name or ("vision_tower" not in name and stage == 2)
        )
    for (
        name,
        parameter,
    ) in model.named_parameters():  # ours is one linear map: the identity behind it is not trained
        if "linear_2" in name and config.projector == "linear":
            parameter.requires_grad_(False)
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-5, weight_decay=0.0, fused=True)

    def step(inputs) -> float:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
            loss = model(**inputs, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def seconds(steps: dict, inputs: dict, runs: int) -> tuple[dict, dict[str, list[float]], float]:
    """Median seconds of a step of each, interleaved, the losses, and the median over all rounds of last over first."""
    found, losses = {name: [] for name in steps}, {name: [] for name in steps}
    for _ in range(runs + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            losses[name].append(step(inputs))
            found[name].append(time.perf_counter() - begin)
    first, *_, last = [values[1:] for values in found.values()] * 2
    ratio = statistics.median(b / a for a, b in zip(first, last, strict=True))
    return {name: statistics.median(values[1:]) for name, values in found.items()}, losses, ratio


def against_transformers(
    config, device, samples: int, runs: int, path: Path, recompute=False, dtypes=DTYPES
) -> list[dict]:
    results = []
    for dtype in dtypes:
        peak = max(matmul_rate(device, kind) for kind in {DTYPES[dtype], torch.float32})
        for stage in (1, 2):
            steps = {
                f.__name__: f(config, stage, dtype, device, recompute, path) for f in (ours, theirs)
            }
            inputs = batch(config, samples, device)
            found, losses, ratio = seconds(steps, inputs, runs)
            gap = abs(losses["ours"][0] - losses["theirs"][0]) / losses["theirs"][0]
            assert gap < (1e-5 if dtype == "fp32" else 2e-2), f"not the same model: {losses}"
            lengths = (
                (inputs["labels"][:, 1:] != -100).sum().item(),
                (inputs["input_ids"] != 0).sum(1).tolist(),
            )
            work = sum(
                plan.flops(config, STAGES[stage - 1], lengths[1], samples, lengths[0]).values()
            )
            row = dict(dtype=dtype, stage=stage, **found, ratio=ratio)
            row |= dict(tokens=sum(lengths[1]) / found["ours"], mfu=work / found["ours"] / peak)
            results.append(row)
            print(
                f"{dtype} stage {stage}: ours {found['ours']:.4f} s, transformers {found['theirs']:.4f} s, "
                f"ratio {row['ratio']:.2f}; {row['tokens']:,.0f} tokens/s, MFU {row['mfu']:.0%} of the measured "
                f"{dtype} matmul rate",
                flush=True,
            )
    return results


def against_work(config, device, base: int, runs: int, path: Path) -> list[dict]:
    results = []
    for stage in (1, 2):
        step = ours(config, stage, "fp32", device, False, path)
        for factor in (1, 2, 4, 8):
            found = seconds({"ours": step}, batch(config, base * factor, device), runs)[0]["ours"]
            results.append(dict(stage=stage, factor=factor, seconds=found))
            print(
                f"stage {stage}, {factor}x tokens: {found:.4f} s, {found / results[-factor.bit_length()]['seconds']:.2f}x",
                flush=True,
            )
    return results


def against_ranks(steps: int) -> list[dict]:
    """Median seconds of a step of the scripts, a global batch of 16, by processes on this machine's cores."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        world(path)
        for stage in ("align", "instruct"):
            for ranks in (1, 2, 4):
                out = path / (f"out-{stage}-whole" if ranks == 1 else f"{stage}-{ranks}")
                run(
                    [*command(path, stage, out, ranks, steps), "--batch", "16", "--save-steps", "0"]
                )
                times = [
                    json.loads(x)["seconds"]
                    for x in (out / "metrics.jsonl").read_text().splitlines()
                ]
                found = statistics.median(b - a for a, b in zip(times, times[1:], strict=False))
                results.append(dict(stage=stage, ranks=ranks, seconds=found))
                print(
                    f"{stage}, {ranks} ranks on {os.cpu_count()} cores: {found:.4f} s a step",
                    flush=True,
                )
    return results


def make(config: LlavaConfig, path: Path) -> None:
    """Random weights of about the published scale, as both sides load them."""
    torch.manual_seed(0)
    model = LLaVA(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few runs: whether it works, not how fast"
    )
    parser.add_argument(
        "--gpu", action="store_true", help="7B geometry on one CUDA device, in place of the rest"
    )
    parser.add_argument(
        "--layers",
        type=int,
        default=32,
        help="decoder layers of --gpu; AdamW's state takes 16 bytes a parameter",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    torch.set_num_threads(1)
    runs = 2 if args.quick else 15
    if args.gpu and not torch.cuda.is_available():
        sys.exit("--gpu: torch finds no CUDA device here; not measured")
    device = distributed.start("cuda" if args.gpu else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        if args.gpu:
            config = LlavaConfig(
                VisionConfig(336), LlamaConfig(32064, num_hidden_layers=args.layers), "mlp2x_gelu"
            )
            make(config, Path(folder))
            result = {
                "gpu": against_transformers(config, device, 8, runs, Path(folder), True, ("bf16",))
            }
        else:
            make(TOY, Path(folder))
            result = {"transformers": against_transformers(TOY, device, 8, runs, Path(folder))}
            result["work"] = against_work(TOY, device, 2, runs, Path(folder))
            result["ranks"] = against_ranks(4 if args.quick else 20)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    distributed.finish()


if __name__ == "__main__":
    main()
