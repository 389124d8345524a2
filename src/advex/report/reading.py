"""The record folder, or run folders, read and checked: what the report may rely on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from advex.errors import ArtifactError
from advex.record import TABLES, Record, Training, read_record, read_rows, read_run
from advex.record.parquet import check_rows
from advex.record.repeats import without_repeats
from advex.record.tables import distance_column

_COLUMNS: Mapping[str, Collection[str]] = {name: columns for name, columns in TABLES.items()}
PICTURE_BYTES = 18_000_000  # of the page's 20 MB

Row = dict[str, Any]


@dataclass(frozen=True)
class Contents:
    """A record and its tables, rows in file order. picture_bytes: room for pictures on the page, of all sections."""

    folder: Path
    record: Record
    tables: Mapping[str, tuple[Row, ...]]
    picture_bytes: int = PICTURE_BYTES

    def rows(self, table: str) -> tuple[Row, ...]:
        """The rows of a table; none where the record has no such table."""
        return self.tables.get(table, ())

    def class_name(self, index: int | None) -> str:
        """Name of a class; a number that has no name keeps its number."""
        names = self.record.data.class_names
        if index is None:
            return "–"
        if index < 0:
            return "no answer"
        return names[index] if 0 <= index < len(names) else f"class {index}"

    def rows_of(self, model: str) -> list[Row]:
        """The examples of one model."""
        return [row for row in self.rows("examples") if row["model"] == model]

    def radii(self, model: str, search: str) -> np.ndarray | None:
        """How far a search had to go for each example of a model, inf where it failed; None if it was not run.

        In the norm that `Record.norms` says.
        """
        return self.column(model, distance_column(search, self.record.norm(search)))

    def certified(self, model: str) -> tuple[np.ndarray, np.ndarray] | None:
        """(certified RMSE, RMSE that the attack found) [k] of a model's certified examples; None without any."""
        held = [row for row in self.rows_of(model) if row.get("certify_rmse") is not None]
        pairs = [(row["certify_rmse"], row.get("attack_rmse")) for row in held]
        if not pairs or any(attacked is None for _, attacked in pairs):
            return None
        certain, attacked = np.asarray(pairs, dtype=np.float64).T
        return certain, attacked

    def column(self, model: str, name: str) -> np.ndarray | None:
        """A column of the examples of one model as numbers; None if any is missing."""
        values = [row.get(name) for row in self.rows_of(model)]
        return None if not values or any(value is None for value in values) else np.asarray(values, dtype=np.float64)

    @property
    def black_to_white(self) -> bool:
        """Whether inputs are grey or colour pictures from 0 to 1, so that an RMSE of 1 is black to white."""
        shape, boxes = self.record.data.shape, {model.box for model in self.record.models}
        return len(shape) == 3 and shape[0] in (1, 3) and boxes == {(0.0, 1.0)}

    @property
    def noun(self) -> str:
        """What the examples are called, in the plural."""
        return "rows" if self.rows("columns") else "images"

    @property
    def pictured(self) -> bool:
        """Whether the inputs are pictures (otherwise: tables, sound, ...)."""
        return any(row["picture"] for row in self.rows("examples"))


@dataclass(frozen=True)
class TrainingHistory:
    """How a model was trained. index: place of the model on the page, which is its colour."""

    index: int
    name: str
    training: Training

    @property
    def last(self) -> int:
        """The last epoch noted, 0 where none is."""
        return self.training.epoch[-1] if self.training.epoch else 0

    def curve(self, name: str) -> list[float | None]:
        """A quantity or a part of the loss, a value per epoch noted; empty where it was not measured."""
        training = self.training
        if name == "train_accuracy" and name not in training.curves:
            return training.parts.get("accuracy", [])
        return training.curves.get(name) or training.parts.get(name, [])

    def measured(self, name: str) -> list[tuple[int, float]]:
        """(epoch, value) where a quantity was measured and finite."""
        pairs = zip(self.training.epoch, self.curve(name), strict=False)  # no values where it was not measured
        return [(epoch, value) for epoch, value in pairs if value is not None and np.isfinite(value)]


def histories_of(record: Record) -> tuple[TrainingHistory, ...]:
    """How the models of a record were trained, those that are known."""
    models = enumerate(record.models)
    return tuple(TrainingHistory(place, entry.name, entry.training) for place, entry in models if entry.training)


def read_runs(folders: Sequence[Path]) -> tuple[TrainingHistory, ...]:
    """Run folders, finished or not. Raises ArtifactError for a folder that is none."""
    places = [Path(folder).resolve() for folder in folders]
    names = [place.name for place in places]
    runs = []
    for index, (folder, place) in enumerate(zip(folders, places, strict=True)):
        training = read_run(Path(folder))
        if training is None and (sheets := _sheets(Path(folder))):
            raise ArtifactError(
                f"{folder} contains pictures from advex {sheets[0]}, for which there is no report: see {sheets[1]}."
            )
        if training is None and not Path(folder).exists():
            raise ArtifactError(f"There is no folder {folder}.", absent=True)
        if training is None:
            raise ArtifactError(
                f"{folder} contains no record.json: it is not a finished evaluation. It contains no "
                "metrics.jsonl and no recipe.yaml either: it is not a run folder. Give one of the two.",
                absent=not Path(folder).is_file(),
            )
        unclear = names.count(place.name) > 1 or training.taken is not None
        runs.append(TrainingHistory(index, f"{place.parent.name}/{place.name}" if unclear else place.name, training))
    return tuple(runs)


def _sheets(folder: Path) -> tuple[str, Path] | None:
    """The verb that filled a folder with pictures, and what to look at there; None for any other folder."""
    for verb, figures in (("explain", "explanations.json"), ("generate", "generated.json")):
        if (folder / figures).is_file():
            sheet = folder / "sheet.png"
            return verb, sheet if sheet.is_file() else folder / figures
    return None


def read(folder: Path, tables: Collection[str] = tuple(TABLES), picture_bytes: int = PICTURE_BYTES) -> Contents:
    """A record folder with these tables, those that it has.

    Raises ArtifactError when it is no record, is damaged, or contradicts itself.
    """
    record = without_repeats(read_record(folder))
    names = [model.name for model in record.models]
    if len(set(names)) != len(names):
        raise ArtifactError(f"{folder / 'record.json'} names a model twice: {', '.join(names)}.")
    promised = {
        "examples": True,
        "maps": any(model.maps for model in record.models),
        "answers": any(model.answered for model in record.models),
    }
    promised["columns"] = promised["answers"]
    # Of explanations, and of tables that are a plugin's, record.json says nothing.
    known = [name for name in tables if promised.get(name, (folder / f"{name}.parquet").exists())]
    return Contents(
        folder, record, {name: _rows(folder, name, names, record.data.examples) for name in known}, picture_bytes
    )


def _rows(folder: Path, table: str, models: Collection[str], examples: int) -> tuple[Row, ...]:
    """The rows of a table. Raises ArtifactError for lacking columns or rows, and for models that are not listed."""
    path, rows = folder / f"{table}.parquet", read_rows(folder, table)
    missing = [name for name in _COLUMNS.get(table, ()) if rows and name not in rows[0]]
    if missing:
        raise ArtifactError(f"{path} has no column {', '.join(missing)}: it was written by another version.")
    strangers = sorted({str(row["model"]) for row in rows if "model" in row} - set(models))
    if strangers:
        raise ArtifactError(f"{path} refers to '{strangers[0]}', a model that record.json does not list.")
    if table == "examples":
        of, numbers = ([row[name] for row in rows] for name in ("model", "example"))
        check_rows(path, models, of, numbers, examples)
    return tuple(rows)
