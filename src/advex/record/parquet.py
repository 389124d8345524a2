"""The one reader of a record's tables: of bounded size, with columns of the types that they are written with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from advex.errors import ArtifactError
from advex.files import check_file
from advex.record.tables import CERTIFICATE, SEARCH, TABLES

MOST_ROWS, MOST_VALUES = 5_000_000, 1_000_000_000  # values: of one column, with those inside lists
# Columns of searches NAME_rmse, ... whose names only the record knows.
_ENDINGS = {f"_{name}": kind for name, kind in {**CERTIFICATE, **SEARCH}.items()}


def read_parquet(path: Path, *, without: Sequence[str] = (), where: pc.Expression | None = None) -> pa.Table:
    """A table of a record folder, less some columns. Raises ArtifactError for one that cannot be what it should be.

    where: of the rows that are wanted; groups of others are not read.

    A file of a few kilobytes may stand for more rows than there is memory: what it says it holds is looked at first.
    """
    check_file(path, ArtifactError)
    try:
        with pq.ParquetFile(path) as file:
            about = file.metadata
            if about.num_rows > MOST_ROWS:
                raise ArtifactError(f"{path} claims to have {about.num_rows:,} rows; at most {MOST_ROWS:,} are read.")
            for column in range(about.num_columns):
                chunks = [about.row_group(group).column(column) for group in range(about.num_row_groups)]
                if (count := sum(chunk.num_values for chunk in chunks)) > MOST_VALUES:
                    name = chunks[0].path_in_schema
                    raise ArtifactError(f"{path}: '{name}' has {count:,} values; at most {MOST_VALUES:,} are read.")
            _check_types(path, file.schema_arrow)
            columns = [name for name in file.schema_arrow.names if name not in without]
            return file.read(columns) if where is None else pq.read_table(path, columns=columns, filters=where)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path} cannot be read: {str(error).partition(chr(10))[0]}.") from None


def check_rows(path: Path, models: Collection[str], of: Sequence[str], numbers: Sequence[int], examples: int) -> None:
    """Raise ArtifactError unless each model has a row for each example, once. of, numbers: of every row."""
    for model in models:
        rows = [number for name, number in zip(of, numbers, strict=True) if name == model]
        if sorted(rows) != list(range(examples)):
            raise ArtifactError(
                f"{path} has {len(rows):,} rows of '{model}', {len(set(rows)):,} of them different, but "
                f"record.json gives {examples:,} examples: rows are missing or duplicated."
            )


def _check_types(path: Path, schema: pa.Schema) -> None:
    expected = TABLES.get(path.stem, {})  # pyright: ignore[reportCallIssue,reportArgumentType]
    for field in schema:
        ending = "_" + field.name.rpartition("_")[2] if path.stem == "examples" else ""
        wanted = expected.get(field.name, _ENDINGS.get(ending))
        if wanted is not None and not _alike(field.type, wanted):
            raise ArtifactError(
                f"{path}: the column '{field.name}' contains {field.type}, but should contain {wanted}."
            )


def _alike(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of a type may stand where another is wanted: whole numbers of any width for whole numbers, ..."""
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_list, _is_text)
    if pa.types.is_list(kind) and pa.types.is_list(wanted):
        return _alike(kind.value_type, wanted.value_type)
    return pa.types.is_null(kind) or any(test(kind) and test(wanted) for test in tests)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
