"""The HTTP client under `openai`: it paces requests, and limits the time and size of a reply.

Redirects are not followed, so key and prompt go to no host but the one in `--base-url`.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime

import httpx2  # comes with openai
from openai import DefaultHttpxClient

MAX_REPLY_BYTES = 32_000_000  # a long answer has some 100 kB


class Pace:
    """Keeps the starts of requests at least 60 / per_minute seconds apart, over all threads."""

    def __init__(self, per_minute: float):
        self.interval = 60 / per_minute  # seconds
        self.next_start = 0.0  # on the clock of time.monotonic
        self.lock = threading.Lock()

    def wait(self) -> None:
        """Sleep until the caller may start its request."""
        with self.lock:
            start = max(self.next_start, time.monotonic())
            self.next_start = start + self.interval
        time.sleep(max(0.0, start - time.monotonic()))


class BoundedHttpClient(DefaultHttpxClient):
    """`openai` calls `send` for every try of a request."""

    def __init__(self, per_minute: float, seconds: float):
        """`seconds` is the time limit for a complete reply."""
        # A reply that is not compressed has the size that is counted below.
        super().__init__(follow_redirects=False, headers={"Accept-Encoding": "identity"})
        self.pace = Pace(per_minute)
        self.seconds = seconds

    def send(self, request: httpx2.Request, **options) -> httpx2.Response:
        """Wait for the pace, then send. Raise httpx2.ReadTimeout if no full reply is in time."""
        self.pace.wait()
        try:
            return with_deadline(lambda: self.receive(request, options), self.seconds)
        except FutureTimeout:
            problem = f"no complete reply within {self.seconds:g} s"
            raise httpx2.ReadTimeout(problem, request=request) from None

    def receive(self, request: httpx2.Request, options: dict) -> httpx2.Response:
        """Send, and read the reply up to the size limit. Only two of its headers are kept."""
        response = super().send(request, **{**options, "stream": True})
        try:
            content = read_bounded(response.iter_raw())
        finally:
            response.close()
        headers = {}
        if "Location" in response.headers:
            headers["Location"] = response.headers["Location"]
        if "Retry-After" in response.headers:
            headers["Retry-After"] = next_second(response.headers["Retry-After"])
        return httpx2.Response(
            response.status_code, headers=headers, content=content, request=request
        )


def read_bounded(blocks: Iterable[bytes]) -> bytes:
    """Join the blocks of a reply. Raise ValueError if it is too long."""
    content = bytearray()
    for block in blocks:
        content += block
        if len(content) > MAX_REPLY_BYTES:
            raise ValueError(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
    return bytes(content)


def with_deadline(function: Callable, seconds: float):
    """Return `function()`, or raise concurrent.futures.TimeoutError after `seconds`.

    The timeouts of HTTP libraries begin again with every byte, so a server that sends one byte at a
    time could hold a thread forever. Here it holds a thread that nobody waits for.
    """
    future: Future = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result(seconds)


def next_second(retry_after: str) -> str:
    """Move the date in a Retry-After header one second later; leave a number as it is.

    HTTP dates have no fractions of a second. Most servers cut them off, so the date is up to a
    second too early, and `openai` waits exactly until then.
    """
    try:
        return format_datetime(parsedate_to_datetime(retry_after) + timedelta(seconds=1))
    except (ValueError, TypeError, OverflowError):
        return retry_after  # a number of seconds
