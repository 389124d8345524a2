"""Tables: a CSV file, a folder of them, or a YAML that describes one -> `Dataset` of encoded rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import torch

from advex.data import dealing
from advex.data.dataset import Dataset, Skipped, counted, drawn
from advex.data.source import Place, Reading, shortened
from advex.data.tables.columns import Column, Frame
from advex.data.tables.csv_file import read_csv
from advex.data.tables.description import TableDescription, read_description, style_of
from advex.data.tables.encoding import Rows, encoded, labelled
from advex.data.tables.inference import target_of, understand
from advex.errors import DataError, did_you_mean
from advex.features import FeatureSpec
from advex.registry import register

SUFFIXES = (".csv", ".tsv")
FOLDER_DESCRIPTION = "features.yaml"
_TRAIN = ("train", "training")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that was found; nothing of it is read but its YAML.

    files: split -> CSV file; "" for one that has no name of its own. description: what the YAML says; of none, nothing.
    described: whether there is one. divided: without splits of its own it is dealt into `train` and `test`.
    """

    name: str
    files: Mapping[str, Path]
    description: TableDescription
    described: bool
    divided: bool = False

    @property
    def split_names(self) -> tuple[str, ...]:
        """Sorted; none if there is but one without a name."""
        if self.divided:
            return dealing.TEST, dealing.LEARN
        return tuple(sorted(self.description.splits or filter(None, self.files)))

    def choose(self, split: str | None) -> str:
        """The split asked for, or the only one. Raises DataError, naming those there are."""
        if split is None and len(self.split_names) > 1:
            raise DataError(f"{self.name} has several splits: {', '.join(self.split_names)}. Choose one.")
        if split is None:
            return self.split_names[0] if self.split_names else ""
        if not self.split_names:
            raise DataError(
                f"{self.name} has no splits, so '{split}' does not exist. Omit the split, or divide the "
                "rows: `splits: {train: 0.8, test: 0.2}` in the YAML beside it.",
                absent=True,
            )
        if split not in self.split_names:
            raise DataError(f"{self.name} has no split '{split}': {did_you_mean(split, self.split_names)}", absent=True)
        return split

    def dealt(self) -> Table | None:
        """The same with a part that is held out, where it has no splits."""
        return None if self.split_names else replace(self, divided=True)

    def ids(self, split: str | None) -> tuple[str, ...]:
        """Rows have no pictures to be found again by an id. Raises DataError."""
        raise DataError(f"{self.name} is a table: annotated pictures cannot be added to its rows.")

    def read(self, how: Reading) -> Dataset:
        """A split, encoded. Raises DataError."""
        return _read(self, how)

    @property
    def train(self) -> str:
        """The split that categories, centres and scales are taken from: the one so called, else the first."""
        return next((name for name in _TRAIN if name in self.split_names), next(iter(self.split_names), ""))


def from_file(path: Path) -> Table:
    """The table of a CSV file, with the YAML of the same stem beside it if there is one. Raises DataError."""
    description = path.with_suffix(".yaml")
    return _table(path.stem, {"": path}, description if description.is_file() else None)


def from_description(path: Path) -> Table:
    """The table that a YAML describes: the CSV of the same stem beside it, or what its `file` names."""
    description = read_description(path)
    beside = [path.with_suffix(suffix) for suffix in SUFFIXES]
    named = description.file or next((each for each in beside if each.is_file()), beside[0]).name
    shared = os.environ.get("ADVEX_DATA")
    for place in (path.parent / named, *([Path(shared) / named] if shared else [])):
        if place.is_dir() and (files := in_folder(place)):
            return _table(path.stem, files, path)
        if place.is_file() and place.suffix.lower() in SUFFIXES:
            return _table(path.stem, {"": place}, path)
    raise DataError(f"{path} describes the table {named}, which is neither next to it nor in ADVEX_DATA (`file: ...`).")


@register("format", "table")
@dataclass(frozen=True)
class Tables:
    """A CSV file, a folder of them, or the YAML that describes one."""

    reads: ClassVar[str] = "a table (CSV file, or a folder of them)"
    order: ClassVar[int] = 50

    def find(self, place: Place) -> Table | None:
        """A folder is a table if it holds CSV files and texts about them alone."""
        if place.path.is_dir():
            return _from_folder(place.path, place.files)
        if place.suffix in SUFFIXES:
            return from_file(place.path)
        return from_description(place.path) if place.suffix in (".yaml", ".yml") else None


def _from_folder(root: Path, files: Sequence[PurePosixPath]) -> Table | None:
    tables = in_folder(root)
    if not tables or any(path.suffix.lower() not in (*SUFFIXES, ".yaml", ".yml", ".md", ".txt") for path in files):
        return None
    descriptions = [root / FOLDER_DESCRIPTION, *(path.with_suffix(".yaml") for path in tables.values())]
    return _table(root.resolve().name, tables, next((path for path in descriptions if path.is_file()), None))


def in_folder(root: Path) -> dict[str, Path]:
    """CSV files of a folder by their stems; a single one has no name unless it is that of a split."""
    shown = [path for path in sorted(root.iterdir()) if not path.name.startswith(".") and os.path.isfile(path)]
    files = {path.stem: path for path in shown if path.suffix.lower() in SUFFIXES}
    return {"": next(iter(files.values()))} if len(files) == 1 and not set(files) & {*_TRAIN, "test"} else files


def _table(name: str, files: dict[str, Path], description: Path | None) -> Table:
    said = TableDescription() if description is None else read_description(description)
    if said.splits and len(files) > 1:
        raise DataError(f"{description}: splits are for a single file; {name} already has {', '.join(files)}.")
    return Table(name=name, files=files, description=said, described=description is not None)


def _read(table: Table, how: Reading) -> Dataset:
    chosen, features = table.choose(how.split), how.features
    name = f"{table.name}/{chosen}" if chosen else table.name
    alone = features is not None and table.description.missing != "impute"
    frames = _frames(table, chosen if alone else None, features, how.progress)
    notes: tuple[str, ...] = ()
    if features is None:
        others = [frame for key, (frame, _) in frames.items() if key != table.train]
        understood = understand(frames[table.train][0], others, table.description, name)
        features, names, values = understood.features, understood.class_names, understood.class_values
        notes = understood.notes
    else:
        names, values = _classes(table, frames[chosen][0], features, how.class_names, name)
    frame, places = frames[chosen]
    _check_size(name, frame.rows, features, how.memory_limit)
    train = frames[table.train][0] if table.description.missing == "impute" else None
    rows = encoded(frame, features, table.description.missing, train, name)
    y = labelled(frame.columns[features.target], values, rows)
    return _dataset(
        rows, y, name=name, places=places, of=chosen if len(table.files) > 1 else table.name, features=features,
        class_names=names, max_samples=how.max_samples, seed=how.seed, notes=(*frame.notes, *notes, *rows.notes),
    )  # fmt: skip


def _dataset(
    rows: Rows, y: np.ndarray, *, name: str, places: np.ndarray, of: str, features: FeatureSpec,
    class_names: tuple[str, ...], max_samples: int | None, seed: int, notes: tuple[str, ...],
) -> Dataset:  # fmt: skip
    good = np.flatnonzero(~rows.bad)
    if not len(good):
        said = shortened([f"row {places[row]}: {reason}" for row, reason in rows.reasons.items()])
        raise DataError(f"{name}: none of its {counted(len(y), 'row')} can be read ({said}).")
    order = drawn(len(good), max_samples, seed).numpy()
    whole = len(order) == len(good)
    kept = good if whole else good[order]
    x = torch.from_numpy(rows.x if len(kept) == len(rows.x) else rows.x[kept])
    return Dataset(
        name=name,
        x=x,
        y=torch.from_numpy(y[kept]),
        class_names=class_names,
        ids=tuple(f"{of}/{place:06d}" for place in places[kept].tolist()),
        skipped=tuple(Skipped(f"{of}/{places[row]:06d}", reason) for row, reason in sorted(rows.reasons.items())),
        counts=None if whole else tuple(np.bincount(y[good], minlength=len(class_names)).tolist()),
        notes=notes,
        features=features,
    )


def _frames(
    table: Table, split: str | None, features: FeatureSpec | None, progress: Progress
) -> dict[str, tuple[Frame, np.ndarray]]:
    """Splits -> their rows, and which rows of the file these are. split: this one is enough."""
    files = {key: path for key, path in table.files.items() if split in (None, key) or len(table.files) == 1}
    total, before = sum(path.stat().st_size for path in files.values()), 0
    style = style_of(features, table.description)
    frames: dict[str, tuple[Frame, np.ndarray]] = {}
    for key, path in files.items():
        start = before
        frame = read_csv(path, lambda done, _, start=start: progress(start + done, total), style)
        before += path.stat().st_size
        frames[key] = frame, np.arange(frame.rows)
    if not table.split_names or len(table.files) > 1:
        return frames
    ((frame, _),) = frames.values()
    if table.description.splits:
        parts = _dealt(frame.rows, table.description.splits, table.description.seed)
    else:
        frame, parts = _held_out(table, frame, features)
    return {key: (frame.take(rows), rows) for key, rows in parts.items() if split in (None, key)}


def _held_out(table: Table, frame: Frame, features: FeatureSpec | None) -> tuple[Frame, dict[str, np.ndarray]]:
    """The rows, and which of them are learned from and held out: by class, rows of one group together."""
    target = features.target if features is not None else target_of(frame, table.description, table.name)
    group, groups = "", None
    for name, column in frame.columns.items():
        if name != target and dealing.names_groups(name) and table.description.column(name).kind in (None, "ignore"):
            codes = column.as_texts().codes
            if dealing.are_groups(len(np.unique(codes[codes >= 0])), frame.rows):
                group, groups = name, np.where(codes < 0, len(codes) + np.arange(len(codes)), codes)
                break
    labels = frame.columns[target].as_texts().codes if target in frame.columns else np.zeros(frame.rows, int)
    note = dealing.described("rows", group)
    return replace(frame, notes=(*frame.notes, note)), dealing.dealt(labels, groups)


def _dealt(total: int, shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Rows of each split, ascending: the first of a shuffled deck, the next of it, and so on."""
    deck = np.random.default_rng(seed).permutation(total)
    ends = np.rint(np.cumsum(list(shares.values())) / sum(shares.values()) * total).astype(int)
    return {name: np.sort(part) for name, part in zip(shares, np.split(deck, ends[:-1]), strict=True)}


def _classes(
    table: Table, frame: Frame, features: FeatureSpec, class_names: Sequence[str] | None, name: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names, values) of the classes where the features are given: those of a trained model."""
    if features.target not in frame.columns:
        raise DataError(
            f"{name}: there is no column '{features.target}': {did_you_mean(features.target, frame.columns)}"
        )
    said = table.description.classes or {}
    if class_names is None:
        values = tuple(said) or _distinct(frame.columns[features.target])
        return tuple(said.get(value, value) for value in values), values
    value_of = {called: value for value, called in said.items()}
    return tuple(class_names), tuple(value_of.get(called, called) for called in class_names)


def _distinct(column: Column) -> tuple[str, ...]:
    return column.as_texts().texts or ()


def _check_size(name: str, rows: int, features: FeatureSpec, limit: int) -> None:
    if (need := 4 * rows * features.width) > limit:
        raise DataError(
            f"{name}: {rows:,} rows of {features.width:,} encoded elements need {need / 2**30:,.1f} GiB of "
            f"memory, more than the limit of {limit / 2**30:,.1f} GiB. Set `kind: ignore` for columns with "
            "many categories, or raise the limit (memory_limit=)."
        )
