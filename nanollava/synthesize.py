"""Instruction data from captions and boxes; the program is benchmarks/synthesize.py."""

from .device import beside, run

if __name__ == "__main__":
    run(lambda: beside("benchmarks.synthesize").main())
