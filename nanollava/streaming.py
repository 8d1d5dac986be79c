"""Text while it is generated, stop strings, and batches of questions."""

from dataclasses import dataclass, field

import torch
from PIL import Image

from .conversation import encode, expand, find_template
from .errors import UserError
from .generate import stream
from .image import ImageConfig, preprocess
from .tokenizer import Tokenizer

INCOMPLETE = "\ufffd"  # what the tokenizer decodes the first bytes of a character to


@dataclass
class TextStream:
    """Turns the ids of one answer into text, as they come.

    Holds back incomplete UTF-8, a possible stop-string prefix and trailing spaces until the next
    token shows what they are.
    """

    tokenizer: Tokenizer
    stops: tuple[str, ...] = ()
    ids: list[int] = field(default_factory=list)
    text: str = ""  # final: nothing that comes can change it
    held_back: str = ""
    end: str | None = None  # why the answer ended, as in assistant.Reply.end
    # A token's text can depend on the one before it, so the last few are decoded together:
    # ids[window:num_decoded] have been decoded before, ids[num_decoded:] have not.
    window: int = 0
    num_decoded: int = 0

    def add(self, token: int) -> str:
        """Takes the next id, -1 for the end token; returns the text that has become final."""
        if self.end is not None:
            return ""
        if token < 0:
            return self.finish("end token")
        self.ids.append(token)
        new_text = self.decode_new()
        if new_text.endswith(INCOMPLETE):
            return ""
        if new_text:
            self.window = self.num_decoded
        self.num_decoded = len(self.ids)
        return self.release(self.held_back + new_text)

    def decode_new(self) -> str:
        """The text of the ids that have not been decoded yet."""
        before = self.tokenizer.decode(self.ids[self.window : self.num_decoded])
        return self.tokenizer.decode(self.ids[self.window :])[len(before) :]

    def release(self, text: str) -> str:
        """Adds to the answer what is certain of `text`, and holds back the rest."""
        stop = first_stop(text, self.stops)
        if stop is not None:
            self.end = "stop string"
            final = text[:stop].rstrip()
        else:
            final = text[: possible_stop(text, self.stops)].rstrip()
        self.held_back = text[len(final) :]
        self.text += final
        return final

    def finish(self, end: str = "length") -> str:
        """Ends the answer, if it has not ended; returns the text that was held back."""
        if self.end is not None:
            return ""
        self.end = end
        rest = (self.held_back + self.decode_new().rstrip(INCOMPLETE)).rstrip()
        self.text += rest
        return rest


def first_stop(text: str, stops: tuple[str, ...]) -> int | None:
    """Where the first stop string begins in `text`, None if there is none."""
    starts = [text.find(stop) for stop in stops if stop in text]
    return min(starts, default=None)


def possible_stop(text: str, stops: tuple[str, ...]) -> int:
    """Where the end of `text` may be the beginning of a stop string; len(text) if it is not."""
    earliest = len(text)
    for stop in stops:
        for length in range(1, len(stop)):
            if text.endswith(stop[:length]):
                earliest = min(earliest, len(text) - length)
    return earliest


def encode_prompt(turns: list[dict], model, tokenizer: Tokenizer, template: str) -> list[int]:
    """The ids that ask for the next answer, every image expanded to its positions."""
    ids, labels = encode(turns, tokenizer, template)
    config = model.config
    ids, _ = expand(ids, labels, config.image_token_id, config.num_image_tokens)
    return ids


def image_tensor(images: list[Image.Image], image_config: ImageConfig, model) -> torch.Tensor:
    """Pixel values (N, 3, size, size) with the model's device and dtype, for at least one image."""
    weight = next(model.multi_modal_projector.parameters())
    pixel_values = torch.stack([preprocess(image, image_config) for image in images])
    return pixel_values.to(weight.device, weight.dtype)


def answer_dialogues(
    model,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    dialogues: list[tuple[list[Image.Image], list[dict]]],
    template: str = "vicuna_v1",
    batch_size: int = 16,
    **options,
) -> list[str]:
    """The model's answers to (images, turns) pairs, in their order.

    Turns have the data set's form and end with a question. Prompts of similar length share a
    batch. `options` as for `generate.stream`.
    """
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}: expected at least 1")
    prompts = [encode_prompt(turns, model, tokenizer, template) for _, turns in dialogues]
    by_length = sorted(range(len(dialogues)), key=lambda i: len(prompts[i]))
    answers = [""] * len(dialogues)
    for start in range(0, len(dialogues), batch_size):
        group = by_length[start : start + batch_size]
        images = [image for i in group for image in dialogues[i][0]]
        pixel_values = image_tensor(images, image_config, model) if images else None
        streams = [TextStream(tokenizer, find_template(template).stop) for _ in group]
        answer_batch(model, [prompts[i] for i in group], pixel_values, streams, options)
        for i, text_stream in zip(group, streams, strict=True):
            answers[i] = text_stream.text
    return answers


def answer_batch(
    model,
    prompts: list[list[int]],
    pixel_values: torch.Tensor | None,
    streams: list[TextStream],
    options: dict,
) -> None:
    """Generates the answers to some prompts together, until each of `streams` has ended."""
    device = next(model.multi_modal_projector.parameters()).device
    rows = [torch.tensor(ids) for ids in prompts]
    lengths = torch.tensor([len(ids) for ids in prompts], device=device)
    bos = prompts[0][0]  # padding has no effect, as long as it is no image token
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=bos)
    input_ids = input_ids.to(device)
    for new_ids in stream(model, input_ids, pixel_values, lengths=lengths, **options):
        for text_stream, token in zip(streams, new_ids, strict=True):
            text_stream.add(token)
        if all(text_stream.end is not None for text_stream in streams):
            break
    for text_stream in streams:
        text_stream.finish()
