"""Stage 1, feature alignment: only the projector W learns, from captions (paper, section 4.2).

python train_align.py                                  # Toyland, this machine
torchrun --nproc_per_node 2 train_align.py             # the same over two processes (FSDP2)
"""

from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from nanollava.data import collate
from nanollava.device import DTYPES
from nanollava.errors import run
from nanollava.files import made_by
from nanollava.hf import files as hf_files
from nanollava.image import ImageConfig
from nanollava.llava import PROJECTOR_FILE, LLaVA
from nanollava.tokenizer import Tokenizer
from nanollava.toyland.data import ensure_data
from nanollava.toyland.score import score
from nanollava.training import arguments, loop, plan, resume

TRAINABLE = {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": False}

# Toyland's values, the instruction kept before the caption as in the paper's v0; --recipe has the paper's and its heirs'.
DEFAULTS = dict(
    out="out/align", data="data/toyland/align.json", projector="linear", template="vicuna_v1"
)
DEFAULTS |= dict(batch=32, lr=5e-3, max_steps=600, max_length=1024)


def main() -> None:
    args = arguments.training_arguments(__doc__.split("\n")[0], 1, **DEFAULTS)
    if args.plan:
        return print(plan.of_run(args, TRAINABLE))
    device = loop.start(args.device)
    ensure_data(args.data, made_here=DEFAULTS["data"])
    torch.manual_seed(args.seed)  # the new W is the same on every rank

    tokenizer = Tokenizer.from_pretrained(args.llm)
    model = LLaVA.compose(
        args.vision,
        args.llm,
        args.projector,
        tokenizer.image_token_id,
        vision_feature_layer=args.vision_layer,
        mapped=True,
    )
    rows = loop.freeze(model, TRAINABLE)
    size = model.config.vision_config.image_size
    image_config = ImageConfig.from_pretrained(args.vision, args.image_mode, size)
    data, held_out = arguments.datasets(args, tokenizer, image_config, model.config)
    loop.shard(model, model.language_model.model.layers, model.vision_tower, device, args)
    loop.announce(args, rows, len(data), "stage 1: align")

    loop.train(
        model,
        data,
        collate,
        args,
        device,
        partial(plan.flops, model.config, TRAINABLE),
        arguments.evaluation(
            args,
            model,
            held_out,
            device,
            lambda n: score(model, tokenizer, image_config, n)["overall"],
        ),
    )

    state, out = (
        loop.full_state(model, DTYPES[args.save_dtype], "multi_modal_projector."),
        Path(args.out),
    )

    def export() -> None:
        hf_files.save_projector(state, out / PROJECTOR_FILE)
        made_by(out)

    resume.on_rank_0(export)
    if dist.get_rank() == 0:
        print(f"W is in {out / PROJECTOR_FILE}; next: python train_instruct.py --projector {out}")
    loop.finish()


if __name__ == "__main__":
    run(main)
