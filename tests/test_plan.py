"""The plan's figures, compared with real modules, measured bytes and counted operations."""

import json
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from checkpoint_layouts import reference_model, write_original_and_clip
from torch.utils.flop_counter import FlopCounterMode

from nanollava.config import ConnectorConfig, LlamaConfig, LlavaConfig, VisionConfig
from nanollava.connectors.costs import connector_activations
from nanollava.errors import UserError
from nanollava.llama import LlamaBlock, rope_cos_sin
from nanollava.llava import LLaVA
from nanollava.training import distributed, plan
from nanollava.training.arguments import TrainConfig

IMAGE_TOKEN = 95
VISION = VisionConfig(32, 8, 48, 96, 4, 4)
TEXT = LlamaConfig(96, 64, 112, 3, 4, 2, max_position_embeddings=128)
CONFIG = LlavaConfig(VISION, TEXT, image_token_id=IMAGE_TOKEN)
SEVEN_B = LlavaConfig(text_config=LlamaConfig(), image_token_id=31999)

STAGE_1 = {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": False}
STAGE_2 = {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": True}
both_stages = pytest.mark.parametrize("trainable", [STAGE_1, STAGE_2], ids=["stage 1", "stage 2"])


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
@pytest.mark.parametrize("tied", [False, True])
def test_parameters(projector, tied):
    text = replace(TEXT, tie_word_embeddings=tied)
    config = replace(CONFIG, text_config=text, projector=projector)
    model = LLaVA(config)
    n = plan.parameters(config)
    for part in plan.PARTS:
        module = model.get_submodule(part.rstrip("."))
        assert n[part] == sum(p.numel() for p in module.parameters()), part
    block = model.language_model.model.layers[0]
    assert n["block"] == sum(p.numel() for p in block.parameters())


def test_published_sizes():
    thirteen_b = replace(SEVEN_B, text_config=LlamaConfig(32000, 5120, 13824, 40, 40))
    n = plan.parameters(SEVEN_B)
    assert n["language_model."] == 6_738_415_616
    assert n["vision_tower."] == 303_179_776  # CLIP ViT-L/14 with post_layernorm
    assert plan.parameters(thirteen_b)["language_model."] == 13_015_864_320


@both_stages
def test_activations_are_those_that_autograd_saves(trainable):
    """All tensors of a block that wait for the backward pass, in bf16; weights do not count, and
    tensors that share a storage count once."""
    block = LlamaBlock(TEXT, 0).bfloat16().requires_grad_(trainable["language_model."])
    like = torch.zeros(1, dtype=torch.bfloat16)
    cos, sin = rope_cos_sin(torch.arange(40)[None], TEXT, like)
    not_activations = {p.untyped_storage().data_ptr() for p in [*block.parameters(), cos, sin]}
    saved = {}  # tensors stay referenced: their addresses are not used again

    def save(tensor):
        address = tensor.untyped_storage().data_ptr()
        if address not in not_activations:
            saved[address] = tensor
        return tensor

    x = torch.randn(2, 40, 64, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        y = block(x * 1, cos, sin)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())

    kept, checkpointed = plan.activations(CONFIG, trainable, tokens=2 * 40)
    assert measured == pytest.approx(kept / TEXT.num_hidden_layers, rel=0.06)
    block_inputs = TEXT.num_hidden_layers * y.nbytes
    assert checkpointed == pytest.approx(kept / TEXT.num_hidden_layers + block_inputs)


@both_stages
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_connectors_activations_are_planned_for_each_sample(trainable, checkpointing):
    sizes = ConnectorConfig(num_queries=4, num_layers=2, hidden_size=64)
    config = replace(CONFIG, projector="resampler", connector=sizes)
    plans = []
    for each in (config, CONFIG):
        plans.append(plan.memory(each, trainable, 1, 8, 20, 3, checkpointing))
    difference = plans[0]["activations"] - plans[1]["activations"]
    assert difference == 8 * connector_activations(config, 20)


def local_bytes(tensors) -> int:
    """Bytes of the tensors, or of this rank's shards of them."""
    size = 0
    for tensor in tensors:
        if isinstance(tensor, distributed.DTensor):
            tensor = tensor.to_local()
        size += tensor.nbytes
    return size


@both_stages
def test_memory_of_a_sharded_model(trainable):
    """Weights, gradients and AdamW's moments of one rank after a step."""
    device = distributed.start("cpu")
    model = LLaVA(CONFIG)
    distributed.freeze(model, trainable)
    blocks = model.language_model.model.layers
    distributed.shard(model, blocks, model.vision_tower, device, TrainConfig(dtype="bf16"))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    ids = torch.tensor([[1] + [IMAGE_TOKEN] * 16 + [5, 6, 7]])
    loss, _ = model.loss(ids, ids, torch.zeros(1, 3, 32, 32))
    loss.backward()
    gradients = [p.grad for p in parameters]
    optimizer.step()
    moments = []
    for state in optimizer.state.values():
        moments += [state["exp_avg"], state["exp_avg_sq"]]

    planned = plan.memory(CONFIG, trainable, 1, 1, 20, 3, checkpointing=False)
    assert planned["weights"] == local_bytes(model.parameters())
    assert planned["gradients"] == local_bytes(gradients)
    assert planned["optimizer"] == local_bytes(moments)
    dist.destroy_process_group()


def test_eight_gpus_share_the_optimizer_s_memory():
    one = plan.memory(CONFIG, STAGE_2, 1, 1, 20, 3, checkpointing=False)
    eight = plan.memory(CONFIG, STAGE_2, 8, 1, 20, 3, checkpointing=False)
    assert eight["optimizer"] == one["optimizer"] / 8


def test_offloading_leaves_only_frozen_weights_on_the_gpu():
    planned = plan.memory(CONFIG, STAGE_2, 1, 1, 20, 3, checkpointing=False, offload=True)
    assert planned["gradients"] == planned["optimizer"] == 0
    assert planned["weights"] == 2 * plan.parameters(CONFIG)["vision_tower."]


@both_stages
def test_flops_are_what_torch_counts(trainable):
    """torch's counter does not know the CPU's fused attention, so its share is subtracted."""
    config = replace(CONFIG, projector="mlp2x_gelu")
    ids = torch.tensor([[1] + [IMAGE_TOKEN] * 16 + list(range(5, 25))])
    labels = ids.where(ids != IMAGE_TOKEN, -100)
    model = LLaVA(config)
    distributed.freeze(model, trainable)
    with FlopCounterMode(display=False) as counter:
        loss, _ = model.loss(ids, labels, torch.zeros(1, 3, 32, 32))
        loss.backward()
    planned = sum(plan.flops(config, trainable, [37], images=1, label_tokens=20).values())
    tower_attention = 3 * 4 * 17**2 * 48  # 3 of the 4 blocks
    forward = plan.attention_flops(TEXT, [37])
    backward = 2 * forward
    expected = planned - tower_attention - forward - backward
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.005)


def test_flops_are_about_6_n_s():
    """The usual estimate: 6 N S for the weights, 6 L d S^2 for attention."""
    work = plan.flops(SEVEN_B, STAGE_2, [640], images=0, label_tokens=640)
    assert sum(work.values()) == pytest.approx(6 * 6.607e9 * 640 + 6 * 32 * 4096 * 640**2, rel=2e-3)


def figures(gpus: int) -> dict[str, float]:
    return plan.figures(
        SEVEN_B, STAGE_2, gpus, batch=128, micro=4, tokens=640, samples=1000, rate=1e14
    )


def test_two_gpus_take_half_the_time():
    assert figures(2)["hours"] == pytest.approx(figures(1)["hours"] / 2)


def test_traffic():
    """16 rounds on 2 GPUs; each sends half of: 2 bytes for all weights, 2 for the blocks once more,
    4 for all gradients."""
    assert figures(1)["GB sent"] == 0
    n = plan.parameters(SEVEN_B)
    trained = n["language_model."] + n["multi_modal_projector."]
    per_round = (2 * trained + 2 * 32 * n["block"] + 4 * trained) / 2
    assert figures(2)["GB sent"] * 1e9 == pytest.approx(16 * per_round)


def test_a_finished_original_without_a_layer_in_its_config(tmp_path):
    """null is the default, as when the model is loaded."""
    path, clip = write_original_and_clip(reference_model("gelu"), tmp_path)
    values = json.loads((path / "config.json").read_text())
    values |= {"mm_vision_tower": str(clip), "mm_vision_select_layer": None}
    (path / "config.json").write_text(json.dumps(values))
    config = plan.planned_model(TrainConfig(model=str(path)))
    assert config.vision_feature_layer == -2


def test_a_plan_for_no_step_reads_no_sample():
    assert plan.planned_samples(TrainConfig(max_steps=0, samples=100)) == 0


def test_a_sample_has_more_tokens_than_its_image():
    config = TrainConfig(
        vision="checkpoints/toy-clip",
        llm="checkpoints/toy-vicuna",
        projector="linear",
        tokens=100,
        samples=10,
        gpus=1,
    )
    with pytest.raises(UserError, match="--tokens 100: .* its image alone takes 100"):
        plan.describe(config, STAGE_2)
