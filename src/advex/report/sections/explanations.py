"""What would have to change for each model to see another class: the pictures of every explainer that makes some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from advex.record import Record
from advex.registry import register
from advex.report.cells import share_in_words
from advex.report.grids import grids
from advex.report.reading import Contents


@register("section", "explanations")
class Explanations:
    """The explained examples, changed towards each class, and how many of the explanations got there."""

    title, menu, place, tables = "Explanations", "Explanations", 25, ("examples", "explanations")

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        if contents.rows("answers"):
            return None  # rows of tables are told in sentences
        if not (drawn := grids(contents, "grid")):
            return None
        keys, lines = reached(contents.record)
        return {"grids": drawn, "keys": keys, "reached": lines}


def reached(record: Record) -> tuple[list[tuple[str, str]], list[tuple[int, str, list[str]]]]:
    """How many explanations got where they wanted: the columns (key, title), and a row of figures per model."""
    keys = list(dict.fromkeys(key for model in record.models for key in model.rho_reached))
    lines = []
    for index, model in enumerate(record.models):
        figures = (model.rho_reached.get(key) for key in keys)
        words = ["–" if figure is None else f"{share_in_words(figure)} of {figure.n:,}" for figure in figures]
        lines.append((index, model.name, words))
    titles = {key: _title(key, record.lowers) for key in keys}
    several = {title for title, times in Counter(titles.values()).items() if times > 1}
    return [(key, f"{title}, {key}" if title in several else title) for key, title in titles.items()], lines


def _title(key: str, lowers: Collection[str]) -> str:
    """key: PURPOSE_EXPLAINER."""
    purpose, _, explainer = key.partition("_")
    if purpose == "sweep":
        return "Classified as the target, over all sizes"
    return "No longer classified as the class" if explainer in lowers else "Classified as the target"
