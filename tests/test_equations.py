"""The equations of the paper and of its two models, derived again in NumPy without the package."""

import numpy as np
import pytest
import torch
from conftest import IMAGE_TOKEN, batch, randomise, text_config, vision_config

from nanollava import LLaVA
from nanollava.config import LlavaConfig
from nanollava.hf.config import parse_llama_config, parse_vision_config


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(x, w, b, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * w + b


def clip_vit(W, picture, heads, patch, last):
    """Z_v = g(X_v): the patches after `last` blocks, one picture (3, H, W)."""
    grid = picture.shape[1] // patch
    kernel = W["embeddings.patch_embedding.weight"].reshape(-1, 3 * patch * patch)
    cut = [
        kernel @ picture[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].ravel()
        for y in range(grid)
        for x in range(grid)
    ]
    x = (
        np.stack([W["embeddings.class_embedding"], *cut])
        + W["embeddings.position_embedding.weight"]
    )
    x = layer_norm(x, W["pre_layrnorm.weight"], W["pre_layrnorm.bias"])
    for i in range(last):
        P = {
            k.removeprefix(f"encoder.layers.{i}."): v
            for k, v in W.items()
            if k.startswith(f"encoder.layers.{i}.")
        }
        y = layer_norm(x, P["layer_norm1.weight"], P["layer_norm1.bias"])
        q, k, v = (
            y @ P[f"self_attn.{n}_proj.weight"].T + P[f"self_attn.{n}_proj.bias"] for n in "qkv"
        )
        size = q.shape[1] // heads
        parts = []
        for h in range(heads):
            s = slice(h * size, (h + 1) * size)
            parts.append(softmax(q[:, s] @ k[:, s].T / np.sqrt(size)) @ v[:, s])
        x = (
            x
            + np.concatenate(parts, 1) @ P["self_attn.out_proj.weight"].T
            + P["self_attn.out_proj.bias"]
        )
        y = layer_norm(x, P["layer_norm2.weight"], P["layer_norm2.bias"])
        y = y @ P["mlp.fc1.weight"].T + P["mlp.fc1.bias"]
        y = y / (1 + np.exp(-1.702 * y))
        x = x + y @ P["mlp.fc2.weight"].T + P["mlp.fc2.bias"]
    return x[1:]


def rms_norm(x, w, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w


def turn(x, theta):
    """Rotary positions one number pair at a time."""
    T, E = x.shape
    out = np.empty_like(x)
    for t in range(T):
        for i in range(E // 2):
            a = t * theta ** (-2 * i / E)
            out[t, i] = x[t, i] * np.cos(a) - x[t, i + E // 2] * np.sin(a)
            out[t, i + E // 2] = x[t, i + E // 2] * np.cos(a) + x[t, i] * np.sin(a)
    return out


def llama(W, x, config):
    """Logits of one sequence of vectors (T, D)."""
    T, E = len(x), config.head_dim
    group = config.num_attention_heads // config.num_key_value_heads
    causal = np.where(np.tril(np.ones((T, T))) > 0, 0.0, -np.inf)
    for i in range(config.num_hidden_layers):
        P = {
            k.removeprefix(f"model.layers.{i}."): v
            for k, v in W.items()
            if k.startswith(f"model.layers.{i}.")
        }
        y = rms_norm(x, P["input_layernorm.weight"], config.rms_norm_eps)
        q, k, v = (y @ P[f"self_attn.{n}_proj.weight"].T for n in "qkv")
        parts = []
        for h in range(config.num_attention_heads):
            g = h // group
            qh = turn(q[:, h * E : (h + 1) * E], config.rope_theta)
            kh = turn(k[:, g * E : (g + 1) * E], config.rope_theta)
            parts.append(softmax(qh @ kh.T / np.sqrt(E) + causal) @ v[:, g * E : (g + 1) * E])
        x = x + np.concatenate(parts, 1) @ P["self_attn.o_proj.weight"].T
        y = rms_norm(x, P["post_attention_layernorm.weight"], config.rms_norm_eps)
        gate = y @ P["mlp.gate_proj.weight"].T
        gate = gate / (1 + np.exp(-gate))
        x = x + (gate * (y @ P["mlp.up_proj.weight"].T)) @ P["mlp.down_proj.weight"].T
    return rms_norm(x, W["model.norm.weight"], config.rms_norm_eps) @ W["lm_head.weight"].T


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
def test_forward_and_loss(projector):
    vision = parse_vision_config(vision_config().to_dict())
    text = parse_llama_config(text_config().to_dict())
    model = randomise(
        LLaVA(LlavaConfig(vision, text, projector, image_token_id=IMAGE_TOKEN)).double()
    )
    ids, labels, mask, pixels = batch(dtype=torch.float64)
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}

    def part(prefix):
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    V, M, L = part("vision_tower."), part("multi_modal_projector."), part("language_model.")
    total, logits = 0.0, model(ids, pixels).detach().numpy()
    for b in range(len(ids)):
        z = clip_vit(
            V, pixels[b].numpy(), 4, 8, last=3
        )  # four blocks: the layer before the last is the third
        h = z @ M["linear_1.weight"].T + M["linear_1.bias"]  # H_v = W Z_v
        if projector == "mlp2x_gelu":
            erf = np.vectorize(__import__("math").erf)
            h = 0.5 * h * (1 + erf(h / np.sqrt(2)))
            h = h @ M["linear_2.weight"].T + M["linear_2.bias"]
        row = ids[b][: int(mask[b].sum())].numpy()
        x = L["model.embed_tokens.weight"][row].copy()
        x[row == IMAGE_TOKEN] = h
        expected = llama(L, x, text)
        # The package's rotary table is float32, as transformers' is: its angles are good to 1e-6.
        np.testing.assert_allclose(logits[b, : len(row)], expected, atol=2e-5)
        log_p = np.log(softmax(expected))
        total -= sum(log_p[t - 1, row[t]] for t in range(1, len(row)) if labels[b, t] != -100)
    loss, _ = model.loss(ids, labels, pixels)
    assert abs(loss.item() - total) <= 1e-4
