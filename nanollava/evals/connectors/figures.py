"""Figures drawn by the code itself: the masks, the gates over the steps, where the queries look."""

import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file
from torch import nn

from ...assistant import load
from ...config import QFORMER_HEAD_WIDTH
from ...connectors import abstractor, qformer, qwen, resampler
from ...connectors.gated_xattn import image_mask
from ...connectors.qformer_objectives import captioning_mask, matching_mask
from ...errors import UserError
from ...image import fit, save_image
from ...streaming import image_tensor
from ...toyland.draw import draw
from ...toyland.scenes import scenes

CELL = 18  # px, of a mask
SEEN = "#2a6fbb"
HIDDEN = "#e8e8e8"
INK = "#222222"
PANEL = 140  # px, of an image
GAP = 12  # px
LINES = ("#2a6fbb", "#c2571a", "#3b8f3b", "#8a4fb0", "#b03a5b", "#5f6b7a")

# Modules whose queries read patches.
CROSS_ATTENTIONS = (
    resampler.ResamplerAttention,
    qformer.Attention,
    abstractor.AbstractorAttention,
    qwen.QwenResampler,
)


def mask_panel(mask: torch.Tensor, title: str) -> Image.Image:
    """Rows attend to the columns that are dark."""
    rows, columns = mask.shape
    width = max(columns * CELL, 240) + 2 * GAP
    panel = Image.new("RGB", (width, rows * CELL + 3 * GAP + 8), "white")
    pen = ImageDraw.Draw(panel)
    pen.text((GAP, GAP // 2), title, INK, ImageFont.load_default(13))
    for row in range(rows):
        for column in range(columns):
            x = GAP + column * CELL
            y = 2 * GAP + 8 + row * CELL
            color = SEEN if mask[row, column] else HIDDEN
            pen.rectangle((x, y, x + CELL - 2, y + CELL - 2), fill=color)
    return panel


def side_by_side(panels: list[Image.Image], gap: int = 0) -> Image.Image:
    width = sum(panel.width + gap for panel in panels) - gap
    height = max(panel.height for panel in panels)
    sheet = Image.new("RGB", (width, height), "white")
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width + gap
    return sheet


def draw_qformer_masks(path: Path, num_queries: int = 4, num_words: int = 5) -> None:
    """The self-attention of queries and text in BLIP-2's three objectives."""
    size = num_queries + num_words
    is_text = torch.ones(1, num_words, dtype=torch.bool)
    contrast = torch.zeros(size, size, dtype=torch.bool)
    contrast[:num_queries, :num_queries] = True  # they run apart
    contrast[num_queries:, num_queries:] = True
    matching = matching_mask(num_queries, is_text)[0, 0].expand(size, size)
    captioning = captioning_mask(num_queries, is_text)[0, 0]
    order = f"{num_queries} queries, {num_words} words"
    panels = [
        mask_panel(contrast, f"ITC: {order}"),
        mask_panel(matching, "ITM: everything"),
        mask_panel(captioning, "ITG: words in order"),
    ]
    save_image(side_by_side(panels), path)


def draw_image_masks(path: Path) -> None:
    """What the words of a text with two images attend to, strict and relaxed."""
    count = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2]])  # c_t, image tokens up to each position
    panels = []
    for sees, title in (("last", "the last image before it"), ("all", "all images before it")):
        panels.append(mask_panel(image_mask(count, 2, 3, sees)[0], title))
    save_image(side_by_side(panels), path)


def gates_of(llava: Path) -> tuple[dict[str, list[tuple[int, float]]], int]:
    """Curves (step, tanh(gate)) of every gate through both stages, and the last step of stage 1.

    They come from the checkpoints of a run with stage 2 in `llava` and stage 1 beside it; the steps
    of stage 2 follow those of stage 1. A gate is closed at step 0."""
    curves: dict[str, list[tuple[int, float]]] = {}
    last_of_stage_1 = 0
    stage_1 = llava.parent / "align"
    for stage in (stage_1, llava):
        for checkpoint in sorted((stage / "checkpoints").glob("step-????????")):
            step = int(checkpoint.name.removeprefix("step-"))
            if stage == stage_1:
                last_of_stage_1 = step
            else:
                step += last_of_stage_1
            for name, tensor in load_file(checkpoint / "rank-00000.safetensors").items():
                if name.startswith("model.") and name.endswith("_gate"):
                    short = name.removeprefix("model.multi_modal_projector.blocks.")
                    curve = curves.setdefault(short, [(0, 0.0)])
                    curve.append((step, tensor.tanh().item()))
    if not curves:
        raise UserError(f"{llava}: no checkpoints with gates in it")
    return curves, last_of_stage_1


def draw_gates(llava: Path, path: Path) -> None:
    """The gates opening over the steps of both stages.

    Thick lines are the gates of the attention, thin ones those of the feed-forward."""
    curves, last_of_stage_1 = gates_of(llava)
    points = [point for curve in curves.values() for point in curve]
    last_step = max(step for step, _ in points)
    largest = max(0.01, *(abs(value) for _, value in points))
    left = 60  # px; the curves lie between left and right
    right = 560
    height = 320
    middle = height / 2

    def x_of(step: int) -> float:
        return left + (right - left) * step / last_step

    def y_of(value: float) -> float:
        return middle - (middle - 2 * GAP) * value / largest

    sheet = Image.new("RGB", (right + 160, height), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for value in (-largest, 0, largest):
        pen.line((left, y_of(value), right, y_of(value)), fill=HIDDEN)
        pen.text((left - 6, y_of(value)), f"{value:.2f}", INK, font, anchor="rm")
    pen.line((x_of(last_of_stage_1), 0, x_of(last_of_stage_1), height), fill=HIDDEN, width=2)
    pen.text((left, height - 4), "stage 1", INK, font, anchor="lb")
    pen.text((x_of(last_of_stage_1) + 4, height - 4), "stage 2", INK, font, anchor="lb")
    pen.text((right, height - 4), f"step {last_step}", INK, font, anchor="rb")
    pen.text((left, 2), "tanh(gate)", INK, font)
    for name, curve in curves.items():
        block, kind = name.split(".")
        color = LINES[int(block) % len(LINES)]
        y = 20 + 34 * int(block)  # in the legend
        width = 3
        if kind == "feed_forward_gate":
            y += 16
            width = 1
        line = [(x_of(step), y_of(value)) for step, value in curve]
        pen.line(line, fill=color, width=width)
        pen.line((right + 14, y, right + 40, y), fill=color, width=width)
        label = kind.removesuffix("_gate").replace("_", "-")
        pen.text((right + 46, y), f"{block}: {label}", INK, font, anchor="lm")
    save_image(sheet, path)


def last_cross_attention(connector: nn.Module) -> nn.Module:
    """The last module of a connector whose queries read patches."""
    candidates = []
    for name, module in connector.named_modules():
        is_self_attention = name.endswith("self_attention")
        if isinstance(module, CROSS_ATTENTIONS) and not is_self_attention:
            candidates.append(module)
    if not candidates:
        raise UserError("W has no queries: each of its tokens is one patch")
    return candidates[-1]


@torch.inference_mode()
def query_attention(model, pixel_values: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(E)) of the last cross-attention over the patches of one image: (Q, P).

    The mean over the heads. Where the layer attends to its queries as well, they are left out
    before the softmax, so every row sums to 1 over the patches. The fused attention keeps no
    weights, so queries and keys are taken from the two maps that make them.
    """
    num_patches = model.config.vision_config.num_patches
    module = last_cross_attention(model.multi_modal_projector)
    seen = {}
    hooks = []
    for name in ("q_proj", "k_proj"):

        def keep(_module, _inputs, output, name=name):
            seen[name] = output

        hooks.append(getattr(module, name).register_forward_hook(keep))
    model.encode_images(pixel_values)
    for hook in hooks:
        hook.remove()
    heads = heads_of(module)
    q = seen["q_proj"].reshape(-1, heads, seen["q_proj"].shape[-1] // heads).transpose(0, 1)
    k = seen["k_proj"].reshape(-1, heads, seen["k_proj"].shape[-1] // heads).transpose(0, 1)
    if isinstance(module, abstractor.AbstractorAttention):
        k = k[:, -num_patches:]  # the queries' own keys come first
    else:
        k = k[:, :num_patches]
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (heads, Q, P)
    return scores.softmax(-1).mean(0)


def heads_of(module: nn.Module) -> int:
    if isinstance(module, resampler.ResamplerAttention):
        return resampler.HEADS
    if isinstance(module, qformer.Attention):
        return module.q_proj.out_features // QFORMER_HEAD_WIDTH
    return module.heads


def draw_queries(model_path: Path, path: Path, index: int = 4, num_queries: int = 6) -> None:
    """Test scene number `index`, and where the first queries of a trained connector look in it."""
    assistant = load(model_path, device="cpu", dtype="fp32")
    scene = list(scenes("test", index + 1, unseen=False))[-1]
    image = draw(scene, 200)
    pixel_values = image_tensor([image], assistant.image_config, assistant.model)
    weights = query_attention(assistant.model, pixel_values)[:num_queries]
    grid = math.isqrt(weights.shape[1])
    square = fit(image, assistant.image_config.scaled(PANEL))
    panels = [square]
    for row in weights:
        # The root lifts small weights, and 39 of 255 keeps visible what is not looked at.
        light = (row / row.max()).sqrt().view(grid, grid) * 216 + 39
        shade = Image.fromarray(light.byte().numpy())
        shade = shade.resize(square.size, Image.Resampling.BICUBIC)
        panels.append(Image.composite(square, Image.new("RGB", square.size), shade))
    save_image(side_by_side(panels, gap=GAP), path)
