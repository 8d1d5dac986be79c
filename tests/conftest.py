"""Tiny random models, ours and transformers', shared by the parity tests."""

import os
import random

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # many short runs on few cores

import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRMSNorm

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
IMAGE_TOKEN = 95

torch.set_num_threads(2)


def vision_config(**changes) -> transformers.CLIPVisionConfig:
    values = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4)
    return transformers.CLIPVisionConfig(**{**values, "image_size": 32, "patch_size": 8, **changes})


def text_config(**changes) -> transformers.LlamaConfig:
    values = dict(
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=96,
    )
    values |= dict(num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5)
    return transformers.LlamaConfig(**{**values, **changes})


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights of a scale that makes every part of the model matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale
            )
            if parameter.ndim == 1:
                parameter.add_(1.0)
    return model.eval()


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request, monkeypatch):
    """transformers computes RMSNorm in float32 even for float64 models; its formula in float64 is the oracle there."""
    if request.param == torch.float64:

        def forward(self, x):
            return (
                self.weight
                * x
                * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
            )

        monkeypatch.setattr(LlamaRMSNorm, "forward", forward)
    return request.param


@pytest.fixture(scope="session")
def llava_dir(tmp_path_factory):
    """Directories of random LLaVAs written by transformers, by projector activation and text settings."""

    def make(act: str = "gelu", **text) -> str:
        path = tmp_path_factory.mktemp("llava")
        config = transformers.LlavaConfig(
            vision_config=vision_config(),
            text_config=text_config(**text),
            projector_hidden_act=act,
            image_token_index=IMAGE_TOKEN,
            image_seq_length=16,
        )
        randomise(transformers.LlavaForConditionalGeneration(config)).save_pretrained(path)
        return str(path)

    return make


def batch(seed: int = 0, rows: int = 3, dtype=torch.float32):
    """Right-padded prompts of unequal length with one picture each, and labels on their ends."""
    rng = random.Random(seed)
    ids, labels = torch.zeros(rows, 40, dtype=torch.long), torch.full((rows, 40), -100)
    mask = torch.zeros(rows, 40, dtype=torch.long)
    for row in range(rows):
        before, after = rng.randint(1, 6), rng.randint(6, 16)
        words = [rng.randrange(3, IMAGE_TOKEN) for _ in range(before + after)]
        values = words[:before] + [IMAGE_TOKEN] * 16 + words[before:]
        ids[row, : len(values)] = torch.tensor(values)
        mask[row, : len(values)] = 1
        labels[row, len(values) - 4 : len(values)] = ids[row, len(values) - 4 : len(values)]
    pixels = torch.randn(
        rows, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return ids, labels, mask, pixels.to(dtype)
