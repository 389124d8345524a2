"""From the columns of a table to its features: as described, and where nothing is said, as the data look."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from advex.data.dataset import counted
from advex.data.source import shortened
from advex.data.tables.csv_file import Column, Frame
from advex.data.tables.description import TableDescription
from advex.errors import DataError, did_you_mean
from advex.features import Feature, FeatureSpec

_TARGETS = ("target", "label", "class", "y")
_MOST_CLASSES = 1000
_MOST_CATEGORIES = 1000
_WHOLE = 2**22  # whole numbers that far from their mean are more than float32 can tell apart
_LARGEST = 1e30
_STANDARD = 0.05  # mean and deviation of a column that somebody has standardised already, so near to 0 and 1


@dataclass(frozen=True, kw_only=True)
class Understood:
    """What a table is. class_values: the values of the target, class by class. notes: what was decided."""

    features: FeatureSpec
    class_names: tuple[str, ...]
    class_values: tuple[str, ...]
    notes: tuple[str, ...]


def understand(train: Frame, others: Sequence[Frame], sheet: TableDescription, where: str) -> Understood:
    """The features and classes of a table.

    train: the rows that are learned from: categories, centres and scales are theirs. others: the rest, for the
    ranges of numbers and for the classes. where: the file or folder. Raises DataError.
    """
    for name in sheet.columns:
        if name not in train.columns:
            raise DataError(f"{where}: its YAML tells of a column '{name}': {did_you_mean(name, train.columns)}")
    _same_columns(train, others, where)
    target = _target(train, sheet, where)
    values, names = _classes(target, [train, *others], sheet, where)
    features, left_out = [], []
    for name in train.columns:
        if name == target or sheet.column(name).kind == "ignore":
            continue
        made = _feature(name, train, others, sheet, where)
        if isinstance(made, str):
            left_out.append(f"'{name}' ({made})")
        else:
            features.append(made)
    if not features:
        raise DataError(f"{where}: no column is left to predict '{target}' from: {shortened(left_out)} left out.")
    notes = [] if sheet.target else [f"'{target}' is predicted"]
    if left_out:
        notes.append(f"{counted(len(left_out), 'column')} left out: {shortened(left_out)}")
    return Understood(
        features=FeatureSpec(features=tuple(features), target=target),
        class_names=names,
        class_values=values,
        notes=tuple(notes),
    )


def _same_columns(train: Frame, others: Sequence[Frame], where: str) -> None:
    for other in others:
        if lacking := [name for name in train.columns if name not in other.columns]:
            raise DataError(f"{where}: {other.where} lacks the column '{lacking[0]}' that {train.where} has.")


def _target(train: Frame, sheet: TableDescription, where: str) -> str:
    if sheet.target is not None:
        if sheet.target not in train.columns:
            raise DataError(
                f"{where}: there is no column '{sheet.target}': {did_you_mean(sheet.target, train.columns)}"
            )
        return sheet.target
    lower = {name.lower(): name for name in train.columns}
    return next((lower[name] for name in _TARGETS if name in lower), list(train.columns)[-1])


def _classes(
    target: str, frames: Sequence[Frame], sheet: TableDescription, where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(values, names) of the classes, in order."""
    if sheet.classes is not None:
        return tuple(sheet.classes), tuple(sheet.classes.values())
    found: set[str] = set()
    for frame in frames:
        column = frame.columns[target]
        numbers = np.unique(column.numbers[~np.isnan(column.numbers)])
        count = len(numbers) if column.texts is None else len(column.texts)
        if count > _MOST_CLASSES or (numbers % 1 != 0).any():
            raise DataError(
                f"{where}: '{target}' has {count:,} different values: only classes can be predicted. Name "
                "another column (target: ... in the YAML), or cut its range into classes."
            )
        found |= set(column.as_texts().texts or ())
    if len(found) < 2:
        raise DataError(
            f"{where}: '{target}' has {len(found)} class(es) ({shortened(sorted(found)) or 'all missing'})."
        )
    values = in_order(found)
    return values, values


def in_order(values: set[str]) -> tuple[str, ...]:
    """Numbers by size and before the texts, texts by their letters."""

    def place(text: str) -> tuple[int, float, str]:
        try:
            return (0, float(text), text)
        except ValueError:
            return (1, 0.0, text)

    return tuple(sorted(values, key=place))


def _feature(name: str, train: Frame, others: Sequence[Frame], sheet: TableDescription, where: str) -> Feature | str:
    """The feature that a column is, or why it is left out."""
    told, columns = sheet.column(name), [train.columns[name], *(frame.columns[name] for frame in others)]
    as_category = told.kind == "category" or told.values is not None or _coded(name, sheet)
    if not told.numeric and told.kind is None and not as_category:
        if all(column.missing.all() for column in columns):
            return "no values"
        if not name or (name.lower() in ("id", "index") and _all_different(columns[0])):
            return "it counts the rows"
        texts = {text for column in columns for text in column.texts or ()}
        as_category = _categories(name, columns, len(texts), where)
        if as_category and len(texts) > max(100, train.rows // 2):
            return f"{len(texts):,} different texts"
    make: Callable[..., Feature | str] = _category if as_category else _number
    try:
        return make(name, columns, sheet)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _coded(name: str, sheet: TableDescription) -> bool:
    return not sheet.column(name).numeric and (sheet.categorical == "all" or name in sheet.categorical)


def _all_different(column: Column) -> bool:
    return column.texts is None and len(np.unique(column.numbers)) == len(column.numbers)


def _categories(name: str, columns: Sequence[Column], texts: int, where: str) -> bool:
    """Whether a column of which nothing is said holds categories: texts, or two whole numbers (yes and no)."""
    if all(column.texts is None for column in columns):
        values = np.unique(np.concatenate([_pair(column) for column in columns]))
        return len(values) == 2 and bool((values % 1 == 0).all())
    numeric = sum(1 for column in columns for text in column.texts or () if _numeric(text))
    if texts > 20 and numeric > texts / 2:  # a measurement with a word in it somewhere
        try:
            for column in columns:
                column.as_numbers()
        except DataError as error:
            raise DataError(f"{where}: {error} Mend it, or say `kind: category` in the YAML.") from None
    return True


def _numeric(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).isdigit()


def _pair(column: Column) -> np.ndarray:
    """The distinct values if there are at most two, else three: cheaper than sorting a long column."""
    values = column.numbers[~column.missing]
    if not len(values):
        return values
    low, high = values.min(), values.max()
    middle = values[(values != low) & (values != high)][:1]
    return np.unique(np.concatenate([[low, high], middle]))


def _category(name: str, columns: Sequence[Column], sheet: TableDescription) -> Feature | str:
    told = sheet.column(name)
    values = told.values
    if values is None:
        train = columns[0].as_texts()
        texts = list(train.texts or ())
        values = in_order({texts[code] for code in np.unique(train.codes[train.codes >= 0]).tolist()})
        if len(values) < 2:
            return f"always {values[0]!r:.40}" if values else "no values"
        if len(values) > _MOST_CATEGORIES:
            raise DataError(f"'{name}' has {len(values):,} categories; say `kind: ignore`, or list its values.")
    return Feature(name=name, kind="category", values=values, change=told.change)


def _number(name: str, columns: Sequence[Column], sheet: TableDescription) -> Feature | str:
    told = sheet.column(name)
    parts = [column.as_numbers() for column in columns]
    parts = [part.numbers[~part.missing] for part in parts]
    every = [part for part in parts if len(part)]
    if not every:
        return "no values"
    low = told.low if told.low is not None else float(min(part.min() for part in every))
    high = told.high if told.high is not None else float(max(part.max() for part in every))
    if max(abs(low), abs(high)) > _LARGEST:
        raise DataError(f"'{name}' runs from {low:g} to {high:g}: too far for single precision. Cut it, or ignore it.")
    if low == high and (told.low is None or told.high is None):
        return f"always {low:g}"
    train = parts[0] if len(parts[0]) else every[0]
    step = told.step if told.step is not None else 1.0 if all((part % 1 == 0).all() for part in every) else "none"
    center, scale = _scaling(train, low, high, sheet, whole=step != "none")
    center, scale = (told.center if told.center is not None else center), told.scale or scale
    if told.step is None and max(abs(low - center), abs(high - center)) > _WHOLE:
        step = "none"
    feature = Feature(name=name, low=low, high=high, center=center, scale=scale, change=told.change, unit=told.unit)
    return feature if step == "none" else replace(feature, step=float(step))


def _scaling(
    train: np.ndarray, low: float, high: float, sheet: TableDescription, *, whole: bool
) -> tuple[float, float]:
    """(center, scale) in few digits, so that they can be read and written.

    A column that is standardised already stays as it is: a radius means what it meant. Where some values are much
    smaller than the mean, the centre is 0: float32 would lose their digits beside it.
    """
    if sheet.scale == "none":
        return 0.0, 1.0
    if sheet.scale == "range":
        return low, high - low
    mean, deviation = float(train.mean()), float(train.std())
    if abs(mean) < _STANDARD and abs(deviation - 1) < _STANDARD:
        return 0.0, 1.0
    small = not whole and bool(((train != 0) & (np.abs(train) < abs(mean) / 8)).any())
    scale = float(f"{deviation:.4g}") if deviation > 0 else high - low
    return 0.0 if small else round(mean, 2 - math.floor(math.log10(scale))), scale


def listed(spec: FeatureSpec, most: int = 24) -> list[list[str]]:
    """A table for people: column, what it holds, how it is scaled, what may change; `most` rows of it."""
    rows = []
    for feature in spec.features[:most]:
        if feature.kind == "category":
            holds = f"{len(feature.values)} categories: {shortened(feature.values, 4)}"
            scale = "one-hot"
        else:
            low, high = feature.range
            what = (
                "numbers"
                if feature.step is None
                else "whole numbers"
                if feature.step == 1
                else f"steps of {feature.step:g}"
            )
            holds, scale = (
                f"{what}, {low:g} to {high:g} {feature.unit}".rstrip(),
                f"{feature.center:g} / {feature.scale:g}",
            )
        rows.append([feature.name, holds, scale, feature.change])
    if len(spec.features) > most:
        rows.append([f"and {len(spec.features) - most:,} more", "", "", ""])
    return rows
