"""sentencepiece models against sentencepiece itself, templates against the slow, obvious way of the original code."""

import json
import random
import shutil

import pytest
import sentencepiece
import transformers

from nanollava.conversation import DEMO_SYSTEM, IMAGE_INDEX, LLAMA_2_SYSTEM, VICUNA_SYSTEM, encode
from nanollava.errors import ConfigError
from nanollava.sentencepiece import protobuf_fields
from nanollava.tokenizer import Tokenizer

WORDS = """the cat sat on a mat. def f(x): return x**2 | Привет мир | 你好 世界 | こんにちは | مرحبا | naïve café | Straße | 👩‍👩‍👧 🎉
    </s> <s> <unk> <image> <0x0A> ### USER: ASSISTANT: Human [INST] \x00 \x07 \x1b[0m \u200b \u00a0 ▁ ▁▁ ============ 3.14e-10""".split(
    " "
)
TURNS = [
    {"from": "human", "value": "<image>\nWhat is </s> there?"},
    {"from": "gpt", "value": "two  cats"},
    {"from": "human", "value": "And <s>\n?"},
    {"from": "gpt", "value": "naïve 你好\n"},
]


def lines(count: int) -> list[str]:
    rng = random.Random(0)
    made = [
        rng.choice((" ", "", "  ", "\n")).join(rng.choices(WORDS, k=rng.randint(0, 16)))
        for _ in range(count)
    ]
    return made + [
        "".join(chr(rng.randrange(1, 0xD7FF)) for _ in range(12)) for _ in range(count // 4)
    ]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """A small model of LLaMA's kind."""
    path = tmp_path_factory.mktemp("spm")
    (path / "text.txt").write_text(
        "\n".join(text.replace("\n", " ").replace("\x00", "") for text in lines(600)[:600])
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(path / "text.txt"),
        model_prefix=str(path / "tokenizer"),
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=0.98,
        max_sentence_length=10000,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(path / "tokenizer.model")), path


@pytest.fixture(params=[True, False, None], ids=["legacy", "not legacy", "legacy not given"])
def pair(request, oracle, tmp_path):
    shutil.copy(oracle[1] / "tokenizer.model", tmp_path)
    if request.param is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"legacy": request.param}))
    return oracle[0], Tokenizer.from_pretrained(tmp_path), request.param is not False


def test_ids_and_text_equal_sentencepiece(pair, tmp_path):
    oracle, tokenizer, legacy = pair
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    again = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.legacy == again.legacy == legacy
    for text in lines(400):
        expected = oracle.encode(text)
        assert tokenizer.encode(text) == again.encode(text) == expected, repr(text)
        assert tokenizer.decode(expected) == oracle.decode(expected), repr(text)


def test_transformers_reads_what_is_saved(pair, tmp_path):
    _, tokenizer, _ = pair
    tokenizer.with_image_token(len(tokenizer)).save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "the cat <image> sat</s>"
    expected = [*tokenizer.encode("the cat "), len(tokenizer)]
    assert theirs(text, add_special_tokens=False).input_ids[: len(expected)] == expected
    assert theirs.eos_token == "</s>" and theirs("a").input_ids[-1] == tokenizer.encode("a")[-1]


def slowly(oracle, legacy: bool, *parts) -> list[int]:
    """Ids of texts, special ids (int) and pictures (None), every text encoded by itself. `legacy`: each with a blank."""
    ids = []
    for i, part in enumerate(parts):
        if isinstance(part, str):
            after_special = i and isinstance(parts[i - 1], int) and len(ids) > 1
            if legacy or not after_special:
                ids += oracle.encode(part)
            else:  # behind a character that merges with nothing, text has no blank before it
                ids += oracle.encode("\x01" + part)[len(oracle.encode("\x01")) :]
        else:
            ids.append(IMAGE_INDEX if part is None else part)
    return ids


def test_templates(pair):
    """What each template shows, and what of it is trained, against texts written out by hand."""
    oracle, tokenizer, legacy = pair
    rest = " ASSISTANT: two  cats", 2, "USER: And <s>\n? ASSISTANT: naïve 你好\n", 2
    told = "\nWhat is </s> there?"
    for template, system in (("vicuna_v1", VICUNA_SYSTEM), ("llava_v1", DEMO_SYSTEM)):
        expected = slowly(oracle, legacy, 1, f"{system} USER: ", None, told + rest[0], *rest[1:])
        assert encode(TURNS, tokenizer, template)[0] == expected
    ids, labels = encode(TURNS, tokenizer, "v0")
    text = f"{told}\n### Assistant: two  cats\n### Human: And <s>\n?\n### Assistant: naïve 你好\n\n### "
    assert ids == slowly(oracle, legacy, 1, f"{DEMO_SYSTEM}\n\n### Human: ", None, text)
    trained = tokenizer.decode([t for t in labels if t != -100])
    assert trained == "###### Assistant: two  cats\n###### Assistant: naïve 你好\n\n### "
    ids, labels = encode(TURNS, tokenizer, "llama_2")
    head = f"[INST] <<SYS>>\n{LLAMA_2_SYSTEM}\n<</SYS>>\n\n"
    parts = (
        head,
        None,
        f"{told} [/INST] two  cats ",
        2,
        1,
        "[INST] And <s>\n? [/INST] naïve 你好\n ",
        2,
    )
    assert ids == slowly(oracle, legacy, 1, *parts)
    assert tokenizer.decode([t for t in labels if t != -100]) == "two  cats  naïve 你好\n "
    ids, labels = encode(TURNS, tokenizer, "plain")
    assert (
        ids == [1, IMAGE_INDEX, *oracle.encode("two  cats\nnaïve 你好\n\n")]
        and labels[2:] == ids[2:]
    )


def test_several_pictures_and_none(pair):
    tokenizer = pair[1]
    ids, _ = encode([{"from": "human", "value": "<image><image> or <image>?"}], tokenizer)
    assert ids.count(IMAGE_INDEX) == 3
    assert IMAGE_INDEX not in encode([{"from": "human", "value": "hello"}], tokenizer)[0]


def test_added_tokens(oracle, tmp_path):
    shutil.copy(oracle[1] / "tokenizer.model", tmp_path)
    size = oracle[0].vocab_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": size, "<image>": size + 1}))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.backend.token_to_id("<image>") == size + 1 and len(tokenizer) == size + 2
    assert size not in tokenizer.encode("<pad>")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": size + 5}))
    with pytest.raises(ConfigError, match=r"'<pad>' becomes token 500, its files say 505"):
        Tokenizer.from_pretrained(tmp_path)


def test_bad_files(oracle, tmp_path):
    whole = (oracle[1] / "tokenizer.model").read_bytes()
    for data in (whole[: len(whole) // 2], b"no protobuf", b""):
        (tmp_path / "tokenizer.model").write_bytes(data)
        with pytest.raises(ConfigError, match="tokenizer.model: "):
            Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(ConfigError, match=r"neither it nor tokenizer.model is there"):
        Tokenizer.from_pretrained(tmp_path)
    assert list(protobuf_fields(b"\x08\x96\x01\x12\x02hi")) == [(1, 150), (2, b"hi")]
