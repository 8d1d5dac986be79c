"""LLaVA: CLIP's patches, projected into the word space, read by the language model in the places of the image token."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from . import int8
from .config import LlavaConfig
from .conversation import IGNORE_INDEX
from .files import read_json, write_json
from .generate import generate
from .hf import files as hf_files
from .hf import load as hf_load
from .hf import names as hf_names
from .hf.config import llava_config_json, parse_llava_config
from .llama import Llama
from .projector import Projector
from .vit import CLIPVisionTransformer

PROJECTOR_FILE = hf_files.PROJECTOR_FILES[0]  # what stage 1 writes


class LLaVA(nn.Module):
    """p(X_a | X_v, X_instruct): the vision tower g, the projector W and the language model."""

    def __init__(self, config: LlavaConfig):
        super().__init__()
        self.config = config
        vision, text = config.vision_config, config.text_config
        self.vision_tower = CLIPVisionTransformer(vision)
        self.multi_modal_projector = Projector(
            vision.hidden_size, text.hidden_size, config.projector
        )
        self.language_model = Llama(text)

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """H_v = W g(X_v): pictures (N, 3, H, W) to word-like vectors (N, P, D)."""
        features = self.vision_tower.features(pixel_values, self.config.vision_feature_layer)
        return self.multi_modal_projector(features)

    def embed(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Word vectors (B, T, D) of ids (B, T), the image places filled with H_v in reading order."""
        embeds = self.language_model.model.embed_tokens(input_ids)
        places = input_ids == self.config.image_token_id
        count, pictures = int(places.sum()), 0 if pixel_values is None else len(pixel_values)
        features = pictures * self.config.vision_config.num_patches
        if count != features:
            raise ValueError(f"{count} image places in input_ids, but {features} image features")
        if not pictures:
            return embeds
        images = self.encode_images(pixel_values.to(embeds.dtype))
        return embeds.masked_scatter(places.unsqueeze(-1), images.to(embeds.dtype))

    def forward(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits (B, T, vocab). `input_ids` (B, T) hold `config.image_token_id` once per image feature;
        `pixel_values` is (pictures, 3, H, W). Right padding needs no mask: attention is causal."""
        return self.language_model.lm_head(
            self.language_model.model(self.embed(input_ids, pixel_values))
        )

    def loss(self, input_ids, labels, pixel_values=None) -> tuple[torch.Tensor, torch.Tensor]:
        """L = - sum over labelled t of log p(x_t | x_<t) (paper, equation 3) and the number of labelled tokens. `labels`
        (B, T) repeat the id where it is trained and are -100 elsewhere; the first place is never predicted."""
        trained = F.pad(labels[:, 1:] != IGNORE_INDEX, (0, 1))  # places whose next id is labelled
        embeds = self.embed(input_ids, pixel_values)
        if (
            pixel_values is None
        ):  # W takes part in every step: all ranks must run the same backward pass
            embeds = embeds + 0.0 * sum(p.sum() for p in self.multi_modal_projector.parameters())
        states = self.language_model.model(embeds, keep=trained)
        logits = self.language_model.lm_head(states).float()  # (labelled tokens, vocab)
        loss = F.cross_entropy(logits, labels[:, 1:][trained[:, :-1]], reduction="sum")
        return loss, trained.sum()

    generate = generate  # the new ids of each prompt: see there

    @classmethod
    def compose(
        cls,
        vision: str | Path,
        llm: str | Path,
        projector: str | Path = "linear",
        image_token_id: int | None = None,
        device="cpu",
        dtype: torch.dtype | None = torch.float32,
        vision_feature_layer: int = -2,
        quantised: bool = False,
        mapped: bool = False,
    ) -> "LLaVA":
        """Joins a CLIP directory and a Llama directory, as both stages begin. `projector` is "linear" or "mlp2x_gelu" for a
        new W, or the result of stage 1 (directory or file). Without an `image_token_id` in the vocabulary, one row for it
        is added, and the vocabulary padded to a multiple of 64. `dtype` None keeps that of the files; `mapped` keeps it
        for tower and decoder blocks, and maps these into memory."""
        known = str(projector) in ("linear", "mlp2x_gelu")
        if not known and not Path(projector).exists():
            known = f"'linear', 'mlp2x_gelu' or a directory with {PROJECTOR_FILE}; run train_align.py first"
            raise hf_names.WeightsError(f"--projector {projector}: expected {known}")
        files = [] if known else hf_files.projector_files(projector)
        kind = str(projector) if known else hf_files.projector_kind(files)
        tower = CLIPVisionTransformer.from_pretrained(vision, device, None if mapped else dtype)
        llama = Llama.from_pretrained(llm, device, None if mapped else dtype, quantised)
        text = llama.config
        image_token_id = text.vocab_size if image_token_id is None else image_token_id
        if image_token_id > text.vocab_size:
            sizes = f"{image_token_id} tokens, its embedding only {text.vocab_size} rows"
            raise hf_names.WeightsError(f"{llm}: its tokenizer has {sizes}")
        if image_token_id == text.vocab_size:
            text = replace(text, vocab_size=(image_token_id // 64 + 1) * 64)
        config = LlavaConfig(
            tower.config, text, kind, vision_feature_layer, image_token_id=image_token_id
        )
        with hf_load.uninitialized():
            model = cls(config)
        model.vision_tower, joined = tower, model.language_model
        pairs = (
            (joined.model.embed_tokens, llama.model.embed_tokens),
            (joined.lm_head, llama.lm_head),
        )
        for layer, source in pairs:
            old = source.weight.detach().to(dtype or source.weight.dtype)
            # New rows are the mean of the old: neither likely nor large.
            rows = (
                old.float()
                .mean(0, keepdim=True)
                .expand(text.vocab_size - len(old), -1)
                .to(old.dtype)
            )
            layer.weight = nn.Parameter(torch.cat([old, rows]))
        llama.model.embed_tokens, llama.model.config = joined.model.embed_tokens, text
        joined.model = llama.model
        if text.tie_word_embeddings:
            joined.lm_head.weight = joined.model.embed_tokens.weight
        if known:
            W = Projector(tower.config.hidden_size, text.hidden_size, kind)
            model.multi_modal_projector = W.to(device, dtype or old.dtype)
        else:
            hf_load.load(model.multi_modal_projector, files, hf_names.PROJECTOR, device, dtype)
        return model

    @classmethod
    def from_pretrained(
        cls, path, device="cpu", dtype=None, vision=None, quantised: bool = False
    ) -> "LLaVA":
        """Loads a llava-hf directory, or an original LLaVA one; `dtype` None keeps that of the files, `quantised` makes
        the language model's layers int8 as they are read. The original names its vision tower: it is taken from
        `vision`, from the directory named, or from the checkpoint itself if it holds the tower too."""
        values = read_json(Path(path) / "config.json")
        if "mm_vision_tower" in values:
            tower, layer = (
                vision or values["mm_vision_tower"],
                values.get("mm_vision_select_layer", -2),
            )
            if not (Path(tower) / "config.json").is_file():
                if vision or not any(
                    name.startswith("model.vision_tower.") for name in hf_files.shapes(path)
                ):
                    missing = f"its vision tower {str(tower)!r} is not a directory here"
                    raise hf_names.WeightsError(
                        f"{path}: {missing}; give CLIP's directory with --vision"
                    )
                tower = path
            return cls.compose(tower, path, path, None, device, dtype, layer, quantised).eval()
        with hf_load.uninitialized():
            model = cls(parse_llava_config(values, f"{path}/config.json"))
        if quantised:
            int8.convert(model.language_model.model.layers)
        hf_load.load(model, path, hf_names.LLAVA, device, dtype)
        return model.eval()

    def save_pretrained(
        self, path: str | Path, state: dict[str, torch.Tensor] | None = None
    ) -> None:
        """Writes config.json and safetensors that `transformers.LlavaForConditionalGeneration` loads unmodified. `state`
        stands for the module's own state dict, where that one is sharded or of another dtype."""
        Path(path).mkdir(parents=True, exist_ok=True)
        hf_files.save(state or self.state_dict(), path, hf_names.LLAVA)
        write_json(Path(path) / "config.json", llava_config_json(self.config))
