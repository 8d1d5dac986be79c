"""The answers file: what is kept, what is asked again, what is refused."""

import os

import pytest
from jsonl import read_rows, write_rows

from nanollava.errors import UserError
from nanollava.evals import answers
from nanollava.evals.answers import Refused, Rejected, Reply, collect

JOBS = {"1": {"question": "Who?"}, "2": {"question": "What?"}}


def answer_all(jobs: dict):
    for name in jobs:
        yield name, Reply(f"Answer {name}.", 10, 1)


def fail(jobs: dict):
    raise AssertionError(f"asked for {list(jobs)}")


def test_every_answer_is_one_line(tmp_path):
    rows = collect(tmp_path / "new" / "a.jsonl", "id", JOBS, answer_all)
    assert read_rows(tmp_path / "new" / "a.jsonl") == list(rows.values())
    assert rows["1"]["text"] == "Answer 1." and rows["1"]["tokens"] == [10, 1]


def test_a_rerun_asks_only_for_what_is_missing(tmp_path):
    path = tmp_path / "a.jsonl"
    first = collect(path, "id", {"1": JOBS["1"]}, answer_all)
    requested = []

    def ask(jobs: dict):
        requested.extend(jobs)
        return answer_all(jobs)

    rows = collect(path, "id", JOBS, ask)
    assert requested == ["2"] and rows["1"] == first["1"]
    assert collect(path, "id", JOBS, fail) == rows


def test_answers_are_returned_in_the_order_of_the_jobs(tmp_path):
    def ask(jobs: dict):
        return reversed(list(answer_all(jobs)))

    assert list(collect(tmp_path / "a.jsonl", "id", JOBS, ask)) == ["1", "2"]


def test_answers_are_written_as_they_come(tmp_path):
    path = tmp_path / "a.jsonl"

    def ask(jobs: dict):
        yield "1", Reply("Answer 1.")
        assert len(read_rows(path)) == 1
        raise UserError("the server is gone")

    with pytest.raises(UserError, match="the server is gone"):
        collect(path, "id", JOBS, ask)
    assert len(read_rows(path)) == 1


def test_a_half_written_last_line_is_dropped(tmp_path):
    path = tmp_path / "a.jsonl"
    collect(path, "id", JOBS, answer_all)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:12])
    collect(path, "id", JOBS, answer_all)
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        '[{"id": 1, "text": "A"}, {"id": 2, "text": "B"}]',  # a list, without its last line's end
        '{"id": 1, "text": "A"}\r{"id": 2, "text": "B"}\r',
        '{"id": 1, "text": "A"},',
        "{'id': 1, 'text': 'A'}",
    ],
)
def test_what_no_run_has_begun_to_write_stays_and_is_named(tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_bytes(text.encode())
    with pytest.raises(UserError, match=f"{path}, line 1"):
        collect(path, "id", JOBS, fail)
    assert path.read_bytes() == text.encode()


def test_a_last_line_without_its_end_is_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "text": "A"}\n{"id": 2, "text": "B"}')
    rows = collect(path, "id", JOBS, fail)
    assert [row["text"] for row in rows.values()] == ["A", "B"]
    assert read_rows(path) == [{"id": 1, "text": "A"}, {"id": 2, "text": "B"}]


def test_rejected_answers_are_stored_with_the_reason_and_asked_again(tmp_path):
    texts = iter(["bad", "good"])

    def ask(jobs: dict):
        yield "1", Reply(next(texts), 10, 1)

    def parse(job: dict, text: str) -> dict:
        if text == "bad":
            raise Rejected("it is bad")
        return {"text": text}

    rows = collect(tmp_path / "a.jsonl", "id", {"1": JOBS["1"]}, ask, parse, tries=3)
    assert rows["1"]["text"] == "good"
    (reject,) = read_rows(tmp_path / "a.rejects.jsonl")
    assert reject == {"id": "1", "tokens": [10, 1], "why": "it is bad", "text": "bad"}


def test_what_stays_missing_is_listed_with_the_last_reason(tmp_path, capsys):
    reasons = iter(["first", "second"])

    def ask(jobs: dict):
        yield "1", Rejected(next(reasons))

    assert collect(tmp_path / "a.jsonl", "id", {"1": JOBS["1"]}, ask, tries=2) == {}
    assert "missing: 1 (second)" in capsys.readouterr().err


def test_what_is_refused_is_not_asked_again_in_this_run(tmp_path, capsys):
    requested = []

    def ask(jobs: dict):
        for name in jobs:
            requested.append(name)
            if name == "1":
                yield name, Refused("content filter")
            else:
                yield name, Rejected("busy")

    assert collect(tmp_path / "a.jsonl", "id", JOBS, ask, tries=3) == {}
    assert requested == ["1", "2", "2", "2"]
    assert "missing: 1 (content filter)\nmissing: 2 (busy)\n" in capsys.readouterr().err


def test_many_missing_answers_with_one_reason_are_counted(tmp_path, capsys):
    def ask(jobs: dict):
        for name in jobs:
            yield name, Rejected("busy")

    collect(tmp_path / "a.jsonl", "id", {str(i): {} for i in range(1000)}, ask)
    lines = capsys.readouterr().err.splitlines()
    assert "missing: 19 (busy)" in lines and "missing: 20 (busy)" not in lines
    assert lines[-1] == "missing: 980 more (busy)"


def test_the_cost_counts_rejected_answers_too(tmp_path, capsys):
    write_rows(
        tmp_path / "a.rejects.jsonl", {"id": "1", "tokens": [100, 10], "why": "", "text": ""}
    )
    collect(tmp_path / "a.jsonl", "id", JOBS, answer_all, price=(10, 1000))
    summary = "2 of 2 answers, 1 unusable; 120 prompt + 12 completion tokens, $0.01"
    assert summary in capsys.readouterr().err


def test_answers_to_another_prompt_are_refused(tmp_path):
    collect(tmp_path / "a.jsonl", "id", JOBS, answer_all)
    with pytest.raises(UserError, match="id 2 was asked in another way"):
        collect(tmp_path / "a.jsonl", "id", {**JOBS, "2": {"question": "Where?"}}, fail)


def test_answers_that_are_not_asked_for_are_refused(tmp_path):
    write_rows(tmp_path / "a.jsonl", {"id": "99", "text": "A"})
    with pytest.raises(UserError, match="id 99 is not asked for here"):
        collect(tmp_path / "a.jsonl", "id", JOBS, fail)


def test_answers_made_elsewhere_count(tmp_path):
    write_rows(tmp_path / "a.jsonl", {"id": 1, "text": "A"}, {"id": 2, "text": "B"})
    rows = collect(tmp_path / "a.jsonl", "id", JOBS, fail)
    assert [row["text"] for row in rows.values()] == ["A", "B"]


def test_answers_made_elsewhere_are_parsed_like_new_ones(tmp_path, capsys):
    """One that cannot be used does not make the others worthless; it is not asked again."""
    path = write_rows(tmp_path / "a.jsonl", {"id": 1, "content": "good"}, {"id": 2, "text": "bad"})

    def parse(job: dict, text: str) -> dict:
        if text == "bad":
            raise Rejected("it is bad")
        return {"length": len(text)}

    rows = collect(path, "id", JOBS, fail, parse)
    assert list(rows) == ["1"] and rows["1"]["length"] == 4
    assert "missing: 2 (it is bad)" in capsys.readouterr().err


def test_a_row_of_an_earlier_run_is_checked(tmp_path):
    path = tmp_path / "a.jsonl"
    collect(path, "id", JOBS, answer_all)
    rows = read_rows(path)
    write_rows(path, rows[0], {**rows[1], "text": None})
    with pytest.raises(UserError, match="a.jsonl: id 2: text = None; expected a text"):
        collect(path, "id", JOBS, fail)


@pytest.mark.parametrize("file", ["a.jsonl", "a.rejects.jsonl"])
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("12", "tokens = '12'; expected a list"),
        ([1], "tokens = .*; expected two counts"),
        ([1, -1], r"tokens\[1\] = -1; expected at least 0"),
        ([1.5, 1], r"tokens\[0\] = 1.5; expected a whole number"),
        ([1, float("inf")], r"tokens\[1\] = inf; expected a whole number"),
    ],
)
def test_token_counts_are_checked(tmp_path, file, tokens, message):
    write_rows(tmp_path / file, {"id": 1, "text": "A", "tokens": tokens})
    with pytest.raises(UserError, match=rf"{file}.*: {message}"):
        collect(tmp_path / "a.jsonl", "id", JOBS, answer_all)


def test_unknown_token_counts_do_not_spoil_later_runs(tmp_path, capsys):
    write_rows(tmp_path / "a.jsonl", {"id": 1, "text": "A", "tokens": [None, 5]})
    write_rows(tmp_path / "a.rejects.jsonl", {"id": 2, "tokens": None}, {"id": 2})
    collect(tmp_path / "a.jsonl", "id", JOBS, answer_all)
    assert "10 prompt + 6 completion tokens" in capsys.readouterr().err


@pytest.mark.parametrize("row", [{"id": 1}, {"id": 1, "text": 3}])
def test_an_answer_made_elsewhere_needs_a_text(tmp_path, row):
    write_rows(tmp_path / "a.jsonl", row)
    with pytest.raises(UserError, match="id 1 has no 'text'"):
        collect(tmp_path / "a.jsonl", "id", JOBS, fail)


def test_two_runs_cannot_write_one_file(tmp_path):
    pytest.importorskip("fcntl")
    with (
        answers.open_to_append(tmp_path / "a.jsonl"),
        pytest.raises(UserError, match="another run is writing it"),
    ):
        collect(tmp_path / "a.jsonl", "id", JOBS, fail)


def test_a_full_disk_is_an_error_that_names_the_file_and_keeps_the_answers(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.jsonl"
    # A large file, so that the limit concerns no other one.
    collect(path, "id", {"1": JOBS["1"]}, lambda jobs: [("1", Reply("x" * 10**6))])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), limits[1]))  # no file grows beyond it
    try:
        with pytest.raises(OSError, match="a.jsonl"):
            collect(path, "id", JOBS, answer_all)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert set(collect(path, "id", JOBS, answer_all)) == {"1", "2"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFO in a folder")
def test_a_fifo_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="a.jsonl: cannot be written.*not a regular file"):
        collect(tmp_path / "a.jsonl", "id", JOBS, fail)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        collect(tmp_path / "file" / "a.jsonl", "id", JOBS, fail)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 1}\n{"id": "1"}\n', "line 2: a second row with id 1"),
        ('{"id": 1}\n{"id": \n{"id": 3}\n', "line 2: not valid JSON"),
        ('{"id": 1}\n' + "[" * 100_000 + "\n", "line 2: not valid JSON"),
        ('{"id": null}\n', "line 1: expected a JSON object with 'id'"),
        (r'{"id": "a\n"}' + "\n", "line 1: expected a JSON object with 'id'"),
        ('{"id": true}\n', "line 1: expected a JSON object with 'id'"),
        ('{"id": [1]}\n', "line 1: expected a JSON object with 'id'"),
        (r'{"id": "\ud800"}' + "\n", "line 1: expected a JSON object with 'id'"),
        ('{"name": 1}\n', "line 1: expected a JSON object with 'id'"),
        ("[1]\n", "line 1: expected a JSON object, got list"),
    ],
)
def test_broken_rows_are_refused(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        answers.read_rows(tmp_path / "a.jsonl", "id")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="not a UTF-8 text file"):
        answers.read_rows(tmp_path / "a.jsonl", "id")
