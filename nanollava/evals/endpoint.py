"""A judge or teacher behind an OpenAI-compatible chat endpoint, asked by several threads.

`client.py` sends one request, `replies.py` reads the reply. This file asks in several threads and
says when a run ends.
"""

import argparse
import os
import queue
import threading
from collections.abc import Callable, Iterator

from ..errors import UserError
from ..flags import check_number, check_texts
from .answers import Refused, Rejected, Reply
from .client import ChatClient, RequestFailed
from .replies import NotACompletion, read_reply

# So many requests in a row without an answer, each after all its tries, end the run.
MAX_FAILURES = 3
# So many refused requests end a run that has no answer at all: then it is not the prompts.
MAX_REFUSALS = 20
# Client errors that may go away: request timeout, conflict, rate limit.
TEMPORARY_STATUS = (408, 409, 429)
# Client errors that can be about one prompt: content filter, moderation, too long, legal reasons.
REFUSED_STATUS = (400, 403, 413, 422, 451)

MAX_THREADS = 1000
DAY = 86400  # seconds; the longest time that a flag may ask for


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
    group.add_argument(
        "--per-minute", type=float, default=500.0, help="maximum requests per minute"
    )
    group.add_argument(
        "--tries",
        type=int,
        default=10,
        help="attempts at a request, and at a usable answer, before it is left to the next run",
    )
    group.add_argument(
        "--wait",
        type=float,
        default=1.0,
        help="seconds before unusable answers are requested again",
    )
    group.add_argument(
        "--timeout", type=float, default=120.0, help="seconds to wait for a complete reply"
    )
    group.add_argument(
        "--price",
        type=float,
        nargs=2,
        default=[0.0, 0.0],
        help="dollars per million prompt and completion tokens, to report the cost",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Raise a UserError if a flag of the endpoint has an unusable value."""
    check_texts(args, "base_url")
    check_number(args, "threads", above=0, maximum=MAX_THREADS)
    check_number(args, "per_minute", above=0, maximum=1e9)
    if args.per_minute < 60 / DAY:
        raise UserError(f"--per-minute {args.per_minute}: expected at least one request a day")
    check_number(args, "tries", above=0, maximum=1_000_000)
    check_number(args, "timeout", above=0, maximum=DAY)
    check_number(args, "wait", 0, DAY, "seconds")
    check_number(args, "temperature", -100, 100)
    check_number(args, "price", 0, 1e9, "dollars per million tokens")


def make_request(model: str | None, messages: list[dict], temperature: float) -> dict:
    """Return the body of a chat request; a negative temperature leaves it to the server."""
    request = {"model": model, "messages": messages}
    if temperature >= 0:
        request["temperature"] = temperature
    return request


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
        self.client = ChatClient(base_url, read_key(), per_minute, tries, timeout)
        self.base_url = base_url
        self.threads = threads
        self.answers = 0  # in this run
        self.failures = 0  # requests without an answer since the last answer
        self.refusals = 0  # refused requests in this run
        self.end: str | None = None  # why no more requests are sent

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "Endpoint":
        """Build the client that the flags of `add_arguments` describe."""
        check_arguments(args)
        return cls(args.base_url, args.threads, args.per_minute, args.tries, args.timeout)

    def ask(self, jobs: dict[str, dict]) -> Iterator[tuple[str, Reply | Rejected]]:
        """Send every job's "request"; yield (name, Reply or Rejected) in the order of arrival."""
        return in_threads(self.complete, jobs, self.threads)

    def complete(self, job: dict) -> Reply | Rejected:
        """Send one request. Raise a UserError if no request can succeed: a wrong key or model, or a
        server that does not answer."""
        request = job["request"]
        if self.end is not None:
            return Refused(f"not asked: {self.end}")
        try:
            content = self.client.send(request)
        except RequestFailed as failure:
            return self.count_failure(request["model"], failure)
        try:
            reply = read_reply(content)
        except NotACompletion as problem:
            failure = RequestFailed(self.client.one_line(str(problem)))
            return self.count_failure(request["model"], failure)
        except Rejected as problem:
            reply = Rejected(self.client.one_line(str(problem)))
        self.answers += 1
        self.failures = 0
        return reply

    def count_failure(self, model: str, failure: RequestFailed) -> Rejected:
        """Reject one job, or end the run if the failure is not about this job alone."""
        if failure.status in REFUSED_STATUS:
            self.refusals += 1
            if self.answers == 0 and self.refusals >= MAX_REFUSALS:
                raise UserError(self.message(model, f"all requests are refused; {failure}"))
            return Refused(f"refused: {failure}")
        self.failures += 1
        if is_temporary(failure) and self.failures < MAX_FAILURES:
            return Rejected(str(failure))
        if self.answers == 0:
            raise UserError(self.message(model, str(failure)))
        # The server failed after some answers: stop asking, so that the run writes those.
        self.end = self.message(model, str(failure))
        return Refused(self.end)

    def message(self, model: str, problem: str) -> str:
        """A problem with the server's address and model, on one line without the key."""
        where = self.client.one_line(f"{self.base_url}, model {model}")
        return f"{where}: {problem}"


def is_temporary(failure: RequestFailed) -> bool:
    """Whether the same request could succeed later: no reply, a busy or a broken server."""
    status = failure.status
    return status is None or status in TEMPORARY_STATUS or status >= 500


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
