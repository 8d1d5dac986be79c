"""What is written for transformers: its processor, chat template and pipeline work on it."""

import shutil

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, pipeline

from nanollava import LLaVA, load
from nanollava.conversation import CHAT_TEMPLATES, TEMPLATES, encode, expand
from nanollava.export import save_llava, save_processor
from nanollava.files import read_json, shipped
from nanollava.hf.config import parse_llava_config
from nanollava.image import ImageConfig, preprocess
from nanollava.tokenizer import Tokenizer

TOY_LLAVA = shipped("checkpoints/toy-llava")
CONFIG = parse_llava_config(read_json(TOY_LLAVA / "config.json"))
TOKENIZER = Tokenizer.from_pretrained(TOY_LLAVA)
CAT = Image.open(shipped("cat.jpg")).convert("RGB")
QUESTIONS = ["What color is the cat?", "How many animals are there?"]


def written(path, template: str = "vicuna_v1", image_config: ImageConfig | None = None):
    """The processor that transformers reads from a directory of ours."""
    path.mkdir(exist_ok=True)
    shutil.copy(TOY_LLAVA / "config.json", path)
    save_processor(path, CONFIG, TOKENIZER, image_config or ImageConfig(100), template)
    return AutoProcessor.from_pretrained(path)


def messages(*texts: str) -> list[dict]:
    """A dialogue as transformers writes it, with an image in its first message."""
    result = []
    for i, text in enumerate(texts):
        content = [{"type": "text", "text": text}]
        if i == 0:
            content.append({"type": "image", "image": CAT})
        result.append({"role": "user" if i % 2 == 0 else "assistant", "content": content})
    return result


def our_ids(template: str, *texts: str) -> list[int]:
    """The same dialogue as we encode it."""
    turns = []
    for i, text in enumerate(texts):
        turns.append({"from": "human" if i % 2 == 0 else "gpt", "value": text})
    turns[0]["value"] += "\n<image>"
    ids, labels = encode(turns, TOKENIZER, template)
    return expand(ids, labels, CONFIG.image_token_id, CONFIG.vision_config.num_patches)[0]


@pytest.mark.parametrize("texts", [("What?",), (" Is it\nred?", "No.", "{x} $y 'z' \"w\" \\n?")])
@pytest.mark.parametrize("template", CHAT_TEMPLATES)
def test_the_chat_template_gives_the_ids_of_training(tmp_path, template, texts):
    processor = written(tmp_path / "model", template)
    values = processor.apply_chat_template(
        messages(*texts), add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert values["input_ids"][0] == our_ids(template, *texts)


@pytest.mark.parametrize("template", CHAT_TEMPLATES)
def test_a_whole_dialogue_ends_like_in_training(tmp_path, template):
    processor = written(tmp_path / "model", template)
    dialogue = messages("What?", "A cat.", "Is it red?", "No.")
    text = processor.apply_chat_template(dialogue)
    assert text.endswith("</s>" if "</s>" in text else "### ")


def test_a_system_message_replaces_the_templates(tmp_path):
    processor = written(tmp_path / "model")
    system = {"role": "system", "content": "Answer in one word."}
    text = processor.apply_chat_template([system, *messages("What?")], add_generation_prompt=True)
    assert text == "<s>Answer in one word. USER: <image>\nWhat? ASSISTANT:"


def test_a_content_may_be_a_text(tmp_path):
    processor = written(tmp_path / "model")
    text = processor.apply_chat_template([{"role": "user", "content": "What?"}])
    assert text.endswith(" USER: What? ")


def test_plain_has_no_chat_template(tmp_path):
    assert not TEMPLATES["plain"].shows_question
    assert written(tmp_path / "model", "plain").chat_template is None


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_the_processor_gives_our_pixels_and_image_tokens(tmp_path, mode):
    config = ImageConfig(100, mode)
    processor = written(tmp_path / "model", image_config=config)
    image = CAT.resize((150, 60))
    values = processor(images=image, text="USER: <image>\nWhat?", return_tensors="pt")
    assert torch.equal(values["pixel_values"][0], preprocess(image, config))
    ids = values["input_ids"][0].tolist()
    assert ids[0] == TOKENIZER.bos_token_id
    assert ids.count(CONFIG.image_token_id) == 100


def test_a_batch_is_padded_on_the_left(tmp_path):
    processor = written(tmp_path / "model")
    values = processor(text=["What color is the cat?", "What?"], padding=True)
    short = values["input_ids"][1]
    assert short[0] == CONFIG.pad_token_id
    assert short[-1] != CONFIG.pad_token_id
    assert values["attention_mask"][1][0] == 0


@pytest.mark.parametrize("source", ["shipped", "saved"])
def test_the_pipeline_answers_a_batch_as_we_do(tmp_path, source):
    assistant = load(TOY_LLAVA, device="cpu")
    path = TOY_LLAVA
    if source == "saved":
        path = tmp_path / "model"
        save_llava(path, assistant.model, TOKENIZER, assistant.image_config, "vicuna_v1")
    chats = [messages(question) for question in QUESTIONS]
    ask = pipeline("image-text-to-text", model=str(path))
    options = {"max_new_tokens": 20, "do_sample": False}
    replies = ask(text=chats, batch_size=2, return_full_text=False, generate_kwargs=options)
    answers = [reply[0]["generated_text"].strip() for reply in replies]
    assert answers == assistant.batch([(CAT, question) for question in QUESTIONS])


def test_a_saved_model_is_read_again(tmp_path):
    model = LLaVA.from_pretrained(TOY_LLAVA)
    save_llava(tmp_path / "model", model, TOKENIZER, ImageConfig(100, "pad"), "vicuna_v1")
    assistant = load(tmp_path / "model", device="cpu")
    assert assistant.image_config == ImageConfig(100, "pad")
    assert assistant.tokenizer.encode("A cat.") == TOKENIZER.encode("A cat.")
    assert assistant.model.config == model.config
