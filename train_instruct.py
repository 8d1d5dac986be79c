"""Stage 2, visual instruction tuning: W and the language model learn (paper, section 4.2).

python train_instruct.py                               # Toyland, after train_align.py
torchrun --nproc_per_node 2 train_instruct.py          # the same with two processes (FSDP2)
"""

from functools import partial
from pathlib import Path

import torch

from nanollava.data import collate
from nanollava.device import DTYPES
from nanollava.errors import run
from nanollava.export import save_llava
from nanollava.files import made_by, shipped
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
TRAINABLE = {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": True}

# Values for Toyland. For real data see --recipe.
DEFAULTS = {
    "out": "out/instruct",
    "data": "data/toyland/instruct.json",
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
    ensure_data(config.data, made_here=DEFAULTS["data"])

    # Build: CLIP, the language model and the W of stage 1.
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

    # Freeze by the table, then shard. Sharding casts the frozen tower to the compute dtype; the
    # result gets the tower as it was.
    trained_rows = distributed.freeze(model, TRAINABLE)
    tower = model.vision_tower.state_dict(prefix="vision_tower.")
    blocks = model.language_model.model.layers
    distributed.shard(model, blocks, model.vision_tower, device, config)
    announce(config, trained_rows, len(data), "stage 2: instruct")

    # Train.
    measure = partial(
        evaluate, model, validation, collator, tokenizer, image_config, config, device
    )
    train(model, data, collator, config, device, measure)

    # Save a complete LLaVA: W and the language model as trained, and the tower.
    out = Path(config.out)
    save_dtype = DTYPES[config.save_dtype]
    state = distributed.full_state(model, save_dtype, "multi_modal_projector.", "language_model.")
    for name, tensor in tower.items():
        state[name] = tensor.to(save_dtype)
    distributed.write_on_rank_0(
        partial(save, out, model, tokenizer, image_config, config.template, state)
    )
    distributed.print_on_rank_0(
        f"LLaVA is in {out}; next: python sample.py --model {out} --image cat.jpg"
    )
    distributed.finish()


def save(out: Path, *parts) -> None:
    save_llava(out, *parts)
    made_by(out)


if __name__ == "__main__":
    run(main)
