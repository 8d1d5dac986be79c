"""BLIP-2's stage 1: a Q-Former learns from images and captions, without a language model.

python -m nanollava.train_qformer                      # Toyland, on this machine
# LLaVA's stage 1 with this Q-Former:
python train_align.py --projector qformer --qformer out/qformer
"""

import shlex
from functools import partial
from pathlib import Path

import torch.distributed as dist

from .data import collate
from .errors import run
from .files import shipped
from .image import ImageConfig
from .toyland.data import ensure_data
from .training import arguments, distributed, output, qformer, signals
from .training.batches import Collator
from .training.datasets import BAD_RECORDS, BAD_VALIDATION_RECORDS
from .training.evaluation import evaluate
from .training.loop import train
from .training.metrics import announce

# Whether each part is trained, by the prefix of its parameter names.
TRAINABLE = {"vision_tower.": False, "pretraining.": True}

# Values for Toyland. The captions are the answers of the data file.
DEFAULTS = {
    "out": "out/qformer",
    "data": "data/toyland/align.json",
    "projector": "qformer",
    "batch": 64,
    "lr": 1e-3,
    "max_steps": 1200,
}


def main() -> None:
    config = arguments.parse_config(__doc__.split("\n")[0], stage=1, stage_defaults=DEFAULTS)
    qformer.check_flags(config)
    device = distributed.start(config.device)
    qformer.check_micro_batch(config, dist.get_world_size())
    signals.end_with_launcher()
    output.lock(config.out)

    # Build: the tower, a new Q-Former, and the tokenizer of the language model.
    model, sizes, tokenizer = qformer.build_stage_1(config)
    image_size = model.vision_tower.config.image_size
    image_config = ImageConfig.from_pretrained(
        shipped(config.vision), config.image_mode, image_size
    )

    # Data: every record is checked now, not in the middle of the training.
    ensure_data(config.data, made_here=DEFAULTS["data"])
    parts = (config, tokenizer, image_config)
    data = qformer.load_captions(config.data, BAD_RECORDS, *parts)
    validation = None
    if config.validation is not None:
        validation = qformer.load_captions(config.validation, BAD_VALIDATION_RECORDS, *parts)
    collator = Collator(collate)

    # Freeze by the table, then shard.
    parameter_report = distributed.freeze(model, TRAINABLE)
    distributed.shard(model, [], model.vision_tower, device, config)  # no blocks: it is small
    announce(config, device, parameter_report, len(data), "Q-Former, stage 1")

    # Train: contrast, matching and captioning. Negatives come from the micro-batch of a rank.
    measure = partial(
        evaluate, model, validation, collator, tokenizer, image_config, config, device
    )
    train(model, data, collator, config, device, measure)

    qformer.export_qformer(config, model, sizes)
    distributed.print_on_rank_0(
        f"the Q-Former is in {Path(config.out) / qformer.QFORMER_FILE}; "
        f"next: {stage_1_command(config)}"
    )
    distributed.finish()


def stage_1_command(config: arguments.TrainConfig) -> str:
    """The command that continues from this result. FILE stands for stage 1's data, except after
    Toyland's captions."""
    flags = ["--projector", "qformer", "--qformer", config.out]
    flags += ["--vision", config.vision, "--llm", config.llm]
    # The Q-Former has learned from images in this form, and from this hidden state of the tower.
    flags += ["--vision-layer", str(config.vision_layer), "--image-mode", config.image_mode]
    if config.data != DEFAULTS["data"]:
        flags += ["--data", "FILE"]
    return shlex.join(["python", "train_align.py", *flags])


if __name__ == "__main__":
    run(main)
