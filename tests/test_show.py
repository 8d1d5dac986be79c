"""The views of what is trained and of where the model looks."""

import subprocess
import sys

import pytest
import torch
import transformers
from PIL import Image

from nanollava import LLaVA, show
from nanollava.conversation import IMAGE, encode
from nanollava.errors import UserError
from nanollava.generate import generate
from nanollava.image import ImageConfig, open_image, preprocess
from nanollava.streaming import encode_prompt
from nanollava.tokenizer import Tokenizer
from nanollava.toyland.draw import draw
from nanollava.toyland.scenes import scenes

TOY = "checkpoints/toy-llava"


@pytest.fixture(scope="module")
def toy():
    model = LLaVA.from_pretrained(TOY, dtype=torch.float32)
    return model, Tokenizer.from_pretrained(TOY), ImageConfig.from_pretrained(TOY)


def asked(toy, picture, question, layers=None, new=40):
    """A question about one picture: prompt ids, new ids, where the model looked (ids, P)."""
    model, tokenizer, config = toy
    ids = encode_prompt(
        [{"from": "human", "value": f"{IMAGE}\n{question}"}], model, tokenizer, "vicuna_v1"
    )
    pixels = preprocess(picture, config)[None]
    found = generate(model, torch.tensor([ids]), pixels, max_new_tokens=new)[0]
    return ids, found, show.look(model, ids, found, pixels, layers)


def test_weights_are_those_of_attention(toy):
    """Compared with transformers' attention over the image, at the step that predicts each id."""
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(
        TOY, dtype=torch.float32, attn_implementation="eager"
    )
    cat = open_image("cat.jpg")
    ids, found, maps = asked(toy, cat, "Where is the cat?", layers=[1, 3])
    assert len(found) == 3 and maps.shape == (3, 100)
    torch.testing.assert_close(maps.sum(1), torch.ones(3))
    with torch.no_grad():
        whole, pixels = torch.tensor([ids + found]), preprocess(cat, toy[2])[None]
        out = theirs(input_ids=whole, pixel_values=pixels, output_attentions=True).attentions
    expected = torch.stack([out[layer][0].mean(0) for layer in (1, 3)]).mean(0)  # (T, T)
    places = whole[0] == theirs.config.image_token_id
    expected = expected[len(ids) - 1 : -1, places]
    torch.testing.assert_close(maps, expected / expected.sum(1, keepdim=True), atol=1e-5, rtol=1e-4)


def test_points_at_the_thing_asked_for(toy):
    """Color questions, test scenes: the strongest patch lies in the box of the object."""
    hits = []
    for scene in scenes("test", 60, 2, unseen=False):
        kinds = [thing.kind for thing in scene.things]
        thing = next((t for t in scene.things if kinds.count(t.kind) == 1 and len(kinds) > 1), None)
        if thing is None:
            continue
        _, _, maps = asked(toy, draw(scene, 200), f"What color is the {thing.kind}?", new=1)
        at = int(maps[0].argmax())
        x, y = (at % 10 + 0.5) / 10, (at // 10 + 0.5) / 10
        hits.append(thing.box[0] <= x <= thing.box[2] and thing.box[1] <= y <= thing.box[3])
    assert len(hits) >= 30 and sum(hits) / len(hits) > 0.8, (sum(hits), len(hits))


def test_points_at_the_thing_that_is_spoken_of(toy):
    """Where a description says a color, the strongest patch is often in the box of the thing.

    A box covers a tenth of the image or less."""
    _, tokenizer, _ = toy
    hits = []
    for scene in scenes("test", 24, 2, unseen=False):
        _, found, maps = asked(toy, draw(scene, 200), "Describe the picture in detail.", new=100)
        words = [tokenizer.decode([token]).strip() for token in found]
        kinds = [thing.kind for thing in scene.things]
        for thing in scene.things:
            if kinds.count(thing.kind) > 1 or thing.kind not in words:
                continue
            color = words.index(thing.kind) - 1
            row, column = divmod(int(maps[color].argmax()), 10)
            x1, y1, x2, y2 = thing.box
            hits.append(x1 <= (column + 0.5) / 10 <= x2 and y1 <= (row + 0.5) / 10 <= y2)
    assert len(hits) >= 30
    assert sum(hits) / len(hits) > 0.3


def test_panels(toy):
    _, tokenizer, config = toy
    cat = open_image("cat.jpg")
    _, found, maps = asked(toy, cat, "Where is the cat?")
    sheet = show.draw([cat], config, found, tokenizer, maps)
    assert sheet.size == (3 * (show.PANEL + 6) + 6, show.PANEL + 38)  # on, the, left
    heat = torch.zeros(1, 200)
    heat[0, 100 + 55] = 1.0  # of the second of two pictures, row 5, column 5
    sheet = show.draw([cat, cat], config, found[:1], tokenizer, heat)
    assert sheet.size == (2 * show.PANEL + 12, show.PANEL + 38)
    patch = show.PANEL / 10
    corner = (round(6 + show.PANEL + 5 * patch), round(6 + 5 * patch))
    assert sheet.getpixel(corner) == (255, 176, 0)
    assert sum(sheet.getpixel((6 + 20, 6 + 20))) < sum(
        show.fit(cat, config).resize((168, 168)).getpixel((20, 20))
    )
    long = tokenizer.encode("in front on the left there is a purple cat and a dog")
    sheet = show.draw([cat], config, long, tokenizer, torch.rand(len(long), 100))
    assert sheet.size == (
        8 * (show.PANEL + 6) + 6,
        2 * (show.PANEL + 32) + 6,
    )  # 13 words in rows of eight


def test_what_was_drawn_by_chance_is_drawn(toy):
    """At a high temperature ids come that are no word: vocabulary padding, the image token."""
    model, tokenizer, config = toy
    picture, new = open_image("cat.jpg"), [767, model.config.image_token_id, 766]
    ids = encode_prompt(
        [{"from": "human", "value": f"{IMAGE}\nWhat?"}], model, tokenizer, "vicuna_v1"
    )
    maps = show.look(model, ids, new, preprocess(picture, config)[None])
    assert maps.sum(1).sub(1).abs().max() < 1e-5
    assert not maps.requires_grad  # a real model's graph would take gigabytes
    show.draw([picture], config, new, tokenizer, maps)
    with pytest.raises(UserError, match="the answer is empty"):
        show.look(model, ids, [], preprocess(picture, config)[None])


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

    done = run("mask", "What is it?", "a cat", "caf\udce9")  # bytes that are no UTF-8
    assert done.returncode == 0 and "[ cat][</s>] USER: caf? ASSISTANT:\n3 of " in done.stdout, done
    done = run(
        "attention",
        "--image",
        "cat.jpg",
        "--prompt",
        "Where is the cat?",
        "--out",
        tmp_path / "a.png",
    )
    assert (
        done.stdout == "on the left\n" and Image.open(tmp_path / "a.png").width > 3 * show.PANEL
    ), done.stderr
    done = run("attention", "--image", "none.jpg", "--out", tmp_path / "b.png")
    assert done.returncode == 2 and done.stderr == "error: none.jpg: no such image\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "./cat.jpg"], "--out ./cat.jpg: would overwrite the input cat.jpg"),
        (["--out", ""], "--out '': expected a value"),
        (["--prompt", ""], "--prompt '': expected a value"),
        (["--template", "plain"], "--template plain: shows no question; expected vicuna_v1"),
    ],
)
def test_flags_that_would_do_harm_or_nothing(call, flags, message):
    with pytest.raises(UserError, match=message):
        call(show, "attention", "--image", "cat.jpg", *flags)


def test_a_mask_of_nothing_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["show", "mask"])
    with pytest.raises(UserError, match="no text: after mask, give a question and its answer"):
        show.main()


def test_a_question_without_its_flag_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["show", "attention", "What?", "--image", "cat.jpg"])
    with pytest.raises(UserError, match="What.: the question is given with --prompt"):
        show.main()
