"""How everything was made: command, models, searches, settings, environment; and all figures to be saved."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from advex.record import ModelEntry, all_figures
from advex.registry import register
from advex.report.reading import Contents, Row, TrainingHistory, histories_of
from advex.report.sections.training import noted_values
from advex.report.templates import data_uri

SKIPPED = 50  # skipped files named on the page at most
_TABLES = {
    "explanations": "confidences of every explanation",
    "answers": "what would have had to be different",
    "maps": "what was measured of every map",
}

File = tuple[str, str, str]  # name, what it is, data URI


@register("section", "made")
class Made:
    """What decides the figures, and the figures themselves as files."""

    title, menu, place, tables = "How it was made", "How it was made", 120, ("explanations", "answers", "maps")

    def __call__(self, contents: Contents) -> dict[str, Any]:
        record = contents.record
        text = record.model_dump_json(indent=1)
        return {
            "explainers": list(_explainers(record.models)),
            "skipped": record.data.skipped[:SKIPPED],
            "files": [
                ("figures.json", "all figures and how they were made", data_uri("application/json", text)),
                csv_file("figures.csv", "figures with their intervals", _figures(contents)),
                *(_table_file(contents, name) for name in _TABLES if contents.rows(name)),
                *training_files(histories_of(record)),
            ],
            "json": text,
        }


def _explainers(models: Sequence[ModelEntry]) -> Iterator[tuple[str, list[str]]]:
    """(name, how it was made) of each explainer of maps: once for all models, or for each of them."""
    for name in dict.fromkeys(name for model in models for name in model.maps):
        methods = {model.name: model.maps[name].method for model in models if name in model.maps}
        alike = len(set(methods.values())) == 1
        yield name, [*methods.values()][:1] if alike else [f"{model}: {spec}" for model, spec in methods.items()]


def csv_file(name: str, what: str, rows: list[tuple]) -> File:
    """A table to be saved from the page."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return name, what, data_uri("text/csv", text.getvalue())


def training_files(runs: tuple[TrainingHistory, ...]) -> list[File]:
    """All values that were noted during training, where there are any."""
    if not any(run.last for run in runs):
        return []
    return [csv_file("training.csv", "all values that the runs recorded", noted_values(runs))]


def _figures(contents: Contents) -> list[tuple]:
    record = contents.record
    named = [
        (model.name, name, f) for model in record.models for name, f in (*all_figures(model).items(), *_more(model))
    ]
    for each in record.differences:
        whose = f"{each.model}, " if each.model else ""
        named.append((f"{whose}{each.first} minus {each.second}", each.measure, each.figure))
    rows = [(who, name, f.value, f.low, f.high, f.n, f.failures) for who, name, f in named]
    return [("model", "measure", "value", "low", "high", "n", "failures"), *rows]


def _more(model: ModelEntry) -> list[tuple]:
    """Figures of the certified examples that are no scores."""
    entry = model.certified
    if entry is None:
        return []
    names = {"network_accuracy": entry.accuracy, "attack_ara": entry.attack_ara, "gap": entry.gap}
    return [(f"certified_{name}", figure) for name, figure in names.items()]


def _table_file(contents: Contents, table: str) -> File:
    """The rows of a table, of confidences that in the target; without the values of maps."""
    rows = contents.rows(table)
    columns = tuple(name for name in rows[0] if name != "map")
    values = [tuple(_plain(row, name) for name in columns) for row in rows]
    return csv_file(f"{table}.csv", _TABLES[table], [columns, *values])


def _plain(row: Row, name: str) -> Any:
    value = row[name]
    if not isinstance(value, list):
        return value
    return value[row["target"]] if 0 <= row["target"] < len(value) else ""
