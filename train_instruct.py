"""Stage 2, visual instruction tuning: W and the language model learn, from instructions (paper, section 4.2).

python train_instruct.py                               # Toyland, after train_align.py
torchrun --nproc_per_node 2 train_instruct.py          # the same over two processes (FSDP2)
"""

from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from nanollava.data import collate
from nanollava.device import DTYPES
from nanollava.errors import run
from nanollava.files import made_by
from nanollava.image import ImageConfig
from nanollava.llava import LLaVA
from nanollava.tokenizer import Tokenizer
from nanollava.toyland.data import ensure_data
from nanollava.toyland.score import score
from nanollava.training import arguments, loop, plan, resume

TRAINABLE = {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": True}

# Toyland's values; --recipe has the paper's and its heirs'.
DEFAULTS = dict(out="out/instruct", data="data/toyland/instruct.json", projector="out/align")
DEFAULTS |= dict(template="vicuna_v1", batch=24, lr=1.5e-3, max_steps=1200, max_length=1024)


def main() -> None:
    args = arguments.training_arguments(__doc__.split("\n")[0], 2, **DEFAULTS)
    if args.plan:
        return print(plan.of_run(args, TRAINABLE))
    device = loop.start(args.device)
    ensure_data(args.data, made_here=DEFAULTS["data"])
    torch.manual_seed(args.seed)

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
    # Sharding casts the frozen tower to the compute dtype; what is saved is the tower as it came.
    tower = {
        f"vision_tower.{name}": tensor for name, tensor in model.vision_tower.state_dict().items()
    }
    loop.shard(model, model.language_model.model.layers, model.vision_tower, device, args)
    loop.announce(args, rows, len(data), "stage 2: instruct")

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

    save_dtype, out = DTYPES[args.save_dtype], Path(args.out)
    state = loop.full_state(model, save_dtype, "multi_modal_projector.", "language_model.")

    def export() -> None:
        model.save_pretrained(
            out, state | {name: tensor.to(save_dtype) for name, tensor in tower.items()}
        )
        tokenizer.with_image_token(model.config.image_token_id).save_pretrained(out)
        image_config.save_pretrained(out)
        made_by(out)

    resume.on_rank_0(export)
    if dist.get_rank() == 0:
        print(f"LLaVA is in {out}; next: python sample.py --model {out} --image cat.jpg")
    loop.finish()


if __name__ == "__main__":
    run(main)
