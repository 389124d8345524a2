"""Rows of tables: sentences, a bar for every change, and where the row is in the distribution of each column."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from advex.drawing.numbers import UNIT, confidence, date_text, percentages, significant
from advex.registry import register
from advex.report.reading import Contents, Row
from advex.report.row_values import SHOWN_ROWS, value_text

SHOWN = 12  # columns whose distributions are seen at once
_FOLDED = 60  # further columns, to be unfolded
_CATEGORIES = 8  # bars of a column, besides those that are marked
WIDTH, HEIGHT, TOP = 200.0, 46.0, 9.0  # of a histogram in drawing units; its bars begin at TOP


@dataclass(frozen=True)
class Bar:
    """One change. x, width: per cent of the drawing, whose middle is no change; moved: how far; "" of categories."""

    feature: str
    before: str
    after: str
    x: float
    width: float
    moved: str


@dataclass(frozen=True)
class Step:
    """A bar of the way from the probability before to that after. x, width: per cent of the drawing, which goes from 0
    to 1, or as far beyond as the way does: Shapley values add up to a probability, and some of them alone need not.

    kind: `level` for the two ends, `rise` or `fall` for what a change adds or takes.
    """

    name: str
    kind: str
    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Counterfactual:
    """One alternative, or the sentence that none was found. steps: none in records that do not have the shares."""

    sentence: str
    bars: tuple[Bar, ...]
    answer: str = ""
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class ModelAnswer:
    """What one model says of a row. index: its place in the record, which is its colour."""

    index: int
    model: str
    says: str
    confidence: str
    right: bool
    counterfactuals: tuple[Counterfactual, ...]


@dataclass(frozen=True)
class ChangedValue:
    """A changed value. x: its place, of a number; at the end of the drawing where it lies beyond."""

    index: int
    text: str
    x: float = 0.0


@dataclass(frozen=True)
class Category:
    """A bar of a column of categories. width: per cent. mine: the row's. marks: the models that would change to it."""

    name: str
    count: int
    width: float
    mine: bool
    marks: tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """A column's distribution with a row's value in it. bars: SVG path; low, high: what the ends of its axis are."""

    name: str
    held: str
    value: str
    marks: tuple[ChangedValue, ...]
    bars: str = ""
    x: float = 0.0
    low: str = ""
    high: str = ""
    categories: tuple[Category, ...] = ()
    others: int = 0


@dataclass(frozen=True)
class ExplainedRow:
    """One row of the table. hidden: columns that are neither shown nor folded."""

    id: str
    label: str
    lines: tuple[ModelAnswer, ...]
    shown: tuple[Spread, ...]
    folded: tuple[Spread, ...]
    hidden: int


@register("section", "answers")
class Answers:
    """What would have had to be different in a table's rows, and where each row lies among the others."""

    title, menu, place, tables = "Answers", "Answers", 25, ("examples", "answers", "columns")

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        by_example: dict[object, list[Row]] = {}
        for row in contents.rows("answers"):
            by_example.setdefault(row["example"], []).append(row)
        if not by_example:
            return None
        rows = tuple(_row(contents, mine) for mine in list(by_example.values())[:SHOWN_ROWS])
        counterfactuals = [each for row in rows for line in row.lines for each in line.counterfactuals]
        return {
            "rows": rows,
            "total": len(by_example),
            "categories": any(not bar.moved for each in counterfactuals for bar in each.bars),
            "waterfalls": any(each.steps for each in counterfactuals),
            "several": len(contents.record.models) > 1,
        }


# -- one row -----------------------------------------------------------------------------------------------


def _row(contents: Contents, rows: list[Row]) -> ExplainedRow:
    example = rows[0]["example"]
    known = {row["model"]: row for row in contents.rows("examples") if row["example"] == example}
    first = next(iter(known.values()), {})
    changes = {id(row): json.loads(row["changes"]) for row in rows}
    units = {column["name"]: column["unit"] for column in contents.rows("columns")}
    reach = max((_length(change) for each in changes.values() for change in each), default=1.0) or 1.0
    lines, marks = [], {}
    for index, model in enumerate(contents.record.models):
        mine = [row for row in rows if row["model"] == model.name]
        if not mine:
            continue
        counterfactuals = tuple(
            _counterfactual(row, changes[id(row)], units, reach, contents.class_name(row["target"])) for row in mine
        )
        lines.append(_line(contents, index, model.name, known.get(model.name), counterfactuals))
        for change in (change for row in mine for change in changes[id(row)]):
            marks.setdefault(change["feature"], {})[index, change["after"]] = None
    values = json.loads(rows[0]["row"])
    chosen, folded = _chosen(contents.rows("columns"), marks)
    return ExplainedRow(
        id=str(first.get("id", "")),
        label=contents.class_name(first.get("label")),
        lines=tuple(lines),
        shown=tuple(
            _spread(column, values.get(column["name"]), list(marks.get(column["name"], ()))) for column in chosen
        ),
        folded=tuple(_spread(column, values.get(column["name"]), []) for column in folded[:_FOLDED]),
        hidden=max(len(folded) - _FOLDED, 0),
    )


def _line(
    contents: Contents, index: int, model: str, known: Row | None, counterfactuals: tuple[Counterfactual, ...]
) -> ModelAnswer:
    if known is None:
        return ModelAnswer(index, model, "–", "–", True, counterfactuals)
    says = contents.class_name(known["prediction"])
    right = known["prediction"] == known["label"]
    return ModelAnswer(index, model, says, confidence(known["confidence"]), right, counterfactuals)


def _counterfactual(
    row: Row, changes: list[dict[str, Any]], units: dict[str, str], reach: float, answer: str
) -> Counterfactual:
    bars = []
    for change in changes:
        half, unit = 50 * _length(change) / reach, units.get(change["feature"], "")
        moved = change["moved"]
        text = "" if moved is None else ("+" if moved > 0 else "") + significant(moved, 2)
        bars.append(
            Bar(
                feature=change["feature"],
                before=value_text(change["before"]),
                after=value_text(change["after"], unit),
                x=round(50 - half if moved is not None and moved < 0 else 50.0, 2),
                width=round(max(half, 0.6), 2),
                moved=text,
            )
        )
    sentence = row["sentence"].replace(" -> ", " → ").replace(" %", UNIT)
    return Counterfactual(sentence, tuple(bars), answer, waterfall(row, changes))


def waterfall(row: Row, changes: Sequence[dict[str, Any]]) -> tuple[Step, ...]:
    """From the probability of the answer before, by each change's share of the rest, to that after."""
    if not changes or any(change.get("share") is None for change in changes):
        return ()
    before, after = (row[key][row["target"]] for key in ("before", "after"))
    shares = [change["share"] for change in changes]
    way = [*itertools.accumulate(shares, initial=before)]
    least, most = min(0.0, *way), max(1.0, *way)

    def step(name: str, kind: str, start: float, end: float, text: str) -> Step:
        left, right = (100 * (each - least) / (most - least) for each in sorted((start, end)))
        return Step(name, kind, round(left, 2), round(right - left, 2), text)

    moves = []
    for change, share, (start, end) in zip(changes, shares, itertools.pairwise(way), strict=True):
        kind, sign = ("rise", "+") if share >= 0 else ("fall", "")
        moves.append(step(change["feature"], kind, start, end, f"{sign}{significant(100 * share, 2)}"))
    said = [text.replace(" %", UNIT) for text in percentages(before, after)]  # as in the sentence
    first = step("as it is", "level", 0.0, before, said[0])
    return (first, *moves, step("changed", "level", 0.0, after, said[1]))


def _length(change: dict[str, Any]) -> float:
    """Of a change in units of its column's scale; another category counts as one (its size in LINF)."""
    return 1.0 if change["moved"] is None else abs(change["moved"])


# -- distributions -----------------------------------------------------------------------------------------


def _chosen(columns: Sequence[Row], changed: dict[str, Any]) -> tuple[list[Row], list[Row]]:
    """The columns that are shown, and the others: all of few; else those that change, then the most spread ones."""
    if len(columns) <= SHOWN:
        return list(columns), []
    ranked = sorted(columns, key=lambda column: (column["name"] not in changed, -_evenness(column["counts"])))
    count = max(SHOWN, sum(column["name"] in changed for column in columns))
    return ranked[:count], ranked[count:]


def _evenness(counts: Sequence[int]) -> float:
    """Entropy of a distribution, 1 where all bins hold alike."""
    shares = [count / sum(counts) for count in counts if count]
    return -sum(share * math.log(share) for share in shares) / math.log(len(counts)) if len(counts) > 1 else 0.0


def _spread(column: Row, value: float | str | None, changed: list[tuple[int, float | str]]) -> Spread:
    held = {"never": "may not change", "up": "may only rise", "down": "may only fall"}.get(column["change"], "")
    shown = "–" if value is None else value_text(value, column["unit"])
    if column["kind"] == "category":
        marks = tuple(ChangedValue(index, value_text(after)) for index, after in changed)
        categories, others = _categories(column, value, marks)
        return Spread(column["name"], held, shown, marks, categories=categories, others=others)
    edges = column["edges"]
    half = (column["step"] or 0.0) / 2  # edges lie between the steps
    low, high = max(edges[0] + half, column["least"]), min(edges[-1] - half, column["most"])
    return Spread(
        column["name"], held, shown,
        marks=tuple(_mark(index, float(after), edges, column["unit"]) for index, after in changed),
        bars=histogram(column["counts"]),
        x=0.0 if value is None else _mark(0, float(value), edges, "").x,
        low=("≤ " if column["least"] < edges[0] else "") + (date_text(low, column["unit"]) or significant(low)),
        high=("≥ " if column["most"] > edges[-1] else "") + (date_text(high, column["unit"]) or significant(high)),
    )  # fmt: skip


def _mark(index: int, value: float, edges: Sequence[float], unit: str) -> ChangedValue:
    """Where a value lies between the edges, at the end where it lies beyond them."""
    place = (value - edges[0]) / (edges[-1] - edges[0])
    return ChangedValue(index, value_text(value, unit), round(WIDTH * min(max(place, 0.0), 1.0), 1))


def histogram(counts: Sequence[int]) -> str:
    """Bars of equal width as SVG path data, the highest from TOP to HEIGHT; of what is not empty at least a line.

    >>> histogram([1, 0, 4])
    'M0 36.8h66.7V46h-66.7zM133.3 9h66.7V46h-66.7z'
    """
    width, highest, parts = WIDTH / max(len(counts), 1), max(counts, default=0), []
    for place, count in enumerate(counts):
        if count:
            top = HEIGHT - max((HEIGHT - TOP) * count / highest, 1.0)
            parts.append(f"M{round(place * width, 1):g} {round(top, 1):g}h{width:.1f}V{HEIGHT:g}h-{width:.1f}z")
    return "".join(parts)


def _categories(
    column: Row, value: float | str | None, marks: Sequence[ChangedValue]
) -> tuple[tuple[Category, ...], int]:
    """The bars of a column of categories in their order, and how many are left out: those of fewest rows, unmarked."""
    changed: dict[str, list[int]] = {}
    for mark in marks:
        changed.setdefault(mark.text, []).append(mark.index)
    both = list(zip(column["values"], column["counts"], strict=True))
    most = max(column["counts"], default=0) or 1
    often = sorted(range(len(both)), key=lambda place: -both[place][1])[:_CATEGORIES]
    kept = [
        Category(name, count, round(100 * count / most, 1), name == value, tuple(sorted(set(changed.get(name, ())))))
        for place, (name, count) in enumerate(both)
        if place in often or name == value or name in changed
    ]
    return tuple(kept), len(both) - len(kept)
