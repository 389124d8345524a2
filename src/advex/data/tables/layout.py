"""How a CSV file is laid out: its encoding, its delimiter, where its header is, and how it writes decimals."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from advex.data.source import shortened
from advex.data.tables.numbers import decimal_mark, is_amount
from advex.errors import DataError, quoted
from advex.features.typed import MISSING, is_missing

HEAD = 2**22  # bytes looked at to tell all this but zeros; a header is never longer
_BLOCK, _LONGEST_CODE = 2**22, 64  # characters looked at together for zeros; of a cell of digits that begins with one
_SAMPLE = 500  # rows looked at to tell numbers from texts
_DELIMITERS = ",;\t|"
_SEP = re.compile(r'"?sep=(?P<delimiter>[,;\t|])"?[,;\t|]*', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Style:
    """What is known of a file before it is read, from the YAML beside it or from a model; by default, nothing.

    texts: columns that are texts even where they look like numbers. missing: column -> the texts that are no value in
    it; of others, the usual ones. values: column -> texts that are values in it, even where they look like none. units:
    column -> what may stand beside its numbers. encoding, decimal, thousands, header, names: as in `TableDescription`.
    """

    texts: Collection[str] = ()
    missing: Mapping[str, frozenset[str]] = field(default_factory=dict)
    values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    header: str | None = None
    names: Sequence[str] = ()

    @property
    def nulls(self) -> list[str]:
        """Texts that are missing in every column, as they may be spelt."""
        claimed = {text.lower() for texts in self.values.values() for text in texts if text}
        for texts in self.missing.values():
            claimed |= MISSING - {"", *(text.lower() for text in texts)}
        left = MISSING - claimed
        spelt = {form(text) for text in left for form in (str, str.upper, str.capitalize)}
        return sorted(spelt | ({"NaN"} if "nan" in left else set()))

    def is_missing(self, column: str, text: str) -> bool:
        """Whether a text is no value in a column."""
        if not text or text in self.missing.get(column, ()):
            return True
        return text not in self.values.get(column, ()) and column not in self.missing and is_missing(text)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """names: of the columns, "" for one without. lines: before the first row. returns: lines end with a carriage return
    alone. zeros: columns in which numbers begin with a zero."""

    names: list[str]
    delimiter: str
    lines: int
    encoding: str
    decimal: str
    returns: bool
    zeros: frozenset[str]
    notes: tuple[str, ...]


def encoding_of(path: Path, head: bytes, style: Style) -> str:
    """The encoding of a file by its beginning, if it says so; else that of the style, else UTF-8. Raises DataError."""
    if not head.strip():
        raise DataError(f"{path} is empty.")
    if style.encoding is not None:
        return style.encoding
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in head:
        raise DataError(f"{path} is not text, so it is not a CSV file.")
    return "utf-8"


def layout_of(path: Path, head: bytes, encoding: str, style: Style) -> Layout:
    """The layout of a file from its beginning. Raises DataError, and UnicodeDecodeError for another encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    text = decoder.decode(head, final=len(head) < HEAD).removeprefix("\ufeff")
    returns = "\n" not in text and "\r" in text
    text = text.replace("\r", "\n") if returns else text.replace("\r\n", "\n")
    if len(head) >= HEAD:
        text = text[: text.rfind("\n") + 1]
    lines = text.split("\n")
    said, before, notes = _preamble(lines)
    rest = "\n".join(lines[before:])
    if style.header != "none" and rest.startswith("#"):
        rest = rest[1:] if rest[1:2] not in ("", *_DELIMITERS) else rest
    names, delimiter, length = _header(path, rest, said or _DELIMITERS)
    rows = [row for row in itertools.islice(csv.reader(io.StringIO(rest), delimiter=delimiter), _SAMPLE) if any(row)]
    if style.header == "none":
        names, length, sample = _given(path, style, len(names)), 0, rows
    else:
        sample = rows[1:]
        _check_header(path, names, sample, sure=style.header == "first line")
    comma = style.decimal == "," or (style.decimal is None and _commas(sample, delimiter))
    notes += ["decimal commas"] if comma else []
    return Layout(
        names=names,
        delimiter=delimiter,
        lines=before + length,
        encoding=encoding,
        decimal="," if comma else ".",
        returns=returns,
        zeros=_with_zeros(path, delimiter, encoding, before + length, names),
        notes=tuple(notes),
    )


def _preamble(lines: Sequence[str]) -> tuple[str, int, list[str]]:
    """The delimiter that a first line `sep=;` names, how many lines come before the table, and what was passed over."""
    said, passed = "", []
    for number, line in enumerate(lines):
        follows = next((each for each in lines[number + 1 :] if each.strip()), "")
        if number == 0 and (match := _SEP.fullmatch(line.strip())):
            said = match["delimiter"]
        elif line.startswith("#") and not _is_header(line, follows):
            passed.append(line)
        elif line.strip() and (line.count('"') % 2 or any(each in line for each in said or _DELIMITERS)):
            shown = shortened([quoted(each, 40) for each in passed])
            return said, number, [f"skipped the lines before the table ({shown})"] if passed else []
        elif line.strip():
            passed.append(line)
    return said, 0, []


def _is_header(line: str, follows: str) -> bool:
    """Whether a line that begins with # names the columns of the next one, which holds numbers."""
    counts = [(line.count(each), follows.count(each)) for each in _DELIMITERS]
    cells = re.split(f"[{_DELIMITERS}]", follows)
    return (
        not follows.startswith("#")
        and max(counts)[0] > 0
        and max(counts) in [(n, n) for n, _ in counts]
        and any(map(is_amount, cells))
    )


def _header(path: Path, text: str, delimiters: str) -> tuple[list[str], str, int]:
    """The cells of the first line, the delimiter that gives the most of them, and how many lines they take."""
    best: tuple[list[str], str, int] = ([], ",", 0)
    for delimiter in delimiters:
        reader = csv.reader(io.StringIO(text), delimiter=delimiter)
        try:
            names = next((row for row in reader if any(map(str.strip, row))), [])
        except csv.Error as error:
            raise DataError(f"{path}: its header cannot be read: {error}.") from None
        if len(names) > len(best[0]):
            best = names, delimiter, reader.line_num
    names, delimiter, lines = best
    if len(names) < 2:
        raise DataError(f"{path} has one column; a table needs one to predict and others to predict it from.")
    return [name.strip() for name in names], delimiter, lines


def _given(path: Path, style: Style, count: int) -> list[str]:
    names = list(style.names) or [f"column {number}" for number in range(1, count + 1)]
    if len(names) != count:
        raise DataError(f"{path}: its YAML has {len(names)} names, but the first line has {count} values.")
    return names


def _check_header(path: Path, names: Sequence[str], rows: Sequence[Sequence[str]], *, sure: bool) -> None:
    if not sure and _is_data(names, rows):
        raise DataError(
            f"{path} has no header: the first line looks like data ({shortened(names)}) instead of column "
            "names. If it is data, set `header: none` and `names: [...]` in the YAML beside it; if not, "
            "`header: first line`."
        )
    if repeated := [name for name, count in Counter(names).items() if count > 1 and name]:
        raise DataError(f"{path} has several columns called {shortened([repr(name[:40]) for name in repeated])}.")


def _is_data(names: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a first line is of the kind of all others: numbers above numbers, and texts that occur again below."""
    columns = list(zip(*(row for row in rows if len(row) == len(names)), strict=True))
    columns = columns or [()] * len(names)
    numbers = texts = again = 0
    for name, values in zip(names, columns, strict=True):
        present = [value for value in values if not is_missing(value)]
        if not name or is_missing(name):
            continue
        if all(map(is_amount, present)) and (present or is_amount(name)):
            if not is_amount(name):
                return False
            numbers += 1
        elif present:
            texts += 1
            again += name in map(str.strip, present)
    return again > 0 if numbers and texts else numbers > 0 or again == texts > 1


def _commas(rows: Sequence[Sequence[str]], delimiter: str) -> bool:
    """Whether the numbers of a file have decimal commas: some surely have, and none surely has a point.

    Between semicolons, 1,234 is one: whoever writes decimal points has commas there.
    """
    marks = {
        "," if mark == "?" and delimiter == ";" and "," in cell else mark
        for row in rows
        for cell in row
        if is_amount(cell) and (mark := decimal_mark(cell))
    }
    return "," in marks and "." not in marks


def _with_zeros(path: Path, delimiter: str, encoding: str, lines: int, names: Sequence[str]) -> frozenset[str]:
    """The columns that somewhere, in the whole file, hold digits that begin with a zero."""
    ends = f'["{re.escape(delimiter)}\n]'
    numbers = re.compile(f"{ends}0\\d+(?={ends})")
    with path.open(encoding=encoding, errors="replace") as file:  # what cannot be decoded is told when it is read
        before = "\n"
        while block := file.read(_BLOCK):
            if numbers.search(before + block):
                break
            before = block[-_LONGEST_CODE:]
        if not block and not numbers.search(f"{before}\n"):
            return frozenset()
        file.seek(0)
        rows = csv.reader(itertools.islice(file, lines, None), delimiter=delimiter)
        places = {place for row in rows for place, cell in enumerate(row) if cell[:1] == "0" and cell[1:].isdigit()}
    return frozenset(names[place] for place in places if place < len(names))
