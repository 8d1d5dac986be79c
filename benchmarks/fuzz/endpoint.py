"""Target: the HTTP replies of a chat endpoint. The key goes to no other server, into no message."""

import json
import os
import random
import socket
import threading
import time
from contextlib import suppress
from functools import cache

from benchmarks.fuzz.case import Case, expect
from benchmarks.fuzz.evals import REPLY
from benchmarks.fuzz.mutate import changed_bytes, changed_json
from nanollava.errors import UserError
from nanollava.evals.answers import Rejected
from nanollava.evals.endpoint import Endpoint

KEY = "sk-the-secret-key"
TIMEOUT = 1.0  # seconds for a whole reply
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
STATUSES = (*(14 * [200]), 204, 301, 302, 303, 307, 308, 400, 401, 404, 429, 500, 503, 999)
RETRY_AFTER = ("1", "-5", "999999999", "1e400", "nan", "", "x", "Wed, 21 Oct 2099 07:28:00 GMT")


class Server:
    """Sends the same bytes to everyone, some of them after a pause; keeps what it receives."""

    def __init__(self):
        self.parts: list[bytes] = []
        self.requests: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            self.requests.append(connection.recv(65536))
            for part in self.parts:
                connection.sendall(part)
                time.sleep(0.01)


@cache
def servers() -> tuple[Server, Server]:
    """The endpoint, and another server that must not get the key."""
    return Server(), Server()


def endpoint(case: Case) -> None:
    """A reply is an answer, or a problem in one line, within the time limit."""
    os.environ["OPENAI_API_KEY"] = KEY
    server, other = servers()
    server.parts = http_reply(case, other.url)
    other.requests.clear()
    case.content = b"".join(server.parts)[:100_000]
    client = Endpoint(server.url, threads=1, per_minute=1e9, tries=1, timeout=TIMEOUT)
    start = time.monotonic()
    try:
        reply = client.complete({"request": REQUEST})
    except UserError as error:
        check_message(str(error))
        raise
    finally:
        expect(time.monotonic() - start < TIMEOUT + 3, "takes longer than its time limit")
        expect(not other.requests, "a request goes to another server")
    if isinstance(reply, Rejected):
        check_message(str(reply))
        raise reply
    reply.text.encode()


def check_message(message: str) -> None:
    expect(KEY not in message, "the key is in a message")
    expect(len(message.splitlines()) <= 1, "a message of several lines")


def http_reply(case: Case, other_url: str) -> list[bytes]:
    """The bytes of a reply, in the parts in which they are sent."""
    rng = case.rng
    status = rng.choice(STATUSES)
    case.note = f"status {status}"
    body = json.dumps(REPLY).encode()
    kind = rng.random()
    if kind < 0.3:
        body = changed_json(rng, REPLY)
    elif kind < 0.5:
        body = json.dumps({"error": {"message": f"no such key: {KEY}\n{KEY!r}"}}).encode()
    headers = [f"HTTP/1.1 {status} Status", "Content-Type: application/json"]
    if 300 <= status < 400:
        target = rng.choice((f"{other_url}/chat/completions", "/v1/other", "", "http://[", "x:y"))
        headers.append(f"Location: {target}")
    if status in (429, 503):
        headers.append(f"Retry-After: {rng.choice(RETRY_AFTER)}")
    if rng.random() < 0.5:
        length = len(body)
        if rng.random() < 0.2:
            length = rng.choice((len(body) + 10, 0, -1, 2**40))
        headers.append(f"Content-Length: {length}")
    if rng.random() < 0.1:
        encoding = rng.choice(("gzip", "deflate", "br", "x"))
        headers.append(f"Content-Encoding: {encoding}")
    head = "\r\n".join([*headers, "", ""]).encode()
    return sent_parts(rng, head, body)


def sent_parts(rng: random.Random, head: bytes, body: bytes) -> list[bytes]:
    kind = rng.random()
    if kind < 0.02:
        return [head, *(1000 * [b" "]), body]  # a slow drip
    if kind < 0.04:
        return [head, *(64 * [bytes(2**20)])]
    if kind < 0.1:
        return [changed_bytes(rng, head + body)]
    if kind < 0.12:
        return [100_000 * b"X-Header: x\r\n"]
    return [head + body]


TARGETS = {"endpoint": endpoint}
