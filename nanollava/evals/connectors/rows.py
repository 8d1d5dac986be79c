"""What is compared: every connector on the same images, tower, decoder, steps and batch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One row of the table: a connector and its sizes."""

    name: str
    projector: str
    flags: tuple[str, ...] = ()  # of train_align.py
    image_tokens: int | None = None
    has_qformer_stage: bool = False  # begins with the result of train_qformer


def with_tokens(projector: str, image_tokens: int) -> Row:
    return Row(f"{projector}-{image_tokens}", projector, image_tokens=image_tokens)


TOKENS = 16  # image tokens where their number is not varied

ROWS = (
    Row("linear", "linear"),
    Row("mlp2x_gelu", "mlp2x_gelu"),
    with_tokens("resampler", 4),
    with_tokens("resampler", 16),
    with_tokens("resampler", 64),
    with_tokens("qwen", 4),
    with_tokens("qwen", 16),
    with_tokens("qwen", 64),
    with_tokens("abstractor", 17),  # 16 queries and the end of the image
    with_tokens("qformer", TOKENS),
    Row(f"qformer-{TOKENS}-stage-1", "qformer", image_tokens=TOKENS, has_qformer_stage=True),
    Row(f"minigpt4-{TOKENS}", "minigpt4", image_tokens=TOKENS, has_qformer_stage=True),
    with_tokens("gated_xattn", TOKENS),
    Row(f"gated_xattn-{TOKENS}-all", "gated_xattn", ("--sees", "all"), TOKENS),
)
# Peak learning rates of the two stages, from the lowest. Every row takes the best of each. The
# middle ones are the scripts' defaults, which were tuned for "linear".
STAGE_1_RATES = (1.5e-3, 5e-3, 1.5e-2)
STAGE_2_RATES = (5e-4, 1.5e-3, 4.5e-3)
LANGUAGE_MODELS = ("trained", "frozen")  # in stage 2
SAMPLES = (500, 2000, 8000)  # of each stage, which passes over them once
