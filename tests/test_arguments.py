"""Flags, recipes and defaults, and how they combine to a TrainConfig."""

import sys

import pytest

from nanollava.errors import UserError
from nanollava.flags import MAX_SEED
from nanollava.training.arguments import RECIPES, TrainConfig, micro_batch_size, parse_config
from nanollava.training.batches import epoch_batches

DEFAULTS = {
    "out": "out/align",
    "lr": 5e-3,
    "batch": 32,
    "max_steps": 600,
    "template": "vicuna_v1",
    "projector": "linear",
}


@pytest.fixture
def parse(monkeypatch):
    def parse_flags(stage: int, *flags: str) -> TrainConfig:
        monkeypatch.setattr(sys, "argv", ["train.py", *flags])
        return parse_config("A stage.", stage, DEFAULTS)

    return parse_flags


# template, image position, image mode, group, batch, lr, epochs
PUBLISHED = {
    ("paper", 1): ("v0", "as_written", "crop", False, 128, 2e-3, 1),
    ("paper", 2): ("v0", "as_written", "crop", False, 32, 2e-5, 3),
    ("v1", 1): ("plain", "front", "crop", False, 128, 2e-3, 1),
    ("v1", 2): ("vicuna_v1", "front", "crop", False, 32, 2e-5, 3),
    ("v1.5", 1): ("plain", "front", "crop", False, 256, 1e-3, 1),
    ("v1.5", 2): ("vicuna_v1", "front", "pad", True, 128, 2e-5, 1),
}


@pytest.mark.parametrize("recipe, stage", PUBLISHED)
def test_a_recipe_sets_all_values_of_a_stage(parse, recipe, stage):
    config = parse(stage, "--recipe", recipe)
    template, image_position, image_mode, group, batch, lr, epochs = PUBLISHED[recipe, stage]
    assert config.template == template
    assert config.image_position == image_position
    assert config.image_mode == image_mode
    assert config.group == group
    assert config.batch == batch
    assert config.lr == lr
    assert config.epochs == epochs
    assert config.warmup == 0.03
    assert config.max_steps is None
    assert config.max_length == 2048


def test_every_recipe_is_published():
    assert {(name, stage) for name in RECIPES for stage in RECIPES[name]} == set(PUBLISHED)


def test_the_image_is_moved_to_the_front_unless_a_flag_says_otherwise(parse):
    assert parse(2).image_position == "front"
    assert parse(2, "--recipe", "v1", "--image-position", "as_written").image_position == (
        "as_written"
    )


def test_the_result_depends_on_the_image_position():
    assert TrainConfig().result_settings()["image_position"] == "front"


def test_v15_has_a_projector_of_two_layers(parse):
    assert parse(1, "--recipe", "v1.5").projector == "mlp2x_gelu"
    assert parse(1, "--recipe", "v1").projector == "linear"


def test_flags_override_the_recipe(parse):
    config = parse(2, "--recipe", "v1.5", "--batch", "64", "--no-group")
    assert config.batch == 64
    assert config.group is False
    assert config.lr == 2e-5


def test_stage_defaults_override_those_of_the_dataclass(parse):
    config = parse(1)
    assert config.lr == 5e-3
    assert config.max_steps == 600
    assert config.epochs == 1
    assert config.warmup == 0.03


def test_epochs_replace_the_default_number_of_steps(parse):
    config = parse(1, "--epochs", "2")
    assert config.epochs == 2
    assert config.max_steps is None


def test_the_size_of_the_data_replaces_the_default_number_of_steps(parse):
    """So that a plan is about these samples, and not about Toyland's steps."""
    assert parse(1, "--plan", "--samples", "1000").max_steps is None
    assert parse(1, "--samples", "1000").max_steps == 600  # no plan: a flag without effect


def test_max_steps_override_epochs(parse):
    assert parse(1, "--max-steps", "7", "--epochs", "2").max_steps == 7


def test_images_takes_several_places(parse):
    assert parse(1, "--images", "a.zip", "b=b.tar").images == ["a.zip", "b=b.tar"]
    assert parse(1).images is None


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--lr", "0"], "--lr 0.0: expected more than 0"),
        (["--micro-batch", "0"], "--micro-batch 0: expected at least 1"),
        (["--batch", "1" + 20 * "0"], "--batch 1" + 20 * "0" + ": expected at most 1048576"),
        (["--workers", "100000"], "--workers 100000: expected at most 256"),
        (["--mfu", "5"], "--mfu 5.0: expected at most 1"),
        (["--keep", "1" + 20 * "0"], "--keep 1" + 20 * "0" + ": expected at most"),
        (["--max-steps", "-1"], "--max-steps -1: expected at least 0"),
        (["--max-steps", "1000000000000"], "--max-steps 1000000000000: expected at most"),
        (["--warmup", "1.5"], "--warmup 1.5: expected at most 1"),
        (["--warmup", "nan"], "--warmup nan: expected a finite number"),
        (["--lr", "inf"], "--lr inf: expected a finite number"),
        (["--save-minutes", "nan"], "--save-minutes nan: expected a finite number"),
        (["--mfu", "nan"], "--mfu nan: expected a finite number"),
        (["--max-grad-norm", "nan"], "--max-grad-norm nan: expected a finite number"),
        (["--seed", "18446744073709551616"], "--seed 18446744073709551616: expected at most"),
        (["--seed", "-1"], "--seed -1: expected at least 0"),
        (["--out", ""], "--out '': expected a value"),
        (["--images", "a.zip", ""], "--images '': expected a value"),
        (["--validation", "held-out.json"], "also give --eval-steps"),
        (["--toyland-scenes", "3"], "also give --eval-steps"),
        (["--eval-steps", "3"], "also give --validation or --toyland-scenes"),
        (
            ["--toyland-scenes", "3", "--eval-steps", "3", "--template", "plain"],
            "--toyland-scenes: asks questions, which template plain leaves out",
        ),
    ],
)
def test_values_out_of_bounds_are_refused(parse, flags, message):
    with pytest.raises(UserError, match=message):
        parse(1, *flags)


def test_help_shows_the_defaults_of_the_stage(parse, capsys):
    with pytest.raises(SystemExit) as end:
        parse(1, "--help")
    help = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert "peak learning rate (default: 0.005)" in help
    assert (
        "optimizer steps, overrides --epochs; 0 writes the untrained model (default: 600)" in help
    )


def test_the_result_depends_on_the_learning_rate_but_not_on_the_workers():
    settings = TrainConfig().result_settings()
    assert "lr" in settings
    assert "workers" not in settings


def test_the_micro_batch_is_by_default_a_rank_s_share():
    assert micro_batch_size(TrainConfig(batch=32), world_size=4) == 8
    assert micro_batch_size(TrainConfig(batch=32, micro_batch=2), world_size=4) == 2


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    with pytest.raises(UserError, match=r"--batch 12 \(global\) is not a multiple of the 8 ranks;"):
        micro_batch_size(TrainConfig(batch=12), world_size=8)


def test_a_batch_that_the_micro_batches_cannot_share_is_refused():
    with pytest.raises(UserError, match="is not a multiple of 2 ranks x --micro-batch 4; change"):
        micro_batch_size(TrainConfig(batch=12, micro_batch=4), world_size=2)


def test_the_largest_seed_and_epoch_fit_into_the_64_bits_of_torch():
    config = TrainConfig(seed=MAX_SEED, epochs=1_000_000)
    epoch_batches(samples=2, batch_size=1, epoch=config.epochs, seed=config.seed)
