"""Toyland: the embedded world. Pictures drawn by our own code, a teacher, a tiny CLIP and a tiny Vicuna."""

from pathlib import Path

import torch.distributed as dist

from .data import write


def ensure_data(path: str, made_here: str) -> None:
    """Makes Toyland's data set (rank 0, the others wait) if `path` is its default place `made_here` and is missing."""
    if path == made_here:
        if dist.get_rank() == 0 and not Path(path).parent.exists():
            print(f"making Toyland's data set in {Path(path).parent} ...", flush=True)
            write(Path(path).parent)
        dist.barrier()
