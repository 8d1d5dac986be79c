"""Synthesis from a local endpoint that fails three times in ten, killed twice: no record is lost.

python -m benchmarks.synthesis                # 500 records
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fake_endpoint import FakeEndpoint


def write_contexts(path: Path, count: int) -> None:
    """Write contexts of `count` images, one caption each."""
    rows = []
    for i in range(count):
        row = {"image": f"{i:06d}.jpg", "captions": [f"A cat, number {i}."], "boxes": []}
        rows.append(json.dumps(row) + "\n")
    path.write_text("".join(rows))


def kill_when(process: subprocess.Popen, answers: Path, count: int) -> None:
    """Kill the program once it has written `count` answers, and cut a line as if in mid-write."""
    while not answers.exists() or answers.read_bytes().count(b"\n") < count:
        assert process.poll() is None, "the program ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    content = answers.read_bytes()
    print(f"killed after {len(content.splitlines())} records")
    first_line = content.split(b"\n")[0]
    answers.write_bytes(content + first_line[: len(first_line) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.synthesis", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--records", type=int, default=500, help="records to make (default: 500)")
    parser.add_argument(
        "--failing", type=float, default=0.3, help="share of requests that fail (default: 0.3)"
    )
    args = parser.parse_args()
    server = FakeEndpoint(args.failing, seconds=0.02)
    env = {**os.environ, "OPENAI_API_KEY": "good", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as directory:
        contexts = Path(directory) / "contexts.jsonl"
        out = Path(directory) / "out"
        answers = out / "answers.jsonl"
        write_contexts(contexts, args.records)
        command = [sys.executable, "-m", "nanollava.synthesize", "--kinds", "detail"]
        command += ["--pictures", str(contexts), "--out", str(out), "--model", "teacher"]
        command += ["--base-url", server.url, "--wait", "0.02", "--per-minute", "100000"]
        start = time.perf_counter()
        for count in (args.records // 4, args.records * 2 // 3):
            process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
            kill_when(process, answers, count)
        last = subprocess.run(command, env=env, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        print(last.stderr.split("\r")[-1].strip())
        print(last.stdout.strip())
        records = json.loads((out / "instruct.json").read_text())
        ids = [json.loads(line)["id"] for line in answers.read_text().splitlines()]
    duplicates = len(ids) - len(set(ids))
    print(f"the endpoint: {dict(server.outcomes)}; {seconds:.0f} s")
    counts = f"{len(records)} of {args.records} records, {duplicates} duplicates"
    print(f"{counts}, exit code {last.returncode}")
    assert last.returncode == 0
    assert duplicates == 0
    assert len(records) == len(ids) == args.records


if __name__ == "__main__":
    main()
