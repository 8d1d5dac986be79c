"""Writes any LLaVA, or CLIP and Llama with or without a projector, as one llava-hf directory.

python -m nanollava.convert llava-v1.5-7b clip-vit-large-patch14-336 OUT     # an original LLaVA and its tower
python -m nanollava.convert clip-vit-large-patch14 vicuna-7b-v1.5 OUT        # the beginning of one's own training
python -m nanollava.convert clip-vit-large-patch14 vicuna-7b-v1.5 mm_projector.bin OUT
"""

import argparse
import shutil
from pathlib import Path

from .device import DTYPES
from .errors import ConfigError, UserError, run
from .files import read_json, write_json
from .hf import files as hf_files
from .hf import names as hf_names
from .image import ImageConfig
from .llava import LLaVA
from .tokenizer import Tokenizer

LAYOUTS = {
    "llava-hf": [hf_names.LLAVA],
    "original": [hf_names.LLAMA, hf_names.PROJECTOR, hf_names.CLIP_VISION],
    "clip": [hf_names.CLIP_VISION],
    "llama": [hf_names.LLAMA],
    "projector": [hf_names.PROJECTOR],
}
KINDS = dict(
    llava="llava-hf", clip="clip", clip_vision_model="clip", llama="llama", mistral="llama"
)
WHOLE = (
    "llava-hf",
    "original",
    "clip original",
    "clip llama",
    "clip llama projector",
)  # what makes a LLaVA


def kind_of(path: Path) -> str:
    """What a directory or file holds, by its config.json: a key of LAYOUTS."""
    if path.is_file() or any((path / name).is_file() for name in hf_files.PROJECTOR_FILES):
        return "projector"
    if not path.is_dir():
        raise ConfigError(f"{path}: no such directory or file")
    values = read_json(path / "config.json")
    if "mm_vision_tower" in values:
        return "original"
    kind = values.get("model_type")
    if kind not in KINDS:
        raise ConfigError(f"{path}/config.json: model_type {kind!r}; expected {', '.join(KINDS)}")
    return KINDS[kind]


def main() -> None:
    form = dict(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser = argparse.ArgumentParser("python -m nanollava.convert", description=__doc__, **form)
    add = parser.add_argument
    add("sources", nargs="+", metavar="SRC", help="directories, or a projector file")
    add("out", metavar="OUT", help="directory to make")
    add("--dtype", choices=tuple(DTYPES), help="of the written weights; default: as they are")
    add(
        "--projector",
        default="linear",
        choices=("linear", "mlp2x_gelu"),
        help="a new W, if none is given",
    )
    args = parser.parse_args()
    out, sources = Path(args.out), {}
    if out.exists():
        raise UserError(f"{out}: exists already; remove it or choose another place")
    for path in map(Path, args.sources):
        if sources.setdefault(kind_of(path), path) != path:
            raise UserError(
                f"{path} and {sources[kind_of(path)]}: two of the kind {kind_of(path)!r}"
            )
    given, dtype = set(sources), DTYPES.get(args.dtype)
    base = next(
        (sources[kind] for kind in ("llava-hf", "original", "llama") if kind in sources), None
    )
    if " ".join(sorted(given)) not in WHOLE:
        expected = "a llava-hf, an original (and clip), or clip and llama (and projector)"
        raise UserError(f"got {', '.join(sorted(given))}; expected {expected}")
    tokenizer = Tokenizer.from_pretrained(base)
    if "llama" in given:
        projector = sources.get("projector", args.projector)
        model = LLaVA.compose(
            sources["clip"], base, projector, tokenizer.image_token_id, dtype=dtype
        )
    else:
        model = LLaVA.from_pretrained(base, dtype=dtype, vision=sources.get("clip"))
    vision, tower = (
        model.config.vision_config,
        sources["clip"] if given == {"clip", "llama"} else base,
    )
    pictures = ImageConfig.from_pretrained(tower, size=vision.image_size)
    for kind, path in sources.items():
        names = list(
            hf_files.shapes(hf_files.projector_files(path) if kind == "projector" else path)
        )
        layouts = LAYOUTS[kind][:2] if kind == "original" and "clip" in given else LAYOUTS[kind]
        dropped = [
            name for name in names if all(layout.to_ours(name) is None for layout in layouts)
        ]
        count = len(names) - len(dropped)
        print(
            f"read {path} ({kind}): {count} tensors; {len(dropped)} dropped by name {dropped[:3]}"
        )
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    model.save_pretrained(aside)
    tokenizer.with_image_token(model.config.image_token_id).save_pretrained(aside)
    pictures.save_pretrained(aside)
    processor = dict(
        processor_class="LlavaProcessor", image_token="<image>", num_additional_image_tokens=1
    )
    processor |= dict(vision_feature_select_strategy="default", patch_size=vision.patch_size)
    write_json(aside / "processor_config.json", processor)
    aside.rename(out)
    state = model.state_dict().values()
    print(
        f"wrote {out} (llava-hf): {len(state)} tensors, {sum(t.nbytes for t in state):,} bytes; try: "
        f"python sample.py --model {out} --image cat.jpg"
    )


if __name__ == "__main__":
    run(main)
