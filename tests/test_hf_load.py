"""Strict loading: what fits is loaded bit for bit, what does not fit is an error that names it.

Also what loading must reach at the published widths: transformers' hidden states.
"""

import json
import shutil

import pytest
import torch
import transformers
from checkpoint_layouts import (
    prompts,
    reference_model,
    write_original_and_clip,
    write_original_with_tower,
)
from safetensors.torch import load_file, save_file

from nanollava import LLaVA
from nanollava.config import LlamaConfig, VisionConfig
from nanollava.errors import ConfigError, UserError
from nanollava.hf.load import read_vision_config, uninitialized
from nanollava.hf.names import CLIP_VISION, LLAMA, WeightsError
from nanollava.llama import Llama
from nanollava.vit import CLIPVisionTransformer


@pytest.fixture
def path(llava_dir, tmp_path):
    """A directory that transformers has written."""
    return shutil.copytree(llava_dir(), tmp_path / "model")


@pytest.fixture
def change_tensors(path):
    """Calls a function on the tensors of the file, and writes them again."""

    def change(edit) -> None:
        tensors = load_file(path / "model.safetensors")
        edit(tensors)
        save_file(tensors, path / "model.safetensors")

    return change


def test_the_dtype_of_the_file_is_kept(path):
    assert LLaVA.from_pretrained(path).language_model.lm_head.weight.dtype == torch.float32


def test_another_dtype_converts_every_parameter(path):
    model = LLaVA.from_pretrained(path, dtype=torch.float16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


def test_tables_of_old_files_are_dropped(path, change_tensors):
    name = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(lambda tensors: tensors.update({name: torch.ones(8)}))
    LLaVA.from_pretrained(path)


# A vision tower inside an original LLaVA


@pytest.fixture
def original(tmp_path):
    (path,) = write_original_with_tower(reference_model("gelu"), tmp_path)
    return path


def set_tower_name(path, name) -> None:
    values = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(values | {"mm_vision_tower": name}))


@pytest.mark.parametrize(
    "name", ["openai/clip-vit-large-patch14-336", "/models/clip-vit-large-patch14"]
)
def test_heads_of_openais_towers_are_known(original, name):
    set_tower_name(original, name)
    assert LLaVA.from_pretrained(original).config.vision_config.num_attention_heads == 2


def test_a_model_that_names_itself_as_its_tower(original):
    set_tower_name(original, str(original))
    with pytest.raises(UserError, match="is a LLaVA; expected the directory of a CLIP"):
        read_vision_config(original)


def test_two_models_that_name_each_other_as_their_tower(original, tmp_path):
    other = shutil.copytree(original, tmp_path / "other")
    set_tower_name(original, str(other))
    set_tower_name(other, str(original))
    with pytest.raises(UserError, match="is a LLaVA; expected the directory of a CLIP"):
        read_vision_config(original)


def test_a_tower_of_size_0_is_an_error(original):
    set_tower_name(original, "openai/clip-vit-large-patch14")
    name = "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight"
    index = json.loads((original / "pytorch_model.bin.index.json").read_text())
    file = original / index["weight_map"][name]
    torch.save(torch.load(file) | {name: torch.zeros(128, 3, 0, 0)}, file)
    with pytest.raises(WeightsError, match="a size of the vision tower in it is 0"):
        read_vision_config(original)


@pytest.mark.parametrize("name", ["laion/CLIP-ViT-H-14", "my-tower", None, 5])
def test_heads_of_other_towers_are_not_guessed(original, name):
    set_tower_name(original, name)
    with pytest.raises(UserError, match="mm_vision_tower|vision tower .* is not a directory"):
        LLaVA.from_pretrained(original)


def test_a_tower_that_is_not_whole_is_an_error(original):
    index = json.loads((original / "pytorch_model.bin.index.json").read_text())
    name = "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight"
    file = original / index["weight_map"][name]
    tensors = torch.load(file)
    del tensors[name]
    torch.save(tensors, file)
    with pytest.raises(WeightsError, match="the vision tower in it is not whole"):
        LLaVA.from_pretrained(original)


# What does not fit


def test_a_missing_tensor_is_an_error(path, change_tensors):
    change_tensors(lambda tensors: tensors.pop("language_model.model.norm.weight"))
    with pytest.raises(
        WeightsError, match="1 of .* tensors are missing, the first 'language_model.model.norm"
    ):
        LLaVA.from_pretrained(path)


@pytest.mark.parametrize(
    "name, tensor, message",
    [
        (
            "language_model.model.extra.weight",
            torch.ones(2),
            "extra.weight.* is not part of this model",
        ),
        ("stranger", torch.ones(2), "'stranger' has no place in the llava-hf layout"),
        (
            "language_model.model.norm.weight",
            torch.ones(3),
            r"has shape \(3,\), the config says \(64,\)",
        ),
        (
            "language_model.model.norm.weight",
            torch.ones(64, dtype=torch.int32),
            "is torch.int32; expected fp32, fp16 or bf16",
        ),
        (
            "model.language_model.norm.weight",
            torch.ones(64),
            "norm.weight' comes twice",
        ),
    ],
    ids=["surplus", "unknown name", "shape", "integers", "twice"],
)
def test_a_tensor_that_does_not_fit_is_an_error(path, change_tensors, name, tensor, message):
    change_tensors(lambda tensors: tensors.update({name: tensor}))
    with pytest.raises(WeightsError, match=message):
        LLaVA.from_pretrained(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_an_error(path, change_tensors, value, dtype):
    name = "multi_modal_projector.linear_1.weight"

    def damage(tensors) -> None:
        for other, tensor in tensors.items():
            tensors[other] = tensor.to(dtype)
        tensors[name][3, 5] = value

    change_tensors(damage)
    with pytest.raises(WeightsError, match=r"linear_1.weight' has weights that are NaN or infin"):
        LLaVA.from_pretrained(path)


def test_weights_too_large_for_the_dtype_asked_for_are_an_error(path, change_tensors):
    change_tensors(lambda tensors: tensors["language_model.model.norm.weight"].fill_(1e6))
    assert LLaVA.from_pretrained(path).language_model.model.norm.weight[0] == 1e6
    with pytest.raises(WeightsError, match="NaN or infinite in torch.float16; .* another dtype"):
        LLaVA.from_pretrained(path, dtype=torch.float16)


def make_projector_linear(path) -> None:
    """Takes the nonlinearity out of a llava-hf directory with any two layers."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"projector_hidden_act": "linear"}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_linear_layers_are_read_as_their_product(path, dtype):
    make_projector_linear(path)
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(path, dtype=dtype)
    ours = LLaVA.from_pretrained(path, dtype=dtype)
    assert ours.config.projector == "linear"
    Z_v = torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        expected = theirs.model.multi_modal_projector(Z_v)
        assert (ours.multi_modal_projector(Z_v) - expected).abs().max() < 1e-5
        exact = dtype == torch.float64
        assert not exact or (ours.multi_modal_projector(Z_v) - expected).abs().max() < 1e-12


def test_the_product_survives_saving(path, tmp_path):
    make_projector_linear(path)
    LLaVA.from_pretrained(path).save_pretrained(tmp_path / "again")
    first = LLaVA.from_pretrained(path).state_dict()
    second = LLaVA.from_pretrained(tmp_path / "again").state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_one_tensor_of_a_second_layer_is_an_error(path, change_tensors):
    make_projector_linear(path)
    change_tensors(lambda tensors: tensors.pop("multi_modal_projector.linear_2.bias"))
    with pytest.raises(WeightsError, match=r"linear_2.bias' is missing"):
        LLaVA.from_pretrained(path)


def test_a_second_layer_of_another_shape_is_an_error(path, change_tensors):
    make_projector_linear(path)
    name = "multi_modal_projector.linear_2.weight"
    change_tensors(lambda tensors: tensors.update({name: torch.ones(64, 48)}))
    with pytest.raises(WeightsError, match=r"has shape \(64, 48\), the config says \(64, 64\)"):
        LLaVA.from_pretrained(path)


def test_a_broken_file_is_an_error(path):
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        LLaVA.from_pretrained(path)


def test_a_directory_without_weights_is_an_error(path):
    (path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="no model.safetensors or pytorch_model.bin"):
        LLaVA.from_pretrained(path)


def test_a_broken_config_is_an_error(path):
    (path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        LLaVA.from_pretrained(path)


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="nowhere/config.json: no such file"):
        LLaVA.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "part, key, value", [("vision_config", "hidden_size", "48"), (None, "vision_feature_layer", [])]
)
def test_a_config_that_does_not_fit_is_an_error(path, part, key, value):
    config = json.loads((path / "config.json").read_text())
    target = config if part is None else config[part]
    target[key] = value
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=f"{path}/config.json.*{key}"):
        LLaVA.from_pretrained(path)


# An original LLaVA, whose vision tower is another directory


@pytest.fixture(scope="module")
def reference():
    return reference_model("gelu")


@pytest.fixture(scope="module")
def original_and_clip(reference, tmp_path_factory):
    return write_original_and_clip(reference, tmp_path_factory.mktemp("original"))


def test_an_original_llava_is_loaded_with_its_tower(reference, original_and_clip):
    original, clip = original_and_clip
    model = LLaVA.from_pretrained(original, vision=clip)
    ids, pixels = next(prompts())
    with torch.no_grad():
        expected = reference(input_ids=ids, pixel_values=pixels).logits
        assert (model(ids, pixels) - expected).abs().max() < 1e-5


def test_an_original_llava_is_loaded_in_another_dtype(original_and_clip):
    original, clip = original_and_clip
    model = LLaVA.from_pretrained(original, vision=clip, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_tower_may_have_another_dtype_than_the_rest(original_and_clip, tmp_path):
    """The files of CLIP are often float32, and those of LLaVA float16."""
    original, clip = original_and_clip
    shutil.copytree(original, tmp_path / "half")
    for file in (tmp_path / "half").glob("*.bin"):
        tensors = torch.load(file)
        torch.save({name: tensor.bfloat16() for name, tensor in tensors.items()}, file)
    model = LLaVA.from_pretrained(tmp_path / "half", vision=clip)
    assert next(model.vision_tower.parameters()).dtype == torch.float32
    ids, pixels = next(prompts())
    with torch.no_grad():
        assert model(ids, pixels).dtype == torch.bfloat16


def test_an_original_llava_is_read_at_its_own_layer(original_and_clip, tmp_path):
    source, clip = original_and_clip
    original = shutil.copytree(source, tmp_path / "original")
    change_config(original, mm_vision_select_layer=-3)
    assert LLaVA.from_pretrained(original, vision=clip).config.vision_feature_layer == -3


def test_an_original_llava_without_its_tower_is_an_error(original_and_clip):
    original, _ = original_and_clip
    with pytest.raises(
        WeightsError,
        match=r"vision tower 'openai/clip' is not a directory here; convert it .* --vision",
    ):
        LLaVA.from_pretrained(original)


def test_a_vision_tower_for_a_llava_that_has_one_is_an_error(original_and_clip):
    _, clip = original_and_clip
    with pytest.raises(ConfigError, match="checkpoints/toy-llava has its own vision tower; omit"):
        LLaVA.from_pretrained("checkpoints/toy-llava", vision=clip)


def change_config(path, **changes) -> None:
    values = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(values | changes))


TUNED = [
    {"unfreeze_mm_vision_tower": True},
    {"mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model"},
]
NOT_TUNED = [{"unfreeze_mm_vision_tower": False}, {"mm_tunable_parts": "mm_mlp_adapter"}]


@pytest.fixture
def original_with_tower(reference, tmp_path):
    """An original LLaVA with its tower, and a CLIP directory with other weights."""
    (original,) = write_original_with_tower(reference, tmp_path)
    (tmp_path / "other").mkdir()
    other = reference_model("gelu")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    _, clip = write_original_and_clip(other, tmp_path / "other")
    return original, clip


@pytest.mark.parametrize("changes", TUNED)
def test_a_trained_tower_is_never_replaced(original_with_tower, changes):
    original, clip = original_with_tower
    change_config(original, mm_vision_tower=str(clip), **changes)
    inside = LLaVA.from_pretrained(original, vision=original).vision_tower.state_dict()
    loaded = LLaVA.from_pretrained(original).vision_tower.state_dict()
    for name, tensor in inside.items():
        assert torch.equal(loaded[name], tensor), name
    (key,) = changes
    with pytest.raises(WeightsError, match=f"its vision tower was trained .{key} in config.json"):
        LLaVA.from_pretrained(original, vision=clip)
    with pytest.raises(WeightsError, match="clip would replace it: leave that out, or give"):
        LLaVA.compose(clip, original, "linear")


@pytest.mark.parametrize("changes", NOT_TUNED)
def test_a_frozen_tower_may_be_replaced(original_with_tower, changes):
    original, clip = original_with_tower
    change_config(original, **changes)
    expected = CLIPVisionTransformer.from_pretrained(clip).state_dict()
    loaded = LLaVA.from_pretrained(original, vision=clip).vision_tower.state_dict()
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name


@pytest.mark.parametrize("changes", TUNED)
def test_a_trained_tower_that_is_elsewhere_is_given(original_and_clip, tmp_path, changes):
    source, clip = original_and_clip
    original = shutil.copytree(source, tmp_path / "original")
    change_config(original, **changes)
    LLaVA.from_pretrained(original, vision=clip)


# Tied embeddings


@pytest.fixture
def tied_path(llava_dir, tmp_path):
    """A LLaVA with tied embeddings, as transformers has written it."""
    return shutil.copytree(llava_dir(tie_word_embeddings=True), tmp_path / "tied")


HEAD = "language_model.lm_head.weight"


def head_and_embedding(model) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    llama = model.language_model
    return llama.lm_head.weight, llama.model.embed_tokens.weight


def test_tied_embeddings_are_one_parameter_after_loading(tied_path):
    head, embedding = head_and_embedding(LLaVA.from_pretrained(tied_path, dtype=torch.float16))
    assert head is embedding


def test_tied_embeddings_may_be_in_the_file_twice(tied_path, tmp_path):
    tensors = load_file(tied_path / "model.safetensors")
    (embedding,) = (name for name in tensors if name.endswith("embed_tokens.weight"))
    save_file(tensors | {HEAD: tensors[embedding].clone()}, tied_path / "model.safetensors")
    head, embedding = head_and_embedding(LLaVA.from_pretrained(tied_path))
    assert head is embedding


def test_tied_embeddings_may_be_in_the_file_by_the_name_of_the_head(tied_path):
    tensors = load_file(tied_path / "model.safetensors")
    (embedding,) = (name for name in tensors if name.endswith("embed_tokens.weight"))
    tensors[HEAD] = tensors.pop(embedding)
    save_file(tensors, tied_path / "model.safetensors")
    head, embedding = head_and_embedding(LLaVA.from_pretrained(tied_path))
    assert head is embedding
    assert torch.equal(head, tensors[HEAD])


def test_tied_embeddings_that_differ_are_an_error(tied_path):
    tensors = load_file(tied_path / "model.safetensors")
    (embedding,) = (name for name in tensors if name.endswith("embed_tokens.weight"))
    save_file(tensors | {HEAD: tensors[embedding] + 1}, tied_path / "model.safetensors")
    with pytest.raises(WeightsError, match="differ, but its config says that they are tied"):
        LLaVA.from_pretrained(tied_path)


# The published widths, with random weights


def with_random_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Weights of a scale that makes every part of the model matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0, 0.1, generator=generator)
            else:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
    return model.eval()


def load_ours(model_class, config, layout, theirs: torch.nn.Module) -> torch.nn.Module:
    """Our model with copies of transformers' tensors."""
    state = {}
    for name, tensor in theirs.state_dict().items():
        our_name = layout.to_ours(name)
        if our_name is not None:
            state[our_name] = tensor.clone()
    with uninitialized():
        ours = model_class(config)
    ours.load_state_dict(state, assign=True)
    return ours


def assert_equal_in_fp32(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    """Equal to 1e-4 of the largest value of each state."""
    for our_state, their_state in zip(ours, theirs, strict=True):
        assert (our_state - their_state).abs().max() <= 1e-4 * their_state.abs().max()


def distance(states: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    total = 0.0
    for state, exact_state in zip(states, exact, strict=True):
        total += (state.double() - exact_state).norm().item()
    return total


@pytest.mark.slow
@torch.no_grad()
def test_tower_of_the_published_width():
    """ViT-L/14 at 336 px, 24 layers. In bf16, no farther from float64 than transformers' bf16."""
    config = transformers.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    theirs = with_random_weights(transformers.CLIPVisionModel(config))
    pixels = torch.randn(1, 3, 336, 336, generator=torch.Generator().manual_seed(0))

    def load(num_layers: int):
        config = VisionConfig(image_size=336, num_hidden_layers=num_layers)
        return load_ours(CLIPVisionTransformer, config, CLIP_VISION, theirs)

    def their_states(x):
        return theirs(x, output_hidden_states=True).hidden_states[1:]

    assert_equal_in_fp32(load(24).hidden_states(pixels)[1:], their_states(pixels))

    # float64 and bf16 take a CPU much longer, and every layer rounds alike: four are enough.
    del theirs.encoder.layers[4:]
    exact = load(4).double().hidden_states(pixels.double())[1:]
    theirs = theirs.bfloat16()
    our_distance = distance(load(4).hidden_states(pixels.bfloat16())[1:], exact)
    their_distance = distance(their_states(pixels.bfloat16()), exact)
    assert our_distance <= 1.05 * their_distance


@pytest.mark.slow
@torch.no_grad()
def test_decoder_of_the_published_width():
    """LLaMA-7B's width, 2 layers. In bf16, no farther from float64 than transformers' bf16."""
    sizes = {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "vocab_size": 1000,
    }
    config = transformers.LlamaConfig(**sizes, rms_norm_eps=1e-5, max_position_embeddings=2048)
    theirs = with_random_weights(transformers.LlamaForCausalLM(config))
    ids = torch.randint(0, 1000, (1, 64), generator=torch.Generator().manual_seed(0))

    def load():
        return load_ours(Llama, LlamaConfig(**sizes), LLAMA, theirs)

    def states(model) -> list[torch.Tensor]:
        """The last hidden state, and the logits."""
        captured = []

        def capture(lm_head, inputs, logits) -> None:
            captured.extend([*inputs, logits])

        with model.lm_head.register_forward_hook(capture):
            model(ids)
        return captured

    assert_equal_in_fp32(states(load()), states(theirs))
    exact = states(load().double())
    theirs = theirs.bfloat16()
    our_distance = distance(states(load()), exact)
    their_distance = distance(states(theirs), exact)
    assert our_distance <= 1.05 * their_distance
