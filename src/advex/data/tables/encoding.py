"""Rows of a table, encoded column by column, and an account of those that cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from advex.data.source import shortened
from advex.data.tables.columns import Column, Frame
from advex.errors import DataError, quoted
from advex.features import Feature, FeatureSpec


@dataclass(kw_only=True)
class Rows:
    """Encoded rows, while they are made. x: [n, d] float32. bad: [n] bool, not to be used; reasons: why, by row."""

    x: np.ndarray
    bad: np.ndarray
    reasons: dict[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def refuse(self, which: np.ndarray, reason: str) -> None:
        """Leave out these rows [n] bool."""
        for row in np.flatnonzero(which & ~self.bad).tolist():
            self.reasons[row] = reason
        self.bad |= which


def encoded(frame: Frame, features: FeatureSpec, missing: str, train: Frame | None, name: str) -> Rows:
    """The columns of a frame as its features say.

    missing: `refuse` raises where values are missing, `drop` leaves those rows out, `impute` puts in the median
    or the most frequent category of `train`. Values outside the range or the categories make a row bad. Raises
    DataError for columns that are missing, too.
    """
    lacking = [feature.name for feature in features.features if feature.name not in frame.columns]
    if lacking:
        raise DataError(f"{name}: {len(lacking):,} columns are missing: {shortened([repr(each) for each in lacking])}.")
    gaps = {f.name: int(count) for f in features.features if (count := frame.columns[f.name].missing.sum())}
    if gaps and missing == "refuse":
        said = shortened([f"'{column}' in {count:,} rows" for column, count in gaps.items()])
        raise DataError(
            f"{name}: values are missing (empty, ?, NA, NaN or infinite): {said}. Set in the YAML beside the "
            "table what to do: `missing: drop` leaves such rows out, `missing: impute` fills in the median "
            "or the most frequent category. If NA, for example, is a value, list it in the `values:` of its "
            "column."
        )
    rows = Rows(x=np.zeros((frame.rows, features.width), np.float32), bad=np.zeros(frame.rows, bool))
    for feature, where in zip(features.features, features.slices, strict=True):
        column = frame.columns[feature.name]
        fill = None if train is None or feature.name not in gaps else train.columns[feature.name]
        try:
            (_category if feature.kind == "category" else _number)(feature, column, where.start, fill, rows)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    if gaps and missing == "impute":
        rows.notes = (f"{sum(gaps.values()):,} missing values filled in",)
    return rows


def _number(feature: Feature, column: Column, place: int, fill: Column | None, rows: Rows) -> None:
    column = column.as_numbers()
    if column.unit and feature.unit and column.unit != feature.unit:
        raise DataError(f"'{feature.name}' is in {quoted(column.unit)}, but was in {quoted(feature.unit)} in training.")
    raw = column.numbers
    if fill is not None:
        values = fill.as_numbers().numbers
        raw = np.where(np.isnan(raw), np.median(values[~np.isnan(values)]), raw)
    gap = np.isnan(raw)
    low, high = feature.range
    safe = np.where(gap, low, raw) if gap.any() else raw
    if gap.any():
        rows.refuse(gap, f"'{feature.name}' is missing")
    outside = (safe < low) | (safe > high)
    if outside.any():
        rows.refuse(outside, f"'{feature.name}' is outside {low:g} to {high:g}, the range seen in training")
    rows.x[:, place] = feature.encoded(safe)
    if feature.step is not None and fill is None:
        off = np.abs((safe - low) / feature.step - np.rint((safe - low) / feature.step)) > 1e-6
        if off.any():
            rows.refuse(off, f"'{feature.name}' is not {low:g} plus whole steps of {feature.step:g}")


def _category(feature: Feature, column: Column, place: int, fill: Column | None, rows: Rows) -> None:
    column = column.as_texts()
    texts = column.texts or ()
    number = {value: index for index, value in enumerate(feature.values)}
    # By code: the category's number; -1 unknown, and last, where code -1 looks, -2 missing.
    into = np.array([*(number.get(text, -1) for text in texts), -2])
    categories = into[column.codes]
    if fill is not None:
        other = fill.as_texts()
        codes = other.codes[other.codes >= 0]
        often = (other.texts or ())[np.bincount(codes).argmax()]
        categories = np.where(categories == -2, number.get(often, 0), categories)
    if (categories == -2).any():
        rows.refuse(categories == -2, f"'{feature.name}' is missing")
    for code in np.flatnonzero(into[:-1] == -1).tolist():
        rows.refuse(column.codes == code, f"'{feature.name}' is {texts[code]!r:.60}, a category not seen in training")
    known = np.flatnonzero(categories >= 0)
    rows.x[known, place + categories[known]] = 1


def labelled(column: Column, values: tuple[str, ...], rows: Rows) -> np.ndarray:
    """[n] int64 the classes of a target column; rows without one are refused. values: of the classes, in order."""
    column = column.as_texts()
    number = {value: index for index, value in enumerate(values)}
    into = np.array([*(number.get(text, -1) for text in column.texts or ()), -2])
    classes = into[column.codes]
    if (classes == -2).any():
        rows.refuse(classes == -2, "it has no label")
    for code in np.flatnonzero(into[:-1] == -1).tolist():
        text = (column.texts or ())[code]
        rows.refuse(column.codes == code, f"label {text!r:.60} is not among the {len(values)} classes")
    return np.maximum(classes, 0).astype(np.int64)
