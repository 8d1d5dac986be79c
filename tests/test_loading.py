"""A complete LLaVA from its directories: model, tokenizer and images that fit together."""

import pytest
import torch
from safetensors.torch import save_file

from nanollava.conversation import encode
from nanollava.errors import ConfigError
from nanollava.loading import join_parts, load_llava
from nanollava.training.arguments import TrainConfig
from nanollava.training.build import build
from nanollava.training.qformer import build_stage_1

TOY_LLAVA = "checkpoints/toy-llava"
TOY_CLIP = "checkpoints/toy-clip"
TOY_VICUNA = "checkpoints/toy-vicuna"


def test_a_loaded_llava_fits_together():
    model, tokenizer, image_config = load_llava(TOY_LLAVA)
    assert image_config.size == model.config.vision_config.image_size
    assert model.config.image_token_id == tokenizer.image_token_id
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_joined_parts_fit_together():
    model, tokenizer, image_config = join_parts(TOY_CLIP, TOY_VICUNA, "mlp2x_gelu")
    assert image_config.size == model.config.vision_config.image_size
    assert model.config.image_token_id == tokenizer.image_token_id == len(tokenizer)
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "a cat"}]
    ids, _ = encode(turns, tokenizer)
    assert model.config.eos_token_id == ids[-1]


def test_the_files_dtype_is_kept_and_a_new_w_is_float32():
    model = join_parts(TOY_CLIP, TOY_VICUNA, "linear").model
    assert model.language_model.lm_head.weight.dtype == torch.float16
    assert model.vision_tower.pre_layrnorm.weight.dtype == torch.float16
    assert model.multi_modal_projector.linear_1.weight.dtype == torch.float32


def test_image_mode_is_that_of_the_training():
    assert join_parts(TOY_CLIP, TOY_VICUNA, "linear", image_mode="pad").image_config.mode == "pad"


def test_a_name_that_is_no_directory_says_what_to_download():
    with pytest.raises(ConfigError, match="llava-1.5-7b: no such directory; download a model"):
        load_llava("llava-1.5-7b")


def test_the_result_of_stage_1_says_what_to_do_with_it(tmp_path):
    save_file({"W": torch.zeros(1)}, tmp_path / "mm_projector.safetensors")
    with pytest.raises(ConfigError, match="a projector alone.*train_instruct.py --projector"):
        load_llava(tmp_path)


def test_a_training_pads_images_if_the_flag_says_so():
    assert build(TrainConfig(projector="linear", image_mode="pad")).image_config.mode == "pad"


def test_a_training_reads_the_hidden_state_of_the_flag():
    model = build(TrainConfig(projector="linear", vision_layer=-4)).model
    assert model.config.vision_feature_layer == -4


def test_a_q_former_reads_the_hidden_state_of_the_flag():
    config = TrainConfig(projector="qformer", vision_layer=-4, connector_width=64)
    model, _, _ = build_stage_1(config)
    assert model.layer == -4
