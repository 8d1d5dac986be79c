"""Load one sharded checkpoint with this package and with transformers, alternately.

python -m benchmarks.loading --size 1        # gigabytes of fp16; also 4

Every load is a fresh process. Prints the median seconds, without imports, and the process's peak
memory, with them: when `from_pretrained` has returned, and when every page of the weights has been
read. transformers maps files of the same dtype into memory and reads them later. Ours reads every
weight at once, to check for NaN and infinity, so the second state is the fair comparison.
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

from nanollava.config import LlamaConfig
from nanollava.files import write_json
from nanollava.hf.config import llama_config_json
from nanollava.hf.files import save
from nanollava.hf.load import uninitialized
from nanollava.hf.names import LLAMA
from nanollava.llama import Llama

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("ours", "transformers")
STATES = ("returned", "read")  # `from_pretrained` has returned; every page has been read
QUANTITIES = ("seconds", "peak")  # seconds; bytes

# The model: only the number of layers depends on the size.
VOCAB_SIZE = 8000
WIDTH = 2048
FFN_WIDTH = 5504
NUM_HEADS = 16
BYTES_PER_WEIGHT = 2  # fp16


def make(path: Path, gigabytes: float) -> int:
    """Write a Llama of about this size in fp16, random, in shards; returns its bytes."""
    embedding_bytes = 2 * VOCAB_SIZE * WIDTH * BYTES_PER_WEIGHT  # with lm_head
    layer_bytes = (4 * WIDTH**2 + 3 * WIDTH * FFN_WIDTH) * BYTES_PER_WEIGHT
    num_layers = max(1, round((gigabytes * 2**30 - embedding_bytes) / layer_bytes))
    config = LlamaConfig(VOCAB_SIZE, WIDTH, FFN_WIDTH, num_layers, NUM_HEADS)
    with uninitialized():
        model = Llama(config)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, parameter in model.named_parameters():
        state[name] = torch.randn(parameter.shape, generator=generator).half()
    values = {"architectures": ["LlamaForCausalLM"], **llama_config_json(config)}
    write_json(path / "config.json", values)
    save(state, path, LLAMA, shard_bytes=2**28)
    return sum(tensor.nbytes for tensor in state.values())


def peak_bytes() -> int:
    """The largest resident memory of this process so far (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            kilobytes = int(line.split()[1])
            return 1024 * kilobytes
    raise OSError("/proc/self/status has no VmHWM")


def load_once(side: str, path: str, dtype: torch.dtype) -> None:
    """Load the checkpoint in this process, and print what it took as JSON."""
    if side == "ours":
        model_class = Llama
    else:
        from transformers import LlamaForCausalLM

        model_class = LlamaForCausalLM
    start = time.perf_counter()
    model = model_class.from_pretrained(path, dtype=dtype)
    returned = {"seconds": time.perf_counter() - start, "peak": peak_bytes()}
    total = 0.0
    for parameter in model.parameters():
        one_per_page = parameter.flatten()[::1024]
        total += one_per_page.float().sum().item()
    read = {"seconds": time.perf_counter() - start, "peak": peak_bytes()}
    print(json.dumps({"returned": returned, "read": read, "sum": total}))


def load_in_new_process(side: str, folder: str, dtype: str) -> dict:
    """What `load_once` prints."""
    command = [sys.executable, "-m", "benchmarks.loading", "--child", side, folder, dtype]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    folder: str, dtype: str, runs: int, warm: int = 1
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """The seconds and peak bytes of every run, as `result[state][side][quantity]`.

    The first `warm` runs only warm the file cache.
    """
    results = {side: [] for side in SIDES}
    for run in range(warm + runs):
        for side in SIDES:
            result = load_in_new_process(side, folder, dtype)
            if run >= warm:
                results[side].append(result)
    sums = {result["sum"] for side in SIDES for result in results[side]}
    assert len(sums) == 1, f"different weights: their sums are {sums}"
    table = {}
    for state in STATES:
        table[state] = {}
        for side in SIDES:
            table[state][side] = {}
            for quantity in QUANTITIES:
                values = [result[state][quantity] for result in results[side]]
                table[state][side][quantity] = values
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.loading",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--size", type=float, default=1.0, help="gigabytes of the checkpoint (default: 1)"
    )
    parser.add_argument(
        "--runs", type=int, default=5, help="measured loads per package (default: 5)"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        side, path, dtype = args.child
        load_once(side, path, getattr(torch, dtype))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), args.size)
        for dtype in ("float16", "float32"):
            print_table(dtype, measure(folder, dtype, args.runs))


def print_table(dtype: str, table: dict) -> None:
    """One line per state and package."""
    for state in STATES:
        for side in SIDES:
            seconds = table[state][side]["seconds"]
            spread = max(seconds) - min(seconds)
            peak = statistics.median(table[state][side]["peak"])
            print(
                f"fp16 -> {dtype}, {state:8}: {side:13} {statistics.median(seconds):6.3f} s "
                f"(spread {spread:.3f}), peak {peak / 2**30:.2f} GiB"
            )


if __name__ == "__main__":
    main()
