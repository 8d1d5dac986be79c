"""Stage 1, feature alignment: only the projector W learns, from captions (paper, section 4.2).

python train_align.py                                  # Toyland, on this machine
torchrun --nproc_per_node 2 train_align.py             # the same with two processes (FSDP2)
"""

import shlex
from functools import partial

from nanollava.config import LLM, PROJECTOR, TOWER
from nanollava.data import collate
from nanollava.errors import run
from nanollava.toyland.data import ensure_data
from nanollava.training import arguments, distributed, output, plan, signals
from nanollava.training.batches import Collator
from nanollava.training.build import build
from nanollava.training.connector import trained_parts
from nanollava.training.datasets import load_datasets
from nanollava.training.evaluation import evaluate
from nanollava.training.export import export_llava, export_w, frozen_state
from nanollava.training.loop import train
from nanollava.training.metrics import announce

# Whether each part is trained, by the prefix of its parameter names.
TRAINABLE = {TOWER: False, PROJECTOR: True, LLM: False}

# Values for Toyland. The instruction stays before the caption, as in the paper. For real data see
# --recipe.
DEFAULTS = {
    "out": "out/align",
    "data": "data/toyland/align.json",
    "projector": "linear",
    "template": "vicuna_v1",
    "batch": 32,
    "lr": 5e-3,
    "max_steps": 600,
    "max_length": 1024,
}


def main() -> None:
    config = arguments.parse_config(__doc__.split("\n")[0], stage=1, stage_defaults=DEFAULTS)
    if config.plan:
        print(plan.describe(config, TRAINABLE))
        return
    device = distributed.start(config.device)
    distributed.check_batch(config)
    signals.end_with_launcher()
    output.lock(config.out)

    # Build: CLIP, the language model and a new W, or a finished LLaVA with --model.
    model, tokenizer, image_config = build(config)

    # Data: every record is checked now, not in the middle of the training.
    ensure_data(config.data, made_here=DEFAULTS["data"])
    data, validation = load_datasets(config, tokenizer, image_config, model.config)
    trainable = trained_parts(TRAINABLE, model, config)
    collator = Collator(collate, flops=partial(plan.flops, model.config, trainable))

    # Freeze by the table, then shard. Sharding casts; the result gets the frozen weights uncast.
    parameter_report = distributed.freeze(model, trainable)
    exported = PROJECTOR if config.model is None else ""  # prefix of names; "": all weights
    frozen = frozen_state(model, trainable, exported)
    distributed.shard(model, model.blocks(), model.vision_tower, device, config)
    announce(config, device, parameter_report, len(data), "stage 1: align")

    # Train.
    measure = partial(
        evaluate, model, validation, collator, tokenizer, image_config, config, device
    )
    train(model, data, collator, config, device, measure)

    # Save W alone: nothing else has changed. With --model, save the complete LLaVA with its new W.
    if config.model is None:
        result = f"W is in {export_w(config, model, frozen)}"
    else:
        export_llava(config, model, trainable, frozen, tokenizer, image_config)
        result = f"LLaVA is in {config.out}"
    distributed.print_on_rank_0(f"{result}; next: {stage_2_command(config)}")
    distributed.finish()


def stage_2_command(config: arguments.TrainConfig) -> str:
    """The command that continues from this result.

    FILE stands for stage 2's data, except after Toyland's captions: its questions are the default.
    """
    flags = ["--model", config.out]
    if config.model is None:
        flags = ["--vision", config.vision, "--llm", config.llm, "--projector", config.out]
        # W reads this hidden state of the tower; its file does not say which.
        flags += ["--vision-layer", str(config.vision_layer)]
        if config.recipe is not None:
            flags += ["--recipe", config.recipe]
        else:
            flags += ["--image-mode", config.image_mode]
    if config.data != DEFAULTS["data"]:
        flags += ["--data", "FILE"]
    return shlex.join(["python", "train_instruct.py", *flags])


if __name__ == "__main__":
    run(main)
