"""The results of the comparison as Markdown tables."""

from collections.abc import Callable
from statistics import fmean

from ...toyland.score import PLAIN
from .rows import LANGUAGE_MODELS, ROWS

NOT_MEASURED = "-"


def select(results: list[dict], row: str, language_model: str, samples: int) -> list[dict]:
    """The results of one cell of the table, one per seed."""
    selected = []
    for result in results:
        key = (result["row"], result["language_model"], result["samples"])
        if key == (row, language_model, samples):
            selected.append(result)
    return selected


def percent(values: list[float]) -> str:
    """The mean of shares in percent, and the range if there are several."""
    if not values:
        return NOT_MEASURED
    text = f"{100 * fmean(values):.1f}"
    if len(values) > 1:
        text += f" ({100 * min(values):.1f} to {100 * max(values):.1f})"
    return text


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def overall(results: list[dict]) -> str:
    """The share of exact answers to all short questions in plain language."""
    return percent([result["plain"]["overall"] for result in results])


def gflops(flops: float) -> str:
    """A cost in units of 1e9 FLOPs."""
    return f"{flops / 1e9:.2f}"


def milliseconds(results: list[dict], name: str) -> str:
    """The mean of a time over all seeds; only some rows have the Q-Former's own stage."""
    seconds = [result[name] for result in results if name in result]
    if not seconds:
        return NOT_MEASURED
    return f"{1000 * fmean(seconds):.1f}"


def main_table(results: list[dict], samples: int) -> str:
    """One line per connector: score with a trained and a frozen language model, and what it costs.

    "score" is in plain language, as the training data are; "all forms" are the ways in which people
    ask, and "natural" are questions that no template can produce. Costs are per sample of stage 2.
    "ms", and the second of the learning rates, are of the run with a trained language model; the
    one with a frozen model has its own rate of stage 2, which is not shown. "own stage: ms" is per
    sample of the Q-Former's own stage, before the other two.
    """
    header = ["connector", "image tokens", "parameters"]
    header += ["score", "all forms", "natural", "facts true / stated", "two images"]
    header += ["frozen: score", "frozen: GFLOPs", "trained: GFLOPs", "ms", "own stage: ms"]
    header += ["learning rates"]
    rows = []
    for row in ROWS:
        trained = select(results, row.name, "trained", samples)
        frozen = select(results, row.name, "frozen", samples)
        # Only the runs on the largest training set are measured in full.
        trained = [result for result in trained if "score" in result]
        if not trained:
            continue
        first = trained[0]
        details = [result["score"]["detail"][PLAIN] for result in trained]
        precision = percent([detail["precision"] for detail in details])
        recall = percent([detail["recall"] for detail in details])
        rows.append(
            [
                row.name,
                str(first["image_tokens"]),
                f"{first['connector_parameters']:,}",
                overall(trained),
                percent([result["score"]["overall"] for result in trained]),
                percent([result["natural"]["overall"] for result in trained]),
                f"{precision} / {recall}",
                percent([result["two_images"] for result in trained]),
                overall(frozen),
                gflops(first["flops_frozen"]),
                gflops(first["flops"]),
                milliseconds(trained, "seconds"),
                milliseconds(trained, "own_stage_seconds"),
                " / ".join(f"{rate:g}" for rate in first["rates"]),
            ]
        )
    return markdown(header, rows)


def plain_types(result: dict) -> dict[str, float]:
    """Shares of right answers in plain language, by type of question."""
    return {type: share for type, share in result["plain"].items() if type != "overall"}


def all_forms_types(result: dict) -> dict[str, float]:
    """Shares of right answers in all forms of asking, by type; empty if not measured."""
    return result["score"]["types"] if "score" in result else {}


def natural_types(result: dict) -> dict[str, float]:
    """Shares of right answers to natural questions, by type; empty if not measured."""
    return result["natural"]["types"] if "natural" in result else {}


def natural_counts(results: list[dict]) -> dict[str, int]:
    """The number of natural questions by type. All results are about the same questions."""
    for result in results:
        if "natural" in result:
            return result["natural"]["questions"]
    return {}


def type_table(
    results: list[dict],
    samples: int,
    types_of: Callable[[dict], dict[str, float]],
    counts: dict[str, int] | None = None,
) -> str:
    """One line per connector: right answers by type of question, in percent.

    `types_of` takes the shares from a result. `counts`, by type, go into the header.
    """
    types: list[str] = []
    rows = []
    for row in ROWS:
        measured = []  # one dict per seed
        for result in select(results, row.name, "trained", samples):
            if types_of(result):
                measured.append(types_of(result))
        if not measured:
            continue
        if not types:
            types = list(measured[0])
        cells = [row.name]
        for type in types:
            cells.append(percent([shares[type] for shares in measured if type in shares]))
        rows.append(cells)
    titles = types
    if counts is not None:
        titles = [f"{type} ({counts[type]})" for type in types]
    return markdown(["connector", *titles], rows)


def samples_table(results: list[dict]) -> str:
    """The score against the number of training samples, with each language model."""
    sizes = sorted({result["samples"] for result in results})
    header = ["connector", "language model", *(f"{size:,}" for size in sizes)]
    rows = []
    for row in ROWS:
        for language_model in LANGUAGE_MODELS:
            cells = []
            for size in sizes:
                cells.append(overall(select(results, row.name, language_model, size)))
            if any(cell != NOT_MEASURED for cell in cells):
                rows.append([row.name, language_model, *cells])
    return markdown(header, rows)


def all_tables(results: list[dict]) -> str:
    """All of the tables above, each under its heading."""
    if not results:
        return "no result yet"
    largest = max(result["samples"] for result in results)
    counts = natural_counts(results)
    tables = {
        f"{largest:,} samples per stage, score in percent": main_table(results, largest),
        "By type of question, plain language": type_table(results, largest, plain_types),
        "By type of question, all forms": type_table(results, largest, all_forms_types),
        "By type of question, natural (number of questions)": type_table(
            results, largest, natural_types, counts
        ),
        "Against the number of samples": samples_table(results),
    }
    return "\n\n".join(f"## {heading}\n\n{table}" for heading, table in tables.items())
