"""The equations of the paper and of its two models, derived again in NumPy without the package."""

import math

import numpy as np
import pytest
import torch
from conftest import IMAGE_TOKEN, batch, randomise, text_config, vision_config

from nanollava import LLaVA
from nanollava.config import IGNORE_INDEX, LlamaConfig, LlavaConfig
from nanollava.hf.config import parse_llama_config, parse_vision_config

VISION_HEADS = 4
PATCH = 8  # pixels
VISION_DEPTH = 3  # of four blocks: LLaVA reads the block before the last

Weights = dict[str, np.ndarray]


def part(weights: Weights, prefix: str) -> Weights:
    """The weights whose names begin with `prefix`, without it."""
    names = [name for name in weights if name.startswith(prefix)]
    return {name.removeprefix(prefix): weights[name] for name in names}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# CLIP's vision transformer


def layer_norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    mean = x.mean(-1, keepdims=True)
    variance = x.var(-1, keepdims=True)
    normalized = (x - mean) / np.sqrt(variance + 1e-5)
    return normalized * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def affine(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def vision_attention(x: np.ndarray, weights: Weights) -> np.ndarray:
    q = affine(x, weights, "self_attn.q_proj")
    k = affine(x, weights, "self_attn.k_proj")
    v = affine(x, weights, "self_attn.v_proj")
    E = q.shape[1] // VISION_HEADS
    heads = []
    for h in range(VISION_HEADS):
        own = slice(h * E, (h + 1) * E)  # the channels of this head
        A = softmax(q[:, own] @ k[:, own].T / np.sqrt(E))
        heads.append(A @ v[:, own])
    return affine(np.concatenate(heads, axis=1), weights, "self_attn.out_proj")


def patch_embeddings(image: np.ndarray, weights: Weights) -> np.ndarray:
    """W_e x_p for every patch x_p of an image (3, H, W), row by row."""
    kernel = weights["embeddings.patch_embedding.weight"].reshape(-1, 3 * PATCH * PATCH)
    rows = []
    for y in range(0, image.shape[1], PATCH):
        for x in range(0, image.shape[2], PATCH):
            patch = image[:, y : y + PATCH, x : x + PATCH]
            rows.append(kernel @ patch.ravel())
    return np.stack(rows)


def image_features(image: np.ndarray, weights: Weights) -> np.ndarray:
    """Z_v = g(X_v), (P, D): the patches of one image after the block before the last."""
    class_embedding = weights["embeddings.class_embedding"][None]
    x = np.concatenate([class_embedding, patch_embeddings(image, weights)])
    x = x + weights["embeddings.position_embedding.weight"]
    x = layer_norm(x, weights, "pre_layrnorm")
    for i in range(VISION_DEPTH):
        block = part(weights, f"encoder.layers.{i}.")
        x = x + vision_attention(layer_norm(x, block, "layer_norm1"), block)
        y = affine(layer_norm(x, block, "layer_norm2"), block, "mlp.fc1")
        x = x + affine(y * sigmoid(1.702 * y), block, "mlp.fc2")
    return x[1:]


# The projector


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def projected(Z_v: np.ndarray, weights: Weights) -> np.ndarray:
    """H_v = W Z_v, or LLaVA-1.5's two layers."""
    H_v = affine(Z_v, weights, "linear_1")
    if "linear_2.weight" in weights:
        H_v = affine(gelu(H_v), weights, "linear_2")
    return H_v


# LLaMA


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def rotate(x: np.ndarray, theta: float) -> np.ndarray:
    """Rotary positions of one head (T, E), one pair of numbers at a time."""
    T, E = x.shape
    rotated = np.empty_like(x)
    for m in range(T):
        for i in range(E // 2):
            angle = m * theta ** (-2 * i / E)
            a = x[m, i]
            b = x[m, i + E // 2]
            rotated[m, i] = a * np.cos(angle) - b * np.sin(angle)
            rotated[m, i + E // 2] = b * np.cos(angle) + a * np.sin(angle)
    return rotated


def causal_attention(x: np.ndarray, weights: Weights, config: LlamaConfig) -> np.ndarray:
    q = x @ weights["self_attn.q_proj.weight"].T
    k = x @ weights["self_attn.k_proj.weight"].T
    v = x @ weights["self_attn.v_proj.weight"].T
    T = len(x)
    E = config.head_dim
    queries_per_key = config.num_attention_heads // config.num_key_value_heads
    future = np.triu(np.full((T, T), -np.inf), k=1)
    heads = []
    for h in range(config.num_attention_heads):
        g = h // queries_per_key  # the key-value head of this query head
        q_h = rotate(q[:, h * E : (h + 1) * E], config.rope_theta)
        k_g = rotate(k[:, g * E : (g + 1) * E], config.rope_theta)
        v_g = v[:, g * E : (g + 1) * E]
        heads.append(softmax(q_h @ k_g.T / np.sqrt(E) + future) @ v_g)
    return np.concatenate(heads, axis=1) @ weights["self_attn.o_proj.weight"].T


def swiglu(x: np.ndarray, weights: Weights) -> np.ndarray:
    gate = x @ weights["mlp.gate_proj.weight"].T
    up = x @ weights["mlp.up_proj.weight"].T
    return (gate * sigmoid(gate) * up) @ weights["mlp.down_proj.weight"].T


def llama_logits(x: np.ndarray, weights: Weights, config: LlamaConfig) -> np.ndarray:
    """Logits (T, vocab) of one sequence of vectors (T, D)."""
    eps = config.rms_norm_eps
    for i in range(config.num_hidden_layers):
        block = part(weights, f"model.layers.{i}.")
        y = rms_norm(x, block["input_layernorm.weight"], eps)
        x = x + causal_attention(y, block, config)
        y = rms_norm(x, block["post_attention_layernorm.weight"], eps)
        x = x + swiglu(y, block)
    return rms_norm(x, weights["model.norm.weight"], eps) @ weights["lm_head.weight"].T


# LLaVA


def llava_logits(ids: np.ndarray, image: np.ndarray, weights: Weights, config) -> np.ndarray:
    """Logits (T, vocab) of one sequence (T,): H_v takes the positions of the image token."""
    Z_v = image_features(image, part(weights, "vision_tower."))
    H_v = projected(Z_v, part(weights, "multi_modal_projector."))
    llama = part(weights, "language_model.")
    x = llama["model.embed_tokens.weight"][ids]  # a copy
    x[ids == IMAGE_TOKEN] = H_v
    return llama_logits(x, llama, config.text_config)


@pytest.fixture(params=["linear", "mlp2x_gelu"])
def model(request) -> LLaVA:
    vision = parse_vision_config(vision_config().to_dict())
    text = parse_llama_config(text_config().to_dict())
    config = LlavaConfig(vision, text, request.param, image_token_id=IMAGE_TOKEN)
    return randomise(LLaVA(config).double())


def weights_of(model: LLaVA) -> Weights:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def test_image_features(model):
    *_, pixels = batch(dtype=torch.float64)
    features = model.encode_images(pixels).detach().numpy()
    weights = weights_of(model)
    for b, image in enumerate(pixels.numpy()):
        Z_v = image_features(image, part(weights, "vision_tower."))
        H_v = projected(Z_v, part(weights, "multi_modal_projector."))
        np.testing.assert_allclose(features[b], H_v, atol=1e-10)


def test_logits(model):
    ids, _, mask, pixels = batch(dtype=torch.float64)
    logits = model(ids, pixels).detach().numpy()
    weights = weights_of(model)
    for b, T in enumerate(mask.sum(1).tolist()):
        row = ids[b, :T].numpy()
        expected = llava_logits(row, pixels[b].numpy(), weights, model.config)
        # The package's angles are float32, as transformers' are: good to 1e-6.
        np.testing.assert_allclose(logits[b, :T], expected, atol=2e-5)


def test_loss(model):
    ids, labels, mask, pixels = batch(dtype=torch.float64)
    loss, num_labels = model.loss(ids, labels, pixels)
    weights = weights_of(model)
    expected = 0.0
    for b, T in enumerate(mask.sum(1).tolist()):
        row = ids[b, :T].numpy()
        p = softmax(llava_logits(row, pixels[b].numpy(), weights, model.config))
        for t in range(1, T):
            if labels[b, t] != IGNORE_INDEX:
                expected -= np.log(p[t - 1, row[t]])
    assert abs(loss.item() - expected) <= 1e-4
    assert num_labels == (labels != IGNORE_INDEX).sum()
