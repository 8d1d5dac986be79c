"""Loads one sharded checkpoint with this package and with transformers, each in a fresh process, in turn.

python -m benchmarks.loading --size 1        # gigabytes of fp16; also 4
Prints the median seconds of loading and the growth of the peak memory over what the imports took.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def make(path: Path, gigabytes: float) -> int:
    """A Llama of about this size in fp16, random, in shards; returns its bytes."""
    from nanollava import weights
    from nanollava.config import LlamaConfig, write_json
    from nanollava.llama import Llama

    layers = max(1, round((gigabytes * 2**30 - 2 * 2 * 8000 * 2048) / (2 * (4 * 2048**2 + 3 * 2048 * 5504))))
    config = LlamaConfig(8000, 2048, 5504, layers, 16)
    with weights.uninitialised():
        model = Llama(config)
    generator = torch.Generator().manual_seed(0)
    state = {n: torch.randn(p.shape, generator=generator).half() for n, p in model.named_parameters()}
    write_json(path / "config.json", {"architectures": ["LlamaForCausalLM"], **config.to_dict()})
    weights.save(state, path, weights.LLAMA, shard_bytes=2**28)
    return sum(t.nbytes for t in state.values())


def peak_bytes() -> int:
    """The largest resident memory of this process so far (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def child(who: str, path: str, dtype: torch.dtype) -> None:
    if who == "ours":
        from nanollava.llama import Llama as cls
    else:
        from transformers import LlamaForCausalLM as cls
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak_bytes()
    start = time.perf_counter()
    model = cls.from_pretrained(path, dtype=dtype)
    total = sum(p.flatten()[::1024].float().sum().item() for p in model.parameters())  # every page is read
    seconds = time.perf_counter() - start
    peak = peak_bytes() - before
    size = sum(p.nbytes for p in model.parameters())
    print(json.dumps({"seconds": seconds, "peak": peak, "bytes": size, "sum": total}))


def measure(folder: str, dtype: str, runs: int, warm: int = 1) -> dict[str, dict[str, list[float]]]:
    """Seconds and peak (times the model's bytes) of every run of both, in turn; the first `warm` warm the file cache."""
    found: dict[str, list[dict]] = {"ours": [], "transformers": []}
    for run in range(runs + warm):
        for who, results in found.items():
            command = [sys.executable, "-m", "benchmarks.loading", "--child", who, folder, dtype]
            out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            results += [json.loads(out.splitlines()[-1])] * (run >= warm)
    assert len({r["sum"] for results in found.values() for r in results}) == 1, "different weights"
    return {
        who: {"seconds": [r["seconds"] for r in results], "peak": [r["peak"] / r["bytes"] for r in results]}
        for who, results in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=float, default=1.0, help="gigabytes of the checkpoint")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*args.child[:2], getattr(torch, args.child[2]))
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), args.size)
        for dtype in ("float16", "float32"):
            for who, rows in measure(folder, dtype, args.runs).items():
                seconds, spread = (
                    statistics.median(rows["seconds"]),
                    max(rows["seconds"]) - min(rows["seconds"]),
                )
                peak = statistics.median(rows["peak"])
                print(
                    f"fp16 -> {dtype}: {who:13} {seconds:6.3f} s (spread {spread:.3f}), peak {peak:.2f} x the model"
                )


if __name__ == "__main__":
    main()
