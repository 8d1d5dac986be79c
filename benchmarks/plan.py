"""LLaVA v1.5 at 7B and 13B, both stages, on 1 to 64 GPUs, as a Markdown table.

python -m benchmarks.plan

640 tokens per sample, 40% of an A100's 312 TFLOP/s. Computed from the configs; nothing is measured.
"""

import argparse

import train_align
import train_instruct
from nanollava.config import LlamaConfig, LlavaConfig, VisionConfig
from nanollava.training.arguments import RECIPES
from nanollava.training.plan import figures

TRAINABLE = {1: train_align.TRAINABLE, 2: train_instruct.TRAINABLE}  # by stage
TOKENS = 640  # per sample: 576 image tokens and some text
FLOPS_PER_SECOND = 0.4 * 312e12  # per GPU
MAX_MICRO_BATCH = 16  # samples
MODELS = {
    "7B": LlamaConfig(vocab_size=32064),
    "13B": LlamaConfig(
        vocab_size=32064,
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=40,
        num_attention_heads=40,
    ),
}
# The plan's names, and the table's.
COLUMNS = {
    "weights": "weights, GiB",
    "gradients": "gradients, GiB",
    "optimizer": "AdamW, GiB",
    "gathered": "gathered, GiB",
    "logits": "logits, GiB",
    "activations kept": "activations kept, GiB",
    "activations": "activations recomputed, GiB",
    "all kept": "all, kept, GiB",
    "all": "all, recomputed, GiB",
    "GB sent": "GB sent per step",
    "hours": "hours",
}


def row(name: str, text: LlamaConfig, stage: int, gpus: int) -> str:
    config = LlavaConfig(VisionConfig(image_size=336), text, "mlp2x_gelu")
    trainable = TRAINABLE[stage]
    recipe = RECIPES["v1.5"][stage]
    batch = recipe["batch"]
    micro = min(MAX_MICRO_BATCH, batch // gpus)
    rounds = batch // gpus // micro
    plan = figures(
        config, trainable, gpus, batch, micro, TOKENS, recipe["samples"], FLOPS_PER_SECOND
    )
    cells = [name, str(stage), str(gpus), f"{micro} x {gpus} x {rounds}"]
    for column in COLUMNS:
        cells.append(f"{plan[column]:.1f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()  # no flags but --help
    header = ["model", "stage", "GPUs", "batch: micro x GPUs x rounds", *COLUMNS.values()]
    print(f"| {' | '.join(header)} |")
    print("|" + " --- |" * len(header))
    for name, text in MODELS.items():
        for stage in (1, 2):
            for gpus in (1, 2, 4, 8, 16, 32, 64):
                print(row(name, text, stage, gpus))


if __name__ == "__main__":
    main()
