"""LLaVA-Bench: two scores out of a judge's review, and the relative score (section 5.1)."""

import re

import numpy as np

from ..device import beside
from ..errors import run


def parse_scores(review: str) -> tuple[float, float] | None:
    """The scores from 1 to 10 in a review's first line, "9 8.5" or "9, 8.5"; None where it holds anything else."""
    first = review.strip().partition("\n")[0].strip()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:\s*,\s*|\s+)(\d+(?:\.\d+)?)", first)
    scores = tuple(map(float, found.groups())) if found else (0, 0)
    return scores if all(1 <= score <= 10 for score in scores) else None


def relative_scores(reviews: list[dict]) -> dict[str, list[float]]:
    """By category and over "all": 100 * mean(model) / mean(reference), and the ends of its bootstrap 95% interval."""
    found, rng = {}, np.random.default_rng(0)
    for category in [*dict.fromkeys(row["category"] for row in reviews), *["all"] * bool(reviews)]:
        scores = np.array([row["score"] for row in reviews if category in ("all", row["category"])])
        sums = scores[rng.integers(len(scores), size=(2000, len(scores)))].sum(1)
        interval = np.percentile(100 * sums[:, 1] / sums[:, 0], (2.5, 97.5))
        found[category] = [100 * scores[:, 1].sum() / scores[:, 0].sum(), *interval.tolist()]
    return found


if __name__ == "__main__":
    run(lambda: beside("benchmarks.llava_bench").main())
