"""The tables on Toyland: which cells run with which flags, the mixtures, means and verdicts, resuming."""

import json
import re
from pathlib import Path

import pytest
import torch
from local_endpoint import call, rows_of  # noqa: F401

from nanollava.errors import UserError
from nanollava.evals import tables
from nanollava.files import REPOSITORY, shipped
from nanollava.llama import Llama

CELLS = {cell.name: cell for cell in tables.CELLS}


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


def test_mixture(tmp_path):
    """Shares by kind of record; reasons go before their answers, and nothing else changes."""
    records = []
    for kind, answer in (
        ("conversation", "a red cat"),
        ("detail", "A cat."),
        ("complex", "yes, because it is raining."),
    ):
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": answer}]
        records += [
            {"id": f"train_{i:06d}_{kind}_0", "image": "a.jpg", "conversations": turns}
            for i in range(400)
        ]
    (tmp_path / "instruct.json").write_text(json.dumps(records))

    def kept(cell: tables.Cell, seed: int = 0) -> list[dict]:
        tables.write_mixture(tmp_path, tmp_path / "out.json", cell, seed)
        return json.loads((tmp_path / "out.json").read_text())

    assert kept(CELLS["full"]) == records
    cell = CELLS["conversation + 5% detail + 10% complex"]
    count = {
        kind: sum(kind in r["id"] for r in kept(cell))
        for kind in ("conversation", "detail", "complex")
    }
    assert count["conversation"] == 400 and 8 < count["detail"] < 40 and 20 < count["complex"] < 70
    assert kept(cell) == kept(cell) != kept(cell, seed=1)
    assert not any("conversation" in r["id"] for r in kept(CELLS["detail + complex"]))
    turned = kept(CELLS["reasoning first"])
    assert turned[:800] == records[:800]
    assert {r["conversations"][1]["value"] for r in turned[800:]} == {"because it is raining, yes."}


def test_verdict():
    assert tables.verdict([-5.0, -6.0, -5.5], -3.2) == "yes: -5.5, the paper -3.2"
    assert tables.verdict([-5.0, 6.0, -5.5], -3.2) == "not beyond the noise: -1.5, the paper -3.2"
    assert tables.verdict([5.0], -3.2) == "no: +5.0, the paper -3.2"
    assert (
        tables.verdict([-5.0], -3.2) == "not beyond the noise: -5.0, the paper -3.2"
    )  # one seed shows nothing
    assert tables.verdict([1.0, 2.0], None) == "+1.5"


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Records what would be run, and lets every score be its seed plus 50 (10 less without instruction tuning)."""
    run = []
    (tmp_path / "data").mkdir()
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    record = {"id": "train_000000_conversation_0", "conversations": turns}
    (tmp_path / "data" / "instruct.json").write_text(json.dumps([record]))

    def small(path: Path, steps: int) -> None:
        path.mkdir(parents=True)
        (path / "tokenizer.json").touch()

    monkeypatch.setattr(tables, "make_smaller_llm", small)

    def fake(*command) -> str:
        run.append(list(map(str, command)))
        if "nanollava.evals.llava_bench" in run[-1]:
            place = Path(run[-1][-1])
            place.mkdir(parents=True)
            value = 50 + int(place.parent.name[-1]) - 10 * ("no instruction" in str(place))
            scores = {
                column: [value, value - 1, value + 1]
                for column in ("conv", "detail", "complex", "all")
            }
            (place / "score.json").write_text(json.dumps(scores))
        return json.dumps({"overall": 0.25})

    monkeypatch.setattr(tables, "call", fake)
    flags = [
        "--out",
        tmp_path / "out",
        "--data",
        tmp_path / "data",
        "--doc",
        tmp_path / "tables.md",
    ]
    return run, [*flags, "--seeds", 2, "--steps", 7, 9, "--parallel", 1]


def test_cells_flags_and_document(commands, tmp_path, call):  # noqa: F811
    run, flags = commands
    call(tables, *flags)
    first = [c for c in run if c[0] == str(REPOSITORY / "train_align.py")]
    script = str(REPOSITORY / "train_instruct.py")
    second = {Path(c[c.index("--out") + 1]).name: c for c in run if c[0] == script}
    assert (
        len(first) == 2 * 5 and len(second) == 2 * 11
    )  # full, last, middle, smaller, MLP; every cell
    assert all(c[c.index("--max-steps") + 1] == "7" for c in first)

    def value(cell: str, flag: str) -> str:
        command = second[cell]
        return command[len(command) - command[::-1].index(flag)]  # the last one counts

    assert (
        value("full-1", "--projector").endswith("align/full-1") and value("full-1", "--seed") == "1"
    )
    assert value("no stage 1-0", "--projector") == "linear"
    assert (
        value("no instruction tuning-0", "--max-steps") == "0"
        and value("full-0", "--max-steps") == "9"
    )
    assert (
        value("last layer-0", "--vision-layer") == "-1"
        and value("middle layer-0", "--vision-layer") == "-4"
    )
    assert value("MLP projector-0", "--projector").endswith("align/MLP projector-0")
    assert value("smaller language model-0", "--llm") == str(tmp_path / "out" / "small")
    mlp = next(c for c in first if "MLP projector-0" in " ".join(c))
    assert mlp[-2:] == ["--projector", "mlp2x_gelu"]
    text = (tmp_path / "tables.md").read_text()
    assert text.count("\n## ") == 6 and "(7 in stage 1, 9 in stage 2, of 16 samples)" in re.sub(
        r"\s+", " ", text
    )
    none = next(line for line in text.splitlines() if line.startswith("| none: stage 1 alone"))
    cells = [cell.strip() for cell in none.strip("|").split("|")]
    assert cells[1:] == [
        "22.0 / 24.0 / 18.5 / 21.5",
        *["40.5 ± 0.7"] * 4,
        "25.0 ± 0.0",
        "yes: -10.0, the paper -63.6",
    ]


def test_a_second_run_goes_on_and_other_settings_are_refused(commands, tmp_path, call):  # noqa: F811
    run, flags = commands
    call(tables, *flags)
    cells = tmp_path / "out" / "cells.jsonl"
    lines = cells.read_bytes().splitlines(keepends=True)
    cells.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])  # killed in the last cell
    run.clear()
    call(tables, *flags)
    assert [Path(c[0]).name for c in run] == ["train_instruct.py", "-m", "-m"]
    assert len(rows_of(cells)) == 22
    with pytest.raises(UserError, match="was asked in another way"):
        call(tables, *flags, "--steps", 7, 10)


def test_the_error_of_a_failing_script_is_shown():
    with pytest.raises(UserError, match="error: no such cat"):
        tables.call("-c", "import sys; sys.exit('error: no such cat')")
    assert tables.call("-c", "print(3)") == "3\n"


def test_smaller_language_model(tmp_path):
    tables.make_smaller_llm(tmp_path / "small", 1)
    model = Llama.from_pretrained(tmp_path / "small", dtype=torch.float32)
    whole = Llama.from_pretrained(shipped(tables.LLM), dtype=torch.float32)
    assert len(model.model.layers) == 3 < len(whole.model.layers)
    name = "model.layers.2.mlp.up_proj.weight"
    assert 0 < (model.state_dict()[name] - whole.state_dict()[name]).abs().max() < 0.01
