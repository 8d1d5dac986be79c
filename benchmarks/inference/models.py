"""Random models of several sizes, ours and transformers' with the same weights, and their prompts.

transformers is imported where it is used: our own rows do not wait for it.
"""

import copy
import tempfile
from dataclasses import dataclass

import torch

from nanollava import LLaVA
from nanollava.config import LlamaConfig, LlavaConfig, VisionConfig
from nanollava.generate import decode_step, generate
from nanollava.hf.config import llama_config_json
from nanollava.hf.load import uninitialized
from nanollava.quantize import quantize_linear_layers

# vocabulary, width, width of the MLP, layers, heads
DECODERS = {
    "0.5M": LlamaConfig(512, 96, 256, 4, 4),
    "29M": LlamaConfig(4096, 512, 1376, 8, 8),
    "320M": LlamaConfig(8000, 1024, 2816, 24, 16),
}
# image size, patch size, width, width of the MLP, layers, heads
VIT_B = VisionConfig(224, 16, 768, 3072, 12, 12)
VIT_L_336 = VisionConfig(336, 14, 1024, 4096, 24, 16)  # the tower of LLaVA-1.5
UNUSED_TOWER = VisionConfig(32, 16, 32, 32, 2, 1)  # a LLaVA has one; prompts without image skip it

NO_END_TOKEN = -1  # no id: answers have the same length on both sides


@dataclass(frozen=True)
class Prompt:
    """What both sides answer to."""

    input_ids: torch.Tensor  # (1, T)
    pixel_values: torch.Tensor | None = None  # (1, 3, size, size)


def random_llava(
    text_config: LlamaConfig, vision_config: VisionConfig, dtype: torch.dtype, device="cpu"
) -> LLaVA:
    """A LLaVA with the same random weights each time, scaled so that activations stay near 1."""
    config = LlavaConfig(
        vision_config,
        text_config,
        image_token_id=text_config.vocab_size - 1,
        eos_token_id=NO_END_TOKEN,
    )
    with uninitialized():
        model = LLaVA(config)
    generator = torch.Generator(device).manual_seed(0)
    weights = {}
    for name, parameter in model.named_parameters():
        shape = parameter.shape
        if parameter.ndim > 1:
            fan_in = shape[1:].numel()
            weight = torch.randn(shape, generator=generator, device=device) * fan_in**-0.5
        elif name.endswith(".bias"):
            weight = torch.zeros(shape, device=device)
        else:  # norms and the class embedding
            weight = torch.ones(shape, device=device)
        weights[name] = weight.to(dtype)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def quantized_copy(model: LLaVA, name: str) -> LLaVA:
    """A copy whose decoder layers are quantized, as `load(quantize=name)` makes them."""
    quantized = copy.deepcopy(model)
    quantize_linear_layers(quantized.language_model.model.layers, name)
    return quantized


def transformers_llama(ours: LLaVA):
    """transformers' language model on the very weights of ours, which are not copied.

    Without an image it is the faster of transformers' two forms of a LLaVA.
    """
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    llama = ours.language_model
    config = transformers.LlamaConfig(**llama_config_json(llama.config))
    with uninitialized():
        theirs = transformers.LlamaForCausalLM(config)
    theirs.load_state_dict(llama.state_dict(), assign=True)
    # Its RoPE frequencies are no weights: make them again, not on the meta device.
    theirs.model.rotary_emb = LlamaRotaryEmbedding(config).to(llama.lm_head.weight.device)
    return theirs.eval()


def transformers_llava(ours: LLaVA):
    """transformers' LLaVA with the weights of ours, by way of files."""
    import transformers

    transformers.logging.set_verbosity_error()  # it warns of an end token that does not exist
    transformers.logging.disable_progress_bar()
    dtype = ours.language_model.lm_head.weight.dtype
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        theirs = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        for parameter in theirs.parameters():
            parameter.data = parameter.data.clone()  # in memory like ours, not in a mapped file
    return theirs.eval()


def random_prompt(model: LLaVA, tokens: int, with_image: bool = False) -> Prompt:
    """A prompt of `tokens` random ids; an image comes in addition, after the first 8."""
    config = model.config
    embedding = model.language_model.model.embed_tokens.weight
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(5, 500, (1, tokens), generator=generator)
    if not with_image:
        return Prompt(words.to(embedding.device))
    vision = config.vision_config
    patches = torch.full((1, vision.num_patches), config.image_token_id)
    input_ids = torch.cat([words[:, :8], patches, words[:, 8:]], dim=1)
    shape = (1, 3, vision.image_size, vision.image_size)
    pixel_values = torch.randn(shape, generator=generator)
    return Prompt(input_ids.to(embedding.device), pixel_values.to(embedding))


def our_answer(model: LLaVA, prompt: Prompt, tokens: int, step=decode_step) -> list[int]:
    """Greedy ids of our model."""
    (ids,) = generate(
        model, prompt.input_ids, prompt.pixel_values, max_new_tokens=tokens, step=step
    )
    return ids


def transformers_answer(model, prompt: Prompt, tokens: int, **options) -> list[int]:
    """Greedy ids of transformers' model."""
    if prompt.pixel_values is not None:
        options["pixel_values"] = prompt.pixel_values
    output = model.generate(
        input_ids=prompt.input_ids,
        attention_mask=torch.ones_like(prompt.input_ids),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    prompt_length = prompt.input_ids.shape[1]
    return output[0, prompt_length:].tolist()
