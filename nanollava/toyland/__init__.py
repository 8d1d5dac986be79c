"""Toyland: the embedded world. Pictures drawn by our own code, a teacher, a tiny CLIP and a tiny Vicuna."""

from pathlib import Path


def ensure_data(path: str, made_here: str) -> None:
    """Makes Toyland's data set (rank 0, the others wait) if `path` is its default place `made_here` and is missing."""
    import torch.distributed as dist  # needed by training alone

    if path != made_here:
        return
    if dist.get_rank() == 0 and not Path(path).parent.exists():
        from .data import write

        print(f"making Toyland's data set in {Path(path).parent} ...", flush=True)
        write(Path(path).parent)
    dist.barrier()
