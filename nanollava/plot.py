"""Loss curves of one or several runs as a PNG; the program is benchmarks/plot.py."""

from .device import beside
from .errors import run

if __name__ == "__main__":
    run(lambda: beside("benchmarks.plot").main())
