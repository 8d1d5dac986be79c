"""sample.py from outside and from inside: chat's commands, JSON, the view, and bad input in one line."""

import json
import os
import runpy
import select
import signal
import subprocess
import sys

import pytest
from PIL import Image, ImageOps
from test_scripts import refused, run

from nanollava.errors import UserError

FACTS = json.loads(open("tests/cat.json").read())
ASK = ["sample.py", "--image", "cat.jpg", "--prompt", "What color is the cat?"]


def script(monkeypatch, *flags: str) -> dict:
    """sample.py's names in this process, as with these flags."""
    monkeypatch.setattr(sys, "argv", ["sample.py", "--image", "cat.jpg", "--device", "cpu", *flags])
    return runpy.run_path("sample.py")


def test_json(monkeypatch, capsys):
    """Twice the same but for the times; a longest answer of three ids ends by length, and stops inside the sentence."""
    names = script(monkeypatch, "--json", "--max-new-tokens", "3")
    names["main"]()
    found = json.loads(capsys.readouterr().out)
    assert set(found.pop("seconds")) == {"load", "vision", "prefill", "decode"}
    assert found == {
        "answer": "This picture was",
        "tokens": 3,
        "prompt_tokens": 147,
        "end": "length",
    }
    names = script(
        monkeypatch, "--json", "--prompt", "What color is the cat?", "--int8", "--top-k", "5"
    )
    names["main"]()
    found = json.loads(capsys.readouterr().out)
    assert found["answer"] == FACTS["color"] and found["end"] == "end token"
    assert all(seconds > 0 for seconds in found["seconds"].values())


def test_chat_commands(tmp_path, monkeypatch, capsys):
    """One dialogue with every command; the pictures are moved away between turns; what fails is told and nothing is lost."""
    picture, saved = tmp_path / "cat.jpg", tmp_path / "talk.json"
    ImageOps.mirror(Image.open("cat.jpg")).save(picture)
    lines = ["What color is the cat?", "/image none.jpg", f"/save {saved}", "Where is the cat?"]
    lines += [
        f"/image {picture}",
        "Where is the cat?",
        "/save /none/x.json",
        "/frobnicate",
        "",
        "/reset",
        "Is there a dog?",
    ]
    lines += [f"/save {saved}.2", f"/image {picture}", "<image> Where is the cat?"]
    given = iter(lines)

    def read(prompt: str = "") -> str:
        line = next(given, None)
        if line == "/save /none/x.json":
            os.unlink(picture)  # it was read when it was named, and is not there when named again
        if line is None:
            raise EOFError
        return line

    names = script(monkeypatch, "--chat")
    monkeypatch.setattr("builtins.input", read)
    names["main"]()
    out, err = capsys.readouterr()
    answers = [line for line in out.splitlines() if not line.startswith(("/", "Ctrl-C"))]
    assert answers == [FACTS["color"], FACTS["position"], "on the right", "no", "on the right"]
    assert (
        err.count("error: ") == 3
        and f"{picture}: no such image" in err
        and "/save /none/x.json: cannot" in err
    )
    first, second = (json.loads(open(path).read())[0] for path in (saved, f"{saved}.2"))
    assert [turn["value"] for turn in first["conversations"]] == [
        "<image>\nWhat color is the cat?",
        FACTS["color"],
    ]
    assert first["image"] == "cat.jpg" and second["image"] == str(picture)
    assert [turn["value"] for turn in second["conversations"]] == ["<image>\nIs there a dog?", "no"]


def test_interrupt_stops_the_answer_and_not_the_program(monkeypatch, capsys):
    names = script(monkeypatch, "--chat")
    steps, real = [], names["stream"]

    def interrupted(*args, **options):
        for token in real(*args, **options):
            steps.append(token)
            if len(steps) == 4:
                raise KeyboardInterrupt
            yield token

    given = iter(["Describe the picture in detail.", "What color is the cat?"])
    names["Dialogue"].ask.__globals__["stream"] = interrupted
    monkeypatch.setattr(
        "builtins.input", lambda prompt="": next(given, None) or (_ for _ in ()).throw(EOFError)
    )
    names["main"]()
    assert capsys.readouterr().out.splitlines() == ["This picture was", FACTS["color"]]


def test_what_a_dialogue_keeps(tmp_path, monkeypatch):
    """A picture's mark that the model wrote does not spoil later turns; what cannot be saved leaves no file."""
    names = script(monkeypatch, "--chat")
    space = names["Dialogue"].ask.__globals__
    dialogue, real = names["Dialogue"](names["arguments"]()), space["stream"]
    said = dialogue.tokenizer.encode("a <image> cat")
    space["stream"] = lambda *args, **options: ([token] for token in said)
    assert dialogue.ask("What is there?").text == "a <image> cat"
    space["stream"] = real
    assert dialogue.ask("What color is the cat?").text and dialogue.turns[1]["value"].split() == [
        "a",
        "cat",
    ]
    dialogue.paths = ["caf\udce9.jpg"]  # as a shell gives a name that is no UTF-8
    for name in (tmp_path / "talk.json", f"{tmp_path}/a\0b"):
        with pytest.raises(UserError, match="cannot be written"):
            dialogue.save(str(name))
    assert not list(tmp_path.iterdir())


def test_a_dialogue_longer_than_the_context(monkeypatch, capsys):
    """The question that no longer fits is refused, the program goes on."""
    given = iter(["word " * 1200, "What color is the cat?"])
    names = script(monkeypatch, "--chat")
    monkeypatch.setattr(
        "builtins.input", lambda prompt="": next(given, None) or (_ for _ in ()).throw(EOFError)
    )
    names["main"]()
    out, err = capsys.readouterr()
    assert (
        out.strip() == FACTS["color"]
        and "the model has room for 1024" in err
        and err.count("\n") == 1
    )


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_ctrl_c_in_a_terminal():
    """At the prompt it drops the line; the program ends with the input."""
    ours, theirs = os.openpty()
    chat = subprocess.Popen(
        [sys.executable, "sample.py", "--image", "cat.jpg", "--chat"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        close_fds=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # whoever runs the tests may ignore it
    )
    os.close(theirs)

    def wait_for(text: bytes) -> bytes:
        seen = b""
        while text not in seen:
            assert select.select([ours], [], [], 60)[0], seen
            seen += os.read(ours, 1000)
        return seen

    wait_for(b"> ")
    seen = b""
    while (
        b"\n> " not in seen
    ):  # the next prompt; readline loses a signal that comes while it draws the first
        chat.send_signal(signal.SIGINT)
        while select.select([ours], [], [], 0.5)[0]:
            seen += os.read(ours, 1000)
    os.write(ours, b"What color is the cat?\n")
    assert FACTS["color"].encode() in wait_for(FACTS["color"].encode() + b"\r\n> ")
    os.write(ours, b"\x04")
    assert chat.wait(timeout=60) == 0
    os.close(ours)


def test_attention(tmp_path):
    done = run(*ASK, "--attention", tmp_path / "look.png")
    assert done.returncode == 0 and done.stdout.strip() == FACTS["color"], done.stderr
    assert Image.open(tmp_path / "look.png").format == "PNG"


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--prompt", "word " * 1200], "the model has room for 1024"),
        (["--max-new-tokens", "0"], "max_new_tokens 0"),
        (["--device", "abacus"], "--device abacus: expected auto, cpu, cuda"),
        (["--device", "cuda"], "--device cuda: torch finds no cuda device here; try --device cpu"),
        (["--top-k", "-1"], "top_k -1"),
        (["--repetition-penalty", "0"], "repetition_penalty 0.0"),
        (["--chat", "--json"], "--chat: --json and --attention tell of one answer"),
        (
            ["--attention", "nowhere/look.png", "--max-new-tokens", "1"],
            "nowhere/look.png: this picture cannot",
        ),
        (["--attention", "look.none", "--max-new-tokens", "1"], "look.none: this picture cannot"),
    ],
)
def test_bad_flags(flags, message, monkeypatch, capsys):
    """In this process, for the time a start takes; `run` is what the script itself ends in."""
    import torch

    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    names = script(monkeypatch, *flags)
    with pytest.raises(SystemExit) as end:
        names["run"](names["main"])
    err = capsys.readouterr().err
    assert (
        end.value.code == 2
        and message in err
        and err.startswith("error: ")
        and err.count("\n") == 1
    )


def test_bad_flags_from_outside():
    refused(run("sample.py", "--image", "cat.jpg", "--device", "abacus"), "--device abacus")
    refused(run("sample.py", "--image", "cat.jpg", "--top-k", "many"), "invalid int value")
    refused(run("sample.py", "--image", "cat.jpg", "--json", "--chat"), "leave one of them out")


def test_nothing_heavy_is_imported():
    """What `import torch` has not brought and sample.py does not need stays away."""
    code = (
        "import sys, torch; before = set(sys.modules); import runpy; runpy.run_path('sample.py')\n"
    )
    code += "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}), file=sys.stderr)\n"
    code += "print(*(name for name in set(sys.modules) - before if name.startswith('torch.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"transformers", "tqdm", "sympy", "matplotlib"} & set(done.stderr.split())
    heavy = ("torch.distributed", "torch._dynamo", "torch._inductor", "torch.fx.experimental")
    assert not [name for name in done.stdout.split() if name.startswith(heavy)]
