"""Compare losses and final weights of 1, 2 and 4 ranks with those of one rank in one pass.

python -m benchmarks.ranks

Both stages, 20 steps, accumulation 1 and 4, fp32. Samples have different lengths, and some are
text only. Prints the largest relative differences.
"""

import json
import tempfile
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.faults import command, run, world


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        world(path)
        print("| stage | ranks | accumulation | loss | weights |\n|---|---|---|---|---|")
        for stage, file in (
            ("align", "mm_projector.safetensors"),
            ("instruct", "model.safetensors"),
        ):
            records = json.loads((path / f"data/{stage}.json").read_text())
            text = [
                {"conversations": [{"from": "human", "value": "Say it."}, r["conversations"][1]]}
                for r in records[::9]
            ]
            (path / f"data/{stage}.json").write_text(json.dumps(records + text))
            whole = path / f"out-{stage}-whole"
            for ranks, rounds in ((1, 1), (1, 4), (2, 1), (2, 4), (4, 1), (4, 4)):
                out = whole if (ranks, rounds) == (1, 1) else path / f"{stage}-{ranks}-{rounds}"
                flags = [
                    "--batch",
                    "16",
                    "--micro-batch",
                    16 // ranks // rounds,
                    "--dtype",
                    "fp32",
                    "--save-steps",
                    "0",
                ]
                run([*map(str, command(path, stage, out, ranks, 20, *flags)), "--lr", "1e-4"])
                one, other = (
                    [json.loads(x)["loss"] for x in (p / "metrics.jsonl").open()]
                    for p in (whole, out)
                )
                loss = max(abs(a - b) / a for a, b in zip(one, other, strict=True))
                one, other = load_file(whole / file), load_file(out / file)
                weights = max(
                    ((one[k] - other[k]).norm() / one[k].norm().clamp(min=1e-12)).item()
                    for k in one
                )
                print(f"| {stage} | {ranks} | {rounds} | {loss:.1e} | {weights:.1e} |", flush=True)
                assert max(loss, weights) <= 1e-6, "not equal"


if __name__ == "__main__":
    main()
