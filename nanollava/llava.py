"""LLaVA: CLIP's patch features, projected into the word embedding space, take the positions of the
image token in the language model's input.

B sequences of T tokens, N images of all sequences together, D the language model's width.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from . import schema
from .config import CONNECTORS, IGNORE_INDEX, PROJECTORS, ConnectorConfig, LlavaConfig
from .connectors.build import build_connector
from .errors import ConfigError
from .files import read_json
from .generate import generate
from .hf import files as hf_files
from .hf.config import is_ours, llava_config_json, parse_llava_config
from .hf.connector import check_connector, connector_of
from .hf.load import build, load, read_special_ids, uninitialized
from .hf.names import LLAVA, NANOLLAVA, PROJECTOR_LAYOUT, Layout, WeightsError, is_original
from .hf.original import check_tower, original_tower
from .llama import KVCache, Llama
from .projector import Connector
from .quantize import quantize_linear_layers
from .vit import CLIPVisionTransformer


class LLaVA(nn.Module):
    """p(X_a | X_v, X_instruct): the vision tower g, the projector W and the language model."""

    def __init__(self, config: LlavaConfig):
        super().__init__()
        self.config = config
        vision_tower = CLIPVisionTransformer(config.vision_config)
        connector = build_connector(config)
        self.set_parts(vision_tower, connector, Llama(config.text_config))

    def set_parts(
        self, vision_tower: CLIPVisionTransformer, connector: Connector, language_model: Llama
    ) -> None:
        """Makes the model of its three parts."""
        self.vision_tower = vision_tower
        self.multi_modal_projector = connector
        self.language_model = language_model
        self.add_blocks(connector.decoder_blocks())

    def add_blocks(self, blocks: dict[int, nn.Module]) -> None:
        """Runs a connector's blocks before decoder layers, which only `GatedLLaVA` can.

        Here any block is a ConfigError.
        """
        if blocks:
            kind = self.config.projector
            raise ConfigError(f"{kind}: made by GatedLLaVA; nanollava.load opens every LLaVA")

    def blocks(self) -> list[nn.Module]:
        """The decoder layers and what the connector adds to them: what is sharded one by one."""
        added = self.multi_modal_projector.decoder_blocks().values()
        return [*self.language_model.model.layers, *added]

    def new_cache(self, batch: int) -> KVCache:
        """An empty cache for generation, of `batch` rows."""
        weight = self.language_model.model.embed_tokens.weight
        return KVCache(self.config.text_config, batch, like=weight)

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """H_v = W g(X_v): images (N, 3, height, width) to word-like vectors (N, tokens, D).

        `tokens` is the config's `num_image_tokens`: one per patch with the paper's W. The tower may
        have another dtype than the rest: CLIP's files are often float32, and LLaVA's float16.
        """
        Z_v = self.vision_tower.features(pixel_values, self.config.vision_feature_layer)
        return self.multi_modal_projector(Z_v.to(pixel_values.dtype))

    def embed(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The language model's input (B, T, D): word vectors, with the image features spliced in.

        `input_ids` (B, T) hold the image token once per image feature. These positions take the
        rows of H_v in reading order: images in order, each image's patches row by row.
        """
        embeds = self.language_model.model.embed_tokens(input_ids)
        is_image = input_ids == self.config.image_token_id  # (B, T)
        num_images = 0 if pixel_values is None else len(pixel_values)
        num_features = num_images * self.config.num_image_tokens
        num_positions = int(is_image.sum())
        if num_positions != num_features:
            found = f"{num_positions} image positions in input_ids, but {num_features} features"
            raise ValueError(f"{found} of {num_images} images")
        if num_images == 0:
            return embeds
        H_v = self.encode_images(pixel_values.to(embeds.dtype))
        return embeds.masked_scatter(is_image.unsqueeze(-1), H_v.to(embeds.dtype))

    def last_hidden_state(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        position: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        kv_cache: KVCache | None = None,
    ) -> torch.Tensor:
        """The decoder's states (B, T, D) of ids (B, T) and images (N, 3, height, width).

        `position`, `mask` and `kv_cache` are for generation, see `LlamaModel`.
        """
        embeds = self.embed(input_ids, pixel_values)
        return self.language_model.model(embeds, position, mask, kv_cache)

    def forward(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits (B, T, vocab) of ids (B, T) and images (N, 3, height, width).

        Right padding needs no mask: attention is causal, so no token sees the padding after it.
        """
        return self.language_model.lm_head(self.last_hidden_state(input_ids, pixel_values))

    def loss(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the summed cross-entropy of the labelled tokens, and their number.

        The sum is the negative log of equation 3 in the paper: - sum_t log p(x_t | x_<t) over the
        labelled t. `input_ids` (B, T) and images (N, 3, height, width) are as in `forward`.
        `labels` (B, T) are the ids at trained positions and IGNORE_INDEX elsewhere. The caller
        divides by the labels of all micro-batches and ranks.
        """
        embeds = self.embed(input_ids, pixel_values)
        if pixel_values is None:
            # W takes part in text-only batches, too, with a gradient of zero: FSDP reduces the same
            # gradients on all ranks, and in stage 1 nothing else needs a backward pass.
            embeds = embeds + 0.0 * sum(p.sum() for p in self.multi_modal_projector.parameters())
        return self.labelled_loss(self.language_model.model(embeds), labels)

    def labelled_loss(
        self, hidden_states: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed cross-entropy of the decoder's states (B, T, D), and the number of labels."""
        # The state at t predicts the id at t + 1: states drop the last, labels the first position.
        next_labels = labels[:, 1:]
        is_labelled = next_labels != IGNORE_INDEX  # (B, T - 1)
        # Logits are computed for labelled positions alone: most of a prompt needs none.
        labelled_states = hidden_states[:, :-1][is_labelled]  # (labels, D)
        logits = self.language_model.lm_head(labelled_states).float()  # (labels, vocab)
        loss_sum = F.cross_entropy(logits, next_labels[is_labelled], reduction="sum")
        return loss_sum, is_labelled.sum()

    def generate(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None, **options
    ) -> list[list[int]]:
        """The new ids of each prompt; `options` as for `nanollava.generate.stream`."""
        return generate(self, input_ids, pixel_values, **options)

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
        quantize: str | None = None,
        connector: ConnectorConfig | None = None,
    ) -> "LLaVA":
        """Joins a CLIP directory, a Llama directory and a projector: how both stages begin.

        `projector` is the name of a new one, such as "linear", else a directory or file that holds
        one. `connector` has the sizes of a new one that is not "linear" or "mlp2x_gelu".
        `image_token_id` defaults to the first id after the vocabulary. `dtype` None keeps the
        files' dtypes; a new projector, which comes from no file, is float32 then. `quantize` as for
        `from_pretrained`.
        """
        check_tower(vision, llm)
        vision_tower = CLIPVisionTransformer.from_pretrained(vision, device=device, dtype=dtype)
        prepare = partial(prepare_quantization, quantize=quantize)
        language_model = Llama.from_pretrained(llm, device=device, dtype=dtype, prepare=prepare)
        if image_token_id is None:
            image_token_id = language_model.config.vocab_size
        add_image_token(language_model, image_token_id, llm)
        kind, connector = new_or_saved_projector(projector, connector)
        config = LlavaConfig(
            vision_config=vision_tower.config,
            text_config=language_model.config,
            projector=kind,
            vision_feature_layer=vision_feature_layer,
            image_token_id=image_token_id,
            connector=connector,
            **read_special_ids(llm),
        )
        is_new = str(projector) in PROJECTORS + CONNECTORS
        if is_new:
            W = build_connector(config)
            W.to(device, torch.float32 if dtype is None else dtype)
        else:
            W = load_projector(projector, config, device, dtype)
        # The model is made with empty parts, which take no memory; the loaded ones replace them.
        with uninitialized():
            model = cls(config)
        model.set_parts(vision_tower, W, language_model)
        return model

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device="cpu",
        dtype: torch.dtype | None = None,
        vision: str | Path | None = None,
        quantize: str | None = None,
        image_token_id: int | None = None,
    ) -> "LLaVA":
        """Loads a llava-hf directory or an original LLaVA.

        `dtype` None keeps the files' dtype. `quantize` "int8" or "int4" quantizes the linear layers
        of the decoder while they are read. An original LLaVA often only names its vision tower:
        `vision` then gives the CLIP directory; for any other LLaVA it must be None. The original's
        config has no `image_token_id` either: give the first id that its tokenizer leaves free; the
        default is the first one after its embedding.
        """
        values = read_json(Path(path) / "config.json")
        if is_original(values):
            tower = original_tower(path, values, vision)
            where = f"{path}/config.json"
            layer = schema.optional(values, "mm_vision_select_layer", int, where, default=-2)
            model = cls.compose(
                vision=tower,
                llm=path,
                projector=path,
                image_token_id=image_token_id,
                device=device,
                dtype=dtype,
                vision_feature_layer=layer,
                quantize=quantize,
            )
            return model.eval()
        if vision is not None:
            raise ConfigError(f"--vision {vision}: {path} has its own vision tower; omit --vision")
        config = parse_llava_config(values, f"{path}/config.json")
        prepare = partial(prepare_quantization, quantize=quantize)
        return build(cls, config, path, layout(config), device, dtype, prepare)

    def save_pretrained(
        self, path: str | Path, state: dict[str, torch.Tensor] | None = None
    ) -> None:
        """Writes what `transformers.LlavaForConditionalGeneration` loads: weights and config.json.

        With a connector that transformers' LLaVA does not have, it is the layout "nanollava", which
        only this package loads.

        `state` replaces the module's own state dict, where that is sharded or of another dtype.
        Tied embeddings are written once.
        """
        Path(path).mkdir(parents=True, exist_ok=True)
        weights = dict(self.state_dict() if state is None else state)
        if self.config.text_config.tie_word_embeddings:
            weights.pop("language_model.lm_head.weight", None)
        hf_files.save(weights, path, layout(self.config), llava_config_json(self.config))


def prepare_quantization(model: nn.Module, quantize: str | None) -> None:
    """Replaces the linear layers of the decoder's blocks, in a LLaVA or a Llama without weights."""
    if quantize is not None:
        llama = model.language_model if isinstance(model, LLaVA) else model
        quantize_linear_layers(llama.model.layers, quantize)


def add_image_token(llama: Llama, image_token_id: int, path: str | Path) -> None:
    """Makes sure that the vocabulary has the image token.

    Its id must be in the vocabulary already, or be the next one after it.
    """
    vocab_size = llama.config.vocab_size
    if image_token_id > vocab_size:
        sizes = f"{image_token_id} tokens, its embedding only {vocab_size} rows"
        raise WeightsError(f"{path}: its tokenizer has {sizes}")
    if image_token_id == vocab_size:
        multiple_of_64 = (image_token_id // 64 + 1) * 64  # as llava-hf pads it
        resize_embeddings(llama, multiple_of_64)


def resize_embeddings(llama: Llama, vocab_size: int) -> None:
    """Adds rows to embedding and head.

    New rows are the mean of the old ones, so they are neither likely nor of unusual norm.
    """
    for layer in (llama.model.embed_tokens, llama.lm_head):
        old = layer.weight.detach()
        mean = old.float().mean(0, keepdim=True).to(old.dtype)
        new_rows = mean.expand(vocab_size - len(old), -1)
        layer.weight = nn.Parameter(torch.cat([old, new_rows]))
    if llama.config.tie_word_embeddings:
        llama.lm_head.weight = llama.model.embed_tokens.weight
    llama.model.embed_tokens.num_embeddings = vocab_size
    llama.lm_head.out_features = vocab_size
    llama.config = replace(llama.config, vocab_size=vocab_size)
    llama.model.config = llama.config


def layout(config: LlavaConfig) -> Layout:
    """The names of tensors in the files of a complete LLaVA."""
    return NANOLLAVA if is_ours(config) else LLAVA


def new_or_saved_projector(
    projector: str | Path, sizes: ConnectorConfig | None = None
) -> tuple[str, ConnectorConfig | None]:
    """One of PROJECTORS or CONNECTORS, and its sizes: those of a new one, or of a saved one."""
    names = PROJECTORS + CONNECTORS
    if str(projector) in names:
        return str(projector), sizes
    if not Path(projector).exists():
        error = f"--projector {projector}: no such file or directory"
        expected = f"expected {' or '.join(names)} for a new one, or a directory with one"
        raise WeightsError(f"{error}; {expected}; run train_align.py first")
    return connector_of(projector)


def load_projector(
    source: str | Path, config: LlavaConfig, device, dtype: torch.dtype | None
) -> Connector:
    """The projector in a directory or file, as stage 1 or the original LLaVA wrote it."""
    files = hf_files.projector_files(source)
    with uninitialized():
        W = build_connector(config)
    if config.connector is not None:
        check_connector(files, W, config.projector)
    load(W, files, PROJECTOR_LAYOUT, device, dtype)
    return W
