"""The plan for LLaVA v1.5, 7B and 13B, both stages, 1 to 64 GPUs, as a Markdown table.

640 tokens per sample and 40% of an A100's 312 TFLOP/s. Computed from the configs, not measured.

python -m benchmarks.plan
"""

from itertools import product

from nanollava.config import LlamaConfig, LlavaConfig, VisionConfig
from nanollava.training.arguments import RECIPES
from nanollava.training.plan import figures

SHAPES = {"7B": LlamaConfig(32064), "13B": LlamaConfig(32064, 5120, 13824, 40, 40)}
COLUMNS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "AdamW",
    "gathered": "gathered",
    "logits": "logits",
    "activations kept": "activations kept",
    "activations": "activations run again",
    "all kept": "all, kept",
    "all": "all, run again",
    "GB sent": "GB sent a step",
    "hours": "hours",
}


def main() -> None:
    print(
        "| model | stage | GPUs | batch: micro x GPUs x rounds | "
        + " | ".join(COLUMNS.values())
        + " |"
    )
    print("|" + " --- |" * (4 + len(COLUMNS)))
    for (name, text), stage in product(SHAPES.items(), (1, 2)):
        config, recipe = (
            LlavaConfig(VisionConfig(336), text, "mlp2x_gelu"),
            RECIPES["v1.5"][stage],
        )
        trainable = {
            "vision_tower.": False,
            "multi_modal_projector.": True,
            "language_model.": stage == 2,
        }
        for gpus in (1, 2, 4, 8, 16, 32, 64):
            batch, micro = recipe["batch"], min(16, recipe["batch"] // gpus)
            found = figures(
                config, trainable, gpus, batch, micro, 640, recipe["samples"], 0.4 * 312e12
            )
            rounds = batch // gpus // micro
            print(
                f"| {name} | {stage} | {gpus} | {micro} x {gpus} x {rounds} |",
                " | ".join(f"{found[c]:.1f}" for c in COLUMNS),
                "|",
            )


if __name__ == "__main__":
    main()
