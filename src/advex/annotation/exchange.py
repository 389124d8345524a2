"""A project's answers as one table, in Parquet, CSV or JSON, and back: nothing is lost on the way.

One line per answer or undo, and one for each image without any. Pictures are named by their SHA-256; their files are
not in the table.
"""

from __future__ import annotations

import csv
import io
import json
import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from advex.annotation import PICTURES
from advex.annotation.models import Answer, Assignment, Image, Person
from advex.annotation.store import NewImage, Store, add_images, now
from advex.documents import parse_json, read_json
from advex.errors import DataError, SpecError
from advex.files import atomic, write_text

FORMS = (".parquet", ".csv", ".json")
_MOST = 2**28  # bytes of a table
# A spreadsheet takes a cell that begins so for a formula: it is kept text by an apostrophe before it.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")

Text = Annotated[str, Field(max_length=1000)]
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
    confidences: dict[str, float] | None
    annotator: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    answer: Literal["unchanged", "unsure", "changed", "undone"] | None = None
    round: Annotated[int, Field(ge=1)] | None = None
    time: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")] | None = None
    milliseconds: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    client: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")] | None = None

    @property
    def image(self) -> tuple[str, str, str, str]:
        """What tells images apart."""
        return self.model, self.source, self.source_id, self.picture


COLUMNS = tuple(Row.model_fields)
_OF_ANSWERS = ("annotator", "answer", "round", "time", "client")  # all of them are given, or none
_NUMBERS = {"rmse": float, "round": int, "milliseconds": int}


def rows_of(store: Store) -> list[Row]:
    """All images and all that was ever said of them, in an order that depends on nothing else."""
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
    return datetime.fromtimestamp(time // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time % 1000:03d}Z"


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
        raise SpecError(f"{path}: a table ends with {', '.join(FORMS)}.")


def read(path: Path) -> list[Row]:
    """The lines of a table that `write` made. Raises DataError, naming the line."""
    try:
        if path.stat().st_size > _MOST:
            raise DataError(f"{path} is longer than {_MOST:,} bytes; a table of answers is never that large.")
        values = {".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}[path.suffix](path)
    except KeyError:
        raise SpecError(f"{path}: a table ends with {', '.join(FORMS)}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, csv.Error, RecursionError) as error:  # of pyarrow too, and of text that is no UTF-8
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a table of answers: {str(error).splitlines()[0]}.") from None
    rows = []
    for number, each in enumerate(values, 1):
        try:
            row = Row.model_validate(each)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise DataError(f"{path}, answer {number}: {name or 'it'} is not possible: {first['msg']}.") from None
        given = [getattr(row, column) is not None for column in _OF_ANSWERS]
        if any(given) != all(given):
            raise DataError(f"{path}, answer {number}: {', '.join(_OF_ANSWERS)} are given together, or none of them.")
        rows.append(row)
    return rows


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
        return [_from_cells(each) for each in csv.DictReader(file, strict=True)]


def _from_cells(cells: dict[str, str]) -> dict[str, Any]:
    texts = {"label", "source", "source_id", "model", "search", "target"}
    values: dict[str, Any] = {}
    for name, cell in cells.items():
        cell = cell[1:] if cell and cell.startswith("'") and _FORMULA.match(cell) else cell
        if not cell:
            values[name] = "" if name in texts else None
        elif name == "confidences":
            values[name] = parse_json(cell, "a confidence")
        else:
            values[name] = _NUMBERS[name](cell) if name in _NUMBERS else cell
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

    values = pq.read_table(path).to_pylist()
    return [{**each, "confidences": parse_json(each["confidences"] or "null", "a confidence")} for each in values]


# -- taking rows in ------------------------------------------------------------------------------------------


def take_in(store: Store, rows: Sequence[Row]) -> tuple[int, int]:
    """Add images and answers that the project does not have yet, all of them or none. Returns how many of each.

    Raises DataError for pictures whose files the project lacks, and for answers in conflict with those that it has.
    """
    _check_pictures(store.folder / PICTURES, rows)
    images = {row.image: _new_image(row) for row in rows}
    with store.database.write() as session:
        added = add_images(session, list(images.values()))
        numbers = {
            (each.model, each.source, each.source_id, each.changed): each.id for each in session.scalars(select(Image))
        }
        people = _people(session, {row.annotator for row in rows if row.annotator is not None})
        assigned = {(each.image, each.person) for each in session.scalars(select(Assignment))}
        answers = {each.client: each for each in session.scalars(select(Answer))}
        rounds = {(each.image, each.person, each.round) for each in answers.values()}
        new = []
        for row in sorted((row for row in rows if row.answer), key=lambda row: (row.time or "", row.round or 0)):
            answer = _answer(row, numbers[row.image], people[row.annotator or ""])
            at = (answer.image, answer.person)
            if (known := answers.get(answer.client)) is not None:
                if any(
                    getattr(known, name) != getattr(answer, name) for name in ("image", "person", "round", "answer")
                ):
                    raise DataError(f"The answer {answer.client} is kept already, and is another one.")
                continue
            if (*at, answer.round) in rounds:
                raise DataError(
                    f"'{row.annotator}' gave another answer to {row.picture[:12]}... already, in this round."
                )
            if (answer.round % 2 == 0) != (answer.answer == "undone"):
                raise DataError(f"The answer {answer.client} is out of turn: answers have odd rounds, undos even ones.")
            if at not in assigned:
                session.add(Assignment(image=at[0], person=at[1], time=answer.time))
                assigned.add(at)
            rounds.add((*at, answer.round))
            answers[answer.client] = answer
            new.append(answer)
        session.flush()
        session.add_all(new)
    return added, len(new)


def _check_pictures(folder: Path, rows: Iterable[Row]) -> None:
    wanted = {name for row in rows for name in (row.picture, row.original) if name}
    missing = sorted(name for name in wanted if not (folder / f"{name}.png").is_file())
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing):,} of the pictures, e.g. {missing[0]}.png: copy them there first."
        )


def _new_image(row: Row) -> NewImage:
    about = {name: getattr(row, name) for name in COLUMNS[1:10]}
    return NewImage(changed=row.picture, **about)


def _people(session: Session, names: Iterable[str]) -> dict[str, int]:
    """The numbers of people by name; those who are not there yet come without a link."""
    known = {person.name: person for person in session.scalars(select(Person))}
    for name in sorted(set(names) - known.keys()):
        known[name] = Person(key=secrets.token_hex(8), name=name, role="annotator", created=now())
        session.add(known[name])
    session.flush()
    return {name: person.id for name, person in known.items()}


def _answer(row: Row, image: int, person: int) -> Answer:
    assert row.time is not None
    said = {name: getattr(row, name) for name in ("client", "answer", "round", "milliseconds")}
    return Answer(image=image, person=person, time=as_number(row.time), **said)
