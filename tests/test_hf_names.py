"""Tensor names: what each layout calls our parameters, and what it drops."""

import pytest

from nanollava import LLaVA
from nanollava.config import LlamaConfig, LlavaConfig, VisionConfig
from nanollava.hf.load import uninitialized
from nanollava.hf.names import CLIP_VISION, LLAMA, LLAVA, PROJECTOR_LAYOUT, WeightsError
from nanollava.llama import Llama
from nanollava.projector import Projector
from nanollava.vit import CLIPVisionTransformer

VISION = VisionConfig(32, 8, 48, 96, num_hidden_layers=2, num_attention_heads=4)
TEXT = LlamaConfig(96, 64, 112, num_hidden_layers=2, num_attention_heads=4)


@pytest.mark.parametrize(
    "layout, name, expected",
    [
        (LLAVA, "language_model.model.norm.weight", "language_model.model.norm.weight"),
        (LLAVA, "model.language_model.norm.weight", "language_model.model.norm.weight"),
        (LLAVA, "lm_head.weight", "language_model.lm_head.weight"),
        (LLAVA, "vision_tower.vision_model.encoder.x", "vision_tower.encoder.x"),
        (LLAVA, "model.vision_tower.encoder.x", "vision_tower.encoder.x"),
        (LLAVA, "model.vision_tower.vision_model.encoder.x", "vision_tower.encoder.x"),
        (LLAVA, "model.multi_modal_projector.linear_1.bias", "multi_modal_projector.linear_1.bias"),
        (CLIP_VISION, "vision_model.pre_layrnorm.bias", "pre_layrnorm.bias"),
        (CLIP_VISION, "pre_layrnorm.bias", "pre_layrnorm.bias"),
        (CLIP_VISION, "model.vision_tower.vision_tower.vision_model.encoder.x", "encoder.x"),
        (LLAMA, "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        (PROJECTOR_LAYOUT, "multi_modal_projector.linear_1.bias", "linear_1.bias"),
        (PROJECTOR_LAYOUT, "model.mm_projector.weight", "linear_1.weight"),
        (PROJECTOR_LAYOUT, "mm_projector.0.weight", "linear_1.weight"),
        (PROJECTOR_LAYOUT, "model.mm_projector.2.weight", "linear_2.weight"),
    ],
)
def test_names_in_files_become_ours(layout, name, expected):
    assert layout.to_ours(name) == expected


@pytest.mark.parametrize(
    "layout, name",
    [
        (CLIP_VISION, "text_model.encoder.layers.0.x"),
        (CLIP_VISION, "logit_scale"),
        (CLIP_VISION, "model.layers.0.x"),
        (CLIP_VISION, "model.mm_projector.weight"),
        (LLAMA, "model.mm_projector.weight"),
        (LLAMA, "model.vision_tower.vision_tower.vision_model.encoder.x"),
        (PROJECTOR_LAYOUT, "lm_head.weight"),
        (PROJECTOR_LAYOUT, "model.layers.0.x"),
    ],
)
def test_other_parts_of_a_checkpoint_are_dropped(layout, name):
    assert layout.to_ours(name) is None


@pytest.mark.parametrize("layout", [LLAVA, CLIP_VISION, LLAMA, PROJECTOR_LAYOUT])
@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "embeddings.position_ids"]
)
def test_tables_of_old_files_are_dropped(layout, name):
    assert layout.to_ours(name) is None


@pytest.mark.parametrize("layout", [LLAVA, CLIP_VISION, LLAMA, PROJECTOR_LAYOUT])
def test_an_unknown_name_is_an_error(layout):
    with pytest.raises(WeightsError, match=f"'stranger' has no place in the {layout.name} layout"):
        layout.to_ours("stranger")


def test_an_unknown_parameter_is_an_error():
    with pytest.raises(WeightsError, match="parameter 'stranger' has no name in the llava-hf"):
        LLAVA.to_file("stranger")


@pytest.mark.parametrize(
    "layout, build",
    [
        (LLAVA, lambda: LLaVA(LlavaConfig(VISION, TEXT, "mlp2x_gelu", image_token_id=95))),
        (CLIP_VISION, lambda: CLIPVisionTransformer(VISION)),
        (LLAMA, lambda: Llama(TEXT)),
        (PROJECTOR_LAYOUT, lambda: Projector(48, 64, "mlp2x_gelu")),
    ],
    ids=["LLaVA", "CLIP", "Llama", "projector"],
)
def test_every_parameter_is_written_and_read_by_the_same_name(layout, build):
    with uninitialized():
        module = build()
    names = [name for name, _ in module.named_parameters()]
    file_names = [layout.to_file(name) for name in names]
    assert [layout.to_ours(name) for name in file_names] == names
    assert len(set(file_names)) == len(names)


# The published sizes, on the meta device

SIZES = [(4096, 32, 11008, 6_738_415_616), (5120, 40, 13824, 13_015_864_320)]


def published_llama(width: int, num_layers: int, ffn_width: int) -> LlamaConfig:
    return LlamaConfig(32000, width, ffn_width, num_layers, num_attention_heads=width // 128)


@pytest.mark.parametrize("width, num_layers, ffn_width, expected", SIZES, ids=["7B", "13B"])
def test_published_llamas_have_these_tensors(width, num_layers, ffn_width, expected):
    shapes = {
        "model.embed_tokens.weight": (32000, width),
        "lm_head.weight": (32000, width),
        "model.norm.weight": (width,),
    }
    for n in range(num_layers):
        layer = f"model.layers.{n}"
        for matrix in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{layer}.self_attn.{matrix}.weight"] = (width, width)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (ffn_width, width)
        shapes[f"{layer}.mlp.up_proj.weight"] = (ffn_width, width)
        shapes[f"{layer}.mlp.down_proj.weight"] = (width, ffn_width)
        shapes[f"{layer}.input_layernorm.weight"] = (width,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (width,)
    with uninitialized():
        llama = Llama(published_llama(width, num_layers, ffn_width))
    assert {name: tuple(p.shape) for name, p in llama.named_parameters()} == shapes
    assert sum(p.numel() for p in llama.parameters()) == expected


@pytest.mark.parametrize("width, num_layers, ffn_width, llama_size", SIZES, ids=["7B", "13B"])
def test_a_published_llava_is_the_sum_of_its_parts(width, num_layers, ffn_width, llama_size):
    text_config = published_llama(width, num_layers, ffn_width)
    vision_config = VisionConfig(image_size=336)
    config = LlavaConfig(vision_config, text_config, "mlp2x_gelu", image_token_id=31999)
    with uninitialized():
        tower = CLIPVisionTransformer(vision_config)
        llava = LLaVA(config)
    tower_size = sum(p.numel() for p in tower.parameters())
    projector_size = (1024 * width + width) + (width * width + width)
    assert tower_size == 303_507_456
    assert sum(p.numel() for p in llava.parameters()) == llama_size + tower_size + projector_size
