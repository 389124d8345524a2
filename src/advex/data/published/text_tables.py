"""Tables of text that come with published pictures, read line by line, with the line named where one is wrong."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from advex.errors import DataError, quoted
from advex.files import read_bytes

_LARGEST = 2**26  # bytes


def text_of(path: Path) -> str:
    """A table's text. Raises DataError for one that is not there, too large or no UTF-8."""
    try:
        return read_bytes(path, _LARGEST, "such a table").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text.") from None


def csv_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV with a header, by names of columns in small letters; separated by `;` or `,`.

    columns: that it must have. Raises DataError, naming the line.
    """
    lines = text_of(path).splitlines()
    separator = ";" if lines and lines[0].count(";") >= lines[0].count(",") else ","
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        numbered = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{path} is damaged: {error}.") from None
    names = [name.strip().lower() for name in numbered[0][1]] if numbered else []
    if lacking := [name for name in columns if name not in names]:
        raise DataError(f"{path} has no column '{lacking[0]}'; it has {', '.join(map(quoted, names[:12])) or 'none'}.")
    if twice := [name for name in columns if names.count(name) > 1]:
        raise DataError(f"{path} has two columns '{twice[0]}'.")
    for number, row in numbered[1:]:
        if len(row) != len(names):
            raise DataError(f"{path}, line {number}: {len(row)} cells for {len(names)} columns.")
    return [dict(zip(names, map(str.strip, row), strict=True)) for _, row in numbered[1:]]


def by_id(path: Path, cells: int) -> dict[str, tuple[str, ...]]:
    """Lines `id cell ...`, separated by blanks, by id; with one cell, it is all of the rest of the line.

    Raises DataError for a line of another form, and for an id that comes twice.
    """
    held: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if not line.strip():
            continue
        row = line.split(None, 1) if cells == 1 else line.split()
        if len(row) != cells + 1:
            raise DataError(f"{path}, line {number}: {len(row)} cells; expected an id and {cells} more.")
        if row[0] in held:
            raise DataError(f"{path}, line {number}: the id {quoted(row[0])} is listed twice.")
        held[row[0]] = tuple(map(str.strip, row[1:]))
    return held


def inside(path: Path, name: str) -> PurePosixPath:
    """A file's name as a path below its folder. Raises DataError for one that leads elsewhere. path: of the table."""
    below = PurePosixPath(name.replace("\\", "/"))
    if not name or below.is_absolute() or ".." in below.parts or not name.isprintable():
        raise DataError(f"{path} lists {quoted(name)}, which is not a file in its folder.")
    return below


def whole_numbers(path: Path, values: Iterator[str] | list[str], low: int, high: int) -> list[int]:
    """Texts as whole numbers from low to high. Raises DataError, naming the table and the first other one."""
    numbers = []
    for value in values:
        if not (value.isascii() and value.isdigit() and len(value) < 10 and low <= int(value) <= high):
            raise DataError(f"{path} contains {quoted(value)}; expected an integer from {low} to {high}.")
        numbers.append(int(value))
    return numbers
