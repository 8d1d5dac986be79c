"""LLaVA as a whole against transformers: logits, loss, gradients, round trips, composition."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from conftest import IMAGE_TOKEN, TOLERANCE, batch, randomise, text_config, vision_config
from safetensors import safe_open

from nanollava import LLaVA
from nanollava.hf.names import WeightsError

THEIRS = transformers.LlavaForConditionalGeneration


@pytest.mark.parametrize("text", [{}, {"num_key_value_heads": 4}], ids=["grouped", "full"])
@pytest.mark.parametrize("act", ["gelu", "linear"])
def test_logits_and_loss(llava_dir, dtype, act, text):
    path = llava_dir(act, **text)
    if act == "linear":  # an arbitrary linear_2 is no single W: make it the identity first
        model = THEIRS.from_pretrained(path)
        with torch.no_grad():
            model.model.multi_modal_projector.linear_2.weight.copy_(torch.eye(64))
            model.model.multi_modal_projector.linear_2.bias.zero_()
        model.save_pretrained(path)
    theirs, ours = (
        THEIRS.from_pretrained(path, dtype=dtype),
        LLaVA.from_pretrained(path, dtype=dtype),
    )
    ids, labels, mask, pixels = batch(dtype=dtype)
    expected = theirs.eval()(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=labels)
    logits = ours(ids, pixels)
    assert ((logits - expected.logits).abs() * mask[..., None]).max() <= TOLERANCE[dtype]
    loss, count = ours.loss(ids, labels, pixels)
    assert count == 12
    assert (
        abs(loss.item() / 12 - expected.loss.item()) <= 1e-6
    )  # both take the cross-entropy in float32


@pytest.mark.parametrize("layer", [-1, -4, 2])
def test_the_tower_is_read_at_the_layer_of_the_config(llava_dir, layer):
    path = Path(llava_dir())
    values = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(values | {"vision_feature_layer": layer}))
    ids, _, mask, pixels = batch()
    theirs = THEIRS.from_pretrained(path).eval()
    expected = theirs(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
    logits = LLaVA.from_pretrained(path)(ids, pixels)
    assert ((logits - expected).abs() * mask[..., None]).max() <= 1e-5


def test_gradients(llava_dir):
    path = llava_dir()
    theirs, ours = THEIRS.from_pretrained(path), LLaVA.from_pretrained(path)
    ids, labels, mask, pixels = batch()
    theirs(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=labels).loss.backward()
    loss, count = ours.loss(ids, labels, pixels)
    (loss / count).backward()
    other = theirs.model
    pairs = [
        (ours.multi_modal_projector.linear_1.weight, other.multi_modal_projector.linear_1.weight),
        (ours.language_model.lm_head.weight, theirs.lm_head.weight),
        (
            ours.language_model.model.layers[0].self_attn.k_proj.weight,
            other.language_model.layers[0].self_attn.k_proj.weight,
        ),
        (
            ours.vision_tower.embeddings.patch_embedding.weight,
            other.vision_tower.embeddings.patch_embedding.weight,
        ),
    ]
    for mine, reference in pairs:
        assert reference.grad.abs().max() > 0
        torch.testing.assert_close(mine.grad, reference.grad, atol=1e-5, rtol=1e-4)


TEXT_ONLY = torch.randint(3, IMAGE_TOKEN, (2, 12), generator=torch.Generator().manual_seed(0))


def test_text_only(llava_dir):
    path = llava_dir()
    expected = THEIRS.from_pretrained(path).eval()(input_ids=TEXT_ONLY).logits
    ours = LLaVA.from_pretrained(path)
    assert (ours(TEXT_ONLY) - expected).abs().max() <= 1e-5


def test_the_projector_has_a_gradient_without_images(llava_dir):
    """Ranks that have images reduce it together with those that have none."""
    model = LLaVA.from_pretrained(llava_dir())
    loss, _ = model.loss(TEXT_ONLY, TEXT_ONLY)
    loss.backward()
    assert model.multi_modal_projector.linear_1.weight.grad is not None


def test_the_first_block_runs_backward_in_stage_1_without_images(llava_dir):
    """So all blocks do, and FSDP gathers their weights on all ranks."""
    model = LLaVA.from_pretrained(llava_dir())
    model.language_model.requires_grad_(False)
    requires_grad = []
    model.language_model.model.layers[0].register_forward_hook(
        lambda block, given, x: requires_grad.append(x.requires_grad)
    )
    model.loss(TEXT_ONLY, TEXT_ONLY)
    assert requires_grad == [True]


def test_counts_must_agree(llava_dir):
    model = LLaVA.from_pretrained(llava_dir())
    ids, _, _, pixels = batch()
    with pytest.raises(ValueError, match="48 image positions.* 32 features of 2 images"):
        model(ids, pixels[:2])
    with pytest.raises(ValueError, match="48 image positions.* 0 features of 0 images"):
        model(ids)


@pytest.mark.parametrize("act", ["gelu", "linear"])
def test_we_save_transformers_loads(llava_dir, tmp_path, act):
    """A saved model loads in transformers with no missing tensor and equal logits."""
    source = LLaVA.from_pretrained(llava_dir())
    ours = source
    if act == "linear":
        from dataclasses import replace

        ours = randomise(LLaVA(replace(source.config, projector="linear")))
    ours.save_pretrained(tmp_path)
    theirs, info = THEIRS.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    ids, _, mask, pixels = batch()
    expected = theirs.eval()(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
    assert ((ours(ids, pixels) - expected).abs() * mask[..., None]).max() <= 1e-5
    again = LLaVA.from_pretrained(tmp_path)
    assert again.config == ours.config
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.fixture
def parts(tmp_path):
    randomise(transformers.CLIPVisionModel(vision_config())).save_pretrained(tmp_path / "clip")
    randomise(transformers.LlamaForCausalLM(text_config())).save_pretrained(tmp_path / "llama")
    return tmp_path


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_new_projector_is_float32_unless_a_dtype_is_given(parts, dtype):
    """Training starts from it. The other weights keep the files' dtype."""
    model = LLaVA.compose(parts / "clip", parts / "llama", "linear", dtype=dtype)
    assert model.multi_modal_projector.linear_1.weight.dtype == (dtype or torch.float32)


def test_compose(parts):
    """The parts equal those of the directories, and the image token's rows change nothing else."""
    model = LLaVA.compose(parts / "clip", parts / "llama", "mlp2x_gelu")
    assert model.config.image_token_id == 96 and model.config.text_config.vocab_size == 128
    theirs = transformers.LlamaForCausalLM.from_pretrained(parts / "llama")
    ids = torch.randint(0, 96, (1, 9))
    torch.testing.assert_close(model(ids)[..., :96], theirs(ids).logits, atol=1e-5, rtol=0)
    old = theirs.lm_head.weight
    torch.testing.assert_close(model.language_model.lm_head.weight[96:], old.mean(0).expand(32, -1))
    old = theirs.model.embed_tokens.weight
    new = model.language_model.model.embed_tokens.weight[96:]
    torch.testing.assert_close(new, old.mean(0).expand(32, -1))
    clip = transformers.CLIPVisionModel.from_pretrained(parts / "clip")
    pixels = torch.randn(1, 3, 32, 32)
    expected = clip(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    torch.testing.assert_close(model.vision_tower.features(pixels, -2), expected, atol=1e-5, rtol=0)
    model.save_pretrained(parts / "out")
    assert (
        THEIRS.from_pretrained(parts / "out", output_loading_info=True)[1]["missing_keys"] == set()
    )
    with pytest.raises(WeightsError, match="run train_align.py first"):
        LLaVA.compose(parts / "clip", parts / "llama", parts / "nowhere")


def test_linear_w_is_written_with_an_identity(parts):
    model = LLaVA.compose(parts / "clip", parts / "llama", "linear")
    model.save_pretrained(parts / "out")
    with safe_open(parts / "out" / "model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("multi_modal_projector.linear_2.weight"), torch.eye(64))
    assert (
        json.loads((parts / "out" / "config.json").read_text())["projector_hidden_act"] == "linear"
    )


# Tied embeddings are written once, and transformers finds all


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("by_state", [False, True], ids=["module", "state"])
def test_tied_embeddings_are_written_once(llava_dir, tmp_path, by_state, dtype):
    model = LLaVA.from_pretrained(llava_dir(tie_word_embeddings=True), dtype=dtype)
    for out in (tmp_path / "first", tmp_path / "second"):
        state = None
        if by_state:  # as training does, whose copies share no memory
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.save_pretrained(out, state)
        with safe_open(out / "model.safetensors", "pt") as file:
            names = list(file.keys())
        assert "language_model.model.embed_tokens.weight" in names
        assert "language_model.lm_head.weight" not in names
        theirs, report = THEIRS.from_pretrained(out, output_loading_info=True, dtype=dtype)
        assert not any(report.values()), report
        assert theirs.lm_head.weight is theirs.model.language_model.embed_tokens.weight
        again = LLaVA.from_pretrained(out)
        assert again.language_model.lm_head.weight is again.language_model.model.embed_tokens.weight
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name
        model = again


def test_compose_keeps_tied_embeddings_tied(parts):
    config = text_config(tie_word_embeddings=True)
    randomise(transformers.LlamaForCausalLM(config)).save_pretrained(parts / "tied")
    model = LLaVA.compose(parts / "clip", parts / "tied")
    assert model.config.text_config.vocab_size == 128
    assert model.language_model.lm_head.weight is model.language_model.model.embed_tokens.weight
    model.save_pretrained(parts / "out")
    _, report = THEIRS.from_pretrained(parts / "out", output_loading_info=True)
    assert not any(report.values()), report
