"""Any LLaVA, or its parts, as one llava-hf directory; the program is checkpoints/convert.py."""

from .device import beside, run

if __name__ == "__main__":
    run(lambda: beside("checkpoints.convert").main())
