"""CSV files as columns of numbers and of texts, read in bounded memory. What cannot be meant is refused."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow

from advex.data.source import shortened
from advex.errors import DataError
from advex.features.typed import MISSING, as_number, as_text, is_missing

_HEAD = 2**22  # bytes looked at to tell encoding and delimiter; a header is never longer
_BLOCK = 2**23  # bytes parsed at a time; a row is never longer
_NULLS = sorted({form(text) for text in MISSING for form in (str, str.upper, str.capitalize)} | {"NaN"})
_DECIMAL_COMMA, _DECIMAL_POINT = (
    re.compile(r"(^|;)[+-]?\d+,\d+(;|$)", re.M),
    re.compile(r"(^|;)[+-]?\d+\.\d+(;|$)", re.M),
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table: numbers, or texts.

    numbers: [n] float64, NaN where there is none; of texts empty. codes: [n] int32 into texts, -1 where there is
    none; of numbers empty.
    """

    name: str
    numbers: np.ndarray = field(default_factory=lambda: np.empty(0))
    codes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    texts: tuple[str, ...] | None = None

    @property
    def missing(self) -> np.ndarray:
        """[n] bool."""
        return np.isnan(self.numbers) if self.texts is None else self.codes < 0

    def take(self, rows: np.ndarray) -> Column:
        """The chosen rows."""
        if self.texts is None:
            return Column(name=self.name, numbers=self.numbers[rows])
        return Column(name=self.name, codes=self.codes[rows], texts=self.texts)

    def as_texts(self) -> Column:
        """The same column with its numbers as texts (1.0 is "1")."""
        if self.texts is not None:
            return self
        there = ~self.missing
        values, inverse = np.unique(self.numbers[there], return_inverse=True)
        codes = np.full(len(self.numbers), -1, np.int32)
        codes[there] = inverse
        return Column(name=self.name, codes=codes, texts=tuple(as_text(float(value)) for value in values))

    def as_numbers(self) -> Column:
        """The same column with its texts as numbers. Raises DataError, naming texts that are none."""
        if self.texts is None:
            return self
        values = np.array([value if (value := as_number(text)) is not None else np.nan for text in self.texts])
        if len(wrong := np.flatnonzero(np.isnan(values))):
            rows = int(np.isin(self.codes, wrong).sum())
            shown = shortened([repr(self.texts[code][:40]) for code in wrong])
            raise DataError(f"column '{self.name}' holds numbers, and in {rows:,} rows something else: {shown}.")
        numbers = np.append(values, np.nan)[self.codes]  # code -1: the last
        return Column(name=self.name, numbers=numbers)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The columns of a table by name, in order. where: the file. notes: what was done in reading it."""

    where: str
    columns: dict[str, Column]
    rows: int
    notes: tuple[str, ...] = ()

    def take(self, rows: np.ndarray) -> Frame:
        """The chosen rows."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return Frame(where=self.where, columns=columns, rows=len(rows), notes=self.notes)


def read_csv(
    path: Path, progress: Callable[[int, int], None] = lambda done, total: None, texts: Collection[str] = ()
) -> Frame:
    """A CSV file with a header. Commas, semicolons, tabs or bars between the values; UTF-8, UTF-16 or Windows-1252.

    progress: called with (bytes read, bytes in all). texts: columns that are texts even where they look like numbers.
    Raises DataError.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    encoding = _encoding(path, head)
    while True:
        try:
            layout = _layout(path, head, encoding)
            columns = _arrow_columns(path, layout, size, progress, texts)
            break
        except (UnicodeDecodeError, pa.ArrowInvalid) as error:
            text = str(error)
            if encoding == "utf-8" and (isinstance(error, UnicodeDecodeError) or "UTF8" in text):
                encoding = "cp1252"
                continue
            raise DataError(f"{path}: {_reason(text)}") from None
    notes = layout.notes + (("read as Windows-1252, for it is not UTF-8",) if encoding == "cp1252" else ())
    found: dict[str, Column] = {}
    rows = len(columns[0]) if columns else 0
    if not rows:
        raise DataError(f"{path} has a header and no rows.")
    for name in layout.names:  # each is let go once it is converted: the table is never held twice
        found[name] = _column(name, columns.pop(0), letters=name in texts)
    return Frame(where=str(path), columns=found, rows=rows, notes=notes)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    names: list[str]
    delimiter: str
    lines: int  # of the header
    encoding: str
    decimal: str
    notes: tuple[str, ...]


def _encoding(path: Path, head: bytes) -> str:
    if not head.strip():
        raise DataError(f"{path} is empty.")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head:
        raise DataError(f"{path} is no text, and so no CSV file.")
    return "utf-8"


def _layout(path: Path, head: bytes, encoding: str) -> _Layout:
    """Names, delimiter and the like, from the beginning of the file. Raises DataError."""
    whole = head if len(head) < _HEAD else head[: head.rfind(b"\n") + 1]
    text = whole.decode(encoding).removeprefix("\ufeff")
    best: tuple[list[str], str, int] = ([], ",", 0)
    for delimiter in ",;\t|":
        reader = csv.reader(io.StringIO(text), delimiter=delimiter)
        try:
            names = next((row for row in reader if any(map(str.strip, row))), [])
        except csv.Error as error:
            raise DataError(f"{path}: its header cannot be read: {error}.") from None
        if len(names) > len(best[0]):
            best = names, delimiter, reader.line_num
    names, delimiter, lines = best
    names = [name.strip() for name in names]
    if len(names) < 2:
        raise DataError(f"{path} has one column; a table has one that is predicted, and others to predict it from.")
    if repeated := [name for name, count in Counter(names).items() if count > 1 and name]:
        raise DataError(f"{path} has several columns called {shortened([repr(name[:40]) for name in repeated])}.")
    if unnamed := [place for place, name in enumerate(names, 1) if not name][1 if not names[0] else 0 :]:
        raise DataError(f"{path}: column {unnamed[0]} has no name.")
    if all(as_number(name) is not None for name in names):
        raise DataError(f"{path} has no header: its first line, {shortened(names)}, must name the columns.")
    comma = delimiter == ";" and bool(_DECIMAL_COMMA.search(text)) and not _DECIMAL_POINT.search(text)
    notes = (("decimal commas",) if comma else ()) if delimiter == ";" else ()
    return _Layout(
        names=names, delimiter=delimiter, lines=lines, encoding=encoding, decimal="," if comma else ".", notes=notes
    )


class _Told(io.RawIOBase):
    """A file that tells how far it has been read."""

    def __init__(self, path: Path, size: int, progress: Callable[[int, int], None]) -> None:
        self.file, self.size, self.progress = path.open("rb"), size, progress

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.progress(min(self.file.tell(), self.size), self.size)
        return data

    def close(self) -> None:
        self.file.close()
        super().close()


def _arrow_columns(
    path: Path, layout: _Layout, size: int, progress: Callable[[int, int], None], letters: Collection[str]
) -> list[pa.ChunkedArray]:
    """The columns as Arrow reads them: whole numbers, floats or texts."""
    texts = pa.dictionary(pa.int32(), pa.string())
    known = {name: texts for name in letters if name in layout.names}

    def read(types: dict[str, pa.DataType], threads: bool = True) -> pa.Table:
        with _Told(path, size, progress) as file:
            return arrow.read_csv(
                file,
                read_options=arrow.ReadOptions(
                    block_size=_BLOCK, column_names=layout.names, skip_rows=layout.lines, encoding=layout.encoding,
                    use_threads=threads,
                ),
                parse_options=arrow.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True),
                convert_options=arrow.ConvertOptions(
                    null_values=_NULLS, strings_can_be_null=True, decimal_point=layout.decimal, column_types=types,
                    auto_dict_encode=True, auto_dict_max_cardinality=1_000_000,
                ),
            )  # fmt: skip

    try:
        table = read(known)
    except pa.ArrowInvalid as error:
        if "columns, got" not in str(error):
            raise
        table = read(known, threads=False)  # raises the same, and now with the number of the line
    # What Arrow takes for dates, times and booleans is text here, as it was typed: another look at the file.
    plain = [pa.types.is_integer, pa.types.is_floating, pa.types.is_null, pa.types.is_dictionary, pa.types.is_string]
    odd = {each.name: texts for each in table.schema if not any(test(each.type) for test in plain)}
    if odd:
        kinds = {each.name: each.type for each in table.schema if not pa.types.is_null(each.type)}
        del table
        table = read({**kinds, **odd})
    return list(table.columns)


def _column(name: str, values: pa.ChunkedArray, letters: bool) -> Column:
    if pa.types.is_null(values.type):
        return Column(name=name, numbers=np.full(len(values), np.nan))
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        numbers = values.cast(pa.float64(), safe=False).to_numpy()
        if not np.isfinite(numbers).all():
            numbers = np.where(np.isfinite(numbers), numbers, np.nan)
        return Column(name=name, numbers=numbers)
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    array = values.unify_dictionaries().combine_chunks()
    codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    return _stripped(name, codes, array.dictionary.to_pylist(), letters)


def _stripped(name: str, codes: np.ndarray, values: list[str], letters: bool) -> Column:
    """Texts without the spaces around them; numbers, if they are all such (1,234 and the like)."""
    stripped = [value.strip() for value in values]
    kept = sorted({value for value in stripped if not is_missing(value)})
    number = {value: place for place, value in enumerate(kept)}
    again = np.array([*(number.get(value, -1) for value in stripped), -1], np.int32)
    column = Column(name=name, codes=again[codes], texts=tuple(kept))
    if kept and not letters and all(as_number(value) is not None for value in kept):
        return column.as_numbers()
    return column


def _reason(text: str) -> str:
    """What Arrow says, in a sentence."""
    if match := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
        line, wanted, found = match.groups()
        return (
            f"line {line} has {found} values, the header {wanted}. Is one of them not quoted that holds the delimiter?"
        )
    if match := re.search(r"Expected (\d+) columns, got (\d+)(: ?(.{0,60}))?", text):
        return f"a line has {match[2]} values, the header {match[1]}: {match[4] or ''}"
    if "straddl" in text:
        return f"a row is longer than {_BLOCK // 2**20} MiB; is a quote not closed?"
    return f"it cannot be read as CSV: {' '.join(text.split())[:200]}"
