"""Tensor names: how every checkpoint layout spells ours.

Our names are those of `state_dict()`:

    LLaVA                  vision_tower.*, multi_modal_projector.*, language_model.*
    CLIPVisionTransformer  embeddings.*, pre_layrnorm.*, encoder.*, post_layernorm.*
    Llama                  model.*, lm_head.*
    Projector              linear_1.*, linear_2.*

The last parts of the names are Hugging Face's everywhere, so a layout is a table of prefixes.
"""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import UserError

# Tables that old versions of transformers saved; they are computed here.
BUFFERS = (".rotary_emb.inv_freq", ".position_ids")
# The language model of an original LLaVA.
ORIGINAL_LLM = ("model.embed_tokens.*", "model.layers.*", "model.norm.*", "lm_head.*")


class WeightsError(UserError):
    """A checkpoint that is missing, broken, or does not fit the model."""


def is_original(values: dict) -> bool:
    """Whether a config.json is that of an original LLaVA, the paper's release."""
    return "mm_vision_tower" in values


@dataclass(frozen=True)
class Layout:
    """The names of one checkpoint layout.

    `prefixes` are pairs (in the file, ours). Reading takes the first that matches the file's name,
    so a longer prefix comes before a shorter one. Writing takes the first that matches our name,
    so the spelling that is written comes before those that are only read.
    `drop` are patterns of tensors that are left out on purpose. A name that matches nothing is an
    error: no tensor is ignored silently.
    """

    name: str
    prefixes: tuple[tuple[str, str], ...]
    drop: tuple[str, ...] = ()

    def to_ours(self, name: str) -> str | None:
        """Our name of a tensor in a file, None if it is dropped, or a WeightsError."""
        if f".{name}".endswith(BUFFERS):
            return None
        if any(fnmatchcase(name, pattern) for pattern in self.drop):
            return None
        for file_prefix, our_prefix in self.prefixes:
            if name.startswith(file_prefix):
                return our_prefix + name.removeprefix(file_prefix)
        raise WeightsError(f"tensor {name!r} has no place in the {self.name} layout")

    def to_ours_in(self, file: str | Path, name: str) -> str | None:
        """As `to_ours`, with the file in the error."""
        try:
            return self.to_ours(name)
        except WeightsError as error:
            raise WeightsError(f"{file}: {error}") from None

    def to_file(self, name: str) -> str:
        """The name in a file of our parameter, or a WeightsError."""
        for file_prefix, our_prefix in self.prefixes:
            if name.startswith(our_prefix):
                return file_prefix + name.removeprefix(our_prefix)
        raise WeightsError(f"parameter {name!r} has no name in the {self.name} layout")


# A whole LLaVA, as transformers' LlavaForConditionalGeneration.
LLAVA = Layout(
    "llava-hf",
    prefixes=(
        # transformers 4 and the published llava-hf files. This is what we write: both read it.
        ("language_model.model.", "language_model.model."),
        ("language_model.lm_head.", "language_model.lm_head."),
        ("vision_tower.vision_model.", "vision_tower."),
        ("multi_modal_projector.", "multi_modal_projector."),
        ("vision_tower.", "vision_tower."),
        # transformers 5 has everything except lm_head inside `model`. Its towers come with and
        # without `vision_model`.
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.vision_model.", "vision_tower."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    ),
)

# A LLaVA with a connector that transformers' LLaVA does not have: the same names, for this package.
NANOLLAVA = replace(LLAVA, name="nanollava")

# CLIP's vision tower, alone or inside a larger model.
CLIP_VISION = Layout(
    "Hugging Face CLIP",
    prefixes=(
        # A whole CLIP, or a CLIPVisionModel of transformers 4.
        ("vision_model.", ""),
        # A CLIPVisionModel of transformers 5.
        ("embeddings.", "embeddings."),
        ("encoder.", "encoder."),
        ("pre_layrnorm.", "pre_layrnorm."),  # Hugging Face's spelling
        ("post_layernorm.", "post_layernorm."),
        # An original LLaVA that was saved with its vision tower.
        ("model.vision_tower.vision_tower.vision_model.", ""),
    ),
    drop=(
        # CLIP's text tower, and what compares the two towers.
        "text_model.*",
        "visual_projection.weight",
        "text_projection.weight",
        "logit_scale",
        # The rest of an original LLaVA.
        *ORIGINAL_LLM,
        "model.mm_projector.*",
    ),
)

# LLaMA and Vicuna, and the language model of an original LLaVA, which has the same names.
LLAMA = Layout(
    "Hugging Face Llama",
    prefixes=(
        ("model.", "model."),
        ("lm_head.", "lm_head."),
    ),
    drop=(
        # The rest of an original LLaVA.
        "model.mm_projector.*",
        "model.vision_tower.*",
    ),
)

# W alone: the result of stage 1, or the projector of an original LLaVA.
PROJECTOR_LAYOUT = Layout(
    "projector",
    prefixes=(
        # Ours; stage 1 writes this.
        ("multi_modal_projector.", ""),
        # The original's MLP is an nn.Sequential: 0 is the first layer, 1 the GELU, 2 the second.
        ("model.mm_projector.0.", "linear_1."),
        ("mm_projector.0.", "linear_1."),
        ("model.mm_projector.2.", "linear_2."),
        ("mm_projector.2.", "linear_2."),
        # The original's linear W is an nn.Linear.
        ("model.mm_projector.", "linear_1."),
        ("mm_projector.", "linear_1."),
    ),
    drop=(
        # The rest of an original LLaVA.
        *ORIGINAL_LLM,
        "model.vision_tower.*",
    ),
)
