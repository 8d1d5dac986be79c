"""Bytes of the weights of LLaVA-1.5 7B, computed from its config.

No model of this size is needed: `check_formula` compares the formula with the bytes that a small
quantized model stores.
"""

import torch

from nanollava.config import LlamaConfig, LlavaConfig, VisionConfig
from nanollava.quantize import GROUP
from nanollava.training.plan import LLM, PROJECTOR, TOWER, parameters

from .models import VIT_L_336, quantized_copy, random_llava
from .timing import Settings

BF16 = 2  # bytes per weight of all that is not quantized
LLAVA_7B = LlavaConfig(VIT_L_336, LlamaConfig(vocab_size=32064), "mlp2x_gelu")
# vocabulary, width, width of the MLP, layers, heads, key-value heads (fewer: k and v are narrower)
SMALL_LLAMA = LlamaConfig(512, 128, 384, 2, 4, 2)
SMALL_TOWER = VisionConfig(32, 16, 64, 128, 2, 2)
FORMS = ("bf16", "int8", "int4")


def memory(settings: Settings, variant: str) -> dict:
    """Gigabytes of 7B: of all weights, and of the language model alone."""
    for form in FORMS:
        check_formula(form)
    result = {}
    for form in FORMS:
        num_bytes = weight_bytes(LLAVA_7B, form)
        result[form] = {
            "total_gb": sum(num_bytes.values()) / 1e9,
            "language_model_gb": num_bytes[LLM] / 1e9,
        }
    return result


def check_formula(form: str) -> None:
    """Raises an AssertionError if a small model stores other bytes than the formula says."""
    model = random_llava(SMALL_LLAMA, SMALL_TOWER, torch.bfloat16)
    if form != "bf16":
        model = quantized_copy(model, form)
    stored = sum(tensor.nbytes for tensor in model.state_dict().values())
    computed = sum(weight_bytes(model.config, form).values())
    assert stored == computed, f"{form}: {stored} bytes stored, {computed} computed"


def weight_bytes(config: LlavaConfig, form: str) -> dict[str, int]:
    """Bytes of the tower, the projector and the language model, whose layers have the form."""
    counts = parameters(config)
    llm_bytes = BF16 * counts[LLM]
    for in_features, out_features in decoder_linear_shapes(config.text_config):
        llm_bytes -= BF16 * in_features * out_features
        llm_bytes += linear_bytes(in_features, out_features, form)
    return {
        TOWER: BF16 * counts[TOWER],
        PROJECTOR: BF16 * counts[PROJECTOR],
        LLM: llm_bytes,
    }


def decoder_linear_shapes(text: LlamaConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of the linear layers in all blocks: those that are quantized."""
    D = text.hidden_size
    F = text.intermediate_size
    query_width = text.num_attention_heads * text.head_dim
    key_width = text.num_key_value_heads * text.head_dim
    attention = [(D, query_width), (D, key_width), (D, key_width), (query_width, D)]
    mlp = [(D, F), (D, F), (F, D)]
    return text.num_hidden_layers * (attention + mlp)


def linear_bytes(in_features: int, out_features: int, form: str) -> int:
    """Bytes of one linear layer without bias."""
    weights = in_features * out_features
    if form == "bf16":
        return BF16 * weights
    if form == "int8":
        scales = out_features  # one per row
        return weights + BF16 * scales
    groups = weights // GROUP
    scales_and_zeros = 2 * groups
    return weights // 2 + BF16 * scales_and_zeros


def describe_memory(result: dict, floor: float | None) -> str:
    parts = []
    for form, gigabytes in result.items():
        total = f"{form} {gigabytes['total_gb']:.2f} GB"
        parts.append(f"{total} (language model {gigabytes['language_model_gb']:.2f})")
    return "7B: " + " | ".join(parts) + " | the formula holds for a small model"
