"""What would have to change for each model to see another class: the pictures of every explainer that makes some."""

from __future__ import annotations

from typing import Any

from advex.drawing.numbers import number, percent
from advex.record import Figure, Record
from advex.registry import register
from advex.report.grids import grids
from advex.report.reading import Contents

_TITLES = {
    "grid_toward": "Towards a class: says it",
    "grid_away": "Away from a class: says another",
    "sweep_toward": "In the sweep: says the class",
}


@register("section", "explanations")
class Explanations:
    """The explained examples, changed towards each class, and how many of the explanations got there."""

    title, menu, place, tables = "Explanations", "Explanations", 70, ("examples", "explanations")

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        if contents.rows("answers"):
            return None  # rows of tables are told in sentences
        keys, lines = reached(contents.record)
        return {"grids": grids(contents, "grid"), "keys": keys, "reached": lines}


def reached(record: Record) -> tuple[list[tuple[str, str]], list[tuple[int, str, list[str]]]]:
    """How many explanations got where they wanted: the columns (key, title), and a row of figures per model."""
    keys = list(dict.fromkeys(key for model in record.models for key in model.rho_reached))
    lines = []
    for index, model in enumerate(record.models):
        figures = (model.rho_reached.get(key) for key in keys)
        lines.append((index, model.name, ["–" if figure is None else _share(figure) for figure in figures]))
    return [(key, _TITLES.get(key) or key.replace("_", " ").capitalize()) for key in keys], lines


def _share(figure: Figure) -> str:
    low, high = (number(100 * bound, 1) for bound in (figure.low, figure.high))
    return f"{percent(figure.value)} [{low}, {high}] of {figure.n:,}"
