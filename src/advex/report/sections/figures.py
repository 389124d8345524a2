"""All figures: a row per model, the paired differences of every two, and what each search did."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from advex.drawing.numbers import decimals, number
from advex.record import CALIBRATION, Record
from advex.record.tables import in_norm
from advex.registry import register
from advex.report.cells import (
    BETTER,
    CERTIFIED,
    FigureCell,
    FigureRow,
    digits_for,
    is_scored,
    paired,
    show,
    together,
    turned,
    verdict,
)
from advex.report.names import ORDER, capital, is_published, measure_title, origin, score_title, search_title
from advex.report.reading import Contents

# Counted from the examples of a search: part of the column's name, title.
_COUNTED = (
    ("failed", "Not found"),
    ("gradients", "Gradients per image"),
    ("flat", "Gradient vanished during the search"),
    ("valid", "Still succeeds after clipping"),
)


@dataclass(frozen=True)
class FigureColumn:
    """A measure. better: what is good, "higher" or "lower", or empty."""

    key: str
    title: str
    better: str


Columns = dict[tuple[str, bool], list[FigureColumn]]  # by search, and whether by the published protocol
Cells = dict[tuple[str, str], FigureCell]  # by measure and model


@dataclass(frozen=True)
class Group:
    """The measures that one search made."""

    title: str
    published: bool
    columns: tuple[FigureColumn, ...]


@dataclass(frozen=True)
class FigureTable:
    """Groups of columns over rows of models."""

    groups: tuple[Group, ...]
    rows: tuple[FigureRow, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """Places of the cells with which a group begins."""
        return tuple(itertools.accumulate((len(group.columns) for group in self.groups[:-1]), initial=0))


@dataclass(frozen=True)
class PairedCell:
    """A difference of two models. verdict: what the interval allows to say."""

    cell: FigureCell
    n: int
    significant: bool
    verdict: str


@dataclass(frozen=True)
class Triangle:
    """One measure of every two models, row minus column. rows: a model with its cells, None where there is no pair."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[PairedCell | None, ...]], ...]


@register("section", "figures")
class Figures:
    """Every score of every model with its interval, and the paired differences."""

    title, menu, place, tables = "Figures", "Figures", 30, ("examples",)

    def __call__(self, contents: Contents) -> dict[str, Any]:
        record = contents.record
        return {
            "in_rmse": ", in RMSE unless another norm is given" if "rmse" in map(record.norm, record.searches) else "",
            "calibration": CALIBRATION if "btr" in record.searches else "",
            "warned": Counter(flag.model for flag in record.flags if flag.severity == "warning"),
            "table": main_table(contents, published=False),
            "published": main_table(contents, published=True),
            "searches": search_table(contents),
            "differences": triangles(record),
            "together": together([each for each in record.differences if is_scored(each, record)]),
        }


def main_table(contents: Contents, *, published: bool) -> FigureTable:
    """All figures of one protocol: a row per model, the columns grouped by the search that made them.

    A group holds the scores of its search and, where they are not among those, the median distance, the
    failures and the gradients per image, counted from the examples (without an interval).
    """
    record = contents.record
    columns, cells = _score_columns(record)
    for name in record.searches:
        known = {column.title for column in columns.get((name, is_published(name)), [])}
        median = ("median", measure_title(in_norm("rmse_median", record.norm(name))))
        counted = _counted(contents, name, tuple(part for part in (median, *_COUNTED[:2]) if part[1] not in known))
        for column, by_model in counted:
            columns.setdefault((name, is_published(name)), []).append(column)
            cells |= {(column.key, model): cell for model, cell in by_model.items()}
    places = {"": -1} | {name: place for place, name in enumerate(record.searches)}
    owners = sorted((owner for owner in columns if owner[1] == published), key=lambda owner: places[owner[0]])
    return _table(record, {owner: columns[owner] for owner in owners}, cells)


def search_table(contents: Contents) -> FigureTable:
    """Diagnostics of each search on each model's images, counted from the examples; nothing here has an interval."""
    record = contents.record
    columns: Columns = {}
    cells: Cells = {}
    for name in record.searches:
        for column, by_model in _counted(contents, name, _COUNTED):
            columns.setdefault((name, is_published(name)), []).append(column)
            cells |= {(column.key, model): cell for model, cell in by_model.items()}
    return _table(record, columns, cells)


def triangles(record: Record) -> tuple[Triangle, ...]:
    """The paired differences of scores: a triangle for each measure, the later model minus the earlier one."""
    names = [model.name for model in record.models]
    cells: dict[str, dict[tuple[str, str], PairedCell]] = {}
    for difference in record.differences:
        if is_scored(difference, record):
            if names.index(difference.first) < names.index(difference.second):
                difference = turned(difference)
            figure, pair = difference.figure, (difference.first, difference.second)
            shown = paired(difference.measure, figure, record)
            cell = PairedCell(shown, figure.n, difference.separated, verdict(difference))
            cells.setdefault(difference.measure, {})[pair] = cell
    return tuple(
        Triangle(
            capital(score_title(key, record)),
            tuple(names[:-1]),
            tuple((row, tuple(mine.get((row, column)) for column in names[:-1])) for row in names[1:]),
        )
        for key, mine in cells.items()
    )


def _score_columns(
    record: Record,
) -> tuple[dict[tuple[str, bool], list[FigureColumn]], dict[tuple[str, str], FigureCell]]:
    columns: Columns = {}
    cells: Cells = {}
    scores = {key: figure for model in reversed(record.models) for key, figure in model.scores.items()}
    for key in dict.fromkeys(key for model in record.models for key in model.scores if key not in CERTIFIED):
        made, digits = origin(key, record.searches), digits_for(key, record)
        column = FigureColumn(key, measure_title(made.measure), BETTER[scores[key].better])
        columns.setdefault((made.search, made.published), []).append(column)
        for model in record.models:
            if key in model.scores:
                cells[key, model.name] = show(key, model.scores[key], digits, record)
    return columns, cells


def _table(record: Record, columns: Columns, cells: Cells) -> FigureTable:
    groups = tuple(
        Group(search_title(owner), published, tuple(sorted(mine, key=_rank)))
        for (owner, published), mine in columns.items()
    )
    keys = [column.key for group in groups for column in group.columns]
    rows = []
    for index, model in enumerate(record.models):
        mine = (cells.get((key, model.name)) or FigureCell(key, "–", note="not measured") for key in keys)
        rows.append(FigureRow(index, model.name, tuple(mine)))
    return FigureTable(groups, tuple(rows))


def _rank(column: FigureColumn) -> int:
    """Place of a column in its group, whatever norm it is in; measures that are not known come last."""
    titles = (column.title, column.title.rpartition(" in ")[0])
    return next((ORDER.index(title) for title in titles if title in ORDER), len(ORDER))


def _median(contents: Contents, model: str, radii: np.ndarray) -> float:
    """The median radius of the examples that the model classifies rightly; infinite if half of them failed."""
    right = [row["prediction"] == row["label"] for row in contents.rows_of(model)]
    ordered = np.sort(radii[np.asarray(right, dtype=bool)])
    return float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2) if len(ordered) else math.nan


def _counted(
    contents: Contents, search: str, parts: tuple[tuple[str, str], ...]
) -> list[tuple[FigureColumn, dict[str, FigureCell]]]:
    """Columns counted from the examples of a search, each with its cell per model; none if it was never run."""
    models = [model.name for model in contents.record.models]
    radii = {model: contents.radii(model, search) for model in models}
    known = {model: values for model, values in radii.items() if values is not None}
    digits = decimals(_median(contents, model, values) for model, values in known.items())
    return [
        (
            FigureColumn(f"{search}:{part}", title, ""),
            {model: _count(contents, model, search, part, values, digits) for model, values in known.items()},
        )
        for part, title in parts
        if known
    ]


def _count(contents: Contents, model: str, search: str, part: str, radii: np.ndarray, digits: int) -> FigureCell:
    key, n = f"{search}:{part}", len(radii)
    if part == "median":
        return FigureCell(key, number(_median(contents, model, radii), digits))
    if part == "failed":
        return FigureCell(key, f"{int(np.isinf(radii).sum()):,}", note=f"of {n:,}")
    values = contents.column(model, f"{search}_{part}")
    if values is None:
        return FigureCell(key, "–", note="not measured")
    if part == "gradients":
        return FigureCell(key, number(float(values.mean()), 1))
    return FigureCell(key, f"{int(values.sum()):,}", note=f"of {n:,}")
