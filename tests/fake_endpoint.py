"""A fake OpenAI-compatible chat endpoint that fails at random, for tests and benchmarks."""

import collections
import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = "Question: What is there?\n===\nAnswer: There is a cat on the left.\n"
FAILURES = ("429", "500", "cut", "broken", "empty")


class FakeEndpoint(ThreadingHTTPServer):
    """Knows the key "good" and the model "teacher", on a free port.

    Every request takes `seconds`. A share `failing` of them fails in one of five ways, at random.
    `answer(messages)` makes the text of the others.
    """

    daemon_threads = True

    def __init__(
        self,
        failing: float = 0.0,
        answer: Callable[[list[dict]], str] = lambda messages: ANSWER,
        seed: int = 0,
        seconds: float = 0.0,
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.failing = failing
        self.answer = answer
        self.seconds = seconds
        self.rng = random.Random(seed)
        self.lock = threading.Lock()
        self.outcomes = collections.Counter()  # how many ended as one of FAILURES, or as "answer"
        self.prompts: list[list[dict]] = []  # messages of every request
        self.times: list[float] = []  # when it was answered
        self.finish_reason = "stop"
        self.retry_after = "0.05"  # header of a 429
        self.body: dict | None = None  # sent instead of a whole chat completion
        self.refused_word = "FORBIDDEN"  # requests with it in their prompt get a 400
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        # shutdown() waits for one interval.
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address) -> None:
        """Stay silent: a client that was killed is expected."""


class Handler(BaseHTTPRequestHandler):
    server: FakeEndpoint

    def log_message(self, *_) -> None:
        """Stay silent."""

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(server.seconds)
        key = self.headers["Authorization"].removeprefix("Bearer ")
        if key != "good":
            message = f"Incorrect API key provided: {key}"
            return self.reply(401, json.dumps({"error": {"message": message}}).encode())
        if request["model"] != "teacher":
            return self.reply(404, b'{"error": {"message": "The model does not exist"}}')
        with server.lock:
            outcome = "answer"
            if server.rng.random() < server.failing:
                outcome = server.rng.choice(FAILURES)
            server.outcomes[outcome] += 1
            server.prompts.append(request["messages"])
            server.times.append(time.monotonic())
        if server.refused_word in request["messages"][-1]["content"]:
            error = {"message": "The prompt was filtered.", "code": "content_filter"}
            return self.reply(400, json.dumps({"error": error}).encode())
        text = ""
        if outcome != "empty":
            text = server.answer(request["messages"])
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": server.finish_reason,
        }
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        body = json.dumps(server.body or {"choices": [choice], "usage": usage}).encode()
        if outcome == "429":
            message = b'{"error": {"message": "slow down"}}'
            return self.reply(429, message, Retry_After=server.retry_after)
        if outcome == "500":
            return self.reply(500, b"<html>Internal Server Error</html>")
        if outcome == "broken":
            return self.reply(200, body[: len(body) // 2])
        if outcome == "cut":  # half of the announced body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return None
        return self.reply(200, body)


def endpoint_flags(endpoint: FakeEndpoint) -> list[str]:
    """Flags that send a program to the fake endpoint, as fast as it answers."""
    return ["--base-url", endpoint.url, "--wait", "0.01", "--per-minute", "100000"]


class RawServer:
    """Answers every connection with the same bytes, one part at a time, `pause` seconds apart."""

    def __init__(self, parts: list[bytes], pause: float = 0.0):
        self.parts = parts
        self.pause = pause
        self.requests: list[bytes] = []  # the first bytes of each
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self.socket.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self.requests.append(connection.recv(65536))
            for part in self.parts:
                connection.sendall(part)
                time.sleep(self.pause)

    def close(self) -> None:
        self.socket.close()


def http_reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of a whole HTTP reply."""
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", "Connection: close"]
    for name, value in headers.items():
        lines.append(f"{name.replace('_', '-')}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
