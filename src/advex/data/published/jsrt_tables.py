"""What JSRT says of its 247 radiographs: `CLNDAT_EN.txt` (with a nodule) and `CNNDAT_EN.TXT` (without).

Neither has a header. The published files end their lines with a carriage return alone; a copy may have
any ending. Cells are separated by tabs in the first table and by spaces in the second; both are read in either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from advex.data.source import shortened
from advex.errors import DataError, quoted
from advex.files import read_bytes

NODULES, OTHERS = "CLNDAT_EN.txt", "CNNDAT_EN.TXT"
SIDE, SPACING = 2048, 0.175  # pixels of a radiograph each way, and millimetres from one to the next

_LARGEST = 2**20  # bytes of a table: the published ones have some 10 kB
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}\.IMG", re.IGNORECASE)
_NEEDED = 8  # cells of a line about a nodule, up to and with its kind


@dataclass(frozen=True, kw_only=True)
class Radiograph:
    """A radiograph and what is known of it.

    name: without ".IMG". path: its file; None where there is none. nodule: (x, y) of the nodule's centre in
    pixels from the left and from the top, None for a radiograph without one. size: its diameter in mm;
    subtlety: 1 (hardest to see) to 5; malignant: or benign; all None without a nodule, size also where the
    table has a "?". age: in years, None for a "?". sex: as the table has it. finding: where the nodule is
    and what it was, in the table's words.
    """

    name: str
    path: Path | None
    nodule: tuple[int, int] | None = None
    size: float | None = None
    subtlety: int | None = None
    malignant: bool | None = None
    age: int | None = None
    sex: str = ""
    finding: str = ""

    @property
    def radius(self) -> float:
        """Of the nodule, in pixels; 0 where its size is not known."""
        return (self.size or 0.0) / 2 / SPACING


def radiographs(root: Path, files: Mapping[str, list[PurePosixPath]]) -> tuple[Radiograph, ...]:
    """All radiographs of both tables, those with a nodule first, each in the order of its table.

    files: those below root, by lower-case name. Of several files of one name the first counts. Raises
    DataError for a table that is missing or cannot be believed, naming the line.
    """
    radiographs: dict[str, Radiograph] = {}
    for table in (NODULES, OTHERS):
        if table.lower() not in files:
            raise DataError(f"{root} contains no {table}: JSRT comes with two tables, {NODULES} and {OTHERS}.")
        path = root / files[table.lower()][0]
        before = len(radiographs)
        for place, line in _lines(path):
            cells = _cells(line)
            name = cells[0]
            if not _NAME.fullmatch(name):
                raise DataError(
                    f"{place}: a line must begin with a file name such as JPCLN001.IMG, not {quoted(name)}."
                )
            stem = name[:-4].upper()
            if stem in radiographs:
                raise DataError(f"{place}: {stem} is listed twice.")
            image = root / files[name.lower()][0] if name.lower() in files else None
            make = _nodule if table == NODULES else _other
            radiographs[stem] = make(place, stem, image, cells)
        if len(radiographs) == before:
            raise DataError(f"{path} is empty.")
    return tuple(radiographs.values())


def unlisted(known: tuple[Radiograph, ...], files: Mapping[str, list[PurePosixPath]]) -> str:
    """A sentence about pictures that no table names, and about files of one name; empty where there are none."""
    names = {f"{each.name}.img".lower() for each in known}
    pictures = [paths for name, paths in files.items() if name.endswith(".img")]
    loose = [str(path) for paths in pictures for path in paths if path.name.lower() not in names]
    twice = [str(path) for paths in pictures for path in paths[1:] if path.name.lower() in names]
    notes = []
    if loose:
        notes.append(f"{len(loose)} .IMG left out: not listed in a table ({shortened(loose)})")
    if twice:
        notes.append(f"{len(twice)} .IMG left out: another file has the same name ({shortened(twice)})")
    return "; ".join(notes)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(where it is, line) of each line that is not empty."""
    data = read_bytes(path, _LARGEST, "a table of 247 radiographs")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        if line.strip():
            yield f"{path}, line {number}", line


def _cells(line: str) -> list[str]:
    cells = line.split("\t") if "\t" in line.strip() else line.split(None, _NEEDED)
    return [cell.strip() for cell in cells]


def _nodule(place: str, name: str, path: Path | None, cells: list[str]) -> Radiograph:
    if len(cells) < _NEEDED:
        raise DataError(
            f"{place}: {len(cells)} cells; expected name, subtlety, size, age, sex, x, y and kind. Is the line cut off?"
        )
    _, subtlety, size, age, sex, x, y, kind = cells[:_NEEDED]
    if kind.lower() not in ("malignant", "benign"):
        raise DataError(f"{place}: a nodule must be malignant or benign, not {quoted(kind)}.")
    size_mm = _number(place, "size", size)
    if size_mm is not None and not 0 < size_mm <= SIDE * SPACING:
        raise DataError(
            f"{place}: the size of a nodule must be between 0 and {SIDE * SPACING:g} mm, not {quoted(size)}."
        )
    degree = _whole(place, "subtlety", subtlety)
    if degree not in (1, 2, 3, 4, 5):
        raise DataError(f"{place}: the subtlety must be 1 to 5, not {quoted(subtlety)}.")
    centre = _whole(place, "x", x), _whole(place, "y", y)
    if centre[0] is None or centre[1] is None:
        raise DataError(f"{place}: x and y of the nodule are missing.")
    return Radiograph(
        name=name,
        path=path,
        nodule=(centre[0], centre[1]),
        size=size_mm,
        subtlety=degree,
        malignant=kind.lower() == "malignant",
        age=_whole(place, "age", age),
        sex=sex.lower(),
        finding=" ".join(" ".join(cells[_NEEDED:]).split()),
    )


def _other(place: str, name: str, path: Path | None, cells: list[str]) -> Radiograph:
    age = _whole(place, "age", cells[1]) if len(cells) > 1 else None
    return Radiograph(name=name, path=path, age=age, sex=cells[2].lower() if len(cells) > 2 else "")


def _number(place: str, what: str, cell: str) -> float | None:
    """A number; None for a question mark. Raises DataError."""
    if cell == "?":
        return None
    try:
        value = float(cell) if len(cell) <= 20 else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{place}: the {what} {quoted(cell)} is not a number.")
    return value


def _whole(place: str, what: str, cell: str) -> int | None:
    value = _number(place, what, cell)
    if value is not None and value != int(value):
        raise DataError(f"{place}: the {what} {quoted(cell)} is not a whole number.")
    return None if value is None else int(value)
