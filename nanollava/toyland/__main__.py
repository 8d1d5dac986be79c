"""Toyland's commands: `data` writes the data set, `pretrain` makes toy-clip and toy-vicuna, `probe` measures those two,
`score` measures a LLaVA, `picture` draws one scene."""

import argparse
import json
from pathlib import Path

import torch

from .. import cli, weights
from ..config import UserError, read_json, write_json
from ..device import DTYPES, pick_device, pick_dtype
from ..image import ImageConfig
from ..llama import Llama
from ..llava import LLaVA
from ..tokenizer import Tokenizer
from . import clip, data, score, vicuna
from .draw import draw
from .scenes import scenes


def save_clip(model: clip.CLIP, tokenizer: Tokenizer, path: Path) -> None:
    """Writes a Hugging Face CLIP directory (float16)."""
    path.mkdir(parents=True, exist_ok=True)
    text = {"model_type": "clip_text_model", "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    text |= model.text_config
    end = len(tokenizer)
    text |= dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end)
    vision = clip.VISION.to_dict() | {"projection_dim": clip.TEXT["projection_dim"]}
    config = dict(architectures=["CLIPModel"], model_type="clip", projection_dim=clip.TEXT["projection_dim"])
    write_json(path / "config.json", {**config, "text_config": text, "vision_config": vision})
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    weights.save(state, path, weights.Layout("CLIP", (("", ""),)))
    ImageConfig(clip.VISION.image_size).save_pretrained(path)
    tokenizer.save_pretrained(path)


def load_clip(path: Path) -> tuple[clip.CLIP, Tokenizer]:
    """Both towers of a directory written by `save_clip`."""
    text = read_json(path / "config.json")["text_config"]
    names = ("vocab_size", *clip.TEXT)
    model = clip.CLIP(clip.VISION, {name: text[name] for name in names})
    weights.load(model, path, weights.Layout("CLIP", (("", ""),)), dtype=torch.float32)
    return model.eval(), Tokenizer.from_pretrained(path)


def save_vicuna(model: Llama, tokenizer: Tokenizer, path: Path) -> None:
    """Writes a Hugging Face Llama directory (float16)."""
    path.mkdir(parents=True, exist_ok=True)
    special = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    config = {"architectures": ["LlamaForCausalLM"], **model.config.to_dict(), **special}
    write_json(path / "config.json", config)
    weights.save({name: tensor.half() for name, tensor in model.state_dict().items()}, path, weights.LLAMA)
    tokenizer.save_pretrained(path)


def pretrain(args: argparse.Namespace) -> None:
    device, out = pick_device(args.device), Path(args.out)
    dtype = pick_dtype(args.dtype, device)
    if args.only in (None, "clip"):
        model, tokenizer = clip.new_clip(args.seed)
        steps, common = round(2000 * args.scale), (1e-3, dtype, device)
        clip.train_clip(model, tokenizer, steps, steps * 2 // 5, 64, 4, args.pictures, args.seed, *common)
        steps, pictures = round(900 * args.scale), args.pictures * 5 // 7
        clip.train_clip(model, tokenizer, steps, 0, 96, 2, pictures, args.seed + 1, *common)
        save_clip(model, tokenizer, out / "toy-clip")
        cli.made_by(out / "toy-clip")
    if args.only in (None, "vicuna"):
        # Copying comes twice: the second time it is learnt in a few minutes, and dialogues profit from it.
        phases = [("copies", 1500, 2e-3), ("dialogues", 1300, 2e-3), ("dialogues", 1800, 1.5e-3)]
        phases += [("copies", 700, 1.5e-3), ("dialogues", 800, 1.5e-3), ("dialogues", 1300, 1.5e-3)]
        phases += [("dialogues", n, 1.5e-3) for n in (1500, 1000, 2000)] + [("dialogues", 1300, 1.2e-3)]
        phases = [(phase, max(1, round(steps * args.scale)), lr) for phase, steps, lr in phases]
        model, tokenizer = vicuna.train_vicuna(phases, 32, args.seed, dtype, device)
        save_vicuna(model, tokenizer, out / "toy-vicuna")
        cli.made_by(out / "toy-vicuna")


def write_data(args: argparse.Namespace) -> None:
    data.write(args.out, args.train, args.validation, args.seed, args.size)


def probe(args: argparse.Namespace) -> None:
    result = {}
    if args.clip:
        model, tokenizer = load_clip(Path(args.clip))
        share = clip.retrieval(model, tokenizer, seed=args.seed)
        result["retrieval among 128, place and weather shared"] = share
        for layer in (-2, -1):
            result[f"read-out, layer {layer}"] = clip.readout(model.vision_model, layer, seed=args.seed)
    if args.vicuna:
        model = Llama.from_pretrained(args.vicuna, dtype=torch.float32)
        tokenizer = Tokenizer.from_pretrained(args.vicuna)
        result["questions on a description"] = vicuna.text_accuracy(model, tokenizer, seed=args.seed)
    print(json.dumps(result, indent=2))


def run_score(args: argparse.Namespace) -> None:
    if args.count < 3:
        raise UserError(f"--count {args.count}: expected at least 3 scenes")
    model = LLaVA.from_pretrained(args.model, pick_device(args.device), DTYPES[args.dtype])
    tokenizer, image = Tokenizer.from_pretrained(args.model), ImageConfig.from_pretrained(args.model)
    result = score.score(model, tokenizer, image, args.count, args.seed)
    print(json.dumps(result) if args.json else score.table(result))


def picture(args: argparse.Namespace) -> None:
    scene = list(scenes(args.split, args.index + 1, args.seed, unseen=False))[-1]
    try:
        draw(scene, args.size).save(args.out, quality=92)
    except (OSError, ValueError) as error:
        raise UserError(f"--out {args.out}: cannot be written ({error})") from None
    print(scene)


def main() -> None:
    program = "python -m nanollava.toyland"
    parser = argparse.ArgumentParser(prog=program, description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, name: str, help: str):
        form = argparse.ArgumentDefaultsHelpFormatter
        sub = commands.add_parser(name, help=help, allow_abbrev=False, formatter_class=form)
        sub.set_defaults(function=function)
        sub.add_argument("--seed", type=int, default=0, help="of scenes, wording and training")
        return sub.add_argument

    add = command(write_data, "data", "JPEG files and LLaVA JSON")
    add("--out", required=True, help="directory to make")
    add("--train", type=int, default=16000, help="scenes of the training split")
    add("--validation", type=int, default=500, help="scenes of the validation split")
    add("--size", type=int, default=200, help="width and height of a picture in pixels")
    add = command(pretrain, "pretrain", "the two starting points, toy-clip and toy-vicuna")
    add("--out", default="checkpoints", help="parent of toy-clip and toy-vicuna")
    add("--only", choices=("clip", "vicuna"), help="make one of the two")
    add("--pictures", type=int, default=28000, help="pictures to draw for CLIP")
    add("--scale", type=float, default=1.0, help="times the number of steps of every phase")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--dtype", choices=("auto", "fp32", "bf16"), default="auto", help="of the computation")
    add = command(probe, "probe", "retrieval and read-out of a toy-clip, text questions to a toy-vicuna")
    add("--clip", help="toy-clip directory")
    add("--vicuna", help="toy-vicuna directory")
    add = command(run_score, "score", "exact answers by type on the test split")
    add("--model", default="checkpoints/toy-llava", help="llava-hf directory")
    add("--count", type=int, default=300, help="test scenes; half as many with unseen combinations")
    add("--json", action="store_true", help="one JSON object instead of a table")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--dtype", choices=tuple(DTYPES), default="fp32", help="of the computation")
    add = command(picture, "picture", "one scene as a picture")
    add("--out", required=True, help="file to write")
    add("--split", default="test", choices=("train", "validation", "test"))
    add("--index", type=int, default=0, help="number of the scene in its split")
    add("--size", type=int, default=448, help="width and height in pixels")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    cli.run(main)
