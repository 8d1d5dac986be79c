"""nanollava.convert: every checkpoint layout gives the model it came from, and what is refused."""

import json
import pickle
import sys
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from checkpoint_layouts import (
    COMBINATIONS,
    IMAGE_TOKEN_ID,
    LAYOUTS,
    NUM_WORDS,
    TEXT_WIDTH,
    VISION_WIDTH,
    prompts,
    reference_model,
    write_clip_llama_and_projector,
    write_llava_hf,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nanollava import LLaVA, convert, errors
from nanollava.config import ConnectorConfig
from nanollava.export import save_llava
from nanollava.hf import files as hf_files
from nanollava.image import ImageConfig
from nanollava.llama import Llama
from nanollava.loading import load_llava
from nanollava.tokenizer import Tokenizer


def run_convert(*arguments) -> None:
    """The program with these arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        errors.run(convert.main)


# Conversions that work


@pytest.fixture(scope="module", params=["linear", "gelu"])
def reference(request):
    return reference_model(request.param)


@pytest.fixture(scope="module", params=LAYOUTS)
def converted(request, reference, tmp_path_factory):
    """The reference after a way through this layout: its name and the directory written."""
    folder = tmp_path_factory.mktemp("layout")
    sources = LAYOUTS[request.param](reference, folder)
    out = folder / "out"
    run_convert(*sources, out)
    return SimpleNamespace(layout=request.param, path=out)


def test_transformers_loads_every_tensor(converted, reference):
    theirs, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        converted.path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    for ids, pixels in prompts():
        with torch.no_grad():
            expected = reference(input_ids=ids, pixel_values=pixels).logits
            logits = theirs.eval()(input_ids=ids, pixel_values=pixels).logits
        assert torch.equal(logits, expected)


def test_our_logits_equal_the_references(converted, reference):
    model = LLaVA.from_pretrained(converted.path)
    for ids, pixels in prompts():
        with torch.no_grad():
            expected = reference(input_ids=ids, pixel_values=pixels).logits
            logits = model(ids, pixels)
        assert (logits - expected).abs().max() < 1e-5


def test_our_greedy_answer_equals_the_references(converted, reference):
    model = LLaVA.from_pretrained(converted.path)
    for ids, pixels in prompts():
        whole = reference.generate(
            input_ids=ids,
            pixel_values=pixels,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
        )
        expected = whole[0, ids.shape[1] :].tolist()
        if 2 in expected:
            expected = expected[: expected.index(2)]
        assert model.generate(ids, pixels, max_new_tokens=64)[0] == expected


def test_only_an_original_llava_pads_images(converted):
    values = json.loads((converted.path / "preprocessor_config.json").read_text())
    assert values["do_pad"] == converted.layout.startswith("original")


def test_transformers_processor_reads_the_directory(converted):
    processor = transformers.AutoProcessor.from_pretrained(converted.path)
    assert processor.image_token == "<image>"
    assert processor.patch_size == 8
    assert processor.tokenizer.padding_side == "left"
    assert processor.tokenizer.pad_token is not None
    pads = type(processor.image_processor).__name__.startswith("Llava")
    assert pads == converted.layout.startswith("original")
    text = processor.apply_chat_template([{"role": "user", "content": "What?"}])
    assert text.endswith("USER: What? ")


# Every combination of sources, in every order


def test_the_table_has_every_combination_that_is_accepted():
    assert {frozenset(kinds) for kinds in COMBINATIONS} == set(map(frozenset, convert.COMPLETE))


def orders() -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Each combination with each order of its sources."""
    cases = []
    for kinds in COMBINATIONS:
        cases += [(kinds, order) for order in permutations(range(len(kinds)))]
    return cases


def keep_only_its_own_files(kinds: tuple[str, ...], paths: list[Path]) -> None:
    """A published CLIP has no tokenizer of a Llama, and a published Llama no image processing."""
    for kind, path in zip(kinds, paths, strict=True):
        if kind == "clip":
            (path / "tokenizer.json").unlink()
        if kind == "llama":
            (path / "preprocessor_config.json").unlink()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kinds, order", orders())
def test_every_combination_of_sources_converts(tmp_path, kinds, order, tied):
    reference = reference_model("gelu", tied)
    paths = COMBINATIONS[kinds](reference, tmp_path)
    keep_only_its_own_files(kinds, paths)
    out = tmp_path / "out"
    run_convert(*[paths[i] for i in order], out, "--projector", "mlp2x_gelu")
    theirs, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        out, output_loading_info=True
    )
    assert not any(report.values()), report
    embedding = theirs.model.language_model.embed_tokens.weight
    assert (theirs.lm_head.weight is embedding) == tied
    assert json.loads((out / "config.json").read_text())["image_token_index"] == IMAGE_TOKEN_ID
    ids, pixels = next(prompts())
    if "llama" in kinds and "projector" not in kinds:
        pixels = None  # its projector is new
        ids = ids[:, -4:]
    with torch.no_grad():
        expected = reference(input_ids=ids, pixel_values=pixels).logits
        assert torch.equal(theirs.eval()(input_ids=ids, pixel_values=pixels).logits, expected)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_what_was_converted_converts_again(tmp_path, tied):
    (path,) = write_llava_hf(reference_model("linear", tied), tmp_path)
    run_convert(path, tmp_path / "first")
    run_convert(tmp_path / "first", tmp_path / "second")
    first = load_file(tmp_path / "first/model.safetensors")
    second = load_file(tmp_path / "second/model.safetensors")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_llava_with_another_connector_is_written_with_it(tmp_path, capsys):
    sizes = ConnectorConfig(num_queries=4, num_layers=1, hidden_size=64)
    qformer = LLaVA.compose(
        "checkpoints/toy-clip", "checkpoints/toy-vicuna", "qformer", connector=sizes
    )
    tokenizer = Tokenizer.from_pretrained("checkpoints/toy-vicuna")
    image_config = ImageConfig.from_pretrained("checkpoints/toy-clip")
    save_llava(tmp_path / "qformer", qformer, tokenizer, image_config, "vicuna_v1")
    run_convert(tmp_path / "qformer", tmp_path / "a copy", "--template", "v0")
    assert load_llava(tmp_path / "a copy").model.config == qformer.config
    *_, ask = capsys.readouterr().out.splitlines()
    assert ask.endswith(f"--model '{tmp_path}/a copy' --image cat.jpg --template v0")


@pytest.fixture
def sources(tmp_path):
    """Directories of CLIP and Llama, and a file of the projector."""
    clip, llama, projector = write_clip_llama_and_projector(reference_model("gelu"), tmp_path)
    return SimpleNamespace(clip=clip, llama=llama, projector=projector, out=tmp_path / "out")


def test_the_report_counts_what_was_read_and_dropped(sources, capsys):
    run_convert(sources.clip, sources.llama, sources.projector, sources.out)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"read {sources.llama} (llama): 30 tensors; 1 dropped by name ['")
    assert lines[2] == f"read {sources.projector} (projector): 4 tensors; 0 dropped by name []"
    assert lines[3].startswith(f"wrote {sources.out} (llava-hf): ")


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu"])
def test_a_new_projector_is_of_the_kind_that_was_asked_for(sources, kind):
    run_convert(sources.clip, sources.llama, sources.out, "--projector", kind)
    assert LLaVA.from_pretrained(sources.out).config.projector == kind


def test_a_new_projector_has_the_dtype_of_the_files(sources):
    llama = Llama.from_pretrained(sources.llama, dtype=torch.bfloat16)
    for file in sources.llama.glob("*model*"):
        if file.name != "tokenizer.model":
            file.unlink()
    save_file(llama.state_dict(), sources.llama / "model.safetensors")
    run_convert(sources.clip, sources.llama, sources.out)
    tensors = load_file(sources.out / "model.safetensors")
    assert tensors["multi_modal_projector.linear_1.weight"].dtype == torch.bfloat16


def test_dtype_is_that_of_the_written_weights(sources):
    run_convert(sources.clip, sources.llama, sources.out, "--dtype", "bf16")
    tensors = load_file(sources.out / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_a_users_own_partial_directory_stays(sources):
    notes = sources.out.with_name(sources.out.name + ".partial") / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    run_convert(sources.clip, sources.llama, sources.out)
    assert notes.read_text() == "mine"


# What is refused: one line, exit code 2, and nothing written


@pytest.fixture
def error_of(sources, capsys):
    """The error line of the program with these sources, which must leave no output directory."""

    def run(*paths, out: Path = sources.out) -> str:
        existed = out.exists()
        with pytest.raises(SystemExit) as stopped:
            run_convert(*paths, out)
        assert stopped.value.code == 2
        assert out.exists() == existed
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    return run


def test_sources_that_make_no_llava(sources, error_of):
    error = error_of(sources.llama)
    assert "got llama; expected a llava-hf, an original (and clip), or clip and llama" in error


def test_two_sources_of_a_kind(sources, error_of):
    error = error_of(sources.llama, sources.llama)
    assert f"{sources.llama} and {sources.llama}: two of the kind 'llama'" in error


def test_a_source_that_does_not_exist(sources, error_of):
    error = error_of(sources.clip, "nowhere")
    assert "nowhere: no such directory or file; models are local directories: download" in error


def test_an_empty_name(sources, error_of):
    assert "an empty name: expected SRC ... and OUT" in error_of(sources.clip, "")


def test_a_full_disk(sources, error_of, monkeypatch):
    def fails(*arguments, **options) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(hf_files, "save_file", fails)
    error = error_of(sources.clip, sources.llama)
    assert "cannot be written (I/O error: No space left on device" in error
    assert not list(sources.out.parent.glob("*.partial"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2"}, "model_type = 'gpt2'; expected one of 'llava', 'clip', 'clip_vis"),
        ({"model_type": ["llama"]}, "model_type = ['llama']; expected a text"),
        ({}, "no 'model_type'; expected a text"),
    ],
)
def test_a_model_of_another_type(sources, error_of, values, message):
    (sources.llama / "config.json").write_text(json.dumps(values))
    assert f"config.json: {message}" in error_of(sources.clip, sources.llama)


def test_an_output_directory_that_exists(sources, error_of):
    assert "exists already" in error_of(sources.clip, sources.llama, out=sources.llama)


class Trap:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


def test_a_pickle_that_would_run_code(sources, error_of, tmp_path):
    trap = tmp_path / "trap"
    sources.projector.write_bytes(pickle.dumps({"mm_projector.weight": Trap(trap)}))
    error = error_of(sources.clip, sources.llama, sources.projector)
    assert "refused, because it holds more than tensors" in error
    assert not trap.exists()


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"x": torch.ones(2)}, "tensor 'x' has no place in the projector layout"),
        (
            {
                "mm_projector.weight": torch.ones(TEXT_WIDTH, VISION_WIDTH, dtype=torch.int32),
                "mm_projector.bias": torch.ones(TEXT_WIDTH),
            },
            "is torch.int32; expected fp32",
        ),
        (
            {
                "mm_projector.weight": torch.ones(TEXT_WIDTH, 9),
                "mm_projector.bias": torch.ones(TEXT_WIDTH),
            },
            f"has shape ({TEXT_WIDTH}, 9), the config says ({TEXT_WIDTH}, {VISION_WIDTH})",
        ),
    ],
    ids=["unknown name", "integers", "wrong shape"],
)
def test_a_projector_that_does_not_fit(sources, error_of, tensors, message):
    torch.save(tensors, sources.projector)
    assert message in error_of(sources.clip, sources.llama, sources.projector)


def test_a_pickle_cut_in_half(sources, error_of):
    whole = sources.projector.read_bytes()
    sources.projector.write_bytes(whole[: len(whole) // 2])
    error = error_of(sources.clip, sources.llama, sources.projector)
    assert "mm_projector.bin: not a whole checkpoint" in error


def test_a_shard_without_its_end(sources, error_of):
    shard = next(sources.llama.glob("model-*2.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    assert "not a readable safetensors file" in error_of(sources.clip, sources.llama)


def test_a_shard_whose_header_claims_a_terabyte(sources, error_of):
    shard = next(sources.llama.glob("model-*2.safetensors"))
    data = bytearray(shard.read_bytes())
    data[0:8] = (1 << 40).to_bytes(8, "little")
    shard.write_bytes(data)
    assert "not a readable safetensors file" in error_of(sources.clip, sources.llama)


def test_a_missing_shard(sources, error_of):
    shard = next(sources.llama.glob("model-*2.safetensors"))
    shard.unlink()
    error = error_of(sources.clip, sources.llama)
    assert f"names {shard.name}, which is missing" in error


def test_an_embedding_smaller_than_the_tokenizer(sources, error_of):
    config = json.loads((sources.llama / "config.json").read_text())
    (sources.llama / "config.json").write_text(json.dumps(config | {"vocab_size": 600}))
    for file in sources.llama.glob("model-*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if len(tensor) == NUM_WORDS:
                tensors[name] = tensor[:600].clone()
        save_file(tensors, file)
    error = error_of(sources.clip, sources.llama)
    assert "its tokenizer has 704 tokens, its embedding only 600 rows" in error
