"""Does the number of ranks change the result?

Losses and final weights of 1, 2 and 4 ranks after 20 steps of both stages, with 1 and 4 rounds of
micro-batches, compared with one rank in one round.

python -m benchmarks.ranks

Samples differ in length, and some are text only. Prints the largest relative differences, in fp32.
"""

import argparse
import json
import tempfile
from pathlib import Path

from safetensors.torch import load_file

from benchmarks import small_world

BATCH = 16
STEPS = 20
TOLERANCE = 1e-6
RANKS_AND_ROUNDS = ((1, 1), (1, 4), (2, 1), (2, 4), (4, 1), (4, 4))


def add_text_only_records(path: Path) -> None:
    records = json.loads(path.read_text())
    for record in records[::9]:
        question = {"from": "human", "value": "Say it."}
        records.append({"conversations": [question, record["conversations"][1]]})
    path.write_text(json.dumps(records))


def largest_loss_difference(expected: Path, actual: Path) -> float:
    differences = []
    entries = small_world.read_metrics(expected)
    other_entries = small_world.read_metrics(actual)
    for a, b in zip(entries, other_entries, strict=True):
        differences.append(abs(a["loss"] - b["loss"]) / a["loss"])
    return max(differences)


def largest_weight_difference(expected: Path, actual: Path) -> float:
    weights = load_file(actual)
    differences = []
    for name, tensor in load_file(expected).items():
        norm = tensor.norm().clamp(min=1e-12)
        differences.append(((tensor - weights[name]).norm() / norm).item())
    return max(differences)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.ranks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()  # no flags but --help
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        small_world.make(path)
        print("| stage | ranks | rounds | loss | weights |\n|---|---|---|---|---|")
        for stage, file in small_world.RESULTS.items():
            add_text_only_records(path / f"data/{stage}.json")
            expected = small_world.reference(path, stage)
            for ranks, rounds in RANKS_AND_ROUNDS:
                out = path / f"{stage}-{ranks}-{rounds}"
                if (ranks, rounds) == (1, 1):
                    out = expected
                flags = ["--batch", BATCH, "--micro-batch", BATCH // ranks // rounds]
                flags += ["--dtype", "fp32", "--save-steps", 0, "--lr", 1e-4]
                small_world.run(small_world.command(path, stage, out, ranks, STEPS, *flags))
                if out == expected:  # the run that the others are compared with
                    continue
                loss = largest_loss_difference(expected, out)
                weights = largest_weight_difference(expected / file, out / file)
                print(f"| {stage} | {ranks} | {rounds} | {loss:.1e} | {weights:.1e} |", flush=True)
                assert max(loss, weights) <= TOLERANCE, "not equal"


if __name__ == "__main__":
    main()
