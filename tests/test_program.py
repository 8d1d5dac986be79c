"""The project's own programs as processes, several at once."""

import threading
import time

import pytest

from nanollava.errors import UserError
from nanollava.evals.program import in_parallel, run_on_one_thread, run_program


def test_the_error_of_a_failing_program_is_shown():
    with pytest.raises(UserError, match="error: no such cat"):
        run_program("-c", "import sys; sys.exit('error: no such cat')")


def test_programs_find_the_package_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_program("-c", "import nanollava; print(3)") == "3\n"


def test_a_program_on_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert run_on_one_thread("-c", "import torch; print(torch.get_num_threads())") == "1\n"


def test_jobs_run_at_the_same_time():
    """Each waits until the other has begun."""
    both_have_begun = threading.Barrier(2)
    jobs = {"first": 1, "second": 2}

    def function(job: int) -> int:
        both_have_begun.wait(10)
        return 10 * job

    assert dict(in_parallel(function, 2, jobs)) == {"first": 10, "second": 20}


def test_a_caller_that_stops_ends_the_jobs_between_their_programs(tmp_path):
    """As Ctrl-C does: the job that runs does not start the program that would be next."""
    goes_on = threading.Event()
    file = tmp_path / "started"

    def function(job: str) -> None:
        if job == "slow":
            goes_on.wait(10)
            run_program("-c", f"open({str(file)!r}, 'w')")

    results = in_parallel(function, 2, {"fast": "fast", "slow": "slow"})
    assert next(results) == ("fast", None)
    threading.Timer(0.2, goes_on.set).start()
    results.close()
    assert not file.exists()


def test_what_runs_while_another_job_fails_is_kept():
    """Waiting jobs are cancelled, except one that a free thread may already have taken."""
    slow_has_begun = threading.Event()

    def function(job: str) -> str:
        if job == "fails":
            slow_has_begun.wait(10)
            raise UserError("out of memory")
        slow_has_begun.set()
        time.sleep(0.2)
        return job

    jobs = {name: name for name in ("fails", "slow", "later", "last")}
    finished = []
    with pytest.raises(UserError, match="out of memory"):
        for name, _ in in_parallel(function, 2, jobs):
            finished.append(name)
    assert "slow" in finished and "last" not in finished
