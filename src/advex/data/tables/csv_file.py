"""CSV files as columns of numbers and of texts, read in bounded memory. What cannot be meant is refused."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow

from advex.data.source import shortened
from advex.data.tables.columns import Column, Frame
from advex.data.tables.layout import HEAD, Layout, Style, encoding_of, layout_of
from advex.data.tables.numbers import amounts
from advex.errors import DataError, quoted
from advex.files import check_file

_BLOCK = 2**23  # bytes parsed at a time; a row is never longer


def read_csv(
    path: Path, progress: Callable[[int, int], None] = lambda done, total: None, style: Style | None = None
) -> Frame:
    """A CSV file. Commas, semicolons, tabs or bars between the values; UTF-8, UTF-16, Windows-1252 or as `style` says.

    progress: called with (bytes read, bytes in all). style: what is known of it. Raises DataError.
    """
    style = style or Style()
    check_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
    encoding = encoding_of(path, head, style)
    while True:
        try:
            with _long_cells():
                layout = layout_of(path, head, encoding, style)
            values = _arrow_columns(path, layout, size, progress, style)
            break
        except (UnicodeDecodeError, pa.ArrowInvalid, csv.Error) as error:
            undecodable = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
            if undecodable and encoding == "utf-8" and style.encoding is None:
                encoding = "cp1252"
            elif undecodable or "codec" in str(error):
                raise DataError(f"{path}: {_unreadable(encoding, style)}") from None
            else:
                raise DataError(f"{path}: {_reason(str(error))}") from None
    rows = len(values[0]) if values else 0
    if not rows:
        raise DataError(f"{path} has a header but no rows.")
    notes = list(layout.notes) + (["read as Windows-1252, because it is not UTF-8"] if encoding == "cp1252" else [])
    columns: dict[str, Column] = {}
    empty = 0
    marks: dict[str, list[str]] = {}
    for place, name in enumerate(layout.names):  # each is let go once it is converted: the table is never held twice
        column = _column(path, name, values.pop(0), layout, style, marks)
        if not name and column.missing.all():
            empty += 1
        elif not name and place:
            raise DataError(f"{path}: column {place + 1} has no name.")
        else:
            columns[name] = column
    if empty:
        notes.append(f"{empty} empty columns without a name left out")
    notes += [f"{mark} in {shortened([quoted(name, 40) for name in names])}" for mark, names in marks.items()]
    frame = Frame(where=str(path), columns=columns, rows=rows, notes=tuple(notes))
    filled = np.flatnonzero(~np.logical_and.reduce([column.missing for column in columns.values()]))
    return frame.until(int(filled[-1]) + 1 if len(filled) else 0)


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Python's reader takes long cells inside: read by another delimiter than theirs, some headers are a single one."""
    usual = csv.field_size_limit(_BLOCK)
    try:
        yield
    finally:
        csv.field_size_limit(usual)


class _Observed(io.RawIOBase):
    """A file that reports how far it has been read, and whose lines end with a line feed."""

    def __init__(self, path: Path, size: int, progress: Callable[[int, int], None], returns: bool) -> None:
        self.file, self.size, self.progress, self.returns = path.open("rb"), size, progress, returns

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.progress(min(self.file.tell(), self.size), self.size)
        return data.replace(b"\r", b"\n") if self.returns else data

    def close(self) -> None:
        self.file.close()
        super().close()


def _arrow_columns(
    path: Path, layout: Layout, size: int, progress: Callable[[int, int], None], style: Style
) -> list[pa.ChunkedArray]:
    """The columns as Arrow reads them: whole numbers, floats or texts."""
    texts = pa.dictionary(pa.int32(), pa.string())
    names = [name or f"unnamed {place}" for place, name in enumerate(layout.names)]
    known = {name: texts for name in layout.names if name and (name in style.texts or name in layout.zeros)}

    def read(types: dict[str, pa.DataType], threads: bool = True) -> pa.Table:
        with _Observed(path, size, progress, layout.returns) as file:
            return arrow.read_csv(
                file,
                read_options=arrow.ReadOptions(
                    block_size=_BLOCK, column_names=names, skip_rows=layout.lines, encoding=layout.encoding,
                    use_threads=threads,
                ),
                parse_options=arrow.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True),
                convert_options=arrow.ConvertOptions(
                    null_values=style.nulls, strings_can_be_null=True, decimal_point=layout.decimal, column_types=types,
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


def _column(
    path: Path, name: str, values: pa.ChunkedArray, layout: Layout, style: Style, marks: dict[str, list[str]]
) -> Column:
    """A column as it is meant. marks: what is worth a note -> the columns that have it; added to."""
    if pa.types.is_null(values.type):
        return Column(name=name, numbers=np.full(len(values), np.nan))
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        numbers = values.cast(pa.float64(), safe=False).to_numpy()
        absent = [float(text) for text in style.missing.get(name, ()) if _is_plain(text)]
        gap = ~np.isfinite(numbers) | np.isin(numbers, absent)
        return Column(name=name, numbers=np.where(gap, np.nan, numbers) if gap.any() else numbers)
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    array = values.unify_dictionaries().combine_chunks()
    codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    column = _stripped(name, codes, array.dictionary.to_pylist(), style)
    if not column.texts or name in style.texts:
        return column
    try:
        amount = amounts(
            name, column.texts, decimal=style.decimal or layout.decimal, sure=style.decimal is not None,
            thousands=style.thousands, unit=style.units.get(name, ""),
        )  # fmt: skip
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if amount is None:
        return column
    if amount.unit:
        marks.setdefault(f"the unit {amount.unit}", []).append(name)
    if "," in amount.decimals and layout.decimal == ".":
        marks.setdefault("decimal commas" + (" and points" if "." in amount.decimals else ""), []).append(name)
    return column.with_values(np.array(amount.values), amount.unit)


def _is_plain(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _stripped(name: str, codes: np.ndarray, values: Collection[str], style: Style) -> Column:
    """Texts without the spaces around them, and without those that say that there is no value."""
    stripped = [value.strip() for value in values]
    kept = sorted({value for value in stripped if not style.is_missing(name, value)})
    number = {value: place for place, value in enumerate(kept)}
    again = np.array([*(number.get(value, -1) for value in stripped), -1], np.int32)
    return Column(name=name, codes=again[codes], texts=tuple(kept))


def _unreadable(encoding: str, style: Style) -> str:
    if style.encoding is not None:
        return f"it is not text in the encoding {encoding} that its YAML gives."
    return (
        "it is neither UTF-8 nor Windows-1252 text. Give its encoding in the YAML beside it, e.g. `encoding: "
        "shift_jis`, or save it as UTF-8."
    )


def _reason(text: str) -> str:
    """What Arrow says, in a sentence."""
    if match := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
        line, wanted, count = match.groups()
        return (
            f"line {line} has {count} values, but the header has {wanted}. Is a value that contains the "
            "delimiter not quoted?"
        )
    if match := re.search(r"Expected (\d+) columns, got (\d+)(: ?(.{0,60}))?", text):
        return f"a line has {match[2]} values, but the header has {match[1]}: {match[4] or ''}"
    if "straddl" in text or "field larger" in text:
        return f"a row is longer than {_BLOCK // 2**20} MiB; is a quote not closed?"
    return f"it cannot be read as CSV: {' '.join(text.split())[:200]}"
