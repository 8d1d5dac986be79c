"""A LLaVA with all that a question needs: tokenizer, image processing and prompt template.

from nanollava import load

assistant = load("checkpoints/toy-llava")
print(assistant.ask("cat.jpg", "What color is the cat?"))
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image, ImageFile

from .compiled import compile_step
from .conversation import CHAT_TEMPLATES, IMAGE, find_template
from .device import DTYPES, pick_device
from .errors import UserError
from .files import shipped
from .generate import decode_step, stream
from .image import ImageConfig, open_image, turn_upright
from .llava import LLaVA
from .loading import load_llava
from .streaming import TextStream, answer_dialogues, encode_prompt, image_tensor
from .tokenizer import Tokenizer

Images = str | Path | Image.Image | list | tuple | None


def load(
    path: str | Path,
    device: str = "auto",
    dtype: torch.dtype | str | None = None,
    quantize: str | None = None,
    template: str = "vicuna_v1",
    vision: str | Path | None = None,
    compile: bool = False,
) -> "Assistant":
    """Loads a LLaVA directory with its tokenizer and image processing.

    `device` "auto" picks the first available of cuda, mps and cpu. `dtype` None is float32 on a CPU
    and float16 elsewhere, with `quantize` ("int8", "int4") bfloat16. `template` is the prompt form
    the model was trained with. `vision` is CLIP's directory, for an original LLaVA that only names
    its tower. `compile` makes the first answer of `ask` and `stream` slow and the later ones
    faster; `batch` is not compiled.
    """
    if template not in CHAT_TEMPLATES:
        raise UserError(f"template {template!r}: expected {', '.join(CHAT_TEMPLATES)}")
    path = shipped(path)
    if vision is not None:
        vision = shipped(vision)
    device = pick_device(device)
    if dtype is None:
        dtype = default_dtype(device, quantize)
    elif isinstance(dtype, str):
        if dtype not in DTYPES:
            raise UserError(f"dtype {dtype!r}: expected {', '.join(DTYPES)}")
        dtype = DTYPES[dtype]
    model, tokenizer, image_config = load_llava(path, device, dtype, vision, quantize)
    if compile and model.config.projector == "gated_xattn":
        raise UserError("--compile: not for a model with gated_xattn; omit it")
    step = compile_step(model) if compile else decode_step
    return Assistant(model, tokenizer, image_config, template, step)


def default_dtype(device: torch.device, quantize: str | None) -> torch.dtype:
    """bfloat16 for quantized layers, because their kernels need it; else fp32 on a CPU, or fp16."""
    if quantize is not None:
        return torch.bfloat16
    return torch.float32 if device.type == "cpu" else torch.float16


class Assistant:
    """Answers questions about images. Made by `load`.

    It keeps the KV cache of its last question: after a change of the weights, make another one.
    """

    def __init__(
        self,
        model: LLaVA,
        tokenizer: Tokenizer,
        image_config: ImageConfig,
        template: str = "vicuna_v1",
        step: Callable = decode_step,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.image_config = image_config
        self.template = template
        self.step = step
        self.last_prompt = CachedPrompt(model)

    def ask(
        self,
        images: Images,
        question: str,
        history: list[tuple[str, str]] | None = None,
        **options,
    ) -> str:
        """The answer to a question about one image or several: paths or PIL images.

        `history` holds the earlier (question, answer) pairs about the same images. `options` are
        fields of `SamplingConfig`, for example `max_new_tokens=64` or `temperature=0.2`.
        """
        reply = self.stream(images, question, history, **options)
        for _ in reply:
            pass
        return reply.text

    def stream(
        self,
        images: Images,
        question: str,
        history: list[tuple[str, str]] | None = None,
        **options,
    ) -> "Reply":
        """As `ask`, but returns the answer piece by piece: iterate over the reply."""
        images = open_images(images)
        turns = dialogue_turns(len(images), question, history or [])
        prompt_ids = encode_prompt(turns, self.model, self.tokenizer, self.template)
        pixel_values = None
        if images:
            pixel_values = image_tensor(images, self.image_config, self.model)
        return Reply(self, prompt_ids, pixel_values, options)

    def batch(
        self, requests: list[tuple[Images, str]], batch_size: int = 16, **options
    ) -> list[str]:
        """The answers to many (images, question) pairs, computed `batch_size` at a time.

        All images are opened first: give thousands of them in parts.
        """
        dialogues = []
        for images, question in requests:
            opened = open_images(images)
            dialogues.append((opened, dialogue_turns(len(opened), question, [])))
        return answer_dialogues(
            self.model,
            self.tokenizer,
            self.image_config,
            dialogues,
            self.template,
            batch_size,
            **options,
        )


class Reply:
    """One answer while it is generated. Iterate over it for the pieces of its text."""

    def __init__(
        self,
        assistant: Assistant,
        prompt_ids: list[int],
        pixel_values: torch.Tensor | None,
        options: dict,
    ):
        self.assistant = assistant
        self.prompt_ids = prompt_ids
        self.pixel_values = pixel_values  # (N, 3, size, size)
        self.options = options
        stop = find_template(assistant.template).stop
        self.text_stream = TextStream(assistant.tokenizer, stop)
        self.seconds = {"prefill": 0.0, "decode": 0.0}  # prefill: the vision tower, too
        self.pieces = self.generate()

    @property
    def text(self) -> str:
        """The answer so far."""
        return self.text_stream.text

    @property
    def ids(self) -> list[int]:
        """The ids of the answer so far, without the end token, but with those of a stop string."""
        return self.text_stream.ids

    @property
    def end(self) -> str | None:
        """Why the answer ended: "end token", "stop string", "length", or what `finish` was given.

        None while it has not ended."""
        return self.text_stream.end

    def __iter__(self) -> Iterator[str]:
        """The pieces of the text. A second loop goes on where the first one ended."""
        return self.pieces

    def generate(self) -> Iterator[str]:
        """Generates the pieces of the text, and measures `seconds`."""
        start = time.perf_counter()
        for token in self.tokens():
            if not self.seconds["prefill"]:
                self.seconds["prefill"] = time.perf_counter() - start
                start = time.perf_counter()
            self.seconds["decode"] = time.perf_counter() - start
            yield self.text_stream.add(token)
            if self.end is not None:
                return
        yield self.finish()

    def finish(self, end: str = "length") -> str:
        """Ends the answer here; returns what was held back."""
        return self.text_stream.finish(end)

    def tokens(self) -> Iterator[int]:
        """The ids of the answer. What the last prompt has in common with this one is reused."""
        assistant = self.assistant
        last_prompt = assistant.last_prompt
        last_prompt.reply = self
        pixel_values = last_prompt.start(self.prompt_ids, self.pixel_values)
        input_ids = torch.tensor([self.prompt_ids], device=last_prompt.device)
        steps = stream(
            assistant.model,
            input_ids,
            pixel_values,
            kv_cache=last_prompt.kv_cache,
            step=assistant.step,
            **self.options,
        )
        for (token,) in steps:
            last_prompt.ids.append(token)
            yield token
            if last_prompt.reply is not self:
                raise RuntimeError(
                    "another question began before this answer ended; finish one answer before the "
                    "next question, or load a second assistant"
                )


class CachedPrompt:
    """The prompt, answer and KV cache of the last question, so that a dialogue's next turn computes
    only what is new."""

    def __init__(self, model: LLaVA):
        self.config = model.config
        self.device = model.language_model.model.embed_tokens.weight.device
        self.kv_cache = model.new_cache(batch=1)
        self.ids: list[int] = []
        self.pixel_values: torch.Tensor | None = None
        self.reply: Reply | None = None  # the answer that is being generated on this cache

    def start(self, ids: list[int], pixel_values: torch.Tensor | None) -> torch.Tensor | None:
        """Keeps the part of the cache that a new prompt shares.

        Returns the images whose tokens are not cached."""
        length = 0
        if same_images(pixel_values, self.pixel_values):
            length = self.shared_prefix(ids)
        self.kv_cache.truncate(length)
        self.ids = list(ids)
        self.pixel_values = pixel_values
        if pixel_values is None:
            return None
        new_positions = ids[length:].count(self.config.image_token_id)
        num_new = new_positions // self.config.num_image_tokens
        if num_new == 0:
            return None
        return pixel_values[len(pixel_values) - num_new :]

    def shared_prefix(self, ids: list[int]) -> int:
        """Length of the longest common prefix, never cutting inside an image.

        The last id is never part of it: its logits are needed.
        """
        limit = min(self.kv_cache.length, len(ids) - 1)
        length = 0
        while length < limit and self.ids[length] == ids[length]:
            length += 1
        num_image_tokens = self.config.num_image_tokens
        while ids[:length].count(self.config.image_token_id) % num_image_tokens:
            length -= 1
        return length


def same_images(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    """Whether two prompts show the same pixels."""
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)


def open_images(images: Images) -> list[Image.Image]:
    """One image or several, as paths or PIL images, opened."""
    if images is None:
        return []
    if not isinstance(images, list | tuple):
        images = [images]
    opened = []
    for image in images:
        if isinstance(image, ImageFile.ImageFile):  # from Image.open: as it lies in its file
            opened.append(turn_upright(image))
        elif isinstance(image, Image.Image):
            opened.append(image)
        elif isinstance(image, str | Path):
            opened.append(open_image(image))
        else:
            found = f"image {image!r} ({type(image).__name__})"
            raise TypeError(f"{found}: expected a path, a PIL image, or a list of them")
    return opened


def dialogue_turns(
    num_images: int, question: str, history: list[tuple[str, str]]
) -> list[dict[str, str]]:
    """A dialogue in the data set's form; the images come before its first question."""
    texts = []
    for pair in history:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"history entry {pair!r}: expected a (question, answer) pair")
        earlier_question, earlier_answer = pair
        texts.append(without_image_marks(earlier_question))
        # A template has no form for an empty answer.
        texts.append(without_image_marks(earlier_answer).strip() or "...")
    texts.append(without_image_marks(question))
    turns = []
    for i, text in enumerate(texts):
        role = "human" if i % 2 == 0 else "gpt"
        turns.append({"from": role, "value": text})
    turns[0]["value"] = f"{IMAGE}\n" * num_images + turns[0]["value"]
    return turns


def without_image_marks(text: str) -> str:
    """The text without `<image>`, which stands for an image and is not for text to write."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r} ({type(text).__name__}): expected a question or answer as str")
    if IMAGE not in text:
        return text
    parts = [part.strip() for part in text.split(IMAGE)]
    return " ".join(parts).strip()
