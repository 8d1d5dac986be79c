"""Writes one transformers model in every checkpoint layout that is read."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from conftest import randomise, text_config, vision_config
from safetensors.torch import save_file

NUM_WORDS = 704  # rows of the language model's embedding: toy-vicuna's vocabulary
IMAGE_TOKEN_ID = 704  # the next row
NUM_PATCHES = 16
VISION_WIDTH = 128  # two heads of 64, like in every published tower
TEXT_WIDTH = 64

VISION_CONFIG = vision_config(hidden_size=VISION_WIDTH, num_attention_heads=2)


def reference_model(
    activation: str, tied: bool = False
) -> transformers.LlavaForConditionalGeneration:
    """transformers' LLaVA with random weights. With activation "linear" it has a single W.

    The embedding rows that the tokenizer does not use are the mean of the others, as
    `LLaVA.compose` makes them.
    """
    config = transformers.LlavaConfig(
        vision_config=VISION_CONFIG,
        text_config=text_config(
            vocab_size=768, max_position_embeddings=256, tie_word_embeddings=tied
        ),
        tie_word_embeddings=tied,
        projector_hidden_act=activation,
        image_token_index=IMAGE_TOKEN_ID,
        image_seq_length=NUM_PATCHES,
    )
    model = randomise(transformers.LlavaForConditionalGeneration(config))
    projector = model.model.multi_modal_projector
    with torch.no_grad():
        for rows in (model.model.language_model.embed_tokens.weight, model.lm_head.weight):
            rows[NUM_WORDS:] = rows[:NUM_WORDS].mean(0)
        if activation == "linear":
            projector.linear_2.weight.copy_(torch.eye(TEXT_WIDTH))
            projector.linear_2.bias.zero_()
    return model


@dataclass
class Parts:
    """The reference's tensors, each part by its own names."""

    llama: dict[str, torch.Tensor]  # without the rows after the tokenizer's
    tower: dict[str, torch.Tensor]
    projector: dict[str, torch.Tensor]


def parts_of(model) -> Parts:
    parts = Parts({}, {}, {})
    for name, tensor in model.state_dict().items():
        if name.startswith("model.language_model."):
            parts.llama["model." + name.removeprefix("model.language_model.")] = tensor
        elif name.startswith("lm_head."):
            parts.llama[name] = tensor
        elif "vision_tower." in name:
            parts.tower[re.sub(r".*vision_tower\.(vision_model\.)?", "", name)] = tensor
        else:
            parts.projector[name.removeprefix("model.multi_modal_projector.")] = tensor
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        parts.llama[name] = parts.llama[name][:NUM_WORDS].clone()
    if model.config.tie_word_embeddings:
        del parts.llama["lm_head.weight"]
    # Old files have this table.
    parts.llama["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    return parts


def write_checkpoint(
    path: Path, tensors: dict[str, torch.Tensor], config: dict, file: str = "model.safetensors"
) -> Path:
    """A model directory with one file of weights, `.safetensors` or `.bin`."""
    write_folder(path, config)
    save(tensors, path / file)
    return path


def write_sharded_checkpoint(
    path: Path, tensors: dict[str, torch.Tensor], config: dict, file: str = "model.safetensors"
) -> Path:
    """The same in two shards with an index."""
    write_folder(path, config)
    stem, suffix = file.split(".")
    names = sorted(tensors)
    weight_map = {}
    for shard in (0, 1):
        shard_names = names[shard::2]
        shard_file = f"{stem}-0000{shard + 1}-of-00002.{suffix}"
        save({name: tensors[name] for name in shard_names}, path / shard_file)
        weight_map |= dict.fromkeys(shard_names, shard_file)
    (path / f"{file}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


def save(tensors: dict[str, torch.Tensor], file: Path) -> None:
    copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    if file.suffix == ".safetensors":
        save_file(copies, file)
    else:
        torch.save(copies, file)


def write_folder(path: Path, config: dict) -> None:
    """The small files of a model directory."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    add_tokenizer_and_preprocessor(path)


def add_tokenizer_and_preprocessor(path: Path) -> None:
    shutil.copy("checkpoints/toy-vicuna/tokenizer.json", path)
    preprocessor = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessor))


def json_of(config: transformers.PretrainedConfig) -> dict:
    return json.loads(config.to_json_string())


def llama_values(model) -> dict:
    tied = model.config.tie_word_embeddings
    return json_of(
        text_config(vocab_size=NUM_WORDS, max_position_embeddings=256, tie_word_embeddings=tied)
    )


def original_values(model) -> dict:
    """The config.json of an original LLaVA, which is a Llama's with more keys."""
    values = llama_values(model)
    values["model_type"] = "llava"
    values["mm_vision_tower"] = "openai/clip"
    values["mm_hidden_size"] = VISION_WIDTH
    values["mm_vision_select_layer"] = -2
    values["image_aspect_ratio"] = "pad"
    if model.config.projector_hidden_act == "gelu":
        values["mm_projector_type"] = "mlp2x_gelu"
    return values


def original_projector(model, parts: Parts) -> dict[str, torch.Tensor]:
    """W by the original's names: an nn.Linear, or an nn.Sequential of Linear, GELU, Linear."""
    projector = parts.projector
    if model.config.projector_hidden_act == "linear":
        return {
            "model.mm_projector.weight": projector["linear_1.weight"],
            "model.mm_projector.bias": projector["linear_1.bias"],
        }
    return {
        "model.mm_projector.0.weight": projector["linear_1.weight"],
        "model.mm_projector.0.bias": projector["linear_1.bias"],
        "model.mm_projector.2.weight": projector["linear_2.weight"],
        "model.mm_projector.2.bias": projector["linear_2.bias"],
    }


# Every layout: each function writes directories below `folder` and returns their paths


def write_llava_hf(model, folder: Path) -> list[Path]:
    model.save_pretrained(folder / "hf")
    add_tokenizer_and_preprocessor(folder / "hf")
    return [folder / "hf"]


def write_llava_hf_of_transformers_4(model, folder: Path) -> list[Path]:
    parts = parts_of(model)
    parts.llama["model.embed_tokens.weight"] = model.model.language_model.embed_tokens.weight
    parts.llama["lm_head.weight"] = model.lm_head.weight
    tensors = {}
    for name, tensor in parts.llama.items():
        tensors[f"language_model.{name}"] = tensor.detach()
    for name, tensor in parts.tower.items():
        tensors[f"vision_tower.vision_model.{name}"] = tensor
    for name, tensor in parts.projector.items():
        tensors[f"multi_modal_projector.{name}"] = tensor
    return [write_sharded_checkpoint(folder / "hf", tensors, json_of(model.config))]


def write_original_with_tower(model, folder: Path) -> list[Path]:
    parts = parts_of(model)
    tensors = parts.llama | original_projector(model, parts)
    for name, tensor in parts.tower.items():
        tensors[f"model.vision_tower.vision_tower.vision_model.{name}"] = tensor
    values = original_values(model)
    return [write_sharded_checkpoint(folder / "original", tensors, values, "pytorch_model.bin")]


def write_original_and_clip(model, folder: Path) -> list[Path]:
    parts = parts_of(model)
    tensors = parts.llama | original_projector(model, parts)
    clip_tensors = {
        "logit_scale": torch.ones(()),
        "text_model.x": torch.ones(2),
        "visual_projection.weight": torch.ones(2, 2),
    }
    for name, tensor in parts.tower.items():
        clip_tensors[f"vision_model.{name}"] = tensor
    clip_values = {"model_type": "clip", "vision_config": json_of(VISION_CONFIG)}
    values = original_values(model)
    original = write_checkpoint(folder / "original", tensors, values, "pytorch_model.bin")
    # The published LLaVA v1.5 has a copy of its W next to the shards.
    torch.save(original_projector(model, parts), original / "mm_projector.bin")
    return [
        original,
        write_checkpoint(folder / "clip", clip_tensors, clip_values, "pytorch_model.bin"),
    ]


def write_clip_llama_and_projector(model, folder: Path) -> list[Path]:
    parts = parts_of(model)
    projector_file = folder / "mm_projector.bin"
    torch.save(original_projector(model, parts), projector_file)
    return [
        write_checkpoint(folder / "clip", parts.tower, json_of(VISION_CONFIG)),
        write_sharded_checkpoint(folder / "llama", parts.llama, llama_values(model)),
        projector_file,
    ]


def write_clip_and_llama(model, folder: Path) -> list[Path]:
    clip, llama, _ = write_clip_llama_and_projector(model, folder)
    return [clip, llama]


# Every combination of sources that `convert` takes, by their kinds
COMBINATIONS = {
    ("llava-hf",): write_llava_hf,
    ("original",): write_original_with_tower,
    ("original", "clip"): write_original_and_clip,
    ("clip", "llama"): write_clip_and_llama,
    ("clip", "llama", "projector"): write_clip_llama_and_projector,
}

LAYOUTS = {
    "llava-hf": write_llava_hf,
    "llava-hf of transformers 4": write_llava_hf_of_transformers_4,
    "original with its tower": write_original_with_tower,
    "original and CLIP": write_original_and_clip,
    "CLIP, Llama and projector": write_clip_llama_and_projector,
}


def prompts(count: int = 4):
    """Random prompts with one image each: ids (1, T) and pixel values (1, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(3)
    image_ids = torch.full((1, NUM_PATCHES), IMAGE_TOKEN_ID)
    for n in range(count):
        words = torch.randint(3, NUM_WORDS, (1, 6 + n), generator=generator)
        ids = torch.cat([words[:, :2], image_ids, words[:, 2:]], dim=1)
        yield ids, torch.randn(1, 3, 32, 32, generator=generator)
