"""The library's front door: load, ask, stream, batch, and the cache that a dialogue reuses."""

import os

import pytest
import torch
from PIL import Image

from nanollava import Assistant, load
from nanollava.assistant import CachedPrompt, dialogue_turns
from nanollava.errors import UserError

TOY = "checkpoints/toy-llava"


@pytest.fixture(scope="module")
def toy() -> Assistant:
    return load(TOY, device="cpu")


def test_ask_takes_a_path_or_an_image(toy):
    assert toy.ask("cat.jpg", "What color is the cat?") == "purple"
    assert toy.ask(Image.open("cat.jpg"), "What color is the cat?") == "purple"


def test_ask_takes_several_images(toy):
    cat = Image.open("cat.jpg")
    assert toy.ask([cat, "cat.jpg"], "What color is the cat?", max_new_tokens=8)


def test_ask_without_an_image(toy):
    assert toy.ask(None, "Is it sunny?", max_new_tokens=4)


def test_history_is_part_of_the_prompt(toy):
    history = [("What color is the cat?", "purple")]
    reply = toy.stream("cat.jpg", "Where is the cat?", history)
    text = toy.tokenizer.decode(reply.prompt_ids)
    assert "".join(reply) == "on the left"
    assert "What color is the cat? ASSISTANT: purple" in text


def test_stream_gives_the_text_in_pieces(toy):
    pieces = list(toy.stream("cat.jpg", "Describe the picture in detail."))
    assert len(pieces) > 10
    assert "".join(pieces) == toy.ask("cat.jpg", "Describe the picture in detail.")


def test_reply_tells_ids_end_and_seconds(toy):
    reply = toy.stream("cat.jpg", "Describe the picture in detail.", max_new_tokens=3)
    assert "".join(reply) == reply.text == "This picture was"
    assert len(reply.ids) == 3 and reply.end == "length"
    assert reply.seconds["prefill"] > 0 and reply.seconds["decode"] > 0


def test_a_second_loop_over_a_reply_goes_on(toy):
    question = "Describe the picture in detail."
    reply = toy.stream("cat.jpg", question)
    next(iter(reply))
    list(reply)
    assert reply.text == toy.ask("cat.jpg", question)
    assert list(reply) == []


def test_a_photograph_is_turned_upright_as_its_file_says(toy, tmp_path):
    lying = Image.open("cat.jpg").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned clockwise
    question = "Describe the picture in detail."
    answer = toy.ask("cat.jpg", question)
    for photo in (tmp_path / "photo.png", tmp_path / "photo.tiff"):
        lying.save(photo, exif=exif)
        assert toy.ask(photo, question) == answer
        assert toy.ask(Image.open(photo), question) == answer
    assert toy.ask(lying, question) != answer  # an image that was made is taken as it is


def test_batch_equals_single_questions(toy):
    questions = ["What color is the cat?", "Where is the cat?", "Is there a dog?"]
    found = toy.batch([("cat.jpg", question) for question in questions], batch_size=2)
    assert found == [toy.ask("cat.jpg", question) for question in questions]


def test_a_dialogue_computes_each_image_once(toy, monkeypatch):
    calls = []
    encode_images = toy.model.encode_images

    def counted(pixel_values):
        calls.append(len(pixel_values))
        return encode_images(pixel_values)

    monkeypatch.setattr(toy.model, "encode_images", counted)
    cat = Image.open("cat.jpg")
    toy.last_prompt = CachedPrompt(toy.model)
    history = []
    for question in ("What color is the cat?", "Where is the cat?", "Is there a dog?"):
        history.append((question, toy.ask(cat, question, history)))
    assert calls == [1]
    assert [answer for _, answer in history] == ["purple", "on the left", "no"]


def test_another_image_of_the_same_size_is_not_reused(toy):
    mirrored = Image.open("cat.jpg").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert toy.ask("cat.jpg", "Where is the cat?") == "on the left"
    assert toy.ask(mirrored, "Where is the cat?") == "on the right"


def test_an_answer_that_another_question_overtook_is_an_error(toy):
    first = iter(toy.stream("cat.jpg", "Describe the picture in detail."))
    next(first)
    toy.ask("cat.jpg", "What color is the cat?")
    with pytest.raises(RuntimeError, match="another question began"):
        list(first)


def shared_prefix(old: list[int], computed: int, new: list[int]) -> int:
    """With image token 95, two of them per image."""

    class Config:
        image_token_id = 95
        num_image_tokens = 2

    class Cache:
        length = computed

    cached = object.__new__(CachedPrompt)
    cached.config = Config
    cached.kv_cache = Cache
    cached.ids = old
    return cached.shared_prefix(new)


@pytest.mark.parametrize(
    "old, computed, new, expected",
    [
        ([1, 95, 95, 5, 6], 5, [1, 95, 95, 5, 7, 8], 4),  # up to the first difference
        ([1, 95, 95, 5, 7, 8], 6, [1, 95, 95, 5, 7, 8], 5),  # one id is left to compute
        ([1, 95, 95, 5], 4, [1, 95, 3, 3], 1),  # half an image is no image
        ([1, 2, 3, 4], 2, [1, 2, 3, 4, 5], 2),  # ids that were never computed do not count
        ([], 0, [1, 2], 0),
    ],
)
def test_shared_prefix(old, computed, new, expected):
    assert shared_prefix(old, computed, new) == expected


def test_text_never_becomes_an_image(toy):
    marked = toy.stream("cat.jpg", "<image>\nWhat color is the cat?")
    plain = toy.stream("cat.jpg", "What color is the cat?")
    assert marked.prompt_ids == plain.prompt_ids


def test_an_empty_answer_in_the_history_gets_a_form():
    turns = dialogue_turns(1, "And now?", [("What?", " ")])
    assert [turn["value"] for turn in turns] == ["<image>\nWhat?", "...", "And now?"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((3, "What?"), "image 3 .int.: expected a path, a PIL image, or a list"),
        (("cat.jpg", 3), "3 .int.: expected a question or answer as str"),
        (("cat.jpg", "What?", ["yes"]), "history entry 'yes': expected a .question, answer. pair"),
        (("cat.jpg", "What?", [("yes", None)]), "None .NoneType.: expected a question or answer"),
    ],
)
def test_wrong_types_are_named(toy, arguments, message):
    with pytest.raises(TypeError, match=message):
        toy.ask(*arguments)


def test_unknown_options_are_named(toy):
    with pytest.raises(TypeError, match="temprature"):
        toy.ask("cat.jpg", "What?", temprature=1.0)


def test_a_missing_image_is_a_user_error(toy):
    with pytest.raises(UserError, match="none.jpg: no such image"):
        toy.ask("none.jpg", "What?")


def test_load_checks_its_names():
    with pytest.raises(UserError, match="dtype 'fp8': expected fp32, bf16, fp16"):
        load(TOY, dtype="fp8")
    with pytest.raises(UserError, match="template 'plain': expected vicuna_v1"):
        load(TOY, template="plain")
    with pytest.raises(UserError, match="--device abacus"):
        load(TOY, device="abacus")


def test_quantized_layers_compute_in_bfloat16_on_a_cpu():
    toy = load(TOY, device="cpu", quantize="int8")
    assert toy.model.language_model.lm_head.weight.dtype == torch.bfloat16
    assert load(TOY, device="cpu").model.language_model.lm_head.weight.dtype == torch.float32


def test_shipped_checkpoints_are_found_from_any_directory(tmp_path, monkeypatch):
    image = os.path.abspath("cat.jpg")
    monkeypatch.chdir(tmp_path)
    assert load(TOY, device="cpu").ask(image, "What color is the cat?") == "purple"


def test_a_shipped_tower_is_found_from_any_directory(tmp_path, monkeypatch):
    loaded_with = []

    def load_llava(path, device, dtype, vision, quantize):
        loaded_with.append(vision)
        raise UserError("enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nanollava.assistant.load_llava", load_llava)
    with pytest.raises(UserError, match="enough"):
        load("checkpoints/toy-llava", vision="checkpoints/toy-clip")
    assert (loaded_with[0] / "config.json").is_file()
