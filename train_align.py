"""Stage 1, feature alignment: only the projector W learns, from captions (paper, section 4.2).

python train_align.py                                  # Toyland, on this machine
torchrun --nproc_per_node 2 train_align.py             # the same with two processes (FSDP2)
"""

from functools import partial
from pathlib import Path

import torch

from nanollava.data import collate
from nanollava.device import DTYPES
from nanollava.errors import run
from nanollava.files import made_by, shipped
from nanollava.hf.files import PROJECTOR_FILES, save_projector
from nanollava.image import ImageConfig
from nanollava.llava import LLaVA
from nanollava.tokenizer import Tokenizer
from nanollava.toyland.data import ensure_data
from nanollava.training import arguments, distributed, plan
from nanollava.training.batches import Collator
from nanollava.training.datasets import load_datasets
from nanollava.training.evaluation import evaluate
from nanollava.training.loop import train
from nanollava.training.metrics import announce

# Whether each part is trained, by the prefix of its parameter names.
TRAINABLE = {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": False}

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
    ensure_data(config.data, made_here=DEFAULTS["data"])

    # Build: CLIP, the language model and a new W. The seed makes W the same on every rank.
    torch.manual_seed(config.seed)
    vision = shipped(config.vision)
    llm = shipped(config.llm)
    tokenizer = Tokenizer.from_pretrained(llm)
    model = LLaVA.compose(
        vision,
        llm,
        config.projector,
        tokenizer.image_token_id,
        vision_feature_layer=config.vision_layer,
        dtype=None,  # as in the files, which stay mapped into memory until they are sharded
    )
    model.config = tokenizer.with_special_ids(model.config, llm)
    image_size = model.config.vision_config.image_size
    image_config = ImageConfig.from_pretrained(vision, config.image_mode, image_size)

    # Data: every record is checked now, not in the middle of the training.
    data, validation = load_datasets(config, tokenizer, image_config, model.config)
    collator = Collator(collate, flops=partial(plan.flops, model.config, TRAINABLE))

    # Freeze by the table, then shard.
    trained_rows = distributed.freeze(model, TRAINABLE)
    blocks = model.language_model.model.layers
    distributed.shard(model, blocks, model.vision_tower, device, config)
    announce(config, trained_rows, len(data), "stage 1: align")

    # Train.
    measure = partial(
        evaluate, model, validation, collator, tokenizer, image_config, config, device
    )
    train(model, data, collator, config, device, measure)

    # Save W alone: nothing else has changed.
    file = Path(config.out) / PROJECTOR_FILES[0]
    save_dtype = DTYPES[config.save_dtype]
    projector = distributed.full_state(model, save_dtype, "multi_modal_projector.")
    distributed.write_on_rank_0(partial(save, file, projector))
    distributed.print_on_rank_0(
        f"W is in {file}; next: python train_instruct.py --projector {config.out}"
    )
    distributed.finish()


def save(file: Path, projector: dict[str, torch.Tensor]) -> None:
    save_projector(projector, file)
    made_by(file.parent)


if __name__ == "__main__":
    run(main)
