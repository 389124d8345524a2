"""From the columns of a table to its features: as described, and where nothing is said, as the data look."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from advex.data.dataset import counted
from advex.data.source import shortened
from advex.data.tables.columns import Column, Frame
from advex.data.tables.description import TableDescription
from advex.data.tables.numbers import is_amount
from advex.data.tables.row_names import LEAST, what_names_rows
from advex.drawing.numbers import date_text
from advex.errors import DataError, did_you_mean, quoted
from advex.features import Feature, FeatureSpec

TARGETS = ("target", "label", "class", "y")
_MOST_CLASSES = 1000
_MOST_CATEGORIES = 1000
_FEW = 20  # so many different texts may be categories, even if they look like numbers or dates
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


def understand(train: Frame, others: Sequence[Frame], description: TableDescription, where: str) -> Understood:
    """The features and classes of a table.

    train: the rows that are learned from: categories, centres and scales are theirs. others: the rest, for the
    ranges of numbers and for the classes. where: the file or folder. Raises DataError.
    """
    for name in description.columns:
        if name not in train.columns:
            raise DataError(f"{where}: its YAML describes a column '{name}': {did_you_mean(name, train.columns)}")
    _same_columns(train, others, where)
    target = target_of(train, description, where)
    values, names, notes = _classes(target, train, others, description, where)
    features, left_out = [], []
    for name in train.columns:
        if name == target or description.column(name).kind == "ignore":
            continue
        made = _feature(name, train, others, description, where)
        if isinstance(made, str):
            left_out.append(f"'{name}' ({made})")
        else:
            features.append(made)
    if not features:
        raise DataError(f"{where}: no column is left to predict '{target}' from: {shortened(left_out)} left out.")
    notes = [*([] if description.target else [f"'{target}' is predicted"]), *notes]
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
            raise DataError(f"{where}: {other.where} has no column '{lacking[0]}', but {train.where} has.")


def target_of(train: Frame, description: TableDescription, where: str) -> str:
    """The column that is predicted: as described, called so, or the last one. Raises DataError."""
    if description.target is not None:
        if description.target not in train.columns:
            raise DataError(
                f"{where}: there is no column '{description.target}': {did_you_mean(description.target, train.columns)}"
            )
        return description.target
    lower = {name.lower(): name for name in train.columns}
    return next((lower[name] for name in TARGETS if name in lower), list(train.columns)[-1])


def _classes(
    target: str, train: Frame, others: Sequence[Frame], description: TableDescription, where: str
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """(values, names, notes) of the classes, in order."""
    if description.classes is not None:
        return tuple(description.classes), tuple(description.classes.values()), []
    labels: set[str] = set()
    learned: set[str] = set()
    for frame in (*others, train):
        column = frame.columns[target]
        numbers = np.unique(column.numbers[~np.isnan(column.numbers)])
        decimals = numbers[numbers % 1 != 0]
        if len(decimals) or max(len(numbers), len(column.texts or ())) > _MOST_CLASSES:
            such = f"decimal numbers, such as {decimals[0]:g}" if len(decimals) else f"over {_MOST_CLASSES:,} values"
            raise DataError(
                f"{where}: '{target}' has {such}, but only classes can be predicted. "
                "Choose another column (target: ... in the YAML), or divide its range into classes."
            )
        learned = column.used
        labels |= learned
    rows = sum(int((~frame.columns[target].missing).sum()) for frame in (*others, train))
    if rows == len(labels) >= LEAST:
        raise DataError(
            f"{where}: '{target}' has another value in every row, so no class has two rows to learn from. "
            "Choose another column (target: ... in the YAML)."
        )
    if len(labels) < 2:
        raise DataError(
            f"{where}: '{target}' has {counted(len(labels), 'class', 'classes')} "
            f"({shortened(sorted(labels)) or 'all missing'}); at least two are needed."
        )
    values = in_order(labels)
    strange = [quoted(value) for value in values if value not in learned]
    notes = [f"{counted(len(strange), 'class', 'classes')} not in the training rows: {shortened(strange)}"]
    spelt: dict[str, list[str]] = {}
    for value in values:
        spelt.setdefault(value.casefold().rstrip(". "), []).append(quoted(value))
    alike = [" and ".join(several) for several in spelt.values() if len(several) > 1]
    return values, values, notes[: len(strange)] + [f"classes that may be the same: {shortened(alike)}"][: len(alike)]


def in_order(values: set[str]) -> tuple[str, ...]:
    """Numbers by size and before the texts, texts by their letters."""

    def place(text: str) -> tuple[int, float, str]:
        try:
            return (0, float(text), text)
        except ValueError:
            return (1, 0.0, text)

    return tuple(sorted(values, key=place))


def _feature(
    name: str, train: Frame, others: Sequence[Frame], description: TableDescription, where: str
) -> Feature | str:
    """The feature that a column is, or why it is left out."""
    said, columns = description.column(name), [train.columns[name], *(frame.columns[name] for frame in others)]
    as_category = said.kind == "category" or said.values is not None or _coded(name, description)
    if not said.numeric and said.kind is None and not as_category:
        if all(column.missing.all() for column in columns):
            return "no values"
        if all(column.is_date for column in columns) and _many(columns):
            return "dates; `kind: number` in the YAML converts them to days"
        texts = {text for column in columns for text in column.texts or ()}
        as_category = _categories(columns, len(texts), where)
        if reason := what_names_rows(name, columns):
            return reason
        if as_category and len(texts) > max(100, train.rows // 2):
            return f"{len(texts):,} different texts"
    make: Callable[..., Feature | str] = _category if as_category else _number
    try:
        return make(name, columns, description)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _coded(name: str, description: TableDescription) -> bool:
    return not description.column(name).numeric and (
        description.categorical == "all" or name in description.categorical
    )


def _many(columns: Sequence[Column]) -> bool:
    """Whether texts are too many, for the rows that there are, to come again."""
    count = len({text for column in columns for text in column.texts or ()})
    return count > _FEW or 2 * count > sum(len(column.codes) for column in columns)


def _categories(columns: Sequence[Column], texts: int, where: str) -> bool:
    """Whether a column of which nothing is said holds categories: texts, or two whole numbers (yes and no)."""
    if all(column.texts is None for column in columns):
        values = np.unique(np.concatenate([_pair(column) for column in columns]))
        return len(values) == 2 and bool((values % 1 == 0).all())
    numeric = sum(1 for column in columns for text in column.texts or () if is_amount(text) and not _is_code(text))
    if texts > _FEW and numeric > texts / 2:  # a measurement with a word in it somewhere
        try:
            for column in columns:
                column.as_numbers()
        except DataError as error:
            raise DataError(
                f"{where}: {error} Correct it, or set `kind: category` in the YAML, or `missing_values: "
                "[...]` for texts that mean a missing value."
            ) from None
    return True


def _is_code(text: str) -> bool:
    return text[:1] == "0" and text[1:].isdigit()


def _pair(column: Column) -> np.ndarray:
    """The distinct values if there are at most two, else three: cheaper than sorting a long column."""
    values = column.numbers[~column.missing]
    if not len(values):
        return values
    low, high = values.min(), values.max()
    middle = values[(values != low) & (values != high)][:1]
    return np.unique(np.concatenate([[low, high], middle]))


def _category(name: str, columns: Sequence[Column], description: TableDescription) -> Feature | str:
    said = description.column(name)
    values = said.values
    if values is None:
        train = columns[0].as_texts()
        texts = list(train.texts or ())
        values = in_order({texts[code] for code in np.unique(train.codes[train.codes >= 0]).tolist()})
        if len(values) < 2:
            return f"always {values[0]!r:.40}" if values else "no values"
        if len(values) > _MOST_CATEGORIES:
            raise DataError(f"'{name}' has {len(values):,} categories; set `kind: ignore`, or list its values.")
    return Feature(name=name, kind="category", values=values, change=said.change)


def _number(name: str, columns: Sequence[Column], description: TableDescription) -> Feature | str:
    said = description.column(name)
    columns = [column.as_numbers() for column in columns]
    parts = [column.numbers[~column.missing] for column in columns]
    every = [part for part in parts if len(part)]
    if not every:
        return "no values"
    low = said.low if said.low is not None else float(min(part.min() for part in every))
    high = said.high if said.high is not None else float(max(part.max() for part in every))
    if max(abs(low), abs(high)) > _LARGEST:
        raise DataError(f"'{name}' runs from {low:g} to {high:g}, too far for single precision. Clip it, or ignore it.")
    if low == high and (said.low is None or said.high is None):
        return f"always {low:g}"
    train = parts[0] if len(parts[0]) else every[0]
    step = said.step if said.step is not None else 1.0 if all((part % 1 == 0).all() for part in every) else "none"
    center, scale = _scaling(train, low, high, description, whole=step != "none")
    center, scale = (said.center if said.center is not None else center), said.scale or scale
    if said.step is None and max(abs(low - center), abs(high - center)) > _WHOLE:
        step = "none"
    unit = said.unit or _unit(name, columns, parts)
    feature = Feature(name=name, low=low, high=high, center=center, scale=scale, change=said.change, unit=unit)
    return feature if step == "none" else replace(feature, step=float(step))


def _unit(name: str, columns: Sequence[Column], parts: Sequence[np.ndarray]) -> str:
    units = {column.unit for column, part in zip(columns, parts, strict=True) if len(part)}
    if len(units) > 1:
        shown = " and ".join(quoted(unit) if unit else "none" for unit in sorted(units))
        raise DataError(f"'{name}' has different units in different files: {shown}.")
    return units.pop()


def _scaling(
    train: np.ndarray, low: float, high: float, description: TableDescription, *, whole: bool
) -> tuple[float, float]:
    """(center, scale) in few digits, so that they can be read and written.

    A column that is standardised already stays as it is: a radius means what it meant. Where some values are much
    smaller than the mean, the centre is 0: float32 would lose their digits beside it.
    """
    if description.scale == "none":
        return 0.0, 1.0
    if description.scale == "range":
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
            first, last = (date_text(end, feature.unit) for end in feature.range)
            step = "whole numbers" if feature.step == 1 else f"steps of {feature.step:g}" if feature.step else "numbers"
            numbers = f"{step}, {low:g} to {high:g} {feature.unit}".rstrip()
            holds = f"dates, {first} to {last}" if first and last else numbers
            scale = f"{feature.center:g} / {feature.scale:g}"
        rows.append([feature.name, holds, scale, feature.change])
    if len(spec.features) > most:
        rows.append([f"and {len(spec.features) - most:,} more", "", "", ""])
    return rows
