"""The three objectives of BLIP-2's stage 1, derived again in NumPy; the body has its own test."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import randomise
from numpy_layers import gelu, layer_norm, linear, softmax, weights_of

from nanollava.connectors.qformer_objectives import (
    QFormerPretraining,
    captioning_mask,
    contrastive_loss,
    draw_negatives,
)

VOCABULARY = 20
QUERIES = 4
B = 3  # images, and captions


@pytest.fixture(scope="module")
def model():
    model = QFormerPretraining(
        24, VOCABULARY, num_queries=QUERIES, num_layers=2, width=64, contrast_width=8
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


def test_contrastive_loss(model, inputs):
    Z_v, input_ids, is_text = inputs
    weights = weights_of(model)
    image = model.image_states(model.norm_patches(Z_v))
    text = model.class_states(input_ids, is_text)
    u = linear(image.detach().numpy(), weights, "image_proj")
    w = linear(text.detach().numpy(), weights, "text_proj")
    s = np.empty((B, B))
    for i in range(B):
        for j in range(B):
            cosines = []
            for q in range(QUERIES):
                norms = np.linalg.norm(u[i, q]) * np.linalg.norm(w[j])
                cosines.append(u[i, q] @ w[j] / norms)
            s[i, j] = max(cosines) / 0.3
    expected = 0.0
    for i in range(B):
        expected += smoothed_cross_entropy(s[i], i) / (2 * B)
        expected += smoothed_cross_entropy(s[:, i], i) / (2 * B)
    loss = contrastive_loss(model.similarity(image, text))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_matching_loss(model, inputs):
    Z_v, input_ids, is_text = inputs
    weights = weights_of(model)
    patches = model.norm_patches(Z_v)
    other_image = torch.tensor([1, 2, 0])
    other_text = torch.tensor([2, 0, 1])
    pairs = []  # image, text, whether they belong together
    for i in range(B):
        pairs.append((i, i, 1))
        pairs.append((int(other_image[i]), i, 0))
        pairs.append((i, int(other_text[i]), 0))
    expected = 0.0
    for image, text, target in pairs:
        length = int(is_text[text].sum())  # without its padding, nothing is to be masked
        embedded = model.embed_text(input_ids[text : text + 1, :length])
        states = model.qformer(model.queries[None], embedded, patches[image : image + 1])
        logits = linear(states[0, :QUERIES].detach().numpy(), weights, "match_head").mean(0)
        expected -= np.log(softmax(logits)[target]) / len(pairs)
    loss = model.matching_loss(patches, input_ids, is_text, other_image, other_text)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_captioning_loss(model, inputs):
    """Word by word: the states of a prefix do not depend on what follows."""
    Z_v, input_ids, is_text = inputs
    weights = weights_of(model)
    patches = model.norm_patches(Z_v)
    losses = []
    for i in range(B):
        for t in range(1, int(is_text[i].sum())):
            prefix = input_ids[i : i + 1, :t].clone()
            prefix[0, 0] = VOCABULARY  # [DEC]
            visible = torch.ones(1, t, dtype=torch.bool)
            states = model.qformer(
                model.queries[None],
                model.embed_text(prefix),
                patches[i : i + 1],
                captioning_mask(QUERIES, visible),
            )
            last = states[0, -1].detach().numpy()
            word = layer_norm(
                gelu(linear(last, weights, "word_layer")), weights, "word_norm", 1e-12
            )
            logits = word @ weights["word_embedding.weight"].T + weights["word_bias"]
            losses.append(smoothed_cross_entropy(logits, int(input_ids[i, t])))
    loss = model.captioning_loss(patches, input_ids, is_text)
    assert loss.item() == pytest.approx(np.mean(losses), abs=1e-6)


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
