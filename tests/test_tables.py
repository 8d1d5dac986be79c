"""The tables on Toyland: cells and their flags, data mixtures, means and verdicts, resume."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from jsonl import read_rows

from nanollava.errors import UserError
from nanollava.evals import tables
from nanollava.evals.answers import Reply
from nanollava.files import REPOSITORY, shipped
from nanollava.llama import Llama

CELLS = {cell.name: cell for cell in tables.CELLS}
ALIGN = str(REPOSITORY / "train_align.py")
INSTRUCT = str(REPOSITORY / "train_instruct.py")


def test_every_row_is_a_cell_and_every_cell_a_row():
    rows = [row for table in tables.TABLES for row in table.rows]
    assert {row.cell for row in rows} == set(CELLS)


def test_the_papers_figures():
    paper = {row.cell: row.paper for row in tables.MIXTURES.rows}
    assert paper["full"] == "83.1 / 75.3 / 96.5 / 85.1"
    assert paper["no instruction tuning"].endswith("21.5")
    for table in tables.TABLES:
        for row in table.rows:
            assert row.paper_score is None or row.paper.endswith(f"{row.paper_score:g}"), row


# Data mixtures

ANSWERS = {
    "conversation": "a red cat",
    "detail": "A cat.",
    "complex": "yes, because it is raining.",
}


@pytest.fixture
def records(tmp_path):
    """400 records of each kind, in the file that the mixtures are made from."""
    records = []
    for kind, answer in ANSWERS.items():
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": answer}]
        for i in range(400):
            name = f"train_{i:06d}_{kind}_0"
            records.append({"id": name, "image": "a.jpg", "conversations": turns})
    (tmp_path / "plain.json").write_text(json.dumps(records))
    return records


def mixture(path: Path, cell: str, seed: int = 0) -> list[dict]:
    tables.write_mixture(path, path / "out.json", CELLS[cell], seed)
    return json.loads((path / "out.json").read_text())


def count(records: list[dict], kind: str) -> int:
    return sum(kind in record["id"] for record in records)


def test_the_full_mixture_is_all_records(tmp_path, records):
    assert mixture(tmp_path, "full") == records


def test_a_mixture_keeps_its_share_of_each_kind(tmp_path, records):
    kept = mixture(tmp_path, "conversation + 5% detail + 10% complex")
    assert count(kept, "conversation") == 400
    assert 8 < count(kept, "detail") < 40 and 20 < count(kept, "complex") < 70
    assert count(mixture(tmp_path, "detail + complex"), "conversation") == 0


def test_a_mixture_depends_on_the_seed_alone(tmp_path, records):
    cell = "conversation + 5% detail + 10% complex"
    assert mixture(tmp_path, cell) == mixture(tmp_path, cell) != mixture(tmp_path, cell, seed=1)


def test_reasoning_first_turns_only_answers_with_a_reason(tmp_path, records):
    turned = mixture(tmp_path, "reasoning first")
    assert turned[:800] == records[:800]
    answers = {record["conversations"][1]["value"] for record in turned[800:]}
    assert answers == {"because it is raining, yes."}


# Verdicts


@pytest.mark.parametrize(
    ("changes", "paper_change", "verdict"),
    [
        ([-5.0, -6.0, -5.5], -3.2, "yes: -5.5, the paper -3.2"),
        ([-5.0, 6.0, -5.5], -3.2, "not beyond the noise: -1.5, the paper -3.2"),
        # Twice the standard error of three values that are 1 apart is 1.155.
        ([0.1, 1.1, 2.1], 1.0, "not beyond the noise: +1.1, the paper +1.0"),
        ([0.2, 1.2, 2.2], 1.0, "yes: +1.2, the paper +1.0"),
        ([5.0], -3.2, "no: +5.0, the paper -3.2"),
        ([-5.0], -3.2, "not beyond the noise: -5.0, the paper -3.2"),  # one seed shows nothing
        ([1.0, 2.0], None, "+1.5"),
    ],
)
def test_verdict(changes, paper_change, verdict):
    assert tables.verdict(changes, paper_change) == verdict


# The program, with commands that are recorded instead of run


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """The commands so far. Every score is 50 + seed, 10 less without instruction tuning."""
    recorded = []
    (tmp_path / "data").mkdir()
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    record = {"id": "train_000000_conversation_0", "conversations": turns}
    (tmp_path / "data" / "plain.json").write_text(json.dumps([record]))

    def make_smaller_llm(path: Path, steps: int) -> None:
        path.mkdir(parents=True)
        (path / "config.json").touch()

    def run_on_one_thread(*command) -> str:
        command = list(map(str, command))
        recorded.append(command)
        if "nanollava.evals.llava_bench" in command:
            out = Path(command[-1])
            out.mkdir(parents=True)
            score = 50 + int(out.parent.name[-1])
            if "no instruction" in str(out):
                score -= 10
            columns = ("conv", "detail", "complex", "all")
            scores = {column: [score, score - 1, score + 1] for column in columns}
            (out / "score.json").write_text(json.dumps(scores))
        return json.dumps({"overall": 0.25})

    monkeypatch.setattr(tables, "make_smaller_llm", make_smaller_llm)
    monkeypatch.setattr(tables, "run_on_one_thread", run_on_one_thread)
    return recorded


@pytest.fixture
def flags(tmp_path):
    paths = ["--out", tmp_path / "out", "--data", tmp_path / "data", "--doc", tmp_path / "doc.md"]
    return [*paths, "--seeds", 2, "--steps", 7, 9, "--parallel", 1]


def flag(command: list[str], name: str) -> str:
    """A flag's value; of two, the last one counts."""
    return command[len(command) - command[::-1].index(name)]


def by_output(commands: list[list[str]], script: str) -> dict[str, list[str]]:
    """The commands of a training script, by the name of their output directory."""
    return {Path(flag(c, "--out")).name: c for c in commands if c[0] == script}


def test_quick_changes_the_defaults_and_not_what_a_flag_says(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tables", "--quick", "--seeds", "3"])
    args = tables.parse_arguments()
    assert args.seeds == 3
    assert args.steps == [60, 150]
    assert args.doc == "out/tables-quick/tables.md"


def test_cells_that_differ_only_in_stage_2_share_stage_1(commands, flags, call):
    call(tables, *flags)
    aligned = ("full", "last layer", "middle layer", "smaller language model", "MLP projector")
    expected = {f"{cell}-{seed}" for cell in aligned for seed in (0, 1)}
    assert set(by_output(commands, ALIGN)) == expected
    assert len([c for c in commands if c[0] == ALIGN]) == len(expected)
    assert len(by_output(commands, INSTRUCT)) == 2 * len(CELLS)


def test_flags_of_stage_1(commands, flags, tmp_path, call):
    call(tables, *flags)
    commands = by_output(commands, ALIGN)
    assert {flag(command, "--max-steps") for command in commands.values()} == {"7"}
    assert flag(commands["MLP projector-0"], "--projector") == "mlp2x_gelu"
    assert flag(commands["last layer-0"], "--vision-layer") == "-1"
    assert flag(commands["smaller language model-1"], "--llm") == str(
        tmp_path / "out" / "small-400"
    )


@pytest.mark.parametrize(
    ("cell", "name", "value"),
    [
        ("full-1", "--seed", "1"),
        ("full-0", "--max-steps", "9"),
        ("full-1", "--projector", "{out}/align/full-1"),
        ("no stage 1-0", "--projector", "linear"),
        ("no instruction tuning-0", "--max-steps", "0"),
        ("last layer-0", "--vision-layer", "-1"),
        ("middle layer-0", "--vision-layer", "-4"),
        ("MLP projector-0", "--projector", "{out}/align/MLP projector-0"),
        ("smaller language model-0", "--llm", "{out}/small-400"),
    ],
)
def test_flags_of_stage_2(commands, flags, tmp_path, call, cell, name, value):
    call(tables, *flags)
    command = by_output(commands, INSTRUCT)[cell]
    assert flag(command, name) == value.format(out=tmp_path / "out")


def test_cells_are_scored_in_plain_language(commands, flags, call):
    call(tables, *flags)
    programs = [command for command in commands if command[0] == "-m"]
    assert len(programs) == 2 * 2 * len(CELLS)
    assert all("--plain" in command for command in programs)


def test_the_document(commands, flags, tmp_path, call):
    call(tables, *flags)
    text = (tmp_path / "doc.md").read_text()
    assert text.count("\n## ") == len(tables.TABLES)
    assert "(7 in stage 1, 9 in stage 2, of 16 samples)" in re.sub(r"\s+", " ", text)
    (line,) = [line for line in text.splitlines() if line.startswith("| none: stage 1 alone")]
    fields = [field.strip() for field in line.strip("|").split("|")]
    scores = ["40.5 ± 0.7"] * 4 + ["25.0 ± 0.0"]
    assert fields[1:] == ["22.0 / 24.0 / 18.5 / 21.5", *scores, "yes: -10.0, the paper -63.6"]


def test_a_second_run_continues_where_the_first_was_killed(commands, flags, tmp_path, call):
    call(tables, *flags)
    cells = tmp_path / "out" / "cells.jsonl"
    lines = cells.read_bytes().splitlines(keepends=True)
    cells.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])
    commands.clear()
    call(tables, *flags)
    assert [command[0] for command in commands] == [INSTRUCT, "-m", "-m"]
    assert len(read_rows(cells)) == 2 * len(CELLS)


def test_results_of_other_settings_are_refused(commands, flags, call):
    call(tables, *flags)
    with pytest.raises(UserError, match="was asked in another way"):
        call(tables, *flags, "--steps", 7, 10)


def test_a_cell_without_scores_is_an_error(commands, flags, call, monkeypatch):
    monkeypatch.setattr(tables, "instruct", lambda settings, job: Reply("broken"))
    with pytest.raises(UserError, match="cells have no scores; run it again"):
        call(tables, *flags)


@pytest.mark.parametrize("name", [{}, {"id": 7}, {"id": "000000033471"}])
def test_data_of_another_kind_are_an_error(tmp_path, name):
    (tmp_path / "plain.json").write_text(json.dumps([{**name, "conversations": []}]))
    with pytest.raises(UserError, match="plain.json, record 0: "):
        mixture(tmp_path, "full")


def test_a_script_that_is_not_there(commands, flags, tmp_path, monkeypatch, call):
    monkeypatch.setattr(tables, "REPOSITORY", tmp_path)
    with pytest.raises(UserError, match="the tables need a clone of the repository"):
        call(tables, *flags)


def test_the_smaller_language_model_is_trained_from_the_first_layers(tmp_path):
    tables.make_smaller_llm(tmp_path / "small", 1)
    model = Llama.from_pretrained(tmp_path / "small", dtype=torch.float32)
    whole = Llama.from_pretrained(shipped(tables.LLM), dtype=torch.float32)
    assert len(model.model.layers) == 3 < len(whole.model.layers)
    name = "model.layers.2.mlp.up_proj.weight"
    change = (model.state_dict()[name] - whole.state_dict()[name]).abs().max()
    assert 0 < change < 0.01
