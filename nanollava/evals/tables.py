"""The paper's tables on Toyland; the program is benchmarks/tables.py."""

from ..device import beside
from ..errors import run

if __name__ == "__main__":
    run(lambda: beside("benchmarks.tables").main())
