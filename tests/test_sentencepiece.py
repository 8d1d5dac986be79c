"""tokenizer.model without the library, against the library."""

import json
import shutil

import pytest
import sentencepiece
from conftest import texts_of_all_kinds

from nanollava.errors import ConfigError
from nanollava.sentencepiece import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    Piece,
    bpe_merges,
    check_vocabulary,
    protobuf_fields,
    read_pieces,
)
from nanollava.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def processor(sentencepiece_file):
    return sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file))


def train(folder, **options):
    """Another small tokenizer.model, which is not of LLaMA's kind."""
    (folder / "text.txt").write_text("\n".join(f"a cat and {i} dogs" for i in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=40,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return folder / "tokenizer.model"


def test_pieces_equal_the_librarys(processor, sentencepiece_file):
    pieces = read_pieces(sentencepiece_file)
    assert len(pieces) == processor.vocab_size()
    for token_id, piece in enumerate(pieces):
        assert piece.text == processor.id_to_piece(token_id)
        assert piece.score == processor.get_score(token_id)
        assert (piece.type == UNKNOWN) == processor.is_unknown(token_id)
        assert (piece.type == CONTROL) == processor.is_control(token_id)


def test_merges_are_in_the_order_of_scores(sentencepiece_file):
    pieces = read_pieces(sentencepiece_file)
    scores = {piece.text: piece.score for piece in pieces}
    merged_scores = [scores[left + right] for left, right in bpe_merges(pieces)]
    assert len(merged_scores) > 100
    assert merged_scores == sorted(merged_scores, reverse=True)


def test_ids_equal_the_librarys(processor, tokenizer_dir):
    tokenizer = Tokenizer.from_pretrained(tokenizer_dir)
    for text in texts_of_all_kinds(400):
        assert tokenizer.encode(text) == processor.encode(text), repr(text)


def test_decoded_text_equals_the_librarys(processor, tokenizer_dir):
    tokenizer = Tokenizer.from_pretrained(tokenizer_dir)
    for text in texts_of_all_kinds(400):
        ids = processor.encode(text)
        assert tokenizer.decode(ids) == processor.decode(ids), repr(text)


def test_tokens_of_added_tokens_json_get_their_ids(processor, sentencepiece_file, tmp_path):
    shutil.copy(sentencepiece_file, tmp_path)
    size = processor.vocab_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": size, "<image>": size + 1}))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.image_token_id == size + 1
    assert len(tokenizer) == size + 2
    assert size not in tokenizer.encode("<pad>")


def test_tokens_of_tokenizer_config_json_get_their_ids(processor, sentencepiece_file, tmp_path):
    shutil.copy(sentencepiece_file, tmp_path)
    size = processor.vocab_size()
    options = {"added_tokens_decoder": {str(size): {"content": "<image>"}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    assert Tokenizer.from_pretrained(tmp_path).backend.token_to_id("<image>") == size


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("added_tokens.json", {"<pad>": 505}, "'<pad>' becomes token 500, its files say 505"),
        ("added_tokens.json", {"<pad>": "500"}, "'<pad>': '500'; expected an id"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder"),
    ],
)
def test_added_tokens_that_do_not_fit_are_an_error(
    sentencepiece_file, tmp_path, file, content, message
):
    shutil.copy(sentencepiece_file, tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        Tokenizer.from_pretrained(tmp_path)


def test_a_file_cut_in_half_is_an_error(sentencepiece_file, tmp_path):
    whole = sentencepiece_file.read_bytes()
    file = tmp_path / "tokenizer.model"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="tokenizer.model: not a whole sentencepiece model"):
        read_pieces(file)


@pytest.mark.parametrize("content", [b"no protobuf", b"", b"\x0a\x02\x08\x01"])
def test_other_files_are_an_error(tmp_path, content):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="tokenizer.model: "):
        read_pieces(file)


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram", "normalization_rule_name": "identity"},
        {"model_type": "bpe", "normalization_rule_name": "nfkc"},
        {
            "model_type": "bpe",
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": True,
        },
        {
            "model_type": "bpe",
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "add_dummy_prefix": False,
        },
    ],
    ids=["unigram", "normalization", "fewer spaces", "no space before the text"],
)
def test_models_that_are_not_llamas_kind_are_an_error(tmp_path, options):
    with pytest.raises(ConfigError, match="expected LLaMA's BPE without normalization"):
        read_pieces(train(tmp_path, **options))


def message(*fields: tuple[int, bytes]) -> bytes:
    """A protobuf message of short fields that are bytes."""
    return b"".join(bytes([number << 3 | 2, len(value)]) + value for number, value in fields)


BPE_TRAINER = (2, b"\x18\x02")  # model_type: BPE
KEEPS_SPACES = (3, b"\x20\x00")  # remove_extra_whitespaces: false


@pytest.mark.parametrize(
    "texts, error",
    [
        ([b"<unk>", b"a", b"a"], "a piece is in the vocabulary twice"),
        ([b"a", b"b"], "no <unk> in the vocabulary"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_an_error(tmp_path, texts, error):
    pieces = [(1, message((1, text))) for text in texts]
    file = tmp_path / "tokenizer.model"
    file.write_bytes(message(*pieces, BPE_TRAINER, KEEPS_SPACES))
    with pytest.raises(ConfigError, match=error):
        read_pieces(file)


@pytest.mark.parametrize(
    "piece, error",
    [
        (Piece(300 * "a", 0.0, NORMAL), "piece 1 has 300 characters; expected at most 256"),
        (Piece("a", float("nan"), NORMAL), "piece 1 has the score nan"),
        (Piece("a", float("inf"), NORMAL), "piece 1 has the score inf"),
    ],
)
def test_an_odd_piece_is_an_error(piece, error):
    with pytest.raises(ConfigError, match=f"x.model: {error}"):
        check_vocabulary("x.model", [Piece("<unk>", 0.0, UNKNOWN), piece])


def test_a_protobuf_number_without_an_end_is_an_error():
    with pytest.raises(ValueError, match="more than 10 bytes"):
        list(protobuf_fields(b"\xff" * 400_000))


def test_protobuf_fields_are_numbers_and_bytes():
    assert list(protobuf_fields(b"\x08\x96\x01\x12\x02hi")) == [(1, 150), (2, b"hi")]


def test_protobuf_values_of_fixed_size_are_bytes():
    assert list(protobuf_fields(b"\x0d\x00\x00\x80\x3f\x11abcdefgh")) == [
        (1, b"\x00\x00\x80\x3f"),
        (2, b"abcdefgh"),
    ]


def test_a_protobuf_message_that_ends_too_early_is_an_error():
    with pytest.raises(ValueError, match="ends too early"):
        list(protobuf_fields(b"\x12\x05hi"))
