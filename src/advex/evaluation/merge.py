"""Finished records of the same examples, put together to one. Reads files; asks no model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from advex._version import __version__
from advex.environment import without_places
from advex.errors import ArtifactError
from advex.evaluation import STAGES
from advex.evaluation.results import Results, parts_in, read_parts, read_tables
from advex.evaluation.run import differences
from advex.evaluation.settings import CERTIFICATION, CORRUPTING, MAPPING, RADII
from advex.files import atomic, writing
from advex.ownership import owned
from advex.record import Record, Table, read_record, write_record
from advex.record.tables import columns_of
from advex.registry import numbered

# Settings that change how fast an answer comes, not the question.
_INDIFFERENT = ("batch_size", "bfloat16", "compiled")


def merge(folders: Sequence[Path], out: Path, *, command: str = "") -> Record:
    """Write the record of all models of several records into the folder `out`, with their differences.

    Models of one name get -2, -3, ... What models said to each other's changes is left away: not all were asked.
    Records of earlier schemas are merged as what they are read as. Raises ArtifactError unless the records are of the
    same examples, searches and settings.
    """
    records = [read_record(folder) for folder in folders]
    tables = [read_tables(folder) for folder in folders]
    _check(folders, records, tables)
    with owned(out):
        return _merged(folders, records, tables, out, command)


def _merged(
    folders: Sequence[Path],
    records: Sequence[Record],
    tables: Sequence[Mapping[Table, pa.Table]],
    out: Path,
    command: str,
) -> Record:
    owners = [(number, model) for number, record in enumerate(records) for model in record.models]
    names = numbered([model.name for _, model in owners])
    renamed = {(number, model.name): name for (number, model), name in zip(owners, names, strict=True)}
    for number, folder in enumerate(folders):
        if (folder / "pictures").is_dir():
            with writing(out / "pictures"):
                shutil.copytree(folder / "pictures", out / "pictures" / str(number), dirs_exist_ok=True)
    kept: list[Table] = [name for name in tables[0] if name != "transfer" and all(name in each for each in tables)]
    joined: dict[Table, pa.Table] = {name: _joined([each[name] for each in tables], renamed) for name in kept}
    for name, table in joined.items():
        with atomic(out / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary)
    if all(parts_in(folder) for folder in folders):
        _write_parts(folders, records, out / "parts.parquet", renamed)
    first = records[0]
    entries = [
        model.model_copy(update={"name": name, "transfer": {}}) for (_, model), name in zip(owners, names, strict=True)
    ]
    results = Results(
        tables=joined, chance=first.data.chance, seed=first.seed, searches=first.searches, norms=first.norms,
        measures=first.measures, entries=entries, parts=parts_in(out),
    )  # fmt: skip
    record = first.model_copy(
        update={
            "advex": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": without_places(command),
            "seconds": round(sum(record.seconds for record in records), 3),
            "models": entries,
            "differences": differences(STAGES, results),
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


def _check(folders: Sequence[Path], records: Sequence[Record], tables: Sequence[Mapping[Table, pa.Table]]) -> None:
    """Raise ArtifactError, saying what differs, unless the records can stand in one table."""
    first, where = records[0], folders[0]
    for folder, record, table in zip(folders[1:], records[1:], tables[1:], strict=True):
        reasons: list[str] = []
        idle = {
            key
            for keys in (CERTIFICATION, CORRUPTING, MAPPING, RADII)
            if not _given(keys[0], record, first)
            for key in keys
        }
        for key in sorted((record.settings.keys() | first.settings.keys()) - idle - set(_INDIFFERENT)):
            former, present = first.settings.get(key), record.settings.get(key)
            if (former or None) != (present or None):  # a setting of today that says nothing is none of before
                reasons.append(f"{key} is {former!r} there and {present!r} here")
        if record.searches != first.searches:
            reasons.append("the searches differ")
        elif record.norms != first.norms:
            reasons.append("the areas of their searches are in different norms")
        reasons += [
            f"{key} is '{first.measures[key].title}' there and '{entry.title}' here"
            for key, entry in record.measures.items()
            if key in first.measures and first.measures[key].title != entry.title
        ]
        if record.radii != first.radii:
            reasons.append("the radii, or the searches within them, differ")
        if record.data.class_names != first.data.class_names or record.data.chance != first.data.chance:
            reasons.append("the data have different classes")
        elif _examples(table["examples"], record) != _examples(tables[0]["examples"], first):
            reasons.append("the examples differ")
        if not reasons and ("answers" in table) != ("answers" in tables[0]):
            reasons.append("the rows of a table are explained in sentences in only one")
        if reasons:
            raise ArtifactError(
                f"{where} and {folder} cannot be compared: {'; '.join(reasons)}. Evaluate both with the same settings."
            )


def _given(key: str, *records: Record) -> bool:
    """Whether any of the records was made with that setting."""
    return any(record.settings.get(key) for record in records)


def _examples(table: pa.Table, record: Record) -> list[tuple[Any, ...]]:
    """The ids and labels of the examples, as the first model of a record has them."""
    names = ("model", "example", "id", "label")
    rows = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    return [row[1:] for row in rows if row[0] == record.models[0].name]


def _joined(parts: Sequence[pa.Table], names: Mapping[tuple[int, str], str]) -> pa.Table:
    """The rows of all records; columns that only some have are null in the others."""
    if "model" not in parts[0].column_names:  # of the data: the same in all
        return parts[0]
    moved = [_renamed(part, number, names) for number, part in enumerate(parts)]
    return pa.concat_tables(moved, promote_options="default")


def _write_parts(
    folders: Sequence[Path], records: Sequence[Record], out: Path, names: Mapping[tuple[int, str], str]
) -> None:
    """The parts of all records, explainer by explainer: no more are in memory."""
    schema = pa.schema(list(columns_of("parts").items()))
    with atomic(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for number, (folder, record) in enumerate(zip(folders, records, strict=True)):
            for model in record.models:
                for explainer in model.maps:
                    rows = read_parts(folder / "parts.parquet", model.name, explainer)
                    writer.write_table(_renamed(rows, number, names).cast(schema))


def _renamed(table: pa.Table, number: int, names: Mapping[tuple[int, str], str]) -> pa.Table:
    """A record's rows under the models' new names, their pictures in a folder of their own."""
    models = [names.get((number, model), model) for model in table.column("model").to_pylist()]
    changed: dict[str, Sequence[str | None]] = {"model": models}
    if "picture" in table.column_names:
        paths = table.column("picture").to_pylist()
        changed["picture"] = [None if path is None else f"pictures/{number}/{Path(path).name}" for path in paths]
    for column, values in changed.items():
        table = table.set_column(table.column_names.index(column), column, pa.array(values, type=pa.string()))
    return table
