"""The pace of requests, and dates in Retry-After; test_client.py has the bounds, over real HTTP."""

import time
from email.utils import formatdate, parsedate_to_datetime

import pytest

from nanollava.evals.answers import Reply
from nanollava.evals.endpoint import in_threads

pytest.importorskip("openai", "3.0")
bounded_http = pytest.importorskip("nanollava.evals.bounded_http")


def test_pace_over_all_threads():
    """600 requests a minute: 100 ms between any two starts, whatever the number of threads."""
    pace = bounded_http.Pace(600)
    starts = []

    def request(job: dict) -> Reply:
        pace.wait()
        starts.append(time.monotonic())
        return Reply("")

    list(in_threads(request, {str(i): {} for i in range(6)}, threads=4))
    assert max(starts) - min(starts) > 0.45


@pytest.mark.parametrize(
    "header", ["6", "1.5", "-5", "nan", "soon", "", "Wed, 99 Oct 2099 99:28:00 GMT"]
)
def test_a_retry_after_without_a_date_stays(header):
    assert bounded_http.next_second(header) == header


def test_a_date_in_retry_after_is_never_too_early():
    """A server that wants 6 seconds cuts them to whole ones when it writes a date."""
    now = time.time()
    for fraction in range(10):
        moment = now + 6 + fraction / 10
        later = bounded_http.next_second(formatdate(moment, usegmt=True))
        assert moment < parsedate_to_datetime(later).timestamp() <= moment + 1


def test_a_date_without_a_time_zone_is_in_utc():
    later = bounded_http.next_second("Wed, 21 Oct 2015 07:28:59")
    assert parsedate_to_datetime(later).utctimetuple()[3:6] == (7, 29, 0)
