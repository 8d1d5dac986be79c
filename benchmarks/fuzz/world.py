"""The whole files that the cases damage: a tiny LLaVA in every layout, and images."""

import io
import json
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
import torch
from PIL import Image
from safetensors.torch import save_file

from nanollava.config import LlamaConfig, LlavaConfig, VisionConfig
from nanollava.conversation import encode, expand
from nanollava.errors import UserError
from nanollava.files import shipped, write_json
from nanollava.hf import files as hf_files
from nanollava.hf.config import llama_config_json, vision_config_json
from nanollava.hf.names import CLIP_VISION, LLAMA, LLAVA
from nanollava.image import ImageConfig, open_image, preprocess
from nanollava.llava import LLaVA
from nanollava.tokenizer import Tokenizer

IMAGE_SIZE = 20  # pixels
NUM_PATCHES = 4
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
QUESTION = [{"from": "human", "value": "<image>\nWhat color is the cat?"}]


class World:
    """The files below `path`, and what is read from them once in each process."""

    def __init__(self, path: Path):
        self.path = path
        self.images = path / "images"

    @cached_property
    def model(self) -> LLaVA:
        return LLaVA.from_pretrained(self.path / "llava")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_pretrained(self.path / "llava")

    @cached_property
    def other_tokenizer(self) -> Tokenizer:
        """The same vocabulary, but without a space after special tokens."""
        state = json.loads(self.tokenizer.backend.to_str())
        state["normalizer"] = None
        state["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "first",
            "split": False,
        }
        return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)))

    @cached_property
    def image_config(self) -> ImageConfig:
        return ImageConfig(IMAGE_SIZE)

    @cached_property
    def image(self) -> Image.Image:
        return open_image(self.images / "a.jpg")

    @cached_property
    def pixel_values(self) -> torch.Tensor:
        return preprocess(self.image, self.image_config)[None]

    @cached_property
    def image_files(self) -> list[Path]:
        return sorted(path for path in self.images.rglob("*") if path.is_file())

    def read_json(self, name: str):
        return json.loads((self.path / name).read_text(encoding="utf-8"))


@torch.inference_mode()
def logits(model: LLaVA, tokenizer: Tokenizer, pixel_values: torch.Tensor) -> torch.Tensor:
    """The logits of a question about an image, as a chat would ask it."""
    ids, labels = encode(QUESTION, tokenizer)
    num_patches = model.config.vision_config.num_patches
    ids, _ = expand(ids, labels, model.config.image_token_id, num_patches)
    if len(ids) > model.config.text_config.max_position_embeddings:
        raise UserError(f"{len(ids)} tokens are too many")
    dtype = model.multi_modal_projector.linear_1.weight.dtype
    return model(torch.tensor([ids]), pixel_values.to(dtype))


def make(path: Path) -> None:
    """Write all files of the world."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_pretrained(shipped("checkpoints/toy-llava"))
    vision = VisionConfig(**SHAPE, image_size=IMAGE_SIZE, patch_size=10)
    text = LlamaConfig(768, **SHAPE, max_position_embeddings=256)
    config = LlavaConfig(vision, text, "mlp2x_gelu", image_token_id=tokenizer.image_token_id)
    model = LLaVA(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    make_llava(path, model, tokenizer)
    make_parts(path, model, tokenizer)
    make_original(path, model, tokenizer)
    make_images(path / "images")


def make_llava(path: Path, model: LLaVA, tokenizer: Tokenizer) -> None:
    """The layout of llava-hf: in one file, in shards."""
    for name in ("llava", "shards"):
        model.save_pretrained(path / name)
        tokenizer.save_pretrained(path / name)
        ImageConfig(IMAGE_SIZE).save_pretrained(path / name)
    hf_files.save(model.state_dict(), path / "shards", LLAVA, shard_bytes=100_000)


def make_parts(path: Path, model: LLaVA, tokenizer: Tokenizer) -> None:
    """CLIP, Llama and W, each alone; CLIP also as pickles of both formats."""
    for name in ("clip", "llama"):
        (path / name).mkdir()
    tower = model.vision_tower.state_dict()
    hf_files.save(tower, path / "clip", CLIP_VISION)
    write_json(path / "clip/config.json", vision_config_json(model.config.vision_config))
    ImageConfig(IMAGE_SIZE).save_pretrained(path / "clip")
    hf_files.save(model.language_model.state_dict(), path / "llama", LLAMA)
    write_json(path / "llama/config.json", llama_config_json(model.config.text_config))
    tokenizer.save_pretrained(path / "llama")
    W = {}
    for name, tensor in model.multi_modal_projector.state_dict().items():
        W[f"multi_modal_projector.{name}"] = tensor
    hf_files.save_projector(W, path / "mm_projector.safetensors")
    torch.save(tower, path / "tower.bin")
    torch.save(tower, path / "legacy.bin", _use_new_zipfile_serialization=False)


def make_original(path: Path, model: LLaVA, tokenizer: Tokenizer) -> None:
    """The layout of the original LLaVA."""
    folder = path / "original"
    folder.mkdir()
    state = {}
    for name, tensor in model.language_model.state_dict().items():
        state[LLAMA.to_file(name)] = tensor
    for name, tensor in model.multi_modal_projector.state_dict().items():
        name = name.replace("linear_1", "0").replace("linear_2", "2")
        state[f"model.mm_projector.{name}"] = tensor
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    values = llama_config_json(model.config.text_config)
    values |= {
        "model_type": "llava",
        "mm_vision_tower": str(path / "clip"),
        "mm_hidden_size": 32,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "mlp2x_gelu",
        "image_aspect_ratio": "pad",
        "mm_use_im_start_end": False,
    }
    write_json(folder / "config.json", values)
    tokenizer.save_pretrained(folder)


def make_images(folder: Path) -> None:
    """One image in many formats and modes, some with EXIF data or several frames."""
    (folder / "sub").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (29, 37, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    exif[0x010E] = "a description"
    image.save(folder / "a.jpg", exif=exif)
    image.save(folder / "b.png", exif=exif)
    image.rotate(90, expand=True).save(folder / "sub/d.jpg", progressive=True)
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    transparent = image.convert("RGBA")
    transparent.putalpha(image.convert("L"))
    palette = image.convert("P")
    frames = {"save_all": True, "append_images": [image, image]}
    save_if_possible(image, folder / "animated.png", **frames)
    save_if_possible(palette, folder / "animated.gif", save_all=True, append_images=[palette])
    save_if_possible(palette, folder / "clear.png", transparency=3)
    save_if_possible(palette, folder / "clear-bytes.png", transparency=bytes(range(256)))
    save_if_possible(image, folder / "pages.tiff", **frames)
    save_if_possible(image, folder / "exif.webp", exif=exif)
    save_if_possible(transparent, folder / "lossless.webp", lossless=True)
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        save_if_possible(image, folder / f"{compression}.tiff", compression=compression)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"):
        converted = transparent if mode in ("LA", "RGBA") else image
        if mode == "I;16":
            converted = Image.fromarray(noise[..., 0].astype(np.uint16) * 200)
        else:
            converted = converted.convert(mode)
        for suffix in ("png", "jpg", "bmp", "tiff", "webp", "jp2", "tga", "ico", "ppm", "pcx"):
            save_if_possible(converted, folder / f"{mode.replace(';', '')}.{suffix}")


def save_if_possible(image: Image.Image, path: Path, **options) -> None:
    """Not every format has every mode, and not every Pillow every format."""
    content = io.BytesIO()
    try:
        image.save(content, format=Image.registered_extensions()[path.suffix], **options)
    except (OSError, KeyError, ValueError):
        return
    path.write_bytes(content.getvalue())
