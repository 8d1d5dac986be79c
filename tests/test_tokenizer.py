"""Plain text to ids and back; what is saved, and what transformers makes of it."""

import json
import shutil

import pytest
import transformers
from conftest import texts_of_all_kinds

from nanollava.errors import ConfigError
from nanollava.tokenizer import Tokenizer

TOY = "checkpoints/toy-llava"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_pretrained(TOY)


@pytest.mark.parametrize(
    "text", ["a red cat", "  two  spaces", "新年快乐 é", "x\ty\n\n", "", "</s><s><image><unk>"]
)
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_never_becomes_a_special_token(tokenizer):
    ids = tokenizer.encode("</s><s><image><unk>")
    assert not set(ids) & tokenizer.special_ids


def test_special_tokens_are_not_decoded(tokenizer):
    ids = [1, tokenizer.image_token_id, *tokenizer.encode("a cat"), 2]
    assert tokenizer.decode(ids) == "a cat"


def test_starts_are_the_first_characters_of_the_tokens(tokenizer):
    text = "the cat sat"
    ids, starts = tokenizer.encode_with_starts(text)
    assert len(ids) == len(starts)
    ends = [*starts[1:], len(text)]
    for token_id, start, end in zip(ids, starts, ends, strict=True):
        assert tokenizer.backend.id_to_token(token_id).strip("▁") == text[start:end].strip()


def test_legacy_comes_from_the_config(tokenizer_dir):
    file = tokenizer_dir / "tokenizer_config.json"
    legacy = json.loads(file.read_text())["legacy"] if file.is_file() else True
    assert Tokenizer.from_pretrained(tokenizer_dir).legacy == legacy


def test_only_legacy_puts_a_space_after_a_special_token(tokenizer_dir):
    tokenizer = Tokenizer.from_pretrained(tokenizer_dir)
    at_beginning, _ = tokenizer.encode_with_starts("USER", after_special=False)
    after_special, _ = tokenizer.encode_with_starts("USER", after_special=True)
    assert (after_special == at_beginning) == tokenizer.legacy


def test_a_saved_tokenizer_gives_the_same_ids(tokenizer_dir, tmp_path):
    tokenizer = Tokenizer.from_pretrained(tokenizer_dir)
    tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.legacy == tokenizer.legacy
    for text in texts_of_all_kinds(400):
        assert again.encode(text) == tokenizer.encode(text), repr(text)


def test_transformers_reads_what_is_saved(tokenizer_dir, tmp_path):
    tokenizer = Tokenizer.from_pretrained(tokenizer_dir)
    tokenizer.with_image_token(len(tokenizer)).save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = [*tokenizer.encode("the cat "), len(tokenizer)]
    ids = theirs("the cat <image> sat</s>", add_special_tokens=False).input_ids
    assert ids[: len(expected)] == expected
    assert theirs.eos_token == "</s>"
    assert theirs("a").input_ids[-1] == tokenizer.encode("a")[-1]


def test_the_image_token_is_the_next_free_one():
    tokenizer = Tokenizer.from_pretrained("checkpoints/toy-vicuna")
    assert tokenizer.image_token_id == len(tokenizer)
    assert tokenizer.with_image_token(len(tokenizer)).image_token_id == len(tokenizer)


def test_the_image_token_keeps_its_id(tokenizer):
    again = tokenizer.with_image_token(tokenizer.image_token_id)
    assert again.image_token_id == tokenizer.image_token_id


def test_another_image_token_is_an_error(tokenizer):
    with pytest.raises(ConfigError, match="<image> becomes token 704, the model's config says 9"):
        tokenizer.with_image_token(9)


def test_a_missing_tokenizer_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"neither it nor tokenizer.model is there"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_broken_tokenizer_json_is_an_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="tokenizer.json: not a tokenizer"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_tokenizer_without_bos_is_an_error(tmp_path):
    shutil.copy(f"{TOY}/tokenizer.json", tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace('"<s>"', '"<begin>"'))
    with pytest.raises(ConfigError, match="no <s> or no </s>: expected a LLaMA tokenizer"):
        Tokenizer.from_pretrained(tmp_path)
