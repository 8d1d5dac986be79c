"""Synthesis against a local endpoint that fails three times in ten, killed twice: every record once, none lost.

python -m benchmarks.synthesis                # 500 records
"""

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NEWLINE = b"\n"
ANSWER = "Question: What is there?\n===\nAnswer: There is a cat on the left.\n"


class Endpoint(ThreadingHTTPServer):
    """An OpenAI-compatible chat endpoint on a free port that knows the key "good" and the model "teacher".

    A share of the requests fails in one of five ways, by chance. `answer(messages)` makes the text of the others.
    """

    daemon_threads = True

    def __init__(
        self,
        failing: float = 0.0,
        answer=lambda messages: ANSWER,
        seed: int = 0,
        seconds: float = 0.0,
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.failing, self.answer, self.seconds, self.rng = (
            failing,
            answer,
            seconds,
            random.Random(seed),
        )
        self.lock, self.log, self.asked = threading.Lock(), collections.Counter(), []
        self.times: list[float] = []
        self.finish = "stop"
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):  # a client that was killed is no news
        pass


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(server.seconds)
        if self.headers["Authorization"] != "Bearer good":
            return self.reply(401, b'{"error": {"message": "Incorrect API key provided"}}')
        if request["model"] != "teacher":
            return self.reply(404, b'{"error": {"message": "The model does not exist"}}')
        with server.lock:
            ways = ("429", "500", "cut", "broken", "empty")
            way = server.rng.choice(ways) if server.rng.random() < server.failing else "answer"
            server.log[way] += 1
            server.asked.append(request["messages"])
            server.times.append(time.monotonic())
        text = server.answer(request["messages"]) if way != "empty" else ""
        message = {"role": "assistant", "content": text}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": server.finish}]}
        body = json.dumps(
            body | {"usage": {"prompt_tokens": 100, "completion_tokens": 10}}
        ).encode()
        if way == "429":
            self.reply(429, b'{"error": {"message": "slow down"}}', Retry_After="0.05")
        elif way == "500":
            self.reply(500, b"<html>Internal Server Error</html>")
        elif way == "cut":  # half of the body that was announced
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif way == "broken":
            self.reply(200, body[: len(body) // 2])
        else:
            self.reply(200, body)


def pictures(path: Path, count: int) -> None:
    rows = (
        {"image": f"{i:06d}.jpg", "captions": [f"A cat, number {i}."], "boxes": []}
        for i in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--failing", type=float, default=0.3)
    args = parser.parse_args()
    server = Endpoint(args.failing, seconds=0.02)
    with tempfile.TemporaryDirectory() as directory:
        told, out = Path(directory) / "pictures.jsonl", Path(directory) / "out"
        pictures(told, args.records)
        command = [
            sys.executable,
            "-m",
            "nanollava.synthesize",
            "--pictures",
            told,
            "--out",
            out,
            "--kinds",
            "detail",
        ]
        command += [
            "--model",
            "teacher",
            "--base-url",
            server.url,
            "--wait",
            "0.02",
            "--per-minute",
            "100000",
        ]
        env = {**os.environ, "OPENAI_API_KEY": "good", "OMP_NUM_THREADS": "1"}
        answers, start = out / "answers.jsonl", time.perf_counter()
        for kill_at in (args.records // 4, args.records * 2 // 3):
            process = subprocess.Popen(list(map(str, command)), env=env, stderr=subprocess.DEVNULL)
            while not answers.exists() or answers.read_bytes().count(b"\n") < kill_at:
                assert process.poll() is None, "ended before it could be killed"
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            lines = answers.read_bytes()
            print(f"killed with {lines.count(NEWLINE)} records written")
            answers.write_bytes(
                lines + lines[: len(lines.split(b"\n")[0]) // 2]
            )  # as if killed while writing
        done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True)
        print(done.stderr.split("\r")[-1].strip(), done.stdout.strip(), sep="\n")
        records = json.loads((out / "instruct.json").read_text())
        ids = [json.loads(line)["id"] for line in answers.read_text().splitlines()]
        print(f"the endpoint: {dict(server.log)}; {time.perf_counter() - start:.0f} s")
        print(
            f"{len(records)} of {args.records} records, {len(ids) - len(set(ids))} twice, exit code {done.returncode}"
        )
        assert done.returncode == 0 and len(records) == len(set(ids)) == len(ids) == args.records


if __name__ == "__main__":
    main()
