"""One request to an OpenAI-compatible chat endpoint, and its failures in one line without the key.

The `openai` package sends it and retries after a failure: growing pauses and both forms of
Retry-After (up to two minutes) are its job. `bounded_http.py` adds what it lacks.
"""

import json
from urllib.parse import urlsplit

from ..errors import UserError
from ..schema import short

MASK = "***"  # instead of the key
# A server that needs no key is given any word, such as "none", and answers may contain it.
SHORTEST_SECRET = 6  # characters
MAX_MESSAGE = 400  # characters of an error message


class RequestFailed(Exception):
    """A request without an answer. `status` is None if there was no complete HTTP reply."""

    def __init__(self, problem: str, status: int | None = None):
        super().__init__(problem)
        self.status = status


class ChatClient:
    """Sends requests to one server. May be used by several threads at once."""

    def __init__(self, base_url: str, key: str, per_minute: float, tries: int, timeout: float):
        """Every request is sent up to `tries` times; each try may take `timeout` seconds. The tries
        of all requests together are at least 60 / per_minute seconds apart."""
        check_url(base_url)
        try:
            from openai import OpenAI

            from .bounded_http import BoundedHttpClient
        except ImportError:
            problem = "the endpoint needs the openai package, version 3 or later"
            raise UserError(f"{problem}: pip install openai --upgrade") from None
        # What is masked: the key as it is, and as JSON and error messages write it.
        self.key_forms = ()
        if len(key) >= SHORTEST_SECRET:
            escaped_slashes = key.replace("/", r"\/")
            self.key_forms = (key, repr(key)[1:-1], json.dumps(key)[1:-1], escaped_slashes)
        try:
            self.client = OpenAI(
                api_key=key,
                base_url=base_url,
                timeout=timeout,
                max_retries=tries - 1,
                http_client=BoundedHttpClient(per_minute, timeout),
            )
        except Exception as error:  # the HTTP library's errors have no common class
            raise UserError(self.one_line(f"--base-url {base_url}: {error}")) from None

    def send(self, request: dict) -> bytes:
        """Return the body of the reply, or raise RequestFailed."""
        from openai import APIStatusError

        try:
            reply = self.client.chat.completions.with_raw_response.create(**request)
        except APIStatusError as error:
            raise RequestFailed(self.one_line(describe(error)), error.status_code) from None
        except Exception as error:  # the HTTP library's errors have no common class
            problem = str(error) or type(error).__name__
            if error.__cause__ is not None:
                problem += f" ({error.__cause__})"  # "Connection error." alone helps nobody
            raise RequestFailed(self.one_line(problem)) from None
        content = reply.http_response.content
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
    if valid and (parts.username is not None or parts.password is not None):
        # Not shown: it would appear in every message.
        raise UserError(
            "--base-url: contains a user name or a password; give the key as OPENAI_API_KEY"
        )
    if not valid or not base_url.isprintable():
        shown = short(base_url).strip("'")
        raise UserError(f"--base-url {shown}: expected http://HOST... or https://HOST...")


def describe(error) -> str:
    """An APIStatusError in words: the status, the server's own message and its Retry-After."""
    problem = f"HTTP {error.status_code}"
    headers = error.response.headers
    if 300 <= error.status_code < 400:
        target = headers.get("Location", "nowhere")
        advice = "which is not followed; if you trust it, give its --base-url"
        return f"{problem}: the server redirects to {target}, {advice}"
    if "Retry-After" in headers:
        problem += f" (Retry-After: {headers['Retry-After']})"
    text = error.response.text  # a page of a proxy, for example
    if isinstance(error.body, dict):
        text = error.body.get("message", text)
    return f"{problem}: {text}"
