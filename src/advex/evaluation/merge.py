"""Finished records of the same examples, put together to one. Reads files; asks no model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from advex._version import __version__
from advex.environment import without_places
from advex.errors import ArtifactError
from advex.evaluation import maps, scores
from advex.evaluation.certificates import KIND
from advex.evaluation.settings import UNCERTIFIED, UNMAPPED
from advex.files import atomic
from advex.record import Record, read_record, write_record
from advex.registry import numbered

# Settings that change how fast an answer comes, not the question.
_INDIFFERENT = ("batch_size", "bfloat16", "compiled")
_TABLES = ("examples", "explanations")
_MAPS, _ANSWERS = "maps", "answers"  # tables that not every record has


def merge(folders: Sequence[Path], out: Path, *, command: str = "") -> Record:
    """Write the record of all models of several records into the folder `out`, with their differences.

    Models of one name get -2, -3, ... Raises ArtifactError unless the records are of the same
    examples, searches and settings.
    """
    records = [read_record(folder) for folder in folders]
    tables = [
        {name: _read(folder, name) for name in _tables(record)} for folder, record in zip(folders, records, strict=True)
    ]
    _check(folders, records, tables)
    owners = [(number, model) for number, record in enumerate(records) for model in record.models]
    names = numbered([model.name for _, model in owners])
    renamed = {(number, model.name): name for (number, model), name in zip(owners, names, strict=True)}
    out.mkdir(parents=True, exist_ok=True)
    for number, folder in enumerate(folders):
        if (folder / "pictures").is_dir():
            shutil.copytree(folder / "pictures", out / "pictures" / str(number), dirs_exist_ok=True)
    joined = {
        name: pa.concat_tables(
            [_renamed(table[name], number, renamed) for number, table in enumerate(tables)], promote_options="default"
        )
        for name in tables[0]
    }
    for name, table in joined.items():
        with atomic(out / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary)
    if _ANSWERS in joined:  # the same columns and rows in all
        shutil.copyfile(folders[0] / "columns.parquet", out / "columns.parquet")
    first = records[0]
    searches = list(first.searches)
    columns: Any = _Columns(joined["examples"])
    record = first.model_copy(
        update={
            "advex": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": without_places(command),
            "seconds": round(sum(record.seconds for record in records), 3),
            "models": [model.model_copy(update={"name": name}) for (_, model), name in zip(owners, names, strict=True)],
            "differences": scores.differences(
                columns, names, searches, 1, first.data.chance, first.seed, columns.certified(names)
            )
            + (maps.differences(maps.ginis(joined[_MAPS]), names, first.seed) if _MAPS in joined else []),
            "flags": [
                flag.model_copy(update={"model": renamed.get((number, flag.model), flag.model)})
                for number, record in enumerate(records)
                for flag in record.flags
                if number == 0 or (number, flag.model) in renamed  # flags of the data are the same in all
            ],
        }
    )
    write_record(out, record)
    return record


class _Columns:
    """The examples table, read as `scores` reads shards."""

    def __init__(self, examples: pa.Table) -> None:
        self.examples = examples

    def column(self, model: str, kind: str, name: str, count: int) -> Tensor:
        rows = self.examples.filter(pc.field("model") == model)
        return torch.from_numpy(np.array(rows.column(name if kind == "predictions" else f"{kind}_{name}")))

    def certified(self, models: Sequence[str]) -> dict[str, Tensor]:
        """The certified RMSE of each model on the examples that were certified; empty where none were."""
        if f"{KIND}_rmse" not in self.examples.column_names:
            return {}
        radii = {model: self.column(model, KIND, "rmse", 1) for model in models}  # NaN where there is none
        return {model: values[~values.isnan()] for model, values in radii.items()}


def _tables(record: Record) -> tuple[str, ...]:
    mapped = (_MAPS,) if any(model.maps for model in record.models) else ()
    return (*_TABLES, *mapped, *((_ANSWERS,) if any(model.answered for model in record.models) else ()))


def _read(folder: Path, name: str) -> pa.Table:
    path = folder / f"{name}.parquet"
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from None


def _check(folders: Sequence[Path], records: Sequence[Record], tables: Sequence[dict[str, pa.Table]]) -> None:
    """Raise ArtifactError, saying what differs, unless the records can stand in one table."""
    first, where = records[0], folders[0]
    for folder, record, table in zip(folders[1:], records[1:], tables[1:], strict=True):
        told: list[str] = []
        idle = {key for keys in (UNCERTIFIED, UNMAPPED) if not _asked(keys[0], record, first) for key in keys}
        for key in sorted((record.settings.keys() | first.settings.keys()) - idle - set(_INDIFFERENT)):
            there, here = first.settings.get(key), record.settings.get(key)
            if there != here:
                told.append(f"{key} is {there!r} there and {here!r} here")
        if record.searches != first.searches:
            told.append("the searches differ")
        if record.data.class_names != first.data.class_names or record.data.chance != first.data.chance:
            told.append("the data have other classes")
        elif _examples(table["examples"], record) != _examples(tables[0]["examples"], first):
            told.append("the examples are others")
        if not told and (_ANSWERS in table) != (_ANSWERS in tables[0]):
            told.append("the rows of a table are explained in sentences in only one")
        if told:
            raise ArtifactError(f"{where} and {folder} cannot be compared: {'; '.join(told)}. Evaluate both alike.")


def _asked(key: str, *records: Record) -> bool:
    """Whether any of the records was made with that setting."""
    return any(record.settings.get(key) for record in records)


def _examples(table: pa.Table, record: Record) -> list[tuple[Any, ...]]:
    """What the first model of a record was asked: ids and labels."""
    names = ("model", "example", "id", "label")
    rows = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    return [row[1:] for row in rows if row[0] == record.models[0].name]


def _renamed(table: pa.Table, number: int, names: dict[tuple[int, str], str]) -> pa.Table:
    """A record's rows under the models' new names, their pictures in a folder of their own."""
    models = [names.get((number, model), model) for model in table.column("model").to_pylist()]
    changed = {"model": models}
    if "picture" in table.column_names:
        paths = table.column("picture").to_pylist()
        changed["picture"] = [None if path is None else f"pictures/{number}/{Path(path).name}" for path in paths]
    for column, values in changed.items():
        table = table.set_column(table.column_names.index(column), column, pa.array(values, type=pa.string()))
    return table
