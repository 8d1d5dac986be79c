"""Stage 1, feature alignment: only the projector W learns, from captions (paper, section 4.2).

python train_align.py                                  # Toyland, this machine
torchrun --nproc_per_node 2 train_align.py             # the same over two processes (FSDP2)
"""

from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from nanollava import checkpoint, cli, engine, plan, weights
from nanollava.data import collate
from nanollava.device import DTYPES
from nanollava.image import ImageConfig
from nanollava.llava import PROJECTOR_FILE, LLaVA
from nanollava.tokenizer import Tokenizer
from nanollava.toyland import ensure_data
from nanollava.toyland.score import score

TRAINABLE = {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": False}

# Toyland's values, the instruction kept before the caption as in the paper's v0; --recipe has the paper's and its heirs'.
DEFAULTS = dict(out="out/align", data="data/toyland/align.json", projector="linear", template="vicuna_v1")
DEFAULTS |= dict(batch=32, lr=5e-3, max_steps=600, max_length=1024)


def main() -> None:
    args = cli.training_arguments(__doc__.split("\n")[0], 1, **DEFAULTS)
    if args.plan:
        return print(plan.of_run(args, TRAINABLE))
    device = engine.start(args.device)
    ensure_data(args.data, made_here=DEFAULTS["data"])
    torch.manual_seed(args.seed)  # the new W is the same on every rank

    tokenizer = Tokenizer.from_pretrained(args.llm)
    model = LLaVA.compose(
        args.vision, args.llm, args.projector, tokenizer.image_token_id, vision_feature_layer=args.vision_layer, mapped=True
    )  # fmt: skip
    rows = engine.freeze(model, TRAINABLE)
    size = model.config.vision_config.image_size
    image_config = ImageConfig.from_pretrained(args.vision, args.image_mode, size)
    data, held_out = cli.datasets(args, tokenizer, image_config, model.config)
    engine.shard(model, model.language_model.model.layers, model.vision_tower, device, args)
    engine.announce(args, rows, len(data), "stage 1: align")

    engine.train(
        model, data, collate, args, device, partial(plan.flops, model.config, TRAINABLE),
        cli.evaluation(args, model, held_out, device, lambda n: score(model, tokenizer, image_config, n)["overall"]),
    )  # fmt: skip

    state, out = engine.full_state(model, DTYPES[args.save_dtype], "multi_modal_projector."), Path(args.out)

    def export() -> None:
        weights.save_projector(state, out / PROJECTOR_FILE)
        cli.made_by(out)

    checkpoint.on_rank_0(export)
    if dist.get_rank() == 0:
        print(f"W is in {out / PROJECTOR_FILE}; next: python train_instruct.py --projector {out}")
    engine.finish()


if __name__ == "__main__":
    cli.run(main)
