"""The results of the comparison as Markdown tables."""

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


def main_table(results: list[dict], samples: int) -> str:
    """One line per connector: score with a trained and a frozen language model, and what it costs.

    "score" is in plain language, as the training data are; "all forms" are the ways in which people
    ask, and "natural" are questions that no template can produce. Costs are those with a trained
    language model, per sample of stage 2.
    """
    header = ["connector", "image tokens", "parameters"]
    header += ["score", "all forms", "natural", "facts true / stated", "two images"]
    header += ["frozen: score", "GFLOPs", "ms", "learning rate"]
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
                f"{first['flops'] / 1e9:.2f}",
                f"{1000 * fmean(result['seconds'] for result in trained):.1f}",
                first["rate"],
            ]
        )
    return markdown(header, rows)


def type_table(results: list[dict], samples: int) -> str:
    """One line per connector: exact answers in plain language by type of question, in percent."""
    types: list[str] = []
    rows = []
    for row in ROWS:
        trained = select(results, row.name, "trained", samples)
        if not trained:
            continue
        if not types:
            types = [name for name in trained[0]["plain"] if name != "overall"]
        cells = [row.name]
        for type in types:
            shares = []
            for result in trained:
                if type in result["plain"]:
                    shares.append(result["plain"][type])
            cells.append(percent(shares))
        rows.append(cells)
    return markdown(["connector", *types], rows)


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
    """The three tables above, each under its heading."""
    if not results:
        return "no result yet"
    largest = max(result["samples"] for result in results)
    parts = [f"## {largest:,} samples per stage, score in percent", main_table(results, largest)]
    parts += ["## By type of question", type_table(results, largest)]
    parts += ["## Against the number of samples", samples_table(results)]
    return "\n\n".join(parts)
