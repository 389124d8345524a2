"""The tables: one row per model, the paired differences, and what each search did."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from advex.drawing.numbers import decimals, number, percent
from advex.record import Figure, Record
from advex.report.names import ORDER, is_published, is_share, measure_title, origin, score_title, search_title
from advex.report.reading import Contents

CERTIFIED = ("certified_accuracy", "certified_ara")  # scores that have a section of their own

# Counted from the examples of a search: part of the column's name, title.
_COUNTED = (
    ("median", "Median RMSE"),
    ("failed", "Not found"),
    ("gradients", "Gradients per image"),
    ("flat", "Met a flat goal"),
    ("valid", "Holds in the box"),
)


@dataclass(frozen=True)
class Cell:
    """One figure as shown. low, high: empty when there is no interval. note: what must be said with it."""

    key: str
    text: str
    low: str = ""
    high: str = ""
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A measure. better: what is good, "higher" or "lower", or empty."""

    key: str
    title: str
    better: str


@dataclass(frozen=True)
class Group:
    """The measures that one search made. mark: number of its footnote, 0 for none."""

    title: str
    published: bool
    mark: int
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class FigureLine:
    """A row of a table of models. index: place of the model in the record, which is its colour."""

    index: int
    model: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Groups of columns over rows of models. footnotes: (mark, search, spec string)."""

    groups: tuple[Group, ...]
    lines: tuple[FigureLine, ...]
    footnotes: tuple[tuple[int, str, str], ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """Places of the cells with which a group begins."""
        return tuple(itertools.accumulate((len(group.columns) for group in self.groups[:-1]), initial=0))


@dataclass(frozen=True)
class DifferenceLine:
    """first minus second in words. verdict: what the interval allows to say."""

    first: str
    second: str
    measure: str
    cell: Cell
    n: int
    verdict: str


def show(key: str, figure: Figure, digits: int, record: Record) -> Cell:
    """A figure with its interval, and a note where searches failed or there is no value."""
    write = (lambda value: percent(value, digits)) if is_share(key, record) else (lambda value: number(value, digits))
    note = ""
    if figure.failures:
        share = figure.failures / max(figure.n, 1)
        note = f"{percent(share, 0 if share >= 0.1 else 1)} not found"
    elif math.isnan(figure.value):
        note = "no examples" if not figure.n else "undefined"
    nowhere = math.isinf(figure.low) and figure.low == figure.high
    known = not (math.isnan(figure.low) or math.isnan(figure.high) or nowhere)
    low, high = (write(figure.low), write(figure.high)) if known else ("", "")
    return Cell(key, write(figure.value), low, high, note)


def digits_for(key: str, record: Record) -> int:
    """Digits after the point that all models' figures of one score share."""
    figures = [model.scores[key] for model in record.models if key in model.scores]
    if is_share(key, record):
        return 1
    return decimals([abs(value) for figure in figures for value in (figure.value, figure.high)])


def main_table(contents: Contents, *, published: bool) -> Table:
    """All figures of one protocol: a row per model, the columns grouped by the search that made them.

    A group holds the scores of its search and, where they are not among those, the median RMSE, the
    failures and the gradients per image, counted from the examples (without an interval).
    """
    record = contents.record
    columns, cells = _score_columns(record)
    for name in record.searches:
        known = {column.title for column in columns.get((name, is_published(name)), [])}
        counted = _counted(contents, name, tuple(part for part in _COUNTED[:3] if part[1] not in known))
        for column, by_model in counted:
            columns.setdefault((name, is_published(name)), []).append(column)
            cells |= {(column.key, model): cell for model, cell in by_model.items()}
    places = {"": -1} | {name: place for place, name in enumerate(record.searches)}
    owners = sorted((owner for owner in columns if owner[1] == published), key=lambda owner: places[owner[0]])
    return _table(record, {owner: columns[owner] for owner in owners}, cells)


def search_table(contents: Contents) -> Table:
    """How each search fared on each model's images, counted from the examples; nothing here has an interval."""
    record = contents.record
    columns: dict[tuple[str, bool], list[Column]] = {}
    cells: dict[tuple[str, str], Cell] = {}
    for name in record.searches:
        for column, by_model in _counted(contents, name, _COUNTED[1:]):
            columns.setdefault((name, is_published(name)), []).append(column)
            cells |= {(column.key, model): cell for model, cell in by_model.items()}
    return _table(record, columns, cells)


def difference_lines(record: Record) -> tuple[DifferenceLine, ...]:
    """The paired differences, and whether the data separate the two models."""
    lines = []
    for difference in record.differences:
        figure, key = difference.figure, difference.measure
        cell = _points(key, figure) if is_share(key, record) else show(key, figure, _digits(figure), record)
        lines.append(
            DifferenceLine(
                difference.first, difference.second, score_title(key, record), cell, figure.n,
                verdict(figure, difference.first, difference.second),
            )
        )  # fmt: skip
    return tuple(lines)


def _digits(figure: Figure) -> int:
    return decimals([figure.value, figure.low, figure.high])


def _points(key: str, figure: Figure) -> Cell:
    """A difference of two shares, in percentage points."""
    value, low, high = (number(100 * bound, 1) for bound in (figure.value, figure.low, figure.high))
    return Cell(key, f"{value} points", low, high)


def separated(figure: Figure) -> bool:
    """Whether the interval of a difference lies on one side of zero."""
    return figure.low > 0 or figure.high < 0


def verdict(figure: Figure, first: str, second: str) -> str:
    """What the interval of a difference allows to say."""
    if math.isnan(figure.value) or math.isinf(figure.value):
        return "no statement: too many searches failed" if figure.failures else "no statement"
    if not separated(figure):
        return "not separated: the interval includes zero"
    return f"{first if figure.value > 0 else second} has the larger value"


def _score_columns(record: Record) -> tuple[dict[tuple[str, bool], list[Column]], dict[tuple[str, str], Cell]]:
    columns: dict[tuple[str, bool], list[Column]] = {}
    cells: dict[tuple[str, str], Cell] = {}
    keys = [
        key for key in dict.fromkeys(key for model in record.models for key in model.scores) if key not in CERTIFIED
    ]
    for key in keys:
        made = origin(key, record.searches)
        column = Column(key, measure_title(made.measure), _better(key, record))
        columns.setdefault((made.search, made.published), []).append(column)
        digits = digits_for(key, record)
        for model in record.models:
            if key in model.scores:
                cells[key, model.name] = show(key, model.scores[key], digits, record)
    return columns, cells


def _table(record: Record, columns: dict[tuple[str, bool], list[Column]], cells: dict[tuple[str, str], Cell]) -> Table:
    marks = {name: place for place, name in enumerate(record.searches, start=1)}
    groups = tuple(
        Group(search_title(owner), published, marks.get(owner, 0), tuple(sorted(mine, key=_rank)))
        for (owner, published), mine in columns.items()
    )
    keys = [column.key for group in groups for column in group.columns]
    lines = tuple(
        FigureLine(
            index,
            model.name,
            tuple(cells.get((key, model.name)) or Cell(key, "–", note="not measured") for key in keys),
        )
        for index, model in enumerate(record.models)
    )
    used = {group.mark for group in groups}
    footnotes = tuple((marks[name], name, spec) for name, spec in record.searches.items() if marks[name] in used)
    return Table(groups, lines, footnotes)


def _rank(column: Column) -> int:
    """Place of a column in its group; measures that are not known come last."""
    return ORDER.index(column.title) if column.title in ORDER else len(ORDER)


def _better(key: str, record: Record) -> str:
    figure = next(model.scores[key] for model in record.models if key in model.scores)
    return {"high": "higher", "low": "lower", "neither": ""}[figure.better]


def _median(contents: Contents, model: str, radii: np.ndarray) -> float:
    """The median radius of the examples that the model classifies rightly; infinite if half of them failed."""
    right = [row["prediction"] == row["label"] for row in contents.rows_of(model)]
    ordered = np.sort(radii[np.asarray(right, dtype=bool)])
    return float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2) if len(ordered) else math.nan


def _counted(
    contents: Contents, search: str, parts: tuple[tuple[str, str], ...]
) -> list[tuple[Column, dict[str, Cell]]]:
    """Columns counted from the examples of a search, each with its cell per model; none if it was never run."""
    models = [model.name for model in contents.record.models]
    radii = {model: contents.radii(model, search) for model in models}
    found = {model: values for model, values in radii.items() if values is not None}
    digits = decimals(_median(contents, model, values) for model, values in found.items())
    return [
        (
            Column(f"{search}:{part}", title, ""),
            {model: _count(contents, model, search, part, values, digits) for model, values in found.items()},
        )
        for part, title in parts
        if found
    ]


def _count(contents: Contents, model: str, search: str, part: str, radii: np.ndarray, digits: int) -> Cell:
    key, n = f"{search}:{part}", len(radii)
    if part == "median":
        return Cell(key, number(_median(contents, model, radii), digits))
    if part == "failed":
        return Cell(key, f"{int(np.isinf(radii).sum()):,}", note=f"of {n:,}")
    values = contents.column(model, f"{search}_{part}")
    if values is None:
        return Cell(key, "–", note="not measured")
    if part == "gradients":
        return Cell(key, number(float(values.mean()), 1))
    return Cell(key, f"{int(values.sum()):,}", note=f"of {n:,}")
