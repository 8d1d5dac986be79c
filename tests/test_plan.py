"""The plan's figures against real modules and measured bytes."""

import pytest
import torch
import torch.distributed as dist

from nanollava.config import LlamaConfig, LlavaConfig, VisionConfig
from nanollava.llama import LlamaBlock, rope_cos_sin
from nanollava.llava import LLaVA
from nanollava.training import distributed, plan
from nanollava.training.arguments import TrainConfig

VISION = VisionConfig(32, 8, 48, 96, 4, 4)
TEXT = LlamaConfig(96, 64, 112, 3, 4, 2, max_position_embeddings=128)
STAGES = [
    {"vision_tower.": False, "multi_modal_projector.": True, "language_model.": on}
    for on in (False, True)
]


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
@pytest.mark.parametrize("tied", [False, True])
def test_parameters(projector, tied):
    config = LlavaConfig(
        VISION,
        LlamaConfig(96, 64, 112, 3, 4, 2, tie_word_embeddings=tied),
        projector,
        image_token_id=95,
    )
    model, n = LLaVA(config), plan.parameters(config)
    for part in plan.PARTS:
        assert n[part] == sum(p.numel() for p in model.get_submodule(part[:-1]).parameters()), part
    assert n["block"] == sum(p.numel() for p in model.language_model.model.layers[0].parameters())


def test_published_sizes():
    shapes = {"7B": LlamaConfig(), "13B": LlamaConfig(32000, 5120, 13824, 40, 40)}
    counts = {
        name: plan.parameters(LlavaConfig(text_config=text, image_token_id=31999))
        for name, text in shapes.items()
    }
    assert {k: n["language_model."] for k, n in counts.items()} == {
        "7B": 6_738_415_616,
        "13B": 13_015_864_320,
    }
    assert counts["7B"]["vision_tower."] == 303_179_776  # CLIP ViT-L/14 with post_layernorm


@pytest.mark.parametrize("trainable", STAGES, ids=["stage 1", "stage 2"])
def test_activations_are_those_that_autograd_saves(trainable):
    """Tensors that a block saves for the backward pass, in bf16, without its weights."""
    trained = trainable["language_model."]
    block = LlamaBlock(TEXT, 0).bfloat16().requires_grad_(trained)
    like = torch.zeros(1, dtype=torch.bfloat16)
    cos, sin = rope_cos_sin(torch.arange(40)[None], TEXT, like)
    weights = {p.untyped_storage().data_ptr() for p in [*block.parameters(), cos, sin]}
    saved = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = (
                tensor  # kept, so that no place is used twice
            )
        return tensor

    x = torch.randn(2, 40, 64, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = block(x * 1, cos, sin)
    measured = sum(t.untyped_storage().nbytes() for t in saved.values())
    config = LlavaConfig(VISION, TEXT, image_token_id=95)
    kept, again = plan.activations(config, trainable, 2 * 40)
    assert measured == pytest.approx(kept / TEXT.num_hidden_layers, rel=0.06)
    assert again == pytest.approx(kept / TEXT.num_hidden_layers + 3 * y.nbytes)


@pytest.mark.parametrize("trainable", STAGES, ids=["stage 1", "stage 2"])
def test_memory_of_a_sharded_model(trainable):
    """Bytes of weights, gradients and moments of one rank after a step."""
    config = LlavaConfig(VISION, TEXT, image_token_id=95)
    model, device = LLaVA(config), distributed.start("cpu")
    distributed.freeze(model, trainable)
    distributed.shard(
        model,
        model.language_model.model.layers,
        model.vision_tower,
        device,
        TrainConfig(dtype="bf16"),
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    ids = torch.tensor([[1] + [95] * 16 + [5, 6, 7]])
    model.loss(ids, ids, torch.zeros(1, 3, 32, 32))[0].backward()
    gradients = sum(p.grad.to_local().nbytes for p in parameters)
    optimizer.step()
    moments = sum(
        t.to_local().nbytes for s in optimizer.state.values() for k, t in s.items() if k != "step"
    )
    weights = sum(
        (p.to_local() if isinstance(p, distributed.DTensor) else p).nbytes
        for p in model.parameters()
    )
    found = plan.memory(config, trainable, 1, 1, 20, 3, checkpointing=False)
    assert (weights, gradients, moments) == (
        found["weights"],
        found["gradients"],
        found["optimizer"],
    )
    assert plan.memory(config, trainable, 8, 1, 20, 3, False)["optimizer"] == moments / 8
    dist.destroy_process_group()


def test_flops_are_what_torch_counts():
    """Matrices only: torch's counter has no formula for the CPU's fused attention."""
    from torch.utils.flop_counter import FlopCounterMode

    config = LlavaConfig(VISION, TEXT, "mlp2x_gelu", image_token_id=95)
    ids = torch.tensor([[1] + [95] * 16 + list(range(5, 25))])
    for trainable in STAGES:
        model = LLaVA(config)
        distributed.freeze(model, trainable)
        with FlopCounterMode(display=False) as counter:
            model.loss(ids, ids.where(ids != 95, -100), torch.zeros(1, 3, 32, 32))[0].backward()
        ours = sum(plan.flops(config, trainable, [37], 1, 20).values())
        tower = 4 * 17**2 * 48 * 3  # of three blocks, all pairs
        decoder = (
            3 * 2 * TEXT.num_hidden_layers * 64 * 37**2
        )  # forwards and twice backwards, half of the pairs
        assert counter.get_total_flops() == pytest.approx(ours - tower - decoder, rel=0.005), (
            trainable
        )


def test_traffic_and_hours():
    config = LlavaConfig(text_config=LlamaConfig(), image_token_id=31999)
    one, two = (plan.figures(config, STAGES[1], gpus, 128, 4, 640, 1000, 1e14) for gpus in (1, 2))
    assert one["GB sent"] == 0 and two["hours"] == pytest.approx(one["hours"] / 2)
    # 16 rounds: half of 2 bytes for all weights, 2 for the blocks once more, 4 for all gradients
    n = plan.parameters(config)
    trained = n["language_model."] + n["multi_modal_projector."]
    assert two["GB sent"] * 1e9 == pytest.approx(16 * (6 * trained + 2 * 32 * n["block"]) / 2)
    work = plan.flops(config, STAGES[1], [640], 0, 640)
    assert sum(work.values()) == pytest.approx(
        6 * 6.607e9 * 640 + 6 * 32 * 4096 * 640**2, rel=2e-3
    )  # 6NS + 6LdS^2
