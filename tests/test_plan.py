"""The plan's figures, compared with real modules, measured bytes and counted operations."""

import json
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from checkpoint_layouts import reference_model, write_original_and_clip
from torch.utils.flop_counter import FlopCounterMode

from nanollava.config import CONNECTORS, ConnectorConfig, LlamaConfig, LlavaConfig, VisionConfig
from nanollava.connectors.costs import connector_activations, connector_parameters
from nanollava.errors import UserError
from nanollava.llama import LlamaBlock, rope_cos_sin
from nanollava.llava import LLaVA
from nanollava.loading import llava_class
from nanollava.training import distributed, plan
from nanollava.training.arguments import TrainConfig
from nanollava.training.connector import trained_parts

IMAGE_TOKEN = 95
VISION = VisionConfig(32, 8, 48, 96, 4, 4)
TEXT = LlamaConfig(96, 64, 112, 3, 4, 2, max_position_embeddings=128)
CONFIG = LlavaConfig(VISION, TEXT, image_token_id=IMAGE_TOKEN)
SIZES = ConnectorConfig(num_queries=4, num_layers=2, hidden_size=64)
SEVEN_B = LlavaConfig(text_config=LlamaConfig(), image_token_id=31999)
GATED_BLOCK = 2 * 4096 * 512 + 2 * 1024 * 512 + 8 * 4096**2 + 4 * 4096 + 2  # parameters, at 7B

STAGE_1 = {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": False}
STAGE_2 = {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": True}
both_stages = pytest.mark.parametrize("trainable", [STAGE_1, STAGE_2], ids=["stage 1", "stage 2"])


def with_connector(config: LlavaConfig, kind: str, sizes: ConnectorConfig = SIZES) -> LlavaConfig:
    return replace(config, projector=kind, connector=sizes if kind in CONNECTORS else None)


def gated_7b(num_blocks: int) -> LlavaConfig:
    sizes = ConnectorConfig(layers_per_block=32 // num_blocks)
    return with_connector(SEVEN_B, "gated_xattn", sizes)


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
    config = with_connector(CONFIG, "resampler")
    plans = []
    for each in (config, CONFIG):
        plans.append(plan.memory(each, trainable, 1, 8, 20, 3, checkpointing))
    difference = plans[0]["activations"] - plans[1]["activations"]
    assert difference == 8 * connector_activations(config, 20).all


@both_stages
def test_gated_blocks_keep_their_inputs_if_they_are_checkpointed(trainable):
    """And everything of the one that is being recomputed, which here takes more than a decoder
    layer does."""
    config = with_connector(CONFIG, "gated_xattn")
    model = llava_class("gated_xattn")(config).bfloat16()
    inputs = []
    for block in model.blocks():
        block.register_forward_pre_hook(lambda block, args: inputs.append(args[0]))
    ids = torch.tensor([[1, IMAGE_TOKEN, *range(5, 23)]])
    model.loss(ids, ids, torch.zeros(1, 3, 32, 32))
    kept = connector_activations(config, 20)
    decoder, _ = plan.activations(config, trainable, 20)
    assert kept.blocks[0] > decoder / TEXT.num_hidden_layers
    planned = plan.memory(config, trainable, 1, 1, 20, 3, checkpointing=True)
    expected = sum(x.nbytes for x in inputs) + kept.blocks[0] + kept.outside_blocks
    assert planned["activations"] == expected
    planned = plan.memory(config, trainable, 1, 1, 20, 3, checkpointing=False)
    assert planned["activations"] == decoder + kept.all


def test_a_recomputed_gated_block_has_room_where_a_decoder_layer_had():
    """At 7B that takes more, so another gated block costs its input alone."""
    sizes = []
    for num_blocks in (1, 32):
        planned = plan.memory(gated_7b(num_blocks), STAGE_2, 8, 4, 640, 100, checkpointing=True)
        sizes.append(planned["activations"])
    assert sizes[1] - sizes[0] == 31 * 4 * 640 * 4096 * 2


def local_bytes(tensors) -> int:
    """Bytes of the tensors, or of this rank's shards of them."""
    size = 0
    for tensor in tensors:
        if isinstance(tensor, distributed.DTensor):
            tensor = tensor.to_local()
        size += tensor.nbytes
    return size


@both_stages
@pytest.mark.parametrize("kind", ["linear", "gated_xattn", "minigpt4"])
def test_memory_of_a_sharded_model(kind, trainable):
    """Weights, gradients and AdamW's moments of one rank after a step. minigpt4's Q-Former is
    frozen, gated_xattn adds blocks to the decoder."""
    config = with_connector(CONFIG, kind)
    train_config = TrainConfig(dtype="bf16")
    device = distributed.start("cpu")
    model = llava_class(kind)(config)
    distributed.freeze(model, trained_parts(trainable, model, train_config))
    distributed.shard(model, model.blocks(), model.vision_tower, device, train_config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    ids = torch.tensor([[1] + [IMAGE_TOKEN] * config.num_image_tokens + [5, 6, 7]])
    loss, _ = model.loss(ids, ids, torch.zeros(1, 3, 32, 32))
    loss.backward()
    gradients = [p.grad for p in parameters]
    optimizer.step()
    moments = []
    for state in optimizer.state.values():
        moments += [state["exp_avg"], state["exp_avg_sq"]]

    planned = plan.memory(config, trainable, 1, 1, 20, 3, checkpointing=False)
    assert planned["weights"] == local_bytes(model.parameters())
    assert planned["gradients"] == local_bytes(gradients)
    assert planned["optimizer"] == local_bytes(moments)
    dist.destroy_process_group()


def test_eight_gpus_share_the_optimizer_s_memory():
    one = plan.memory(CONFIG, STAGE_2, 1, 1, 20, 3, checkpointing=False)
    eight = plan.memory(CONFIG, STAGE_2, 8, 1, 20, 3, checkpointing=False)
    assert eight["optimizer"] == one["optimizer"] / 8


@both_stages
def test_offloading_leaves_only_the_tower_on_the_gpu(trainable):
    """It is of all shards, also of what is frozen. The tower is not sharded."""
    planned = plan.memory(CONFIG, trainable, 1, 1, 20, 3, checkpointing=False, offload=True)
    assert planned["gradients"] == planned["optimizer"] == 0
    assert planned["weights"] == 2 * plan.parameters(CONFIG)["vision_tower."]


@both_stages
def test_gated_blocks_are_gathered_one_by_one(trainable):
    one = plan.gathered(gated_7b(1), trainable)
    assert plan.gathered(gated_7b(32), trainable) == one
    # Two bytes for each weight of the resampler, embedding, head, two decoder layers and the gated
    # block that runs inside one of them; six for each gradient of the largest unit.
    n = plan.parameters(SEVEN_B)
    resampler = connector_parameters(gated_7b(1)).all - GATED_BLOCK
    ends = 2 * 32000 * 4096
    largest = ends + resampler if trainable["language_model."] else GATED_BLOCK
    assert one == 2 * (resampler + ends + 2 * n["block"] + GATED_BLOCK) + 6 * largest


def test_layers_before_the_first_gated_block_have_no_backward_pass():
    """If the language model is frozen, there is nothing to train in front of them."""
    sizes = replace(SIZES, layers_per_block=3)
    config = with_connector(CONFIG, "gated_xattn", sizes)
    frozen = plan.flops(config, STAGE_1, [40], images=1, label_tokens=20)
    trained = plan.flops(config, STAGE_2, [40], images=1, label_tokens=20)
    layers = plan.matrix_flops(config, 40, 0) + 2 * plan.attention_flops(TEXT, [40])
    difference = trained["by_inputs"] - frozen["by_inputs"]
    assert difference == pytest.approx(layers * 2 / 3, abs=2)
    plain = plan.activations(CONFIG, STAGE_1, tokens=40)
    assert plan.activations(config, STAGE_1, tokens=40)[0] == plain[0] / 3


def test_a_connector_that_is_trained_alone_has_gathered_gradients():
    """minigpt4 has the parameters of qformer, and trains the linear layer alone."""
    qformer = with_connector(SEVEN_B, "qformer", ConnectorConfig(32, 12))
    minigpt4 = replace(qformer, projector="minigpt4")
    connector = connector_parameters(qformer).all
    weights = 2 * (connector + 2 * 32000 * 4096 + 2 * plan.parameters(SEVEN_B)["block"])
    assert plan.gathered(qformer, STAGE_1) == weights + 6 * connector
    assert plan.gathered(minigpt4, STAGE_1) == weights + 6 * (768 * 4096 + 4096)


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


def test_hours():
    """1000 samples at 1e14 FLOP/s."""
    work = sum(plan.flops(SEVEN_B, STAGE_2, [640], 1, label_tokens=640 - 256).values())
    assert figures(1)["hours"] * 3600 == pytest.approx(1000 * work / 1e14)


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


def test_gated_blocks_are_gathered_in_the_backward_pass_too():
    """Each of two GPUs sends half of: 2 bytes per weight forwards, 2 backwards, 4 per gradient."""
    one = plan.bytes_sent(gated_7b(1), STAGE_2, gpus=2, rounds=1)
    all_32 = plan.bytes_sent(gated_7b(32), STAGE_2, gpus=2, rounds=1)
    assert all_32 - one == 31 * GATED_BLOCK * (2 + 2 + 4) / 2


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
