"""Write any LLaVA, or CLIP and Llama with or without a projector, as one directory.

An original LLaVA and its vision tower:
    python -m nanollava.convert llava-v1.5-7b clip-vit-large-patch14-336 OUT
The starting point of your own training, with a new projector:
    python -m nanollava.convert clip-vit-large-patch14 vicuna-7b-v1.5 OUT
The same with the projector that stage 1 has trained:
    python -m nanollava.convert clip-vit-large-patch14 vicuna-7b-v1.5 mm_projector.bin OUT
"""

import argparse
import shlex
from pathlib import Path

import torch

from .config import PROJECTORS
from .conversation import CHAT_TEMPLATES
from .device import DTYPES
from .errors import ConfigError, UserError, run
from .export import save_llava
from .files import new_directory, read_json
from .hf.config import OUR_MODEL_TYPE
from .hf.files import is_projector_directory, projector_files, shapes, shards
from .hf.names import CLIP_VISION, LLAMA, LLAVA, PROJECTOR_LAYOUT, Layout, is_original
from .llava import layout
from .loading import Loaded, join_parts, load_llava
from .schema import require

# What a source can be, and the layouts in which its tensors are named.
LAYOUTS = {
    "llava-hf": (LLAVA,),
    # An original LLaVA, often without its tower.
    "original": (LLAMA, PROJECTOR_LAYOUT, CLIP_VISION),
    "clip": (CLIP_VISION,),
    "llama": (LLAMA,),
    "projector": (PROJECTOR_LAYOUT,),
}
# The same by `model_type` of config.json.
KINDS = {
    "llava": "llava-hf",
    "clip": "clip",
    "clip_vision_model": "clip",
    "llama": "llama",
    "mistral": "llama",
    OUR_MODEL_TYPE: "llava-hf",  # with another connector, and otherwise the same names
}
# The sources that together make a LLaVA.
COMPLETE = (
    {"llava-hf"},
    {"original"},
    {"original", "clip"},
    {"clip", "llama"},
    {"clip", "llama", "projector"},
)


def main() -> None:
    args = parse_arguments()
    out = Path(args.out)
    if out.exists():
        raise UserError(f"{out}: exists already; remove it or choose another directory")
    sources = find_sources([Path(source) for source in args.sources])
    model, tokenizer, image_config = load_sources(sources, args.projector, DTYPES.get(args.dtype))
    for kind in sources:
        report_source(kind, sources)
    with new_directory(out) as folder:
        save_llava(folder, model, tokenizer, image_config, args.template)
    parameters = list(model.parameters())  # tied ones once
    num_bytes = sum(parameter.nbytes for parameter in parameters)
    form = layout(model.config).name
    print(f"wrote {out} ({form}): {len(parameters)} tensors, {num_bytes:,} bytes")
    ask = ["python", "sample.py", "--model", str(out), "--image", "cat.jpg"]
    if args.template != "vicuna_v1":
        ask += ["--template", args.template]
    print(f"try: {shlex.join(ask)}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m nanollava.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "sources", nargs="+", metavar="SRC", help="model directories, or a projector file"
    )
    parser.add_argument("out", metavar="OUT", help="directory to write")
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        help="dtype of the weights; default: that of the files",
    )
    parser.add_argument(
        "--projector",
        default="linear",
        choices=PROJECTORS,
        help="a new projector, if no source has one; default: %(default)s",
    )
    parser.add_argument(
        "--template",
        default="vicuna_v1",
        choices=CHAT_TEMPLATES,
        help="prompt template of the model, for transformers; default: %(default)s",
    )
    args = parser.parse_args()
    if "" in [*args.sources, args.out]:
        raise UserError("an empty name: expected SRC ... and OUT")
    return args


def find_sources(paths: list[Path]) -> dict[str, Path]:
    """The sources by what they are (keys of LAYOUTS), or a UserError if they make no LLaVA."""
    sources = {}
    for path in paths:
        kind = kind_of(path)
        if kind in sources:
            raise UserError(f"{path} and {sources[kind]}: two of the kind {kind!r}")
        sources[kind] = path
    if set(sources) not in COMPLETE:
        kinds = ", ".join(sorted(sources))
        expected = "a llava-hf, an original (and clip), or clip and llama (and projector)"
        raise UserError(f"got {kinds}; expected {expected}")
    return sources


def kind_of(path: Path) -> str:
    """What a directory or file is: a key of LAYOUTS."""
    if path.is_file():
        return "projector"
    if not path.is_dir():
        advice = "models are local directories: download them first (docs/weights.md)"
        raise ConfigError(f"{path}: no such directory or file; {advice}")
    if is_projector_directory(path):
        return "projector"
    file = path / "config.json"
    values = read_json(file)
    if is_original(values):
        return "original"
    return KINDS[require(values, "model_type", str, str(file), choices=KINDS)]


def load_sources(sources: dict[str, Path], new_projector: str, dtype: torch.dtype | None) -> Loaded:
    """The LLaVA that the sources make. dtype None keeps that of the files."""
    if "llava-hf" in sources:
        return load_llava(sources["llava-hf"], dtype=dtype)
    if "original" in sources:
        return load_llava(sources["original"], dtype=dtype, vision=sources.get("clip"))
    projector = sources.get("projector", new_projector)
    loaded = join_parts(sources["clip"], sources["llama"], projector, dtype)
    if "projector" not in sources:  # a new W is float32; write it like the language model
        loaded.model.multi_modal_projector.to(loaded.model.language_model.lm_head.weight.dtype)
    return loaded


def report_source(kind: str, sources: dict[str, Path]) -> None:
    """Print how many tensors of a source were read, and which were dropped by name."""
    path = sources[kind]
    files = projector_files(path) if kind == "projector" else shards(path)
    names = list(shapes(files))
    layouts = LAYOUTS[kind]
    if kind == "original" and "clip" in sources:
        layouts = (LLAMA, PROJECTOR_LAYOUT)  # the tower comes from CLIP
    dropped = [name for name in names if is_dropped(name, layouts)]
    num_read = len(names) - len(dropped)
    print(f"read {path} ({kind}): {num_read} tensors; {len(dropped)} dropped by name {dropped[:3]}")


def is_dropped(name: str, layouts: tuple[Layout, ...]) -> bool:
    """Does no layout read this tensor?"""
    return all(names.to_ours(name) is None for names in layouts)


if __name__ == "__main__":
    run(main)
