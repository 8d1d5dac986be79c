"""One request to an OpenAI-compatible chat endpoint, with bounds.

The `openai` package sends it. This file adds what it lacks: a deadline for the whole reply and a
limit of its size, and neither key nor prompt go to another host than the one that was named.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable
from datetime import timezone
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from ..errors import ConfigError, UserError
from ..files import parse_json
from ..schema import short

MAX_REPLY_BYTES = 32_000_000  # a long answer has some 100 kB
MAX_REDIRECTS = 3  # within the named host
SAME_METHOD_REDIRECTS = (307, 308)  # after the others, the request would be sent again as a GET
MASK = "***"  # instead of the key
# Servers that need no key get any word, such as "none", which may stand in an answer.
SHORTEST_SECRET = 8
MAX_MESSAGE = 400  # characters of an error message


class RequestFailed(Exception):
    """A request without an answer. `status` is None if there was no HTTP reply at all;
    `retry_after` is what the server says, in seconds, or None."""

    def __init__(self, problem: str, status: int | None = None, retry_after: float | None = None):
        super().__init__(problem)
        self.status = status
        self.retry_after = retry_after


class ChatClient:
    """Sends requests to one server. May be used by several threads at once."""

    def __init__(self, base_url: str, key: str, timeout: float):
        """`timeout` is the time for a whole reply, in seconds."""
        check_url(base_url)
        try:
            from openai import OpenAI
        except ImportError:
            raise UserError("the endpoint needs the openai package: pip install openai") from None
        # The key as it is, and as JSON and error messages write it.
        escaped_slashes = key.replace("/", r"\/")
        self.key_forms = (key, repr(key)[1:-1], json.dumps(key)[1:-1], escaped_slashes)
        self.timeout = timeout
        try:
            self.client = OpenAI(
                api_key=key,
                base_url=base_url,
                timeout=timeout,
                max_retries=0,  # Endpoint sends again, at its pace
                default_headers={"Accept-Encoding": "identity"},  # so the size is the real one
                http_client=bounded_http_client(timeout),
            )
        except Exception as error:  # the HTTP library's errors have no common class
            raise UserError(self.one_line(f"--base-url {base_url}: {error}")) from None

    def send(self, request: dict) -> bytes:
        """Return the body of the reply, or raise RequestFailed."""
        from openai import APIStatusError

        create = self.client.chat.completions.with_raw_response.create
        try:
            content = with_deadline(lambda: create(**request).http_response.content, self.timeout)
        except APIStatusError as error:
            problem = self.one_line(describe_status(error.response))
            retry_after = parse_retry_after(error.response.headers.get("Retry-After"))
            raise RequestFailed(problem, error.status_code, retry_after) from None
        except Exception as error:  # the HTTP library's errors have no common class
            problem = str(error) or type(error).__name__
            if error.__cause__ is not None:
                problem += f" ({error.__cause__})"  # "Connection error." alone helps nobody
            raise RequestFailed(self.one_line(problem)) from None
        if len(self.key_forms[0]) >= SHORTEST_SECRET:
            for form in self.key_forms:
                content = content.replace(form.encode(), MASK.encode())
        return content

    def one_line(self, message: str) -> str:
        """A message on one short line, without the key, which some servers echo."""
        for form in self.key_forms:
            message = message.replace(form, MASK)
        words = " ".join(message.split())
        characters = [c if c.isprintable() else "?" for c in words]
        return "".join(characters)[:MAX_MESSAGE]


def check_url(base_url: str) -> None:
    """Raise a UserError unless this is the address of a server."""
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # for example a port above 65535
        valid = False
    if not valid or not base_url.isprintable():
        shown = short(base_url).strip("'")
        raise UserError(f"--base-url {shown}: expected http://HOST... or https://HOST...")


def bounded_http_client(timeout: float):
    """An HTTP client for `openai` that reads replies up to a time and a size, and that follows
    redirects only within a host."""
    from openai import DefaultHttpxClient

    class BoundedHttpClient(DefaultHttpxClient):
        def send(self, request, **options):
            deadline = time.monotonic() + timeout
            options["stream"] = True  # the body is read below
            response = super().send(request, **options)
            for _ in range(MAX_REDIRECTS):
                target = response.next_request
                if response.status_code not in SAME_METHOD_REDIRECTS or target is None:
                    break
                if origin(target.url) != origin(request.url):
                    break
                response.close()
                response = super().send(target, **options)
            try:
                content = read_bounded(response.iter_raw(), deadline)
            finally:
                response.close()
            headers = {}
            for name in ("Content-Type", "Location", "Retry-After"):
                if name in response.headers:
                    headers[name] = response.headers[name]
            return type(response)(
                response.status_code, headers=headers, content=content, request=request
            )

    return BoundedHttpClient(follow_redirects=False)


def origin(url) -> tuple:
    """What must be equal for two addresses to be of one server."""
    return url.scheme, url.host, url.port


def read_bounded(blocks: Iterable[bytes], deadline: float) -> bytes:
    """Join the blocks of a reply; an error if it is too long or, on the clock of time.monotonic,
    too late."""
    content = bytearray()
    for block in blocks:
        content += block
        if len(content) > MAX_REPLY_BYTES:
            raise ValueError(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("the reply timed out")
    return bytes(content)


def with_deadline(function: Callable[[], bytes], seconds: float) -> bytes:
    """Return `function()`, or raise TimeoutError after `seconds`.

    The timeouts of HTTP libraries begin again with every byte, so a server that sends one byte at a
    time could hold a thread forever. Here it holds a thread that nobody waits for.
    """
    results: queue.SimpleQueue = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put((function(), None))
        except Exception as error:
            results.put((b"", error))

    threading.Thread(target=work, daemon=True).start()
    try:
        content, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"the request timed out: no whole reply in {seconds:g} s") from None
    if error is not None:
        raise error
    return content


def describe_status(response) -> str:
    """An HTTP error in words: its status, and the server's own message."""
    if 300 <= response.status_code < 400:
        target = response.headers.get("Location", "nowhere")
        problem = f"HTTP {response.status_code}: the server redirects to {target}"
        return f"{problem}, which is not followed; if you trust it, give its --base-url"
    text = response.content.decode("utf-8", "replace")
    try:
        body = parse_json(text, "body")
    except ConfigError:
        return f"HTTP {response.status_code}: {text}"  # a page of a proxy, for example
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        text = str(body["error"].get("message", text))
    return f"HTTP {response.status_code}: {text}"


def parse_retry_after(header: str | None) -> float | None:
    """The seconds to wait by a Retry-After header: a number of seconds, or a date (RFC 9110)."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = seconds_until(header)
    if seconds is None or not seconds >= 0:  # not: NaN
        return None
    return seconds


def seconds_until(date: str) -> float | None:
    """The seconds until an HTTP date has passed, or None if it is no date.

    Dates have whole seconds, so most servers write one that is up to a second too early. The next
    second is surely late enough.
    """
    try:
        moment = parsedate_to_datetime(date)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return max(0.0, moment.timestamp() + 1 - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
