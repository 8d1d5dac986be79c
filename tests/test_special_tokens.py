"""Ids of special tokens come from the model's files: nothing changes if they are numbered anew."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nanollava
from nanollava import LLaVA, convert
from nanollava.errors import ConfigError
from nanollava.tokenizer import Tokenizer

TOY = Path("checkpoints/toy-llava")
QUESTION = "What color is the cat?"
NUMBERS = {  # the ids of <unk>, <s> and </s>
    "as shipped": [0, 1, 2],
    "end token 1": [2, 0, 1],
    "end token 0": [1, 2, 0],
}


def write_json(file: Path, values: dict) -> None:
    file.write_text(json.dumps(values))


def renumbered_tokenizer(numbers: list[int]) -> dict:
    """toy-vicuna's tokenizer.json with other ids for <unk>, <s> and </s>."""
    state = json.loads(Path("checkpoints/toy-vicuna/tokenizer.json").read_text())
    ids = dict(zip(("<unk>", "<s>", "</s>"), numbers, strict=True))
    state["model"]["vocab"].update(ids)
    for token in state["added_tokens"]:
        token["id"] = ids[token["content"]]
    state["added_tokens"].sort(key=lambda token: token["id"])
    return state


def renumbered_rows(tensor: torch.Tensor, numbers: list[int]) -> torch.Tensor:
    rows = tensor.clone()
    rows[numbers] = tensor[:3]
    return rows


def write_llama(folder: Path, numbers: list[int], **more) -> Path:
    """toy-llava's language model, renumbered. `more` tensors and config values can be added."""
    folder.mkdir()
    tensors = more.pop("tensors", {})
    for name, tensor in load_file(TOY / "model.safetensors").items():
        if name.startswith("language_model."):
            tensors[name.removeprefix("language_model.")] = tensor
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = renumbered_rows(tensors[name], numbers)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((TOY / "config.json").read_text())["text_config"]
    _, bos, eos = numbers
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": None}
    write_json(folder / "config.json", values | ids | more)
    write_json(folder / "tokenizer.json", renumbered_tokenizer(numbers))
    return folder


def projector_tensors(prefix: str) -> dict[str, torch.Tensor]:
    tensors = load_file(TOY / "model.safetensors")
    weights = {}
    for leaf in ("weight", "bias"):
        weights[prefix + leaf] = tensors[f"multi_modal_projector.linear_1.{leaf}"]
    return weights


def write_original(folder: Path, numbers: list[int], **more) -> Path:
    """toy-llava as an original LLaVA, without its tower."""
    keys = {
        "model_type": "llava_llama",
        "mm_vision_tower": "openai/clip",
        "mm_projector_type": "linear",
        "mm_vision_select_layer": -2,
        "image_aspect_ratio": "square",
    }
    tensors = projector_tensors("model.mm_projector.")
    return write_llama(folder, numbers, tensors=tensors, **keys, **more)


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
    convert.main()


def special_ids(path: Path) -> list[int]:
    values = json.loads((path / "config.json").read_text())
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert values["text_config"][key] == values[key]
    return [values["pad_token_id"], values["bos_token_id"], values["eos_token_id"]]


@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)
def test_a_converted_llama_ends_with_its_end_token(tmp_path, monkeypatch, numbers):
    llama = write_llama(tmp_path / "llama", numbers)
    save_file(projector_tensors("mm_projector."), tmp_path / "W.safetensors")
    run(monkeypatch, "checkpoints/toy-clip", llama, tmp_path / "W.safetensors", tmp_path / "out")
    assert special_ids(tmp_path / "out") == numbers  # without a name, <unk> is the padding
    assistant = nanollava.load(tmp_path / "out")
    reply = assistant.stream("cat.jpg", QUESTION, max_new_tokens=30)
    assert "".join(reply) == "purple"
    assert reply.end == "end token"


@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)
def test_an_original_llava_ends_with_its_end_token(tmp_path, monkeypatch, numbers):
    original = write_original(tmp_path / "original", numbers)
    assistant = nanollava.load(original, vision="checkpoints/toy-clip")
    assert assistant.ask("cat.jpg", QUESTION, max_new_tokens=30) == "purple"
    answers = assistant.batch([("cat.jpg", QUESTION), (None, "Hi")], max_new_tokens=30)
    assert answers[0] == "purple"
    run(monkeypatch, original, "checkpoints/toy-clip", tmp_path / "out")
    assert special_ids(tmp_path / "out") == numbers
    assert nanollava.load(tmp_path / "out").ask("cat.jpg", QUESTION) == "purple"


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id"])
def test_ids_that_the_config_lacks_come_from_the_tokenizer(tmp_path, key):
    original = write_original(tmp_path / "original", NUMBERS["end token 1"], **{key: None})
    assistant = nanollava.load(original, vision="checkpoints/toy-clip")
    assert getattr(assistant.model.config, key) == getattr(assistant.tokenizer, key)


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"eos_token_id": [1]}, 1),
        ({"pad_token_id": -1}, 2),
    ],
    ids=["a list of one", "no padding"],
)
def test_other_spellings_of_the_ids(tmp_path, values, expected):
    original = write_original(tmp_path / "original", NUMBERS["end token 1"], **values)
    (key,) = values
    config = nanollava.load(original, vision="checkpoints/toy-clip").model.config
    assert getattr(config, key) == expected


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "pad_token_id"])
def test_ids_that_disagree_are_an_error(tmp_path, key):
    tokenizer = Tokenizer.from_pretrained(TOY)
    tokenizer.pad_token_id = 0
    config = LLaVA.from_pretrained(TOY).config
    assert tokenizer.with_special_ids(config, "here") == config
    changed = replace(config, **{key: 9})
    with pytest.raises(ConfigError, match=f"here: config.json says {key} = 9, the tokenizer has"):
        tokenizer.with_special_ids(changed, "here")


def test_a_text_token_without_a_row_in_the_embedding_is_an_error(tmp_path):
    """It would be an index out of range at the first text that contains it."""
    shutil.copytree(TOY, tmp_path / "model")
    state = json.loads((TOY / "tokenizer.json").read_text())
    state["model"]["vocab"]["▁cat"] = 100_000
    write_json(tmp_path / "model/tokenizer.json", state)
    with pytest.raises(ConfigError, match="token '▁cat' is number 100000 of the tokenizer, but"):
        nanollava.load(tmp_path / "model")


def test_a_model_and_a_tokenizer_that_disagree_are_an_error(tmp_path):
    shutil.copytree(TOY, tmp_path / "model")
    write_json(tmp_path / "model/tokenizer.json", renumbered_tokenizer([2, 0, 1]))
    with pytest.raises(ConfigError, match="bos_token_id = 1, the tokenizer has 0; correct the"):
        nanollava.load(tmp_path / "model")


def test_the_image_token_of_an_original_llava_is_the_first_free_id(tmp_path, monkeypatch):
    """Its embedding has 768 rows, its tokenizer 704 tokens."""
    original = write_original(tmp_path / "original", [0, 1, 2])
    run(monkeypatch, original, "checkpoints/toy-clip", tmp_path / "out")
    values = json.loads((tmp_path / "out/config.json").read_text())
    assert values["image_token_index"] == 704
    assert values["text_config"]["vocab_size"] == 768
    assert Tokenizer.from_pretrained(tmp_path / "out").image_token_id == 704
    before = load_file(original / "model.safetensors")["lm_head.weight"]
    after = load_file(tmp_path / "out/model.safetensors")["language_model.lm_head.weight"]
    assert torch.equal(before, after)


def test_an_image_token_that_begins_every_text_is_refused(tmp_path):
    shutil.copytree(TOY, tmp_path / "model")
    file = tmp_path / "model/tokenizer_config.json"
    write_json(file, json.loads(file.read_text()) | {"bos_token": "<image>"})
    with pytest.raises(ConfigError):
        nanollava.load(tmp_path / "model")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="stands for images, but it is '<image>'"):
        tokenizer.check_image_token(tokenizer.image_token_id, "here")


@pytest.mark.parametrize("token_id", [1, 300])
def test_an_image_token_that_other_text_has_too_is_refused(tmp_path, token_id):
    """<s>, and a token of the vocabulary: neither can be told from an image."""
    folder = shutil.copytree("checkpoints/toy-llava", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["image_token_index"] = token_id
    config.pop("image_token_id", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=f"token {token_id} stands for images, but it is '"):
        nanollava.load(folder)
