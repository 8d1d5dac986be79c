"""Loads one sharded checkpoint with this package and with transformers, each in a fresh process, in turn.

python -m benchmarks.loading --size 1        # gigabytes of fp16; also 4
Prints the median seconds and the process's peak memory, imports included, when `from_pretrained` has returned, and
when every page of the weights has been read once besides: both sides map files of the same dtype and read them later.
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

from nanollava.hf import files as hf_files
from nanollava.hf import load as hf_load
from nanollava.hf import names as hf_names

ROOT = Path(__file__).resolve().parent.parent


def make(path: Path, gigabytes: float) -> int:
    """A Llama of about this size in fp16, random, in shards; returns its bytes."""
    from nanollava.config import LlamaConfig
    from nanollava.files import write_json
    from nanollava.hf.config import llama_config_json
    from nanollava.llama import Llama

    layers = max(
        1, round((gigabytes * 2**30 - 2 * 2 * 8000 * 2048) / (2 * (4 * 2048**2 + 3 * 2048 * 5504)))
    )
    config = LlamaConfig(8000, 2048, 5504, layers, 16)
    with hf_load.uninitialized():
        model = Llama(config)
    generator = torch.Generator().manual_seed(0)
    state = {
        n: torch.randn(p.shape, generator=generator).half() for n, p in model.named_parameters()
    }
    write_json(
        path / "config.json", {"architectures": ["LlamaForCausalLM"], **llama_config_json(config)}
    )
    hf_files.save(state, path, hf_names.LLAMA, shard_bytes=2**28)
    return sum(t.nbytes for t in state.values())


def peak_bytes() -> int:
    """The largest resident memory of this process so far (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(
        int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")
    )


def child(who: str, path: str, dtype: torch.dtype) -> None:
    if who == "ours":
        from nanollava.llama import Llama as cls
    else:
        from transformers import LlamaForCausalLM as cls
    start = time.perf_counter()
    model = cls.from_pretrained(path, dtype=dtype)
    returned = {"seconds": time.perf_counter() - start, "peak": peak_bytes()}
    total = sum(
        p.flatten()[::1024].float().sum().item() for p in model.parameters()
    )  # every page is read
    read = {"seconds": time.perf_counter() - start, "peak": peak_bytes()}
    print(json.dumps({"returned": returned, "read": read, "sum": total}))


def measure(
    folder: str, dtype: str, runs: int, warm: int = 1
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Seconds and peak bytes of every run of both, in turn, by state ("returned", "read") and side; the first `warm`
    runs warm the file cache."""
    found: dict[str, list[dict]] = {"ours": [], "transformers": []}
    for run in range(runs + warm):
        for who, results in found.items():
            command = [sys.executable, "-m", "benchmarks.loading", "--child", who, folder, dtype]
            out = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
            results += [json.loads(out.splitlines()[-1])] * (run >= warm)
    assert len({r["sum"] for results in found.values() for r in results}) == 1, "different weights"
    return {
        state: {
            who: {what: [r[state][what] for r in results] for what in ("seconds", "peak")}
            for who, results in found.items()
        }
        for state in ("returned", "read")
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
            for state, sides in measure(folder, dtype, args.runs).items():
                for who, rows in sides.items():
                    spread = max(rows["seconds"]) - min(rows["seconds"])
                    seconds, peak = (
                        statistics.median(rows["seconds"]),
                        statistics.median(rows["peak"]),
                    )
                    text = f"{seconds:6.3f} s (spread {spread:.3f}), peak {peak / 2**30:.2f} GiB"
                    print(f"fp16 -> {dtype}, {state:8}: {who:13} {text}")


if __name__ == "__main__":
    main()
