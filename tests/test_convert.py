"""Every checkpoint layout, made with transformers and torch.save, against transformers' greedy text; and what must not load."""

import json
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from conftest import randomise, text_config, vision_config
from safetensors.torch import load_file, save_file

from nanollava import LLaVA, convert, errors
from nanollava.config import LlamaConfig, LlavaConfig, VisionConfig
from nanollava.hf import load as hf_load
from nanollava.hf import names as hf_names
from nanollava.hf.names import WeightsError
from nanollava.llama import Llama
from nanollava.vit import CLIPVisionTransformer

IMAGE, WORDS = 704, 704  # toy-vicuna's vocabulary; the picture's row is the next


@pytest.fixture(scope="module", params=["linear", "gelu"])
def reference(request):
    """transformers' LLaVA; its rows behind the tokenizer's are the mean of the others, as composition makes them."""
    config = transformers.LlavaConfig(
        vision_config=vision_config(),
        text_config=text_config(vocab_size=768, max_position_embeddings=256),
        projector_hidden_act=request.param,
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    model = randomise(transformers.LlavaForConditionalGeneration(config))
    with torch.no_grad():
        for rows in (model.model.language_model.embed_tokens.weight, model.lm_head.weight):
            rows[WORDS:] = rows[:WORDS].mean(0)
        if request.param == "linear":
            model.model.multi_modal_projector.linear_2.weight.copy_(torch.eye(64))
            model.model.multi_modal_projector.linear_2.bias.zero_()
    return model


def parts(model) -> dict[str, dict[str, torch.Tensor]]:
    """The reference's tensors: llama (without the added rows), tower, projector, each by its own names."""
    found = {"llama": {}, "tower": {}, "projector": {}}
    for name, tensor in model.state_dict().items():
        if name.startswith("model.language_model."):
            found["llama"]["model." + name.removeprefix("model.language_model.")] = tensor
        elif name.startswith("lm_head."):
            found["llama"][name] = tensor
        elif "vision_tower." in name:
            found["tower"][re.sub(r".*vision_tower\.(vision_model\.)?", "", name)] = tensor
        else:
            found["projector"][name.removeprefix("model.multi_modal_projector.")] = tensor
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        found["llama"][name] = found["llama"][name][:WORDS].clone()
    found["llama"]["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(
        8
    )  # as old files have it
    return found


def write(path: Path, tensors: dict, config: dict, form: str = "model.safetensors") -> Path:
    """One directory with config.json and weights: safetensors or .bin, single or in two shards with an index."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save = save_file if form.endswith("safetensors") else torch.save
    if "-" not in form:
        save(tensors, path / form)
        return path
    stem, suffix = form.replace("-", "").split(".")
    names, weight_map = sorted(tensors), {}
    for i in (0, 1):
        file = f"{stem}-0000{i + 1}-of-00002.{suffix}"
        save({name: tensors[name] for name in names[i::2]}, path / file)
        weight_map |= dict.fromkeys(names[i::2], file)
    (path / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


def llama_config() -> dict:
    return json.loads(text_config(vocab_size=WORDS, max_position_embeddings=256).to_json_string())


def sources(layout: str, model, folder: Path) -> list[Path]:
    """Directories of a layout with the reference's weights."""
    found, kind = parts(model), model.config.projector_hidden_act
    original = {
        "model_type": "llava",
        "mm_vision_tower": "openai/clip",
        "mm_hidden_size": 48,
        "mm_vision_select_layer": -2,
    }
    original |= {"mm_projector_type": "mlp2x_gelu"} if kind == "gelu" else {}
    original = {**llama_config(), **original, "image_aspect_ratio": "pad"}
    both = kind == "gelu"
    old = {
        "linear_1.weight": "0.weight",
        "linear_1.bias": "0.bias",
        "linear_2.weight": "2.weight",
        "linear_2.bias": "2.bias",
    }
    old = old if both else {"linear_1.weight": "weight", "linear_1.bias": "bias"}
    inside = {
        f"model.mm_projector.{theirs}": found["projector"][ours] for ours, theirs in old.items()
    }
    clip = {f"vision_model.{name}": tensor for name, tensor in found["tower"].items()}
    whole = clip | {
        "logit_scale": torch.ones(()),
        "text_model.x": torch.ones(2),
        "visual_projection.weight": torch.ones(2, 2),
    }
    vision = json.loads(vision_config().to_json_string())
    if layout == "llava-hf":
        model.save_pretrained(folder / "hf")
        paths = [folder / "hf"]
    elif layout == "llava-hf of transformers 4":
        old_names = {f"language_model.{n}": t for n, t in found["llama"].items()}
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            old_names[f"language_model.{name}"] = dict(model.named_parameters())[
                name.replace("model.embed", "model.language_model.embed")
            ]
        old_names |= {f"vision_tower.vision_model.{n}": t for n, t in found["tower"].items()}
        old_names |= {f"multi_modal_projector.{n}": t for n, t in found["projector"].items()}
        paths = [
            write(
                folder / "hf",
                old_names,
                json.loads(model.config.to_json_string()),
                "model-.safetensors",
            )
        ]
    elif layout == "original, tower inside":
        tower = {
            f"model.vision_tower.vision_tower.vision_model.{n}": t
            for n, t in found["tower"].items()
        }
        paths = [
            write(
                folder / "original",
                {**found["llama"], **inside, **tower},
                original,
                "pytorch_model-.bin",
            )
        ]
    elif layout == "original, tower apart":
        paths = [
            write(folder / "original", {**found["llama"], **inside}, original, "pytorch_model.bin")
        ]
        paths.append(
            write(
                folder / "clip",
                whole,
                {"model_type": "clip", "vision_config": vision},
                "pytorch_model.bin",
            )
        )
    else:  # "CLIP, Llama, projector"
        paths = [
            write(folder / "clip", found["tower"], vision),
            write(folder / "llama", found["llama"], llama_config(), "model-.safetensors"),
        ]
        torch.save(inside, folder / "mm_projector.bin")
        paths.append(folder / "mm_projector.bin")
    for path in paths[:2]:
        if path.is_dir():
            shutil.copy("checkpoints/toy-vicuna/tokenizer.json", path)
            (path / "preprocessor_config.json").write_text(
                json.dumps({"size": {"shortest_edge": 32}})
            )
    return paths


LAYOUTS = (
    "llava-hf",
    "llava-hf of transformers 4",
    "original, tower inside",
    "original, tower apart",
    "CLIP, Llama, projector",
)


def prompts(count: int = 4):
    generator = torch.Generator().manual_seed(3)
    for n in range(count):
        words = torch.randint(3, WORDS, (1, 6 + n), generator=generator)
        ids = torch.cat([words[:, :2], torch.full((1, 16), IMAGE), words[:, 2:]], 1)
        yield ids, torch.randn(1, 3, 32, 32, generator=generator)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_transformers_greedy_text(
    layout, reference, tmp_path, monkeypatch, capsys
):
    if (
        layout == "original, tower inside"
    ):  # its tensors do not tell the heads; published towers have 64 wide ones
        monkeypatch.setattr("nanollava.vit.HEAD_WIDTH", 12)
    paths, out = sources(layout, reference, tmp_path), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, paths), str(out)])
    convert.main()
    assert "read " in capsys.readouterr().out
    model = LLaVA.from_pretrained(out)
    theirs, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        out, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (
        json.loads((out / "preprocessor_config.json").read_text())["do_pad"]
    ) == layout.startswith("original")
    for ids, pixels in prompts():
        with torch.no_grad():
            expected = reference(input_ids=ids, pixel_values=pixels).logits
            assert torch.equal(theirs.eval()(input_ids=ids, pixel_values=pixels).logits, expected)
            assert (model(ids, pixels) - expected).abs().max() < 1e-5
        text = reference.generate(
            input_ids=ids,
            pixel_values=pixels,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
        )
        ours = model.generate(ids, pixels, max_new_tokens=64)
        new = text[0, ids.shape[1] :].tolist()
        assert ours[0] == (new[: new.index(2)] if 2 in new else new)


def test_an_original_is_loaded_where_it_lies(reference, tmp_path):
    original, clip = sources("original, tower apart", reference, tmp_path)
    with pytest.raises(
        WeightsError, match=r"vision tower 'openai/clip' is not a directory here; give .* --vision"
    ):
        LLaVA.from_pretrained(original)
    model = LLaVA.from_pretrained(original, vision=clip, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    again = LLaVA.from_pretrained(original, vision=clip)
    ids, pixels = next(prompts())
    with torch.no_grad():
        assert (
            again(ids, pixels) - reference(input_ids=ids, pixel_values=pixels).logits
        ).abs().max() < 1e-5


def run(monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        errors.run(convert.main)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ")
    return error


class Trap:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


def test_bad_sources(reference, tmp_path, monkeypatch, capsys):
    clip, llama, projector = sources("CLIP, Llama, projector", reference, tmp_path)
    out = tmp_path / "out"
    assert "expected a llava-hf, an original" in run(monkeypatch, capsys, llama, out)
    assert "no such directory or file" in run(monkeypatch, capsys, tmp_path / "nowhere", out)
    assert "exists already" in run(monkeypatch, capsys, clip, llama, tmp_path)
    projector.write_bytes(pickle.dumps({"mm_projector.weight": Trap(tmp_path / "trap")}))
    assert "refused, because it holds more than tensors" in run(
        monkeypatch, capsys, clip, llama, projector, out
    )
    assert not (tmp_path / "trap").exists()
    torch.save({"x": torch.ones(2)}, projector)
    assert "tensor 'x' has no place in the projector layout" in run(
        monkeypatch, capsys, clip, llama, projector, out
    )
    torch.save(
        {
            "mm_projector.weight": torch.ones(64, 48, dtype=torch.int32),
            "mm_projector.bias": torch.ones(64),
        },
        projector,
    )
    assert "is torch.int32; expected fp32" in run(monkeypatch, capsys, clip, llama, projector, out)
    torch.save(
        {"mm_projector.weight": torch.ones(64, 9), "mm_projector.bias": torch.ones(64)}, projector
    )
    assert "has shape (64, 9), the config says (64, 48)" in run(
        monkeypatch, capsys, clip, llama, projector, out
    )
    whole = projector.read_bytes()
    projector.write_bytes(whole[: len(whole) // 2])
    assert "mm_projector.bin: " in run(monkeypatch, capsys, clip, llama, projector, out)
    shard = next(llama.glob("model-*2.safetensors"))
    data = bytearray(shard.read_bytes())
    shard.write_bytes(data[:-100])
    assert "not a readable safetensors file" in run(monkeypatch, capsys, clip, llama, out)
    data[0:8] = (1 << 40).to_bytes(8, "little")  # a header that says it is a terabyte long
    shard.write_bytes(data)
    assert "not a readable safetensors file" in run(monkeypatch, capsys, clip, llama, out)
    shard.unlink()
    assert f"names {shard.name}, which is missing" in run(monkeypatch, capsys, clip, llama, out)
    assert not out.exists(), "nothing may be half written"


def test_tokenizer_and_embedding_of_different_sizes(reference, tmp_path, monkeypatch, capsys):
    clip, llama, _ = sources("CLIP, Llama, projector", reference, tmp_path)
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"vocab_size": 600}))
    for file in llama.glob("model-*.safetensors"):
        tensors = {n: t[:600].clone() if len(t) == WORDS else t for n, t in load_file(file).items()}
        save_file(tensors, file)
    error = run(monkeypatch, capsys, clip, llama, tmp_path / "out")
    assert "its tokenizer has 704 tokens, its embedding only 600 rows" in error


@pytest.mark.parametrize(
    "width, layers, ffn, expected",
    [(4096, 32, 11008, 6_738_415_616), (5120, 40, 13824, 13_015_864_320)],
)
def test_published_sizes_on_the_meta_device(width, layers, ffn, expected):
    """7B and 13B: parameter counts, names and shapes, by the rule that the published files follow."""
    config = LlamaConfig(32000, width, ffn, layers, width // 128)
    with hf_load.uninitialized():
        llama = Llama(config)
        tower = CLIPVisionTransformer(VisionConfig(image_size=336))
        llava = LLaVA(
            LlavaConfig(VisionConfig(image_size=336), config, "mlp2x_gelu", image_token_id=31999)
        )
    shapes = {
        "model.embed_tokens": (32000, width),
        "lm_head": (32000, width),
        "model.norm": (width,),
    }
    for n in range(layers):
        block = {f"self_attn.{x}_proj": (width, width) for x in "qkvo"}
        block |= {
            "mlp.gate_proj": (ffn, width),
            "mlp.up_proj": (ffn, width),
            "mlp.down_proj": (width, ffn),
        }
        block |= {"input_layernorm": (width,), "post_attention_layernorm": (width,)}
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in block.items()}
    assert {n: tuple(p.shape) for n, p in llama.named_parameters()} == {
        f"{n}.weight": s for n, s in shapes.items()
    }
    assert sum(p.numel() for p in llama.parameters()) == expected
    assert sum(p.numel() for p in tower.parameters()) == 303_507_456
    projector = 1024 * width + width + width * width + width
    assert sum(p.numel() for p in llava.parameters()) == expected + 303_507_456 + projector


def widely(cls, config):
    """As `randomise`, for many weights: drawn once, in float32."""
    model, generator = cls(config).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(
                float(p.ndim == 1), p.shape[-1] ** -0.5 if p.ndim > 1 else 0.1, generator=generator
            )
    return model


@pytest.mark.slow
def test_true_width_tower():
    """ViT-L/14 at 336 px, 24 layers, random weights: every hidden state."""
    config = transformers.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    check_true_width(
        widely(transformers.CLIPVisionModel, config),
        lambda m, x: m(x, output_hidden_states=True).hidden_states[1:],
        CLIPVisionTransformer,
        VisionConfig(image_size=336),
        hf_names.CLIP_VISION,
        lambda m, x: m.hidden_states(x)[1:],
        torch.randn(1, 3, 336, 336, generator=torch.Generator().manual_seed(0)),
    )


@pytest.mark.slow
def test_true_width_decoder():
    """LLaMA-7B's width, 2 layers, random weights: the hidden states and the logits."""
    values = dict(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=2,
        num_attention_heads=32,
        vocab_size=1000,
    )
    config = transformers.LlamaConfig(**values, rms_norm_eps=1e-5, max_position_embeddings=2048)
    check_true_width(
        widely(transformers.LlamaForCausalLM, config),
        lambda m, x: [m.model(x).last_hidden_state, m(x).logits],
        Llama,
        LlamaConfig(**values),
        hf_names.LLAMA,
        lambda m, x: [m.model(m.model.embed_tokens(x)), m(x)],
        torch.randint(0, 1000, (1, 64), generator=torch.Generator().manual_seed(0)),
    )


@torch.no_grad()
def check_true_width(theirs, states, cls, config, layout, our_states, x):
    """fp32 equal to 1e-4 of each state's own maximum; bf16 no farther from float64 than transformers' bf16."""
    with hf_load.uninitialized():
        ours = cls(config)
    drop = {n: p for n, p in theirs.state_dict().items() if "position_ids" not in n}
    ours.load_state_dict({layout.to_ours(n): p.clone() for n, p in drop.items()}, assign=True)
    for a, b in zip(states(theirs, x), our_states(ours, x), strict=True):
        assert (a - b).abs().max() <= 1e-4 * a.abs().max()
    exact = [
        s.clone() for s in our_states(ours.double(), x.double() if x.is_floating_point() else x)
    ]
    low = x.bfloat16() if x.is_floating_point() else x
    del ours
    far = [
        (s.double() - e).norm() for s, e in zip(states(theirs.bfloat16(), low), exact, strict=True)
    ]
    with hf_load.uninitialized():
        ours = cls(config)
    ours.load_state_dict(
        {layout.to_ours(n): p for n, p in theirs.state_dict().items() if "position_ids" not in n},
        assign=True,
    )
    near = [(s.double() - e).norm() for s, e in zip(our_states(ours, low), exact, strict=True)]
    assert sum(near) <= 1.05 * sum(far), (sum(near), sum(far))
