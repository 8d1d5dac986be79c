"""Tiny random models, ours and transformers', and a small tokenizer, shared by the parity tests."""

import json
import os
import random
import shutil
import signal
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # many short runs on few cores

import pytest
import sentencepiece
import torch
import transformers
from fake_endpoint import FakeEndpoint, RawServer
from transformers.models.llama.modeling_llama import LlamaRMSNorm

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
IMAGE_TOKEN = 95

torch.set_num_threads(2)
# The tests send these signals. A CI that runs in the background may have started Python with them
# ignored, and every program that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform != "win32":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def threads_stay_as_they_are():
    """A program may compute on one thread; the tests after it have two again."""
    yield
    torch.set_num_threads(2)


def vision_config(**changes) -> transformers.CLIPVisionConfig:
    values = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4)
    return transformers.CLIPVisionConfig(**{**values, "image_size": 32, "patch_size": 8, **changes})


def text_config(**changes) -> transformers.LlamaConfig:
    values = dict(
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=96,
    )
    values |= dict(num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5)
    return transformers.LlamaConfig(**{**values, **changes})


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights of a scale that makes every part of the model matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale
            )
            if parameter.ndim == 1:
                parameter.add_(1.0)
    return model.eval()


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request, monkeypatch):
    """transformers computes RMSNorm in float32 even for float64 models.

    In float64 its formula, computed in float64, is the oracle.
    """
    if request.param == torch.float64:

        def forward(self, x):
            return (
                self.weight
                * x
                * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
            )

        monkeypatch.setattr(LlamaRMSNorm, "forward", forward)
    return request.param


@pytest.fixture(scope="session")
def llava_dir(tmp_path_factory):
    """Makes LLaVAs with random weights, written by transformers; returns the directory."""

    def make(act: str = "gelu", **text) -> str:
        path = tmp_path_factory.mktemp("llava")
        config = transformers.LlavaConfig(
            vision_config=vision_config(),
            text_config=text_config(**text),
            projector_hidden_act=act,
            image_token_index=IMAGE_TOKEN,
            image_seq_length=16,
        )
        randomise(transformers.LlavaForConditionalGeneration(config)).save_pretrained(path)
        return str(path)

    return make


def batch(seed: int = 0, rows: int = 3, dtype=torch.float32):
    """Right-padded prompts of unequal length with one picture each, and labels on their ends."""
    rng = random.Random(seed)
    ids, labels = torch.zeros(rows, 40, dtype=torch.long), torch.full((rows, 40), -100)
    mask = torch.zeros(rows, 40, dtype=torch.long)
    for row in range(rows):
        before, after = rng.randint(1, 6), rng.randint(6, 16)
        words = [rng.randrange(3, IMAGE_TOKEN) for _ in range(before + after)]
        values = words[:before] + [IMAGE_TOKEN] * 16 + words[before:]
        ids[row, : len(values)] = torch.tensor(values)
        mask[row, : len(values)] = 1
        labels[row, len(values) - 4 : len(values)] = ids[row, len(values) - 4 : len(values)]
    pixels = torch.randn(
        rows, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return ids, labels, mask, pixels.to(dtype)


WORDS = (
    "the cat sat on a mat. def f(x): return x**2 | Привет мир | 你好 世界 | こんにちは | مرحبا | "
    "naïve café | Straße | 👩‍👩‍👧 🎉\n    </s> <s> <unk> <image> <0x0A> ### USER: ASSISTANT: Human "
    "[INST] \x00 \x07 \x1b[0m \u200b \u00a0 ▁ ▁▁ ============ 3.14e-10"
).split(" ")


def texts_of_all_kinds(count: int) -> list[str]:
    """Texts that are hard for a tokenizer: scripts, spaces, controls, special tokens, noise."""
    rng = random.Random(0)
    texts = []
    for _ in range(count):
        separator = rng.choice((" ", "", "  ", "\n"))
        texts.append(separator.join(rng.choices(WORDS, k=rng.randint(0, 16))))
    for _ in range(count // 4):
        texts.append("".join(chr(rng.randrange(1, 0xD7FF)) for _ in range(12)))
    return texts


@pytest.fixture(scope="session")
def sentencepiece_file(tmp_path_factory):
    """A small tokenizer.model of LLaMA's kind, trained by sentencepiece."""
    path = tmp_path_factory.mktemp("sentencepiece")
    lines = []
    for text in texts_of_all_kinds(600)[:600]:  # without the random characters, which come last
        lines.append(text.replace("\n", " ").replace("\x00", ""))
    (path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
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
    return path / "tokenizer.model"


@pytest.fixture(params=[True, False, None], ids=["legacy", "not legacy", "legacy not given"])
def tokenizer_dir(request, sentencepiece_file, tmp_path):
    """A directory with tokenizer.model, for each way to set `legacy`."""
    path = tmp_path / "tokenizer"
    path.mkdir()
    shutil.copy(sentencepiece_file, path)
    if request.param is not None:
        (path / "tokenizer_config.json").write_text(json.dumps({"legacy": request.param}))
    return path


@pytest.fixture
def server(monkeypatch):
    """Starts fake chat endpoints with given options, and stops them after the test."""
    monkeypatch.setenv("OPENAI_API_KEY", "good")
    started = []

    def start(**options) -> FakeEndpoint:
        started.append(FakeEndpoint(**options))
        return started[-1]

    yield start
    for endpoint in started:
        endpoint.shutdown()
        endpoint.server_close()


@pytest.fixture
def raw_server(monkeypatch):
    """Starts servers that send given bytes to everyone, and stops them after the test."""
    monkeypatch.setenv("OPENAI_API_KEY", "good")
    started = []

    def start(*parts: bytes, pause: float = 0.0) -> RawServer:
        started.append(RawServer(list(parts), pause))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the main of a module in this process and returns what it printed on both streams."""

    def run(module, *argv) -> str:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, argv)])
        capsys.readouterr()
        module.main()
        return "".join(capsys.readouterr())

    return run
