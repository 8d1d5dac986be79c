"""toy-clip: its losses, its training data, and its files in transformers."""

import random
from dataclasses import replace

import pytest
import torch
import transformers

from nanollava.files import shipped
from nanollava.toyland.captions import captions
from nanollava.toyland.clip import (
    CLIP,
    PHRASES,
    VISION,
    ClipData,
    ClipPhase,
    TextConfig,
    captions_only,
    change,
    clip_loss,
    contrastive_loss,
    encode_captions,
    load_clip,
    make_caption_tokenizer,
    patch_weights,
    pixels,
    pretrain_clip,
    region_losses,
    to_pixel_values,
    variants,
    with_regions,
)
from nanollava.toyland.scenes import FACTS, Scene, Thing, scenes

TOY_CLIP = shipped("checkpoints/toy-clip")


@pytest.fixture(scope="module")
def tokenizer():
    return make_caption_tokenizer(0)


def unit_vectors(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=-1)


def test_contrastive_loss_is_the_papers():
    """CLIP, figure 3: cross-entropy over rows and over columns of the scaled cosines."""
    image, text = unit_vectors(2, 5, 8)
    expected = 0.0
    for i in range(5):
        row = torch.stack([7.0 * image[i] @ text[j] for j in range(5)])
        column = torch.stack([7.0 * image[j] @ text[i] for j in range(5)])
        expected -= torch.log(row.exp()[i] / row.exp().sum()).item() / 10
        expected -= torch.log(column.exp()[i] / column.exp().sum()).item() / 10
    assert contrastive_loss(image, text, 7.0).item() == pytest.approx(expected, abs=1e-6)


def facts_that_differ(one: Scene, other: Scene) -> set:
    return set(map(str, one.facts[2:])) - set(map(str, other.facts[2:]))


def test_variants_differ_in_one_fact():
    rng = random.Random(0)
    for _ in range(50):
        first, *others = variants(rng, 4, "park", "rainy")
        assert len(others) == 3
        for other in others:
            assert (other.place, other.weather) == ("park", "rainy")
            assert first.facts != other.facts
            assert len(facts_that_differ(first, other)) <= 1


def test_variants_belong_to_the_training_split():
    rng = random.Random(0)
    for _ in range(50):
        assert all(scene.split == "train" for scene in variants(rng, 4, "snow", "night"))


def test_only_the_kind_of_one_thing_changes_on_request():
    rng = random.Random(0)
    for scene in scenes("train", 50, 0):
        changed = change(scene, rng, only_kinds=True)
        differing = []
        for old, new in zip(scene.things, changed.things, strict=True):
            if new.kind != old.kind:
                differing.append(old)
            assert (new.color, new.side, new.distance) == (old.color, old.side, old.distance)
        assert len(differing) == 1


def test_a_change_of_color_keeps_the_box():
    cat = Thing("cat", "red", "left", "near", (0.1, 0.6, 0.3, 0.95))
    scene = Scene("park", "sunny", (cat,))
    rng = random.Random(0)
    changed = [change(scene, rng).things[0] for _ in range(200)]
    recolored = [thing for thing in changed if thing.color != "red"]
    assert 30 < len(recolored) < 90  # 30% of 200
    assert all(thing.box == cat.box and thing.kind == "cat" for thing in recolored)


def test_under_box_is_a_mean_over_the_box():
    weight = patch_weights((0.1, 0.2, 0.35, 0.4), 10).view(10, 10)
    assert weight.sum() == pytest.approx(1)
    assert weight[2:4, 1:4].sum() == pytest.approx(1)
    assert weight[2, 3] == pytest.approx(weight[2, 1].item() / 2, rel=1e-4)  # half covered


def test_region_loss_is_small_for_the_right_phrase():
    cat = Thing("cat", "red", "left", "near", (0.1, 0.6, 0.3, 0.95))
    kinds = unit_vectors(len(FACTS["kind"]), 64)
    centered = torch.nn.functional.normalize(kinds - kinds.mean(0), dim=-1)
    index = FACTS["kind"].index("cat")
    right = region_losses(centered[index : index + 1], {"kind": kinds}, [cat], 50.0)
    wrong = region_losses(centered[index + 1 : index + 2], {"kind": kinds}, [cat], 50.0)
    assert right["kind"] < 0.01 < 10 < wrong["kind"]


def test_every_value_of_every_fact_has_a_phrase():
    for fact, values in FACTS.items():
        assert len(PHRASES[fact]) == len(set(PHRASES[fact])) == len(values)


def test_captions_end_with_the_end_of_text(tokenizer):
    ids, ends = encode_captions(tokenizer, ["a red cat", "a red cat in front on the left"])
    end_of_text = len(tokenizer)
    assert ids[0, 0] == ids[1, 0] == tokenizer.bos_token_id
    for row, end in zip(ids, ends, strict=True):
        assert row[end] == end_of_text
        assert end_of_text not in row[:end]


@pytest.fixture(scope="module")
def data(tokenizer):
    phase = ClipPhase(steps=4, region_steps=2, batch=8, group=2, images=64, seed=0)
    return ClipData(phase, tokenizer, VISION)


def test_a_batch_consists_of_whole_groups(data):
    for step in range(20):
        indices = data.choose(step)
        assert len(indices) == len(set(indices))
        for first, second in zip(indices[::2], indices[1::2], strict=True):
            assert first % 2 == 0 and second == first + 1


def test_most_batches_after_the_region_steps_share_a_sky(data):
    shared = 0
    for _ in range(200):
        skies = {(data.scenes[i].place, data.scenes[i].weather) for i in data.choose(step=2)}
        if len(skies) == 1:
            shared += 1
    assert shared > 140


def test_first_steps_train_on_regions_only(data):
    torch.manual_seed(0)
    model = CLIP(VISION, TextConfig(vocab_size=len(data.tokenizer) + 1))
    device = torch.device("cpu")
    loss, metrics = clip_loss(model, data, 0, device)
    assert metrics["images"] == 0 and loss > 0
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    _, metrics = clip_loss(model, data, 2, device)
    assert metrics["images"] > 0


def test_captions_alone_move_no_region(tokenizer):
    """Without the second loss, the loss is that of whole images."""
    phase = ClipPhase(steps=2, regions=False, max_things=1, batch=8, group=2, images=64, seed=0)
    data = ClipData(phase, tokenizer, VISION)
    assert all(len(scene.things) == 1 for scene in data.scenes)
    model = CLIP(VISION, TextConfig(vocab_size=len(tokenizer) + 1))
    loss, metrics = clip_loss(model, data, 0, torch.device("cpu"))
    assert loss == metrics["images"]


def test_both_recipes_take_equally_many_steps():
    for scale in (1.0, 0.1):
        counts = []
        for recipe in (with_regions, captions_only):
            counts.append(sum(phase.steps for phase in recipe(scale, 28000, 0)))
        assert counts[0] == counts[1]


def test_region_weights_address_the_patches_of_their_own_image(data):
    weights = data.region_weights([0, 1])  # (things, 2 * P)
    first = len(data.scenes[0].things)
    assert weights.shape == (first + len(data.scenes[1].things), 2 * VISION.num_patches)
    assert weights[:first, VISION.num_patches :].abs().sum() == 0
    assert weights[first:, : VISION.num_patches].abs().sum() == 0


def test_a_tower_with_smaller_patches_is_trained_and_loaded(tmp_path):
    vision = replace(VISION, image_size=98, patch_size=7, num_hidden_layers=1)
    (phase,) = captions_only(0.001, 96, 0)[:1]
    device = torch.device("cpu")
    pretrain_clip(tmp_path, [replace(phase, batch=4)], 0, torch.float32, device, vision)
    model, _ = load_clip(tmp_path)
    assert model.vision_model.config == vision


def test_toy_clip_in_transformers():
    ours, tokenizer = load_clip(TOY_CLIP)
    theirs, info = transformers.CLIPModel.from_pretrained(
        TOY_CLIP, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    rng = random.Random(0)
    pool = list(scenes("test", 4))
    ids, ends = encode_captions(tokenizer, [captions(scene, rng)[0] for scene in pool])
    pixel_values = to_pixel_values(torch.stack([torch.tensor(pixels(scene)) for scene in pool]))
    image, text = ours(pixel_values, ids, ends)
    out = theirs(input_ids=ids, pixel_values=pixel_values)
    torch.testing.assert_close(image, out.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, out.text_embeds, atol=1e-5, rtol=0)
