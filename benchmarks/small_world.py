"""A tiny random CLIP and Llama and a little data, for trainings that take seconds."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from nanollava.config import LlamaConfig, VisionConfig
from nanollava.files import write_json
from nanollava.hf import files as hf_files
from nanollava.hf.config import llama_config_json, vision_config_json
from nanollava.hf.names import CLIP_VISION, LLAMA
from nanollava.image import ImageConfig
from nanollava.llama import Llama
from nanollava.toyland import data
from nanollava.toyland.pretrain import make_tokenizer
from nanollava.vit import CLIPVisionTransformer

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
# What each stage writes.
RESULTS = {"align": "mm_projector.safetensors", "instruct": "model.safetensors"}


def make(path: Path) -> None:
    """Write path/clip, path/llama (with Toyland's tokenizer) and path/data."""
    torch.manual_seed(0)
    vision = VisionConfig(**SHAPE, image_size=40, patch_size=10)
    (path / "clip").mkdir(parents=True)
    write_json(path / "clip/config.json", vision_config_json(vision))
    hf_files.save(CLIPVisionTransformer(vision).state_dict(), path / "clip", CLIP_VISION)
    ImageConfig(40).save_pretrained(path / "clip")

    tokenizer = make_tokenizer(0)
    text = LlamaConfig(len(tokenizer), **SHAPE, max_position_embeddings=512)
    (path / "llama").mkdir()
    write_json(path / "llama/config.json", llama_config_json(text))
    hf_files.save(Llama(text).state_dict(), path / "llama", LLAMA)
    tokenizer.save_pretrained(path / "llama")

    data.write(path / "data", train=60, validation=4, size=64)


def reference(path: Path, stage: str) -> Path:
    """The output of a stage that others are compared with. Stage 2 continues from stage 1's."""
    return path / f"out-{stage}"


def command(path: Path, stage: str, out: Path, ranks: int, steps: int, *flags) -> list[str]:
    """The command line of a stage, "align" or "instruct"."""
    words = [sys.executable]
    if ranks > 1:
        words += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", ranks]
    words += [f"train_{stage}.py", "--out", out, "--max-steps", steps]
    words += ["--vision", path / "clip", "--llm", path / "llama"]
    words += ["--data", path / f"data/{stage}.json", "--max-length", 512]
    words += ["--batch", 4, "--lr", 1e-3, "--save-steps", 3]
    words += ["--device", "cpu", "--save-dtype", "fp32"]
    if stage == "instruct":
        words += ["--projector", reference(path, "align")]
    return [str(word) for word in [*words, *flags]]


def run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def read_metrics(out: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl, one per step."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
