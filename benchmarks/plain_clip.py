"""Does the loss of OpenAI's CLIP alone teach the kinds of things? Four trials.

python -m benchmarks.plain_clip --trial kinds --out out/plain-clip

Each trial changes `pretrain --only clip --captions-only --dtype bf16` in one way; "more-kinds"
changes "kinds". The command trains a CLIP and prints what `benchmarks.probe` reads off the patches
under the boxes.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.probe import probe_clip
from nanollava.config import VisionConfig
from nanollava.device import pick_dtype
from nanollava.errors import run
from nanollava.toyland.clip import VISION, ClipPhase, captions_only, pretrain_clip

IMAGES = 28_000  # as `pretrain` draws
SEED = 0


@dataclass(frozen=True)
class Trial:
    """What differs from `pretrain --only clip --captions-only`."""

    scale: float = 1.0  # of the number of steps
    only_kinds: bool = False  # the scenes of a group differ in the kind of one thing
    group: int | None = None  # scenes in a group of the first two phases; None: as before
    vision: VisionConfig = VISION

    def phases(self) -> list[ClipPhase]:
        *first_phases, last = captions_only(self.scale, IMAGES, SEED)
        if self.group is not None:
            first_phases = [replace(phase, group=self.group) for phase in first_phases]
        return [replace(phase, only_kinds=self.only_kinds) for phase in (*first_phases, last)]


TRIALS = {
    "longer": Trial(scale=2),
    "kinds": Trial(only_kinds=True),
    # More captions in a batch that are wrong in the kind alone.
    "more-kinds": Trial(only_kinds=True, group=8),
    # 196 patches instead of 100.
    "small-patches": Trial(vision=replace(VISION, image_size=98, patch_size=7)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.plain_clip",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument("--trial", choices=TRIALS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="directory for the trained CLIP")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    args = parser.parse_args()
    device = torch.device("cpu")
    trial = TRIALS[args.trial]
    dtype = pick_dtype(args.dtype, device)
    pretrain_clip(args.out, trial.phases(), SEED, dtype, device, trial.vision)

    print(json.dumps(probe_clip(args.out), indent=2))


if __name__ == "__main__":
    run(main)
