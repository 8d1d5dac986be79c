"""The settings of a training: TrainConfig, the published recipes, and the command line."""

# ruff: noqa: RUF009 - `affects_result` and `run_option` return dataclass fields

import argparse
import math
from dataclasses import Field, asdict, dataclass, field, fields
from types import UnionType
from typing import Any, get_args

from ..config import CONNECTORS, PROJECTORS, SEES
from ..conversation import CHAT_TEMPLATES, IMAGE_POSITIONS, TEMPLATES
from ..device import DTYPES
from ..errors import UserError
from ..flags import MAX_SEED, check_number, check_texts, flag_name

# Far above any training. Larger values would only make it hang.
MAX_STEPS = 10**8 - 1  # a checkpoint's name has eight digits
MAX_BATCH = 2**20
MAX_COUNT = 10**12  # of any other integer flag
MAX_LAYERS = 1024  # of a connector, as in its saved config
MAX_CONNECTOR_SIZE = 2**14  # width, or vectors per image; more does not fit into memory
# The sizes of a new connector that is not one of PROJECTORS.
CONNECTOR_FLAGS = (
    "image_tokens",
    "connector_layers",
    "connector_width",
    "layers_per_block",
    "sees",
)
# The settings that a finished LLaVA, the value of --model, already determines.
PARTS_OF_A_MODEL = (
    "vision",
    "llm",
    "projector",
    "vision_layer",
    "image_mode",
    "qformer",
    *CONNECTOR_FLAGS,
)

# The published recipes, and where their values come from:
#
# paper  Visual Instruction Tuning, section 5: CC-595K for one epoch, then LLaVA-Instruct-158K for
#        three.
# v1     The release after the paper: stage 1 on LCS-558K without an instruction, and the prompt of
#        Vicuna v1.
# v1.5   Improved Baselines with Visual Instruction Tuning, table of hyperparameters: a projector of
#        two layers, images padded to a square, LLaVA-Mix-665K.
#
# `samples` is the size of the data set; only `--plan` uses it.
SHARED = {
    "max_length": 2048,  # Vicuna v1's context, in the release's scripts
    "warmup": 0.03,  # all three releases
    "checkpoint_activations": True,  # the release's scripts; does not change the result
    "workers": 4,  # the release's scripts; does not change the result
}
RECIPES = {
    "paper": {
        1: {
            **SHARED,
            "template": "v0",  # the instruction stays before the caption
            "image_position": "as_written",  # the paper draws the order at random, equation 2
            "projector": "linear",
            "image_mode": "crop",  # CLIP's own preprocessing
            "group": False,
            "batch": 128,
            "lr": 2e-3,
            "epochs": 1,
            "samples": 595_375,  # CC-595K
        },
        2: {
            **SHARED,
            "template": "v0",
            "image_position": "as_written",
            "image_mode": "crop",
            "group": False,
            "batch": 32,
            "lr": 2e-5,
            "epochs": 3,
            "samples": 157_712,  # LLaVA-Instruct-158K
        },
    },
    "v1": {
        1: {
            **SHARED,
            "template": "plain",  # v1 drops the instruction: image, caption, newline
            "image_position": "front",
            "projector": "linear",
            "image_mode": "crop",
            "group": False,
            "batch": 128,
            "lr": 2e-3,
            "epochs": 1,
            "samples": 558_128,  # LCS-558K
        },
        2: {
            **SHARED,
            "template": "vicuna_v1",
            "image_position": "front",
            "image_mode": "crop",
            "group": False,
            "batch": 32,
            "lr": 2e-5,
            "epochs": 3,
            "samples": 157_712,
        },
    },
    "v1.5": {
        1: {
            **SHARED,
            "template": "plain",
            "image_position": "front",
            "projector": "mlp2x_gelu",  # v1.5's change to the architecture
            "image_mode": "crop",
            "group": False,
            "batch": 256,
            "lr": 1e-3,  # half of v1's: the MLP needs it
            "epochs": 1,
            "samples": 558_128,
        },
        2: {
            **SHARED,
            "template": "vicuna_v1",
            "image_position": "front",
            "image_mode": "pad",  # keep the borders of wide images
            "group": True,  # the mix contains conversations without images
            "batch": 128,
            "lr": 2e-5,
            "epochs": 1,
            "samples": 665_298,  # LLaVA-Mix-665K
        },
    },
}


def affects_result(
    default, help: str, *, minimum=None, above=None, maximum=None, choices=None
) -> Any:
    """A field on which the result depends. A run resumes only with the value it began with."""
    return _field(True, default, help, minimum, above, maximum, choices)


def run_option(default, help: str, *, minimum=None, above=None, maximum=None, choices=None) -> Any:
    """A field on which the result does not depend. It may change when a run resumes."""
    return _field(False, default, help, minimum, above, maximum, choices)


def _field(affects_result: bool, default, help: str, minimum, above, maximum, choices) -> Any:
    """A dataclass field with its help text: minimum <= value <= maximum, and above < value."""
    metadata = {
        "affects_result": affects_result,
        "help": help,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "choices": choices,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training. Each field is also a flag: `micro_batch` is --micro-batch."""

    # Model: either a finished LLaVA, or its parts.
    model: str | None = affects_result(
        None,
        "a finished LLaVA directory (ours, llava-hf or original) to continue from, with its "
        "tokenizer and image processing; instead of --vision, --llm and --projector",
    )
    vision: str | None = affects_result("checkpoints/toy-clip", "Hugging Face CLIP directory")
    llm: str | None = affects_result("checkpoints/toy-vicuna", "Hugging Face Llama directory")
    projector: str | None = affects_result(
        "linear", f"a new one ({', '.join(PROJECTORS + CONNECTORS)}), or the result of stage 1"
    )
    vision_layer: int | None = affects_result(
        -2, "hidden state of the vision tower that the projector reads; -1 is the last"
    )

    # Sizes of a new connector; by default as published, in proportion to the tower.
    image_tokens: int | None = affects_result(
        None,
        "a new connector's vectors per image, which the language model reads; for gated_xattn the "
        "latents, which its blocks read",
        minimum=1,
        maximum=MAX_CONNECTOR_SIZE,
    )
    connector_layers: int | None = affects_result(
        None, "a new connector's layers", minimum=1, maximum=MAX_LAYERS
    )
    connector_width: int | None = affects_result(
        None, "a new Q-Former's width, a multiple of 64", minimum=64, maximum=MAX_CONNECTOR_SIZE
    )
    layers_per_block: int | None = affects_result(
        None,
        "gated_xattn: one gated block before every so many decoder layers",
        minimum=1,
        maximum=MAX_LAYERS,
    )
    sees: str | None = affects_result(
        None,
        "gated_xattn: a word attends to the last image before it (the default), or to all of them",
        choices=SEES,
    )
    qformer: str | None = affects_result(
        None, "a new qformer or minigpt4 begins with this result of train_qformer"
    )
    freeze_llm: bool = affects_result(False, "do not train the language model in stage 2")

    # Data. The file may move: a checkpoint knows its content by a checksum.
    data: str | None = run_option(
        None, "LLaVA JSON file; Toyland's is generated if the folder of the default is missing"
    )
    images: list[str] | None = run_option(
        None,
        "where the images are: folders, .zip or .tar archives, PREFIX=ARCHIVE for names that begin "
        "with PREFIX/; default: the folder of the data file",
    )
    template: str = affects_result("vicuna_v1", "prompt template", choices=TEMPLATES)
    image_position: str = affects_result(
        "front",
        "where an image is in its turn: moved to the front, or as the record has it; several "
        "images stay as written",
        choices=IMAGE_POSITIONS,
    )
    image_mode: str | None = affects_result(
        "crop",
        "how an image becomes a square: cut out the center, or pad the shorter side",
        choices=("crop", "pad"),
    )
    max_length: int = affects_result(
        1024, "maximum tokens of a sample, image tokens included; longer ones are cut", minimum=1
    )
    check_images: bool = run_option(False, "decode every image before the first step")
    skip_bad: bool = run_option(False, "leave out bad records, and count them, instead of stopping")
    workers: int = run_option(
        0,
        "processes per rank that read data ahead; before that, threads that check the records",
        minimum=0,
        maximum=256,
    )

    # Optimization
    recipe: str | None = run_option(
        None, "all values of a published stage at once; other flags override it", choices=RECIPES
    )
    batch: int = affects_result(
        32, "samples per optimizer step, over all ranks", minimum=1, maximum=MAX_BATCH
    )
    micro_batch: int | None = run_option(
        None, "samples per forward pass on one rank; default: batch / ranks", minimum=1
    )
    epochs: int = affects_result(1, "passes over the data", minimum=1, maximum=1_000_000)
    max_steps: int | None = affects_result(
        None,
        "optimizer steps, overrides --epochs; 0 writes the untrained model",
        minimum=0,
        maximum=MAX_STEPS,
    )
    lr: float = affects_result(1e-3, "peak learning rate", above=0)
    warmup: float = affects_result(
        0.03, "fraction of the steps in which the learning rate rises", minimum=0, maximum=1
    )
    max_grad_norm: float = affects_result(
        1.0, "gradients with a larger norm are scaled down to it", above=0
    )
    group: bool = affects_result(
        False, "batches of one modality, micro-batches of samples of similar length"
    )
    seed: int = affects_result(
        0, "seed of the sample order and of a new projector", minimum=0, maximum=MAX_SEED
    )

    # Computation
    device: str = run_option("auto", "auto, cpu or cuda")
    dtype: str = affects_result(
        "auto",
        "dtype of the computation; auto: bf16 on CUDA, else fp32; master weights are fp32",
        choices=("auto", "fp32", "bf16"),
    )
    checkpoint_activations: bool = run_option(
        False, "recompute each block in the backward pass instead of keeping its activations"
    )
    compile: bool = run_option(False, "torch.compile each block")
    offload_optimizer: bool = run_option(
        False, "keep fp32 weights, gradients and AdamW's state in CPU memory"
    )

    # Output, checkpoints and resume
    out: str = run_option(
        "out", "directory for the result, metrics.jsonl, training.json, checkpoints/"
    )
    save_dtype: str = run_option("fp16", "dtype of the saved weights", choices=tuple(DTYPES))
    resume: str = run_option(
        "auto",
        "auto: resume from the newest checkpoint in OUT; never: stop if there is one",
        choices=("auto", "never"),
    )
    save_steps: int = run_option(0, "steps between checkpoints; 0: by time only", minimum=0)
    save_minutes: float = run_option(
        30.0, "minutes between checkpoints; 0: by steps only", minimum=0
    )
    keep: int = run_option(2, "checkpoints to keep", minimum=1)

    # Evaluation and metrics
    validation: str | None = run_option(
        None, "LLaVA JSON file whose loss is measured, images as for --data"
    )
    eval_steps: int = run_option(0, "steps between evaluations; 0: none", minimum=0)
    toyland_scenes: int = run_option(
        0, "Toyland scenes to score at each evaluation", minimum=0, maximum=1_000_000
    )
    tensorboard: bool = run_option(False, "also write OUT/tensorboard")

    # Planning
    plan: bool = run_option(False, "print parameters, memory, FLOPs, hours and traffic, then stop")
    gpus: int = run_option(8, "plan: GPUs in total", minimum=1)
    nodes: int = run_option(1, "plan: machines they are in", minimum=1)
    mfu: float = run_option(
        0.4, "plan: expected fraction of the peak FLOP/s", minimum=1e-6, maximum=1
    )
    peak_tflops: float = run_option(
        312.0, "plan: of one GPU in bf16; A100 312, H100 989", minimum=1e-6, maximum=1e6
    )
    tokens: int = run_option(640, "plan: tokens per sample, image tokens included", minimum=2)
    samples: int | None = run_option(
        None, "plan: size of the data set; default: the recipe's, or that of --data", minimum=1
    )

    def __post_init__(self):
        for setting in fields(self):
            check_texts(self, setting.name)
            check_bounds(self, setting)
        if (self.validation or self.toyland_scenes) and not self.eval_steps:
            raise UserError(
                "--validation or --toyland-scenes: also give --eval-steps; without it nothing is "
                "measured"
            )
        if self.eval_steps and not (self.validation or self.toyland_scenes):
            raise UserError(
                f"--eval-steps {self.eval_steps}: also give --validation or --toyland-scenes; "
                "without one of them nothing is measured"
            )
        if self.toyland_scenes and self.template not in CHAT_TEMPLATES:
            raise UserError(
                f"--toyland-scenes: asks questions, which template {self.template} leaves out; "
                "omit it, or use --validation"
            )

    def result_settings(self) -> dict:
        """The fields on which the result depends."""
        values = asdict(self)
        return {f.name: values[f.name] for f in fields(self) if f.metadata["affects_result"]}


def check_bounds(config: TrainConfig, setting: Field) -> None:
    """Raise a UserError if the value of a numeric field is out of bounds or not finite."""
    value = getattr(config, setting.name)
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{flag_name(setting.name)} {value}: expected a finite number")
    bounds = {name: setting.metadata[name] for name in ("minimum", "above", "maximum")}
    if isinstance(value, int) and bounds["maximum"] is None:
        bounds["maximum"] = MAX_COUNT
    check_number(config, setting.name, **bounds)


def micro_batch_size(config: TrainConfig, world_size: int) -> int:
    """Samples of one forward pass on one rank. All ranks and rounds together make up the batch."""
    size = config.micro_batch
    if size is None:
        if config.batch % world_size != 0:
            raise UserError(
                f"--batch {config.batch} (global) is not a multiple of the {world_size} ranks; "
                "change one of them"
            )
        return config.batch // world_size
    if config.batch % (world_size * size) != 0:
        raise UserError(
            f"--batch {config.batch} (global) is not a multiple of {world_size} ranks x "
            f"--micro-batch {size}; change one of the three"
        )
    return size


def is_due(steps_done: int, interval: int) -> bool:
    """Whether `steps_done` is a multiple of `interval`. An interval of 0 is never due."""
    return interval > 0 and steps_done % interval == 0


def combine(stage_defaults: dict, recipe: dict, flags: dict) -> TrainConfig:
    """Merges settings; later ones win: defaults, stage, recipe, flags."""
    values = dict(stage_defaults)
    # The stage's default number of steps is Toyland's. Epochs that somebody asks for replace it,
    # and so does the size of the data in a plan.
    plans_samples = "samples" in flags and flags.get("plan", False)
    if "epochs" in recipe or "epochs" in flags or plans_samples:
        values["max_steps"] = None
    values.update(recipe)
    values.update(flags)
    if "model" in flags:
        drop_parts(values, flags)
    return TrainConfig(**values)


def drop_parts(values: dict, flags: dict) -> None:
    """Unset what a finished LLaVA already has. A UserError if a flag gives one of them."""
    for name in PARTS_OF_A_MODEL:
        if name in flags:
            raise UserError(
                f"--model {flags['model']} and {flag_name(name)} {flags[name]}: "
                "a finished LLaVA has its own; omit one of the two"
            )
        values[name] = None


def parse_config(description: str, stage: int, stage_defaults: dict) -> TrainConfig:
    """The command line of a stage's script as a TrainConfig."""
    flags = vars(flag_parser(description, stage_defaults).parse_args())
    recipe = {}
    if "recipe" in flags:
        recipe = RECIPES[flags["recipe"]][stage]
    return combine(stage_defaults, recipe, flags)


def flag_parser(description: str, stage_defaults: dict) -> argparse.ArgumentParser:
    """A parser with one flag per field of TrainConfig. Flags that are not given stay unset."""
    parser = argparse.ArgumentParser(
        description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for setting in fields(TrainConfig):
        flag = flag_name(setting.name)
        help = setting.metadata["help"]
        default = stage_defaults.get(setting.name, setting.default)
        if default is not None:
            help += f" (default: {default})"
        value_type = flag_type(setting)
        if value_type is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=help)
        elif value_type == list[str]:
            parser.add_argument(flag, nargs="+", help=help)
        else:
            choices = setting.metadata["choices"]
            parser.add_argument(flag, type=value_type, choices=choices, help=help)
    return parser


def flag_type(setting: Field) -> type:
    """The type of a flag's value: `int` for fields of type `int` and `int | None`."""
    if isinstance(setting.type, UnionType):
        return get_args(setting.type)[0]
    return setting.type
