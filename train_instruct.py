"""Stage 2, visual instruction tuning: W and the language model learn (paper, section 4.2).

python train_instruct.py                               # Toyland, after train_align.py
python train_instruct.py --model DIR --data mine.json  # fine-tune a finished LLaVA
torchrun --nproc_per_node 2 train_instruct.py          # the same with two processes (FSDP2)
"""

import shlex
from functools import partial

from nanollava.config import LLM, PROJECTOR, TOWER
from nanollava.conversation import CHAT_TEMPLATES
from nanollava.data import collate
from nanollava.errors import run
from nanollava.toyland.data import ensure_data
from nanollava.training import arguments, distributed, output, plan, signals
from nanollava.training.batches import Collator
from nanollava.training.build import build
from nanollava.training.connector import trained_parts
from nanollava.training.datasets import load_datasets
from nanollava.training.evaluation import evaluate
from nanollava.training.export import export_llava, frozen_state
from nanollava.training.loop import train
from nanollava.training.metrics import announce

# Whether each part is trained, by the prefix of its parameter names.
TRAINABLE = {TOWER: False, PROJECTOR: True, LLM: True}

# Values for Toyland. For real data see --recipe.
DEFAULTS = {
    "out": "out/instruct",
    "data": "data/toyland/plain.json",
    "projector": "out/align",  # the result of stage 1
    "template": "vicuna_v1",
    "batch": 24,
    "lr": 1.5e-3,
    "max_steps": 1200,
    "max_length": 1024,
}


def main() -> None:
    config = arguments.parse_config(__doc__.split("\n")[0], stage=2, stage_defaults=DEFAULTS)
    if config.plan:
        print(plan.describe(config, TRAINABLE))
        return
    device = distributed.start(config.device)
    distributed.check_batch(config)
    signals.end_with_launcher()
    output.lock(config.out)

    # Build: CLIP, the language model and the W of stage 1, or a finished LLaVA with --model.
    model, tokenizer, image_config = build(config)

    # Data: every record is checked now, not in the middle of the training.
    ensure_data(config.data, made_here=DEFAULTS["data"])
    data, validation = load_datasets(config, tokenizer, image_config, model.config)
    trainable = trained_parts(TRAINABLE, model, config)
    collator = Collator(collate, flops=partial(plan.flops, model.config, trainable))

    # Freeze by the table, then shard. Sharding casts; the result gets the frozen weights uncast.
    parameter_report = distributed.freeze(model, trainable)
    frozen = frozen_state(model, trainable)
    distributed.shard(model, model.blocks(), model.vision_tower, device, config)
    announce(config, device, parameter_report, len(data), "stage 2: instruct")

    # Train.
    measure = partial(
        evaluate, model, validation, collator, tokenizer, image_config, config, device
    )
    train(model, data, collator, config, device, measure)

    # Save a complete LLaVA: what was trained, and the frozen parts as they were.
    export_llava(config, model, trainable, frozen, tokenizer, image_config)
    ask = ["python", "sample.py", "--model", config.out, "--image", "cat.jpg"]
    if config.template in CHAT_TEMPLATES:
        ask += ["--template", config.template]
    distributed.print_on_rank_0(f"LLaVA is in {config.out}; next: {shlex.join(ask)}")
    distributed.finish()


if __name__ == "__main__":
    run(main)
