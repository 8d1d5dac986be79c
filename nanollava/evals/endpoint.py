"""Client for a judge or teacher behind an OpenAI-compatible chat endpoint.

The `openai` package sends the requests: timeouts, retries with backoff and Retry-After are its job.
This file adds a pace that all threads share, and decides which replies are usable.
"""

import argparse
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator

from ..errors import UserError
from .answers import Rejected, Reply

# So many requests in a row without an answer, each after all its tries, end the run.
MAX_FAILURES = 3
# Client errors that asking again can cure: request timeout, conflict, rate limit.
TEMPORARY_STATUS = (408, 409, 429)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the endpoint."""
    group = parser.add_argument_group("endpoint")
    group.add_argument(
        "--base-url",
        default="https://api.openai.com/v1",
        help="address of the chat endpoint; its key is read from OPENAI_API_KEY",
    )
    group.add_argument(
        "--temperature",
        type=float,
        default=-1.0,
        help="sampling temperature of the endpoint; below 0 uses the server's default",
    )
    group.add_argument("--threads", type=int, default=8, help="concurrent requests")
    group.add_argument("--per-minute", type=float, default=500.0, help="maximum requests a minute")
    group.add_argument(
        "--tries",
        type=int,
        default=10,
        help="attempts at a request, and at a usable answer, before the next run has to ask again",
    )
    group.add_argument(
        "--wait",
        type=float,
        default=1.0,
        help="seconds before unusable answers are asked for again",
    )
    group.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for a reply")
    group.add_argument(
        "--price",
        type=float,
        nargs=2,
        default=[0.0, 0.0],
        help="dollars per million prompt and completion tokens, to report the cost",
    )


def make_request(model: str | None, messages: list[dict], temperature: float) -> dict:
    """Return the body of a chat request; a negative temperature leaves it to the server."""
    request = {"model": model, "messages": messages}
    if temperature >= 0:
        request["temperature"] = temperature
    return request


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


class Endpoint:
    """Chat completions from one server, asked for in several threads at once."""

    def __init__(
        self,
        base_url: str,
        threads: int = 8,
        per_minute: float = 500.0,
        tries: int = 10,
        timeout: float = 120.0,
    ):
        if not re.match(r"https?://[^/]", base_url):
            raise UserError(f"--base-url {base_url}: expected http://... or https://...")
        if min(threads, per_minute, tries, timeout) <= 0:
            raise UserError("--threads, --per-minute, --tries and --timeout must be more than 0")
        self.key = read_key()
        try:
            from openai import OpenAI
        except ImportError:
            raise UserError("the endpoint needs the openai package: pip install openai") from None
        self.client = OpenAI(
            api_key=self.key, base_url=base_url, timeout=timeout, max_retries=tries - 1
        )
        self.base_url = base_url
        self.threads = threads
        self.pace = Pace(per_minute)
        self.failures = 0  # requests without an answer since the last answer

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "Endpoint":
        """Build the client that the flags of `add_arguments` describe."""
        if args.wait < 0:
            raise UserError(f"--wait {args.wait}: expected at least 0 seconds")
        return cls(args.base_url, args.threads, args.per_minute, args.tries, args.timeout)

    def ask(self, jobs: dict[str, dict]) -> Iterator[tuple[str, Reply | Rejected]]:
        """Send every job's "request"; yield (name, Reply or Rejected) in the order of arrival."""
        return in_threads(self.complete, jobs, self.threads)

    def complete(self, job: dict) -> Reply | Rejected:
        """Send one request. Raise a UserError if asking again cannot help: a wrong key or model, a
        malformed request, or a server that no longer answers."""
        from openai import OpenAIError

        request = job["request"]
        self.pace.wait()
        try:
            completion = self.client.chat.completions.create(**request)
            choice = completion.choices[0]
            text = str(choice.message.content or "")
        except (OpenAIError, AttributeError, LookupError, TypeError, ValueError) as error:
            problem = self.describe(error)
            self.failures += 1
            if is_permanent(error) or self.failures >= MAX_FAILURES:
                where = f"{self.base_url}, model {request['model']}"
                raise UserError(f"{where}: {problem}") from None
            return Rejected(problem)
        self.failures = 0
        finish_reason = getattr(choice, "finish_reason", None)
        if finish_reason == "length":
            return Rejected("the answer was cut off at the server's token limit")
        if not text.strip():
            return Rejected(f"empty answer (finish reason {finish_reason!r})")
        prompt_tokens = token_count(completion.usage, "prompt_tokens")
        completion_tokens = token_count(completion.usage, "completion_tokens")
        return Reply(text, prompt_tokens, completion_tokens)

    def describe(self, error: Exception) -> str:
        """Put an error on one line, without the key, which some servers echo."""
        from openai import OpenAIError

        message = str(error)
        if not isinstance(error, OpenAIError):
            message = f"the reply is not a chat completion ({type(error).__name__}: {error})"
        elif error.__cause__ is not None:
            message = f"{message} ({error.__cause__})"  # "Connection error." alone helps nobody
        return " ".join(message.replace(self.key, "***").split())[:400]


def is_permanent(error: Exception) -> bool:
    """Whether the same request would fail again: a wrong key, model or request."""
    from openai import APIStatusError

    if not isinstance(error, APIStatusError):
        return False
    return error.status_code < 500 and error.status_code not in TEMPORARY_STATUS


def token_count(usage, name: str) -> int:
    """A count of the reply's usage; 0 if the server does not report it."""
    count = getattr(usage, name, None)
    return 0 if count is None else count


def read_key() -> str:
    """Return OPENAI_API_KEY. Its value is never printed."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        hint = "for a server that needs no key, set it to any word"
        raise UserError(f"OPENAI_API_KEY is not set; {hint}")
    if not key.isascii() or not key.isprintable():
        raise UserError("OPENAI_API_KEY contains characters that cannot be sent in an HTTP header")
    return key


def in_threads(
    function: Callable[[dict], Reply | Rejected], jobs: dict[str, dict], threads: int
) -> Iterator[tuple[str, Reply | Rejected]]:
    """Yield (name, function(job)) as the results arrive; an exception is raised here.

    The threads are daemons, which `concurrent.futures` does not offer: Ctrl-C ends the program
    without waiting for open requests.
    """
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    results: queue.SimpleQueue = queue.SimpleQueue()
    stopped = threading.Event()
    for item in jobs.items():
        waiting.put(item)

    def work() -> None:
        while not stopped.is_set():
            try:
                name, job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                results.put((name, function(job), None))
            except Exception as error:
                results.put((name, None, error))

    for _ in range(min(threads, len(jobs))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in jobs:
            name, result, error = results.get()
            if error is not None:
                raise error
            yield name, result
    finally:
        stopped.set()  # what has not begun is dropped
