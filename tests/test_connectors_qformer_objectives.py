"""The three objectives of BLIP-2's stage 1, derived again in NumPy from images and captions on."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import randomise
from numpy_layers import Weights, attention, gelu, layer_norm, linear, part, softmax, weights_of

from nanollava.connectors.qformer_objectives import (
    Losses,
    QFormerPretraining,
    captioning_mask,
    draw_negatives,
)

VOCABULARY = 20
QUERIES = 4
LAYERS = 2  # the first has cross-attention, the second has not
HEAD_WIDTH = 64  # of every Q-Former
WIDTH = 2 * HEAD_WIDTH
B = 3  # images, and captions


@pytest.fixture(scope="module")
def model():
    model = QFormerPretraining(
        24, VOCABULARY, num_queries=QUERIES, num_layers=LAYERS, width=WIDTH, contrast_width=8
    )
    randomise(model.double())
    model.temperature.data.fill_(0.3)
    return model


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    Z_v = torch.randn(B, 9, 24, generator=generator, dtype=torch.float64)
    input_ids = torch.randint(3, VOCABULARY, (B, 6), generator=generator)
    is_text = torch.ones(B, 6, dtype=torch.bool)
    is_text[1, 4:] = False
    return Z_v, input_ids, is_text


def smoothed_cross_entropy(logits: np.ndarray, target: int) -> float:
    """- sum_c y_c log p_c; a tenth of y is spread evenly over all classes."""
    log_p = np.log(softmax(logits))
    return -(0.9 * log_p[target] + 0.1 * log_p.mean())


# The whole stage in NumPy: one image, one caption or one pair at a time


def numpy_attention(
    x: np.ndarray, source: np.ndarray, weights: Weights, mask: np.ndarray | None = None
) -> np.ndarray:
    """LN(x + W_o softmax(Q K^T / sqrt(E)) V) of x (T, D) and source (S, source_width)."""
    q = linear(x, weights, "q_proj")
    k = linear(source, weights, "k_proj")
    v = linear(source, weights, "v_proj")
    y = attention(q, k, v, WIDTH // HEAD_WIDTH, mask)
    return layer_norm(x + linear(y, weights, "out_proj"), weights, "norm", 1e-12)


def numpy_feed_forward(x: np.ndarray, weights: Weights) -> np.ndarray:
    y = linear(gelu(linear(x, weights, "fc1")), weights, "fc2")
    return layer_norm(x + y, weights, "norm", 1e-12)


def numpy_body(
    x: np.ndarray,
    num_queries: int,
    patches: np.ndarray | None,
    weights: Weights,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """States of queries and text x (Q + T, D), the queries first."""
    x = layer_norm(x, weights, "qformer.norm", 1e-12)
    for i in range(LAYERS):
        layer = part(weights, f"qformer.layers.{i}.")
        x = numpy_attention(x, x, part(layer, "self_attention."), mask)
        queries = x[:num_queries]
        text = x[num_queries:]
        if num_queries > 0:
            if i % 2 == 0:
                queries = numpy_attention(queries, patches, part(layer, "cross_attention."))
            queries = numpy_feed_forward(queries, part(layer, "feed_forward."))
        if len(text) > 0:
            text = numpy_feed_forward(text, part(layer, "text_feed_forward."))
        x = np.concatenate([queries, text])
    return x


def numpy_text(ids: np.ndarray, weights: Weights) -> np.ndarray:
    positions = weights["position_embedding.weight"][: len(ids)]
    return weights["word_embedding.weight"][ids] + positions


def numpy_similarity(images: list, captions: list, weights: Weights) -> np.ndarray:
    """s_ij = max_q cos(u_iq, w_j) / temperature; a caption has no padding here."""
    s = np.empty((B, B))
    for i, patches in enumerate(images):
        states = numpy_body(weights["queries"], QUERIES, patches, weights)
        u = linear(states, weights, "image_proj")  # (Q, d)
        for j, ids in enumerate(captions):
            states = numpy_body(numpy_text(ids, weights), 0, None, weights)
            w = linear(states[0], weights, "text_proj")  # of the class token
            cosines = u @ w / (np.linalg.norm(u, axis=1) * np.linalg.norm(w))
            s[i, j] = cosines.max() / 0.3
    return s


def numpy_contrastive(s: np.ndarray) -> float:
    losses = []
    for i in range(B):
        losses.append(smoothed_cross_entropy(s[i], i))
        losses.append(smoothed_cross_entropy(s[:, i], i))
    return np.mean(losses)


def numpy_matching(images: list, captions: list, negatives: tuple, weights: Weights) -> float:
    """The cross-entropy of the pair itself and of both wrong pairs of every sample."""
    other_image, other_caption = negatives
    losses = []
    for i in range(B):
        for image, caption in ((i, i), (int(other_image[i]), i), (i, int(other_caption[i]))):
            text = numpy_text(captions[caption], weights)
            x = np.concatenate([weights["queries"], text])
            states = numpy_body(x, QUERIES, images[image], weights)
            logits = linear(states[:QUERIES], weights, "match_head").mean(0)
            losses.append(-np.log(softmax(logits)[int(image == caption)]))
    return np.mean(losses)


def numpy_captioning(images: list, captions: list, weights: Weights) -> float:
    """The cross-entropy of every token from the states of the queries and the prefix before it."""
    losses = []
    for patches, ids in zip(images, captions, strict=True):
        for t in range(1, len(ids)):
            prefix = np.array([VOCABULARY, *ids[1:t]])  # [DEC] is the first token
            x = np.concatenate([weights["queries"], numpy_text(prefix, weights)])
            sees = np.tril(np.ones((QUERIES + t, QUERIES + t), dtype=bool))
            sees[:QUERIES, :QUERIES] = True
            last = numpy_body(x, QUERIES, patches, weights, sees)[-1]
            word = gelu(linear(last, weights, "word_layer"))
            word = layer_norm(word, weights, "word_norm", 1e-12)
            logits = word @ weights["word_embedding.weight"].T + weights["word_bias"]
            losses.append(smoothed_cross_entropy(logits, ids[t]))
    return np.mean(losses)


@pytest.fixture(scope="module")
def expected(model, inputs) -> dict[str, float]:
    """The three losses, with negatives that `draw_negatives` chooses by NumPy's similarities."""
    Z_v, input_ids, is_text = inputs
    weights = weights_of(model)
    images = [layer_norm(patches, weights, "norm_patches") for patches in Z_v.numpy()]
    captions = []
    for ids, is_word in zip(input_ids, is_text, strict=True):
        captions.append(ids[is_word].numpy())
    s = numpy_similarity(images, captions, weights)
    negatives = draw_negatives(torch.from_numpy(s), torch.Generator().manual_seed(1))
    return {
        "itc": numpy_contrastive(s),
        "itm": numpy_matching(images, captions, negatives, weights),
        "itg": numpy_captioning(images, captions, weights),
    }


@pytest.mark.parametrize("name", Losses._fields)
def test_objective_equals_numpy(model, inputs, expected, name):
    losses = model(*inputs, torch.Generator().manual_seed(1))
    assert getattr(losses, name).item() == pytest.approx(expected[name], abs=1e-6)


@pytest.mark.parametrize(
    "name, own_weights",
    [
        ("itc", ("image_proj.weight", "text_proj.weight", "temperature")),
        ("itm", ("match_head.weight",)),
        ("itg", ("word_layer.weight", "word_norm.weight", "word_bias")),
    ],
)
def test_each_objective_trains_its_own_weights(model, inputs, name, own_weights):
    model.zero_grad()
    getattr(model(*inputs, torch.Generator().manual_seed(1)), name).backward()
    parameters = dict(model.named_parameters())
    for weight in (*own_weights, "queries", "qformer.layers.0.self_attention.q_proj.weight"):
        assert parameters[weight].grad.abs().sum() > 0, weight


def test_in_captioning_queries_see_no_text_and_text_no_future(model, inputs):
    Z_v, input_ids, is_text = inputs
    patches = model.norm_patches(Z_v)
    text = model.embed_text(input_ids).detach().requires_grad_()
    queries = model.expand_queries(patches)
    states = model.qformer(queries, text, patches, captioning_mask(QUERIES, is_text))
    (gradient,) = torch.autograd.grad(states[:, :QUERIES].sum(), text, retain_graph=True)
    assert not gradient.any()
    (gradient,) = torch.autograd.grad(states[:, QUERIES + 2].sum(), text)
    assert gradient[:, :3].abs().sum(-1).all()
    assert not gradient[:, 3:].any()


def test_padding_changes_no_loss(model, inputs):
    Z_v, input_ids, is_text = inputs
    other = torch.where(is_text, input_ids, 7)
    losses = model(Z_v, input_ids, is_text, torch.Generator().manual_seed(1))
    same = model(Z_v, other, is_text, torch.Generator().manual_seed(1))
    for loss, again in zip(losses, same, strict=True):
        assert loss.item() == pytest.approx(again.item(), abs=1e-12)


def test_a_single_pair_matches_itself(model, inputs):
    """A last batch of one: there is no other image or caption."""
    model = deepcopy(model)
    Z_v, input_ids, is_text = (tensor[:1] for tensor in inputs)
    patches = model.norm_patches(Z_v)
    with torch.no_grad():
        model.match_head.weight.zero_()
        model.match_head.bias.copy_(torch.tensor([-9.0, 9.0]))  # "match" for everything
    itself = torch.tensor([0])
    assert model.matching_loss(patches, input_ids, is_text, itself, itself) < 1e-6


def test_negatives_are_never_the_own_pair_and_mostly_the_hardest():
    similarity = torch.tensor([[9.0, 5.0, 0.0], [0.0, 9.0, 5.0], [5.0, 0.0, 9.0]])
    generator = torch.Generator().manual_seed(0)
    hardest_images = 0
    hardest_captions = 0
    for _ in range(50):
        images, captions = draw_negatives(similarity, generator)
        assert all(images != torch.arange(3)) and all(captions != torch.arange(3))
        hardest_images += int((images == torch.tensor([2, 0, 1])).sum())  # by column
        hardest_captions += int((captions == torch.tensor([1, 2, 0])).sum())
    assert min(hardest_images, hardest_captions) > 140  # of 150; softmax(5, 0) is 0.993


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_similarity_that_is_not_finite_is_left_to_the_loss(value):
    """The training loop reports a loss that is not finite, and says what to do."""
    images, captions = draw_negatives(torch.full((3, 3), value))
    assert images.shape == captions.shape == (3,)


def test_forward_matches_with_the_negatives_that_it_draws(model, inputs):
    Z_v, input_ids, is_text = inputs
    patches = model.norm_patches(Z_v)
    states = model.image_states(patches)
    similarity = model.similarity(states, model.class_states(input_ids, is_text)).detach()
    for seed in range(20):
        images, captions = draw_negatives(similarity, torch.Generator().manual_seed(seed))
        if not torch.equal(images, captions):
            break
    assert not torch.equal(images, captions)
    expected = model.matching_loss(patches, input_ids, is_text, images, captions)
    losses = model(Z_v, input_ids, is_text, torch.Generator().manual_seed(seed))
    assert losses.itm.item() == pytest.approx(expected.item(), abs=1e-9)
