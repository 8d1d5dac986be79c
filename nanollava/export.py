"""Writes a LLaVA as one directory that transformers opens: model, tokenizer, processor and chat
template. Stage 2 and `convert` end with it."""

import json
import string
from pathlib import Path

import torch

from .config import LlavaConfig
from .conversation import Part, Span, Template, find_template
from .files import write_json, write_text
from .image import ImageConfig
from .llava import LLaVA
from .special_tokens import BOS, EOS, IMAGE
from .tokenizer import Tokenizer

# A program in Jinja, whose parts after a "$" come from a Template. The content of a message is a
# text or a list of parts; as in training, its images come before its words.
CHAT_TEMPLATE = string.Template("""\
{%- macro words(message) -%}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- set images = message.content | selectattr('type', 'equalto', 'image') | list -%}
{%- set texts = message.content | selectattr('type', 'equalto', 'text') | list -%}
{{- $image_line * (images | length) -}}
{%- set text = texts | map(attribute='text') | join('') -%}
{{- text | trim if images else text -}}
{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- set system = $system -%}
{%- if messages[0].role == 'system' -%}
{%- set system = words(messages[0]) -%}
{%- endif -%}
$start
{%- for message in messages if message.role != 'system' -%}
{%- if message.role == 'user' -%}
{%- if not loop.first -%}
$new_round
{%- endif -%}
$question
{%- else -%}
$answer
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
$prompt
{%- else -%}
$end
{%- endif -%}
""")


def save_llava(
    path: str | Path,
    model: LLaVA,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    template: str,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes weights, configs, tokenizer, image processor and chat template.

    `template` is the prompt form that the model was trained with. `state` as for
    `LLaVA.save_pretrained`.
    """
    save_processor(path, model.config, tokenizer, image_config, template)
    model.save_pretrained(path, state)  # last: without its config.json nothing loads the directory


def save_processor(
    path: str | Path,
    config: LlavaConfig,
    tokenizer: Tokenizer,
    image_config: ImageConfig,
    template: str,
) -> None:
    """Writes what transformers' AutoProcessor reads: everything but the model.

    For a connector that transformers' LLaVA does not have, only what this package reads.
    """
    tokenizer = tokenizer.with_image_token(config.image_token_id)
    tokenizer.save_pretrained(path, config.pad_token_id)
    image_config.save_pretrained(path)
    if config.connector is not None:
        return
    values = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "num_additional_image_tokens": 1,  # the class token, which the model leaves out again
        "vision_feature_select_strategy": "default",
        "patch_size": config.vision_config.patch_size,
    }
    write_json(Path(path) / "processor_config.json", values)
    form = find_template(template)
    if form.shows_question:  # "plain" is for captions, not for chats
        write_text(Path(path) / "chat_template.jinja", jinja_of(form))


def jinja_of(template: Template) -> str:
    """A chat template of transformers, which is a program in the language Jinja."""
    return CHAT_TEMPLATE.substitute(
        image_line=json.dumps(IMAGE + "\n"),
        system=json.dumps(template.system),
        start=jinja_of_part(template.start, "system"),
        new_round=jinja_of_part(template.new_round),
        question=jinja_of_part(template.question, "words(message)"),
        answer=jinja_of_part(template.answer, "words(message)"),
        prompt=jinja_of_part(template.answer_prompt),
        end=jinja_of_part(template.end),
    )


def jinja_of_part(part: Part, words: str = "''") -> str:
    """Jinja code that prints one part of a template. `words` is the code of its `{text}`."""
    values = []
    for piece in part:
        if piece == BOS:
            values.append("bos_token")
        elif piece == EOS:
            values.append("eos_token")
        elif isinstance(piece, Span):
            before, *after = piece.text.split("{text}")
            values.append(json.dumps(before))
            for literal in after:
                values += [words, json.dumps(literal)]
    return "".join(f"{{{{- {value} -}}}}" for value in values if value != '""')
