"""Instruction data from captions and boxes; the program is benchmarks/synthesize.py."""

from .device import beside
from .errors import run

if __name__ == "__main__":
    run(lambda: beside("benchmarks.synthesize").main())
