"""The views of what is trained and of where the model looks."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

from nanollava import LLaVA, show
from nanollava.config import UserError
from nanollava.conversation import IMAGE, encode
from nanollava.generate import prompt, stream
from nanollava.image import ImageConfig, open_image, preprocess
from nanollava.tokenizer import Tokenizer
from nanollava.toyland.draw import draw
from nanollava.toyland.scenes import scenes

TOY = "checkpoints/toy-llava"


@pytest.fixture(scope="module")
def toy():
    model = LLaVA.from_pretrained(TOY, dtype=torch.float32)
    return model, Tokenizer.from_pretrained(TOY), ImageConfig.from_pretrained(TOY)


def look(toy, picture, question, layers=None, new=40):
    """Question about one picture: prompt ids, new ids, attention over the picture at each (ids, P)."""
    model, tokenizer, config = toy
    ids = prompt([{"from": "human", "value": f"{IMAGE}\n{question}"}], model, tokenizer)
    layers = show.default_layers(len(model.language_model.model.layers)) if layers is None else layers
    with show.watch(model, layers) as seen:
        pixels = preprocess(picture, config)[None]
        found = [
            row[0] for row in stream(model, torch.tensor([ids]), pixels, max_new_tokens=new) if row[0] >= 0
        ]
    return ids, found, seen, show.over_picture(seen, ids, model.config.image_token_id)


def test_weights_are_those_of_attention(toy):
    """Held against softmax(q k^T) of the whole sequence, written out for one layer."""
    model, _, config = toy
    ids, found, seen, maps = look(toy, open_image("cat.jpg"), "Where is the cat?", layers=[2])
    assert len(seen) == len(found) + 1  # the step that foretold the end token is one too
    torch.testing.assert_close(maps.sum(1), torch.ones(len(seen)))
    whole, block = torch.tensor([ids + found]), model.language_model.model.layers[2]
    inner = model.language_model.model
    with torch.no_grad():
        x = inner.hidden_states(model.embed(whole, preprocess(open_image("cat.jpg"), config)[None]))[2]
        x = block.input_layernorm(x)
        q, k = (
            p(x).view(1, -1, 4, 32).transpose(1, 2) for p in (block.self_attn.q_proj, block.self_attn.k_proj)
        )
        q, k = (show.rotate(t, inner.positions(x)) for t in (q, k))
        scores = (q @ k.transpose(2, 3)) / 32**0.5
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        expected = scores.masked_fill(~causal, -torch.inf).softmax(-1).mean(1)[0]  # (T, T)
    for step, weights in enumerate(seen):
        at = len(ids) - 1 + step
        torch.testing.assert_close(weights, expected[at, : at + 1], atol=1e-5, rtol=1e-4)


def test_looking_changes_nothing_and_ends(toy):
    model = toy[0]
    ids, found, _, _ = look(toy, open_image("cat.jpg"), "Where is the cat?")
    pixels = preprocess(open_image("cat.jpg"), toy[2])[None]
    assert model.generate(torch.tensor([ids]), pixels) == [found]
    assert not any(block.self_attn._forward_hooks for block in model.language_model.model.layers)
    with pytest.raises(UserError, match="layers 0 to 4"), show.watch(model, [5]):
        pass


def test_points_at_the_thing_asked_for(toy):
    """Colour questions about test scenes: the strongest patch lies in the thing's box. The layers were chosen on validation."""
    hits = []
    for scene in scenes("test", 60, 2, unseen=False):
        kinds = [thing.kind for thing in scene.things]
        thing = next((t for t in scene.things if kinds.count(t.kind) == 1 and len(kinds) > 1), None)
        if thing is None:
            continue
        _, _, _, maps = look(toy, draw(scene, 200), f"What color is the {thing.kind}?", new=1)
        at = int(maps[0].argmax())
        x, y = (at % 10 + 0.5) / 10, (at // 10 + 0.5) / 10
        hits.append(thing.box[0] <= x <= thing.box[2] and thing.box[1] <= y <= thing.box[3])
    assert len(hits) >= 30 and sum(hits) / len(hits) > 0.8, (sum(hits), len(hits))


def test_panels(toy):
    _, tokenizer, config = toy
    cat = open_image("cat.jpg")
    _, found, _, maps = look(toy, cat, "Where is the cat?")
    said = show.words(found, tokenizer)
    assert [word for word, _ in said] == ["on", "the", "left"]
    assert [i for _, group in said for i in group] == list(range(len(found)))
    heat = torch.zeros(1, 200)
    heat[0, 100 + 55] = 1.0  # of the second of two pictures, row 5, column 5
    sheet = show.draw([cat, cat], config, [("here", [0])], heat)
    assert sheet.size == (2 * show.PANEL + 12, show.PANEL + 38)
    patch = show.PANEL / 10
    corner = (round(6 + show.PANEL + 5 * patch), round(6 + 5 * patch))
    assert sheet.getpixel(corner) == (255, 176, 0)
    assert sum(sheet.getpixel((6 + 20, 6 + 20))) < sum(
        show.fit(cat, config).resize((168, 168)).getpixel((20, 20))
    )
    assert show.draw([cat], config, said, maps).size == (3 * (show.PANEL + 6) + 6, show.PANEL + 38)


def test_mask_view(toy):
    turns = [{"from": "human", "value": f"{IMAGE}\nWhat is it?"}, {"from": "gpt", "value": "a cat"}]
    ids, labels = encode(turns, toy[1])
    plain = show.mask(ids, labels, toy[1], color=False)
    assert plain.endswith("USER: <image> \\nWhat is it? ASSISTANT:[ a][ cat][</s>]")
    lit = show.mask(ids, labels, toy[1])
    assert lit.count("\033[30;") == 3 and lit.count("\033[1;35m<image>") == 1


def test_commands(tmp_path):
    def run(*args):
        command = [sys.executable, "-m", "nanollava.show", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True)

    done = run("mask", "What is it?", "a cat")
    assert done.returncode == 0 and done.stdout.endswith("[ a][ cat][</s>]\n3 of 45 tokens are trained\n"), (
        done
    )
    done = run(
        "attention", "--image", "cat.jpg", "--prompt", "Where is the cat?", "--out", tmp_path / "a.png"
    )
    assert done.stdout == "on the left\n" and Image.open(tmp_path / "a.png").width > 3 * show.PANEL, (
        done.stderr
    )
    done = run("attention", "--image", "none.jpg")
    assert done.returncode == 2 and done.stderr == "error: none.jpg: no such picture\n"
