"""A complete LLaVA from its directories: the model, its tokenizer and its image processing."""

from pathlib import Path
from typing import NamedTuple

import torch

from .config import ConnectorConfig
from .connectors.gated_llava import GatedLLaVA
from .errors import ConfigError
from .files import read_json
from .hf.files import PROJECTOR_FILES
from .image import ImageConfig
from .llava import LLaVA, new_or_saved_projector
from .tokenizer import Tokenizer


class Loaded(NamedTuple):
    """A model, and how text and images become its input."""

    model: LLaVA
    tokenizer: Tokenizer
    image_config: ImageConfig


def load_llava(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    vision: str | Path | None = None,
    quantize: str | None = None,
) -> Loaded:
    """Loads a LLaVA directory: ours, llava-hf or original. Options as `LLaVA.from_pretrained`."""
    check_is_llava(Path(path))
    tokenizer = Tokenizer.from_pretrained(path)
    model_class = llava_class(read_json(Path(path) / "config.json").get("projector"))
    model = model_class.from_pretrained(
        path, device, dtype, vision, quantize, tokenizer.image_token_id
    )
    model.config = tokenizer.with_special_ids(model.config, path)
    image_size = model.config.vision_config.image_size
    image_config = ImageConfig.from_pretrained(path, size=image_size, vision=vision)
    return Loaded(model, tokenizer, image_config)


def llava_class(projector: str | None) -> type[LLaVA]:
    """The class of a LLaVA with this connector."""
    if projector == "gated_xattn":
        return GatedLLaVA
    return LLaVA


def check_is_llava(path: Path) -> None:
    """A ConfigError that says what to do, for what cannot be a complete LLaVA."""
    if not path.is_dir():
        example = "hf download llava-hf/llava-1.5-7b-hf --local-dir llava-1.5-7b-hf"
        advice = f"download a model first, for example: {example} (docs/weights.md)"
        raise ConfigError(f"{path}: no such directory; {advice}")
    for name in PROJECTOR_FILES:
        if (path / name).is_file() and not (path / "config.json").is_file():
            advice = f"train_instruct.py --projector {path} makes a LLaVA with it"
            raise ConfigError(f"{path}: a projector alone, as train_align.py writes it; {advice}")


def join_parts(
    vision: str | Path,
    llm: str | Path,
    projector: str | Path,
    dtype: torch.dtype | None = None,
    vision_feature_layer: int = -2,
    image_mode: str = "crop",
    connector: ConnectorConfig | None = None,
) -> Loaded:
    """Joins CLIP, a language model and a projector or connector. Options as `LLaVA.compose`.

    The tokenizer is the language model's, the image processing is CLIP's, with `image_mode` "crop"
    or "pad".
    """
    tokenizer = Tokenizer.from_pretrained(llm)
    kind, connector = new_or_saved_projector(projector, connector)
    model = llava_class(kind).compose(
        vision,
        llm,
        projector,
        tokenizer.image_token_id,
        dtype=dtype,
        vision_feature_layer=vision_feature_layer,
        connector=connector,
    )
    model.config = tokenizer.with_special_ids(model.config, llm)
    image_size = model.config.vision_config.image_size
    image_config = ImageConfig.from_pretrained(vision, image_mode, image_size)
    return Loaded(model, tokenizer, image_config)
