"""Plain text to ids and back; what is saved, and what transformers makes of it."""

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import transformers
from conftest import texts_of_all_kinds
from tokenizers import AddedToken

from nanollava.conversation import encode
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


def test_a_panic_of_the_library_is_an_error(tmp_path):
    state = toy_state()
    state["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match=r"tokenizer.json: not a tokenizer \(Precompiled"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("stop", [1, 2**62])
def test_a_decoder_that_strips_the_end_is_an_error(tmp_path, stop):
    """The library would panic at the first short text."""
    state = toy_state()
    state["decoder"]["decoders"][-1]["stop"] = stop
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match=f"decoder Strip with stop = {stop} is not supported"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_tokenizer_that_makes_a_special_token_of_text_is_an_error(tmp_path):
    """LLaMA's merges have no "</s>"; these do."""
    state = toy_state()
    vocab = state["model"]["vocab"]
    for piece in ("<", "/", "s", ">", "</", "s>"):
        vocab.setdefault(piece, len(vocab))
    state["model"]["merges"] += [["<", "/"], ["s", ">"], ["</", "s>"]]
    state["added_tokens"] = [t for t in state["added_tokens"] if t["id"] < 3]
    state["pre_tokenizer"] = None  # toy-llava's splits at every sign
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match="text becomes the special token '</s>'"):
        Tokenizer.from_pretrained(tmp_path)


def test_two_added_tokens_that_are_the_same_text_are_an_error(tmp_path):
    theirs = transformers_tokenizer(Path("checkpoints/toy-vicuna/tokenizer.json"))
    theirs.add_tokens(
        [AddedToken("▁[SEG]", normalized=False), AddedToken(" [SEG]", normalized=False)]
    )
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"two added tokens have the same text ' \[SEG\]'"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_tokenizer_without_bos_is_an_error(tmp_path):
    shutil.copy(f"{TOY}/tokenizer.json", tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace('"<s>"', '"<begin>"'))
    with pytest.raises(ConfigError, match="no <s> or no </s>: expected a LLaMA tokenizer"):
        Tokenizer.from_pretrained(tmp_path)


# The space before a text, as tokenizer.json says


SCHEMES = ("first", "always", "never")


def toy_state() -> dict:
    return json.loads(Path("checkpoints/toy-vicuna/tokenizer.json").read_text())


def write_tokenizer(folder: Path, scheme: str) -> Path:
    """toy-vicuna's vocabulary with another space before the text. Returns tokenizer.json."""
    state = toy_state()
    state["normalizer"] = None
    state["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": scheme,
        "split": False,
    }
    if scheme == "never":  # then there is no space to take away
        state["decoder"]["decoders"].pop()
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(state))
    return file


def transformers_tokenizer(file: Path) -> transformers.PreTrainedTokenizerFast:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(file), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize("text", ["USER: hi", "[INST] hi", " hi", "\n"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_ids_after_a_special_token_equal_transformers(tmp_path, scheme, text):
    file = write_tokenizer(tmp_path, scheme)
    expected = transformers_tokenizer(file)("</s>" + text, add_special_tokens=False).input_ids[1:]
    ids, _ = Tokenizer.from_pretrained(tmp_path).encode_with_starts(text, after_special=True)
    assert ids == expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ids_at_the_beginning_equal_transformers(tmp_path, scheme):
    file = write_tokenizer(tmp_path, scheme)
    expected = transformers_tokenizer(file)("What color?", add_special_tokens=False).input_ids
    assert Tokenizer.from_pretrained(tmp_path).encode("What color?") == expected


@pytest.mark.parametrize("text", ["a red cat", "  two  spaces", " x", "x ", "新 é\n"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_comes_back_with_every_scheme(tmp_path, scheme, text):
    write_tokenizer(tmp_path, scheme)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_saved_scheme_is_kept_also_by_transformers(tmp_path, scheme):
    write_tokenizer(tmp_path, scheme)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    tokenizer.save_pretrained(out)
    again = Tokenizer.from_pretrained(out)
    assert again.prefix_space == tokenizer.prefix_space
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    ids, _ = again.encode_with_starts("USER: hi", after_special=True)
    assert theirs("</s>USER: hi", add_special_tokens=False).input_ids[1:] == ids
    assert theirs("USER: hi", add_special_tokens=False).input_ids == again.encode("USER: hi")


def test_add_prefix_space_false_puts_no_space_before_a_text(sentencepiece_file, tmp_path):
    shutil.copy(sentencepiece_file, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_prefix_space": False}))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.backend.id_to_token(tokenizer.encode("the cat")[0]).startswith("t")
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"


# Tokens that somebody added, and pieces that sentencepiece calls user-defined


TEXTS_WITH_TOKENS = [
    "It is [SEG].",
    "[SEG]",
    "[SEG] and [SEG]",
    "[SEG][SEG], x",
    "a [SEG] b",
    "é[LOC]: two, 你好 [SEG]",
    "a[SEGMENT] [SEG",
]


def add_tokens(file: Path, folder: Path) -> transformers.PreTrainedTokenizerFast:
    """transformers' tokenizer with added tokens, also saved in a folder."""
    theirs = transformers_tokenizer(file)
    theirs.add_tokens([AddedToken("[SEG]", normalized=False)])
    theirs.add_tokens([AddedToken("[LOC]", normalized=False, lstrip=True)])
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("scheme", [*SCHEMES, "normalizer"])
def test_ids_of_added_tokens_equal_transformers(tmp_path, scheme):
    file = Path("checkpoints/toy-vicuna/tokenizer.json")
    if scheme != "normalizer":
        file = write_tokenizer(tmp_path, scheme)
    theirs = add_tokens(file, tmp_path / "added")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "added")
    for text in TEXTS_WITH_TOKENS:
        ids = tokenizer.encode(text)
        assert ids == theirs(text, add_special_tokens=False).input_ids, text
        assert tokenizer.decode(ids) == text


def test_an_added_token_is_one_id_and_its_text(tmp_path):
    add_tokens(Path("checkpoints/toy-vicuna/tokenizer.json"), tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode("[SEG]") == [704]
    assert tokenizer.decode([704]) == "[SEG]"
    assert tokenizer.image_token_id == 706
    again = tokenizer.with_image_token(706)
    assert again.encode("<image>[SEG]")[-1] == 704
    assert 706 not in again.encode("<image>[SEG]")


def test_decoding_more_ids_only_appends(tmp_path):
    add_tokens(Path("checkpoints/toy-vicuna/tokenizer.json"), tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    for text in TEXTS_WITH_TOKENS:
        ids = tokenizer.encode(text)
        for i in range(len(ids)):
            beginning = tokenizer.decode(ids[:i]).rstrip("\ufffd")
            assert text.startswith(beginning)


def test_an_added_token_is_labelled_as_a_whole(tmp_path):
    add_tokens(Path("checkpoints/toy-vicuna/tokenizer.json"), tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    turns = [{"from": "human", "value": "Mark [SEG]"}, {"from": "gpt", "value": "It is [SEG]."}]
    ids, labels = encode(turns, tokenizer)
    assert ids.count(704) == 2
    assert labels.count(704) == 1
    labelled = [label for label in labels if label != -100]
    assert tokenizer.decode(labelled) == "It is [SEG]."


@pytest.mark.parametrize("special", [True, False])
def test_control_tokens_never_come_from_text(tmp_path, special):
    """Neither those that tokenizer.json calls special, nor those that the config names."""
    state = toy_state()
    for i, text in enumerate(("<|end|>", "<|pad|>", "<tool>", "<image>")):
        token = {"id": 704 + i, "content": text, "special": special}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        state["added_tokens"].append(token | flags)
    for token in state["added_tokens"]:
        token["special"] = special
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    config = {"eos_token": "<|end|>", "pad_token": {"content": "<|pad|>"}, "bos_token": ""}
    config["additional_special_tokens"] = ["<tool>"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.bos_token_id == 1  # old files name it ""
    assert tokenizer.eos_token_id == 704
    assert tokenizer.pad_token_id == 705
    text = "<s></s><unk><|end|><|pad|><tool><image>"
    ids = tokenizer.encode(text)
    expected = {0, 704, 705, 706, 707, 1, 2} if special else {0, 1, 704, 705, 706, 707}
    assert tokenizer.special_ids == expected
    assert not set(ids) & expected
    assert tokenizer.decode([*ids, 704, 705]) == text


def test_special_tokens_map_names_what_the_config_does_not(tmp_path):
    shutil.copy("checkpoints/toy-vicuna/tokenizer.json", tmp_path)
    names = {"pad_token": "<unk>", "eos_token": {"content": "</s>"}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": None}))
    assert Tokenizer.from_pretrained(tmp_path).pad_token_id == 0


def test_a_saved_tokenizer_keeps_the_names_of_its_special_tokens(tmp_path):
    state = toy_state()
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    names = {"bos_token": "</s>", "eos_token": "<s>", "pad_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    tokenizer.with_image_token(704).save_pretrained(out)
    again = Tokenizer.from_pretrained(out)
    assert again.names == tokenizer.names
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (2, 1, 0)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"eos_token": 2}, "eos_token = 2; expected a text, or an object with 'content'"),
        ({"additional_special_tokens": "x"}, "additional_special_tokens = 'x'; expected a list"),
        ({"additional_special_tokens": [1]}, "additional_special_tokens = 1; expected a text"),
    ],
)
def test_names_that_are_no_texts_are_an_error(tmp_path, values, message):
    shutil.copy("checkpoints/toy-vicuna/tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=f"tokenizer_config.json: {message}"):
        Tokenizer.from_pretrained(tmp_path)


def test_ids_that_the_library_would_change_are_an_error(tmp_path):
    """The library numbers added tokens in order and closes the gap."""
    state = toy_state()
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    state["added_tokens"].append({"id": 710, "content": "[SEG]"} | flags)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match="'\\[SEG\\]' becomes token 704, the file says 710"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "token_id, message",
    [
        (2**32 - 1, "'cat ' = 4294967295; expected at most"),
        (-1, "'cat ' = -1; expected at least 0"),
        (1.5, "'cat ' = 1.5; expected a whole number"),
        (5, "two tokens of the vocabulary have the same id"),
    ],
)
def test_ids_of_the_vocabulary_are_checked(tmp_path, token_id, message):
    state = toy_state()
    state["model"]["vocab"]["cat "] = token_id
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match=f"tokenizer.json: .*{message}"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.fixture(params=[True, False], ids=["legacy", "not legacy"])
def user_defined_dir(request, tmp_path):
    """A directory with a tokenizer.model that has user-defined pieces."""
    lines = Path("README.md").read_text(encoding="utf-8")
    (tmp_path / "text.txt").write_text(lines, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["[SEG]", "[LOC]"],
        control_symbols=["<tool>"],
        minloglevel=2,
    )
    config = {"legacy": request.param}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_user_defined_pieces_equal_sentencepiece(user_defined_dir):
    processor = sentencepiece.SentencePieceProcessor(str(user_defined_dir / "tokenizer.model"))
    tokenizer = Tokenizer.from_pretrained(user_defined_dir)
    out = user_defined_dir / "out"
    out.mkdir()
    tokenizer.save_pretrained(out)
    again = Tokenizer.from_pretrained(out)
    for text in [*TEXTS_WITH_TOKENS, "a <tool> [LOC][SEG] b", " [SEG]"]:
        ids = processor.encode(text)
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.decode(ids) == text
        assert again.encode(text) == ids, text
        assert again.decode(ids) == text


def test_tokens_of_added_tokens_json_come_from_text(sentencepiece_file, tmp_path):
    shutil.copy(sentencepiece_file, tmp_path)
    size = sentencepiece.SentencePieceProcessor(str(sentencepiece_file)).vocab_size()
    added = {"[SEG]": size, "<pad>": size + 1, "<im_patch>": size + 2}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"legacy": False}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    text = "the cat [SEG] sat[SEG]."
    ids = tokenizer.encode(text)
    assert ids == theirs(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert not {size + 1, size + 2} & set(tokenizer.encode("<pad><im_patch>"))


def test_flags_of_added_tokens_decoder_count(sentencepiece_file, tmp_path):
    shutil.copy(sentencepiece_file, tmp_path)
    size = sentencepiece.SentencePieceProcessor(str(sentencepiece_file)).vocab_size()
    decoder = {
        str(size): {"content": "[SEG]", "special": False, "normalized": False, "lstrip": True},
        str(size + 1): {"content": "[END]", "special": True, "normalized": False},
    }
    config = {"legacy": False, "added_tokens_decoder": decoder}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode("cat [SEG]") == [*tokenizer.encode("cat"), size]
    assert size + 1 not in tokenizer.encode("[END]")
