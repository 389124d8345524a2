"""A project's answers as one table, in Parquet, CSV or JSON, and back: nothing is lost on the way.

One line per answer or undo, and one for each image without any. Pictures are named by their SHA-256; their files are
not in the table.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy import select

from advex.annotation.models import Answer, Image, Person
from advex.annotation.store import Store
from advex.documents import parse_json, read_json
from advex.errors import AdvexError, DataError, SpecError, quoted, why_impossible
from advex.files import atomic, check_file, write_text

FORMS = (".parquet", ".csv", ".json")
_MOST = 2**28  # bytes of a table
_QUOTED = 200  # characters of a file in a message
# A spreadsheet takes a cell that begins so for a formula: it is kept text by an apostrophe before it.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def _check_time(time: str) -> str:
    as_number(time)
    return time


def _parsed(value: Any) -> Any:
    """CSV and Parquet hold confidences as JSON."""
    return parse_json(value, "the text") if isinstance(value, str) else value


_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$"
Time = Annotated[str, Field(pattern=_MOMENT), AfterValidator(_check_time)]
Text = Annotated[str, Field(max_length=1000)]
Confidences = Annotated[dict[str, float] | None, BeforeValidator(_parsed)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Row(BaseModel):
    """A line: the columns of `models.Image`, then those of `models.Answer`, empty for an image without any."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    picture: Digest
    original: Digest | None
    label: Text
    source: Text
    source_id: Text
    model: Text
    search: Text
    target: Text
    rmse: Annotated[float, Field(ge=0, le=1)] | None
    confidences: Confidences
    annotator: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    answer: Literal["unchanged", "unsure", "changed", "undone"] | None = None
    round: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    time: Time | None = None
    milliseconds: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    client: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")] | None = None

    @property
    def image(self) -> tuple[str, str, str, str]:
        """The columns that identify an image."""
        return self.model, self.source, self.source_id, self.picture


COLUMNS = tuple(Row.model_fields)
_OF_ANSWERS = ("annotator", "answer", "round", "time", "client")  # all of them are given, or none


def rows_of(store: Store) -> list[Row]:
    """All images with all answers and undos, in an order that depends on their content alone."""
    with store.database.read() as session:
        said: dict[int, list[Any]] = {}
        answers = select(Answer, Person.name).join(Person, Person.id == Answer.person)
        for answer, name in session.execute(answers):
            said.setdefault(answer.image, []).append((answer, name))
        rows = [
            _row(image, answer, name)
            for image in session.scalars(select(Image))
            for answer, name in said.get(image.id, [(None, None)])
        ]
    return sorted(rows, key=lambda row: (*row.image, row.annotator or "", row.round or 0))


def _row(image: Image, answer: Answer | None, name: str | None) -> Row:
    about = {column: getattr(image, column) for column in COLUMNS[1:10]}
    if answer is None:
        return Row(picture=image.changed, **about)
    said = {column: getattr(answer, column) for column in ("answer", "round", "milliseconds", "client")}
    return Row(picture=image.changed, **about, annotator=name, time=as_text(answer.time), **said)


def as_text(time: int) -> str:
    """Milliseconds since 1970 as `2026-11-20T19:04:38.123Z`.

    >>> as_text(1), as_number(as_text(1795201478123))
    ('1970-01-01T00:00:00.001Z', 1795201478123)
    """
    return f"{datetime.fromtimestamp(time // 1000, UTC).replace(tzinfo=None).isoformat()}.{time % 1000:03d}Z"


def as_number(time: str) -> int:
    """The inverse of `as_text`; other forms of ISO 8601 are understood too. Raises ValueError."""
    moment = datetime.fromisoformat(time)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


# -- files ---------------------------------------------------------------------------------------------------


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write a table, whole or not at all, in the form that the file's name ends with. Raises SpecError."""
    values = [row.model_dump() for row in rows]
    if path.suffix == ".json":
        write_text(path, json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    elif path.suffix == ".csv":
        # The mark at the start tells spreadsheets that this is UTF-8.
        write_text(path, "\ufeff" + _as_csv(values))
    elif path.suffix == ".parquet":
        _write_parquet(path, values)
    else:
        raise SpecError(f"{path}: the name of a table must end in {', '.join(FORMS)}.")


def read(path: Path) -> list[Row]:
    """The lines of a table that `write` made. Raises DataError, naming the line."""
    readers = {".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise SpecError(f"{path}: the name of a table must end in {', '.join(FORMS)}.")
    try:
        check_file(path)
        if path.stat().st_size > _MOST:
            raise DataError(f"{path} is larger than {_MOST:,} bytes, the limit for a table of answers.")
        values = readers[path.suffix](path)
    except AdvexError:
        raise
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", absent=absent) from None
    except Exception as error:  # parsers raise whatever a damaged file makes them trip over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} is not a table of answers: {reason[:_QUOTED]}.") from None
    return [checked(each, f"{path}, answer {number}") for number, each in enumerate(values, 1)]


def checked(values: Any, where: str) -> Row:
    """A line from its values. Raises DataError, which begins with `where`."""
    try:
        row = Row.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])[:_QUOTED]
        reason = why_impossible(first["msg"])
        raise DataError(f"{where}: {name or 'it'} is not valid: {reason}.") from None
    given = [getattr(row, column) is not None for column in _OF_ANSWERS]
    if any(given) != all(given):
        raise DataError(f"{where}: give all of {', '.join(_OF_ANSWERS)}, or none of them.")
    return row


def _as_csv(values: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")  # of both, a cell that has one is quoted
    writer.writerow(COLUMNS)
    for each in values:
        confidences = None if each["confidences"] is None else json.dumps(each["confidences"])
        cells = [confidences if name == "confidences" else each[name] for name in COLUMNS]
        writer.writerow(["" if cell is None else _kept(cell) for cell in cells])
    return file.getvalue()


def _kept(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _read_csv(path: Path) -> list[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        columns = next(lines, [])
        if repeated := [name for name, count in Counter(columns).items() if count > 1]:
            raise DataError(f"{path} has two columns called {quoted(repeated[0])}.")
        return [_from_cells(columns, cells, f"{path}, line {lines.line_num}") for cells in lines if cells]


def _from_cells(columns: Sequence[str], cells: Sequence[str], where: str) -> dict[str, Any]:
    if len(cells) != len(columns):
        raise DataError(f"{where} has {len(cells)} cells, but the header has {len(columns)}.")
    texts = {"label", "source", "source_id", "model", "search", "target"}
    values: dict[str, Any] = {}
    for name, cell in zip(columns, cells, strict=True):
        kept = cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
        values[name] = kept if kept or name in texts else None
    return values


def _read_json(path: Path) -> list[Any]:
    return TypeAdapter(list[dict[str, Any]]).validate_python(read_json(path, "a table of answers", largest=_MOST))


def _write_parquet(path: Path, values: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"rmse": pa.float64(), "round": pa.int64(), "milliseconds": pa.int64()}
    texts = [{**each, "confidences": each["confidences"] and json.dumps(each["confidences"])} for each in values]
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    with atomic(path) as temporary:
        pq.write_table(pa.Table.from_pylist(texts, schema=schema), temporary, compression="zstd")


def _read_parquet(path: Path) -> list[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        if sum(group.total_byte_size for group in groups) > _MOST:
            raise DataError(f"{path} unpacks to more than {_MOST:,} bytes, the limit for a table of answers.")
        return file.read().to_pylist()
