"""sample.py: chat commands, JSON, the attention view, and bad input in one line."""

import json
import os
import runpy
import select
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image, ImageOps
from test_scripts import refused, run

from nanollava.errors import UserError
from nanollava.generate import stream
from nanollava.toyland.help import what_to_ask

FACTS = json.loads(open("tests/cat.json").read())
ASK = ["sample.py", "--image", "cat.jpg", "--prompt", "What color is the cat?"]


def script(monkeypatch, *flags: str) -> dict:
    """sample.py's names in this process, as with these flags."""
    monkeypatch.setattr(sys, "argv", ["sample.py", "--image", "cat.jpg", "--device", "cpu", *flags])
    return runpy.run_path("sample.py")


def type_lines(monkeypatch, lines: list[str]) -> None:
    """What a user types at the prompt, then the end of the input."""
    remaining = iter(lines)

    def read(prompt: str = "") -> str:
        for line in remaining:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", read)


def test_json(monkeypatch, capsys):
    """Two runs agree except for the times; three ids end an answer by length, in mid-sentence."""
    names = script(monkeypatch, "--json", "--max-new-tokens", "3")
    names["main"]()
    found = json.loads(capsys.readouterr().out)
    assert set(found.pop("seconds")) == {"load", "prefill", "decode"}
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
    """One dialogue with every command; errors are printed, and the dialogue continues."""
    picture, saved = tmp_path / "cat.jpg", tmp_path / "talk.json"
    ImageOps.mirror(Image.open("cat.jpg")).save(picture)
    lines = [f"/save {saved}", "What color is the cat?", "/image none.jpg", f"/save {saved}"]
    lines += [
        "Where is the cat?",
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
        err.count("error: ") == 4
        and "/save: there is nothing to save yet; ask a question first" in err
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


def test_help_says_what_the_shipped_model_can_be_asked(monkeypatch, capsys):
    names = script(monkeypatch, "--chat")
    type_lines(monkeypatch, ["/help"])
    names["main"]()
    commands, _, questions = capsys.readouterr().out.partition("\n\n")
    assert commands == names["COMMANDS"]
    assert questions.strip() == what_to_ask()


def test_help_for_another_model_lists_only_the_commands(monkeypatch, capsys):
    names = script(monkeypatch, "--chat")
    dialogue = names["Dialogue"](names["parse_arguments"]())
    model = dialogue.assistant.model
    tower = replace(model.config.vision_config, image_size=200)
    model.config = replace(model.config, vision_config=tower)
    names["handle_line"](dialogue, "/help")
    assert capsys.readouterr().out == names["COMMANDS"] + "\n"


def interrupt_after(tokens: int):
    """`generate.stream`, in which Ctrl-C is pressed once, after that many tokens."""
    remaining = [tokens]

    def interrupted(*args, **options):
        for step in stream(*args, **options):
            remaining[0] -= 1
            if remaining[0] == 0:
                raise KeyboardInterrupt
            yield step

    return interrupted


def test_interrupt_stops_the_answer_and_not_the_program(monkeypatch, capsys):
    names = script(monkeypatch, "--chat")
    monkeypatch.setattr("nanollava.assistant.stream", interrupt_after(4))
    type_lines(monkeypatch, ["Describe the picture in detail.", "What color is the cat?"])
    names["main"]()
    assert capsys.readouterr().out.splitlines() == ["This picture was", FACTS["color"]]


def test_an_image_mark_that_the_model_wrote_does_not_spoil_later_turns(monkeypatch):
    names = script(monkeypatch, "--chat")
    dialogue = names["Dialogue"](names["parse_arguments"]())
    ids = dialogue.assistant.tokenizer.encode("a <image> cat")
    with monkeypatch.context() as patch:
        patch.setattr("nanollava.assistant.stream", lambda *args, **options: ([i] for i in ids))
        assert dialogue.ask("What is there?").text == "a <image> cat"
    assert dialogue.ask("What color is the cat?").text


def test_a_dialogue_that_cannot_be_saved_leaves_no_file(tmp_path, monkeypatch):
    names = script(monkeypatch, "--chat")
    dialogue = names["Dialogue"](names["parse_arguments"]())
    dialogue.ask("What color is the cat?")
    dialogue.paths = ["caf\udce9.jpg"]  # as a shell gives a name that is not UTF-8
    for name in (tmp_path / "talk.json", f"{tmp_path}/a\0b", "a" * 300):
        with pytest.raises(UserError, match="cannot be written"):
            dialogue.save(str(name))
    assert not list(tmp_path.iterdir())


def test_a_path_in_the_chat_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    names = script(monkeypatch, "--chat")
    dialogue = names["Dialogue"](names["parse_arguments"]())
    dialogue.history = [("What color is the cat?", "purple")]
    monkeypatch.setenv("HOME", str(tmp_path))
    names["handle_line"](dialogue, "/save ~/talk.json")
    assert (tmp_path / "talk.json").is_file()


@pytest.mark.parametrize("name", ["cat.jpg", "./cat.jpg"])
def test_attention_does_not_overwrite_the_image(monkeypatch, capsys, name):
    names = script(monkeypatch, "--attention", name)
    with pytest.raises(SystemExit):
        names["run"](names["main"])
    assert f"--attention {name}: would overwrite the input cat.jpg" in capsys.readouterr().err


def test_save_does_not_overwrite_the_image(monkeypatch):
    names = script(monkeypatch, "--chat")
    dialogue = names["Dialogue"](names["parse_arguments"]())
    dialogue.history = [("What color is the cat?", "purple")]
    with pytest.raises(UserError, match="/save ./cat.jpg: would overwrite the input cat.jpg"):
        dialogue.save("./cat.jpg")


def test_a_failed_save_keeps_the_old_dialogue(tmp_path, monkeypatch):
    names = script(monkeypatch, "--chat")
    dialogue = names["Dialogue"](names["parse_arguments"]())
    dialogue.ask("What color is the cat?")
    old = tmp_path / "talk.json"
    old.write_text("an old dialogue")

    def full_disk(self, data):
        raise OSError("No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(UserError, match="No space left"):
        dialogue.save(str(old))
    assert old.read_text() == "an old dialogue"


def test_int8_and_int4_exclude_each_other(monkeypatch, capsys):
    names = script(monkeypatch, "--int8", "--int4")
    with pytest.raises(SystemExit):
        names["run"](names["main"])
    assert capsys.readouterr().err == "error: --int8 and --int4: choose one of them\n"


@pytest.mark.parametrize("flag", ["--int8", "--int4", "--dtype=bf16"])
def test_smaller_weights_answer_as_well(flag, monkeypatch, capsys):
    names = script(monkeypatch, "--prompt", "What color is the cat?", flag)
    names["main"]()
    assert capsys.readouterr().out.strip() == FACTS["color"]


def test_a_dialogue_longer_than_the_context(monkeypatch, capsys):
    """The question that no longer fits is refused, the program goes on."""
    names = script(monkeypatch, "--chat")
    type_lines(monkeypatch, ["word " * 1200, "What color is the cat?"])
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
        (["--prompt", ""], "--prompt '': expected a value"),
        (["--prompt", " \n"], "--prompt: expected a question, got only spaces"),
        (["--model", ""], "--model '': expected a value"),
        (["--attention", ""], "--attention '': expected a value"),
        (["--image", ""], "--image '': expected a value"),
        (["--vision", "/nowhere"], "--vision /nowhere: no such file or directory"),
        (["--seed", "0", "cat.jpg"], "cat.jpg: an image is given with --image, a question with"),
        (["--repetition-penalty", "0"], "repetition_penalty 0.0"),
        (["--chat", "--json"], "--chat: --json and --attention show one answer"),
        (
            ["--attention", "nowhere/look.png", "--max-new-tokens", "1"],
            "nowhere/look.png: this image cannot",
        ),
        (["--attention", "look.none", "--max-new-tokens", "1"], "look.none: this image cannot"),
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


@pytest.mark.parametrize("flags", [["--temperature", "-1"], ["--attention", "look.none"]])
def test_bad_flags_are_found_before_the_model_is_loaded(flags, monkeypatch):
    names = script(monkeypatch, *flags)
    with pytest.raises(UserError):
        names["parse_arguments"]()


def test_bad_flags_from_outside():
    refused(run("sample.py", "--image", "cat.jpg", "--device", "abacus"), "--device abacus")
    refused(run("sample.py", "--image", "cat.jpg", "--top-k", "many"), "invalid int value")
    refused(run("sample.py", "--image", "cat.jpg", "--json", "--chat"), "leave one of them out")


def test_nothing_heavy_is_imported():
    """What `import torch` has not brought and sample.py does not need stays away."""
    code = """
import runpy, sys, torch
before = set(sys.modules)
runpy.run_path("sample.py")
new = set(sys.modules) - before
print(*sorted({name.split(".")[0] for name in new}), file=sys.stderr)
print(*(name for name in new if name.startswith("torch.")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"transformers", "tqdm", "sympy", "matplotlib"} & set(done.stderr.split())
    heavy = ("torch.distributed", "torch._dynamo", "torch._inductor", "torch.fx.experimental")
    assert not [name for name in done.stdout.split() if name.startswith(heavy)]
