"""The columns of a table: numbers, or texts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np

from advex.data.dataset import counted
from advex.data.source import shortened
from advex.drawing.numbers import DAYS, EPOCH
from advex.errors import DataError, quoted
from advex.features.typed import as_number, as_text

_DATE = re.compile(
    r"(\d{4}([./-])\d{1,2}\2\d{1,2}|\d{1,2}([./-])\d{1,2}\3(\d{4}|\d{2})|\d{1,2}[ -][^\W\d_]{3,9}\.?[ -](\d{4}|\d{2})"
    r"|[^\W\d_]{3,9}\.? \d{1,2},? \d{4})([ T].*)?"
)
_ISO = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})([ T].*)?")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table: numbers, or texts.

    numbers: [n] float64, NaN where there is none; of texts empty. codes: [n] int32 into texts, -1 where there is
    none; of numbers empty. unit: the sign that all numbers of the file have.
    """

    name: str
    numbers: np.ndarray = field(default_factory=lambda: np.empty(0))
    codes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    texts: tuple[str, ...] | None = None
    unit: str = ""

    @property
    def missing(self) -> np.ndarray:
        """[n] bool."""
        return np.isnan(self.numbers) if self.texts is None else self.codes < 0

    def take(self, rows: np.ndarray) -> Column:
        """The chosen rows."""
        if self.texts is None:
            return Column(name=self.name, numbers=self.numbers[rows], unit=self.unit)
        return Column(name=self.name, codes=self.codes[rows], texts=self.texts)

    @property
    def used(self) -> set[str]:
        """The different texts of its rows; of numbers as texts."""
        column = self.as_texts()
        texts = list(column.texts or ())
        return {texts[code] for code in np.unique(column.codes[column.codes >= 0]).tolist()}

    @property
    def is_date(self) -> bool:
        """Whether all of its texts are dates."""
        return bool(self.texts) and all(_DATE.fullmatch(text) for text in self.texts or ())

    def as_texts(self) -> Column:
        """The same column with its numbers as texts (1.0 is "1")."""
        if self.texts is not None:
            return self
        present = ~self.missing
        values, inverse = np.unique(self.numbers[present], return_inverse=True)
        codes = np.full(len(self.numbers), -1, np.int32)
        codes[present] = inverse
        return Column(name=self.name, codes=codes, texts=tuple(as_text(float(value)) for value in values))

    def as_numbers(self) -> Column:
        """The same column with its texts as numbers; dates such as 2001-02-03 as days since 1970.

        Raises DataError, naming texts that are none.
        """
        if self.texts is None:
            return self
        dates = self.is_date
        values = np.array([_days(text) if dates else as_number(text) for text in self.texts], dtype=np.float64)
        if len(wrong := np.flatnonzero(np.isnan(values))):
            rows = int(np.isin(self.codes, wrong).sum())
            shown = shortened([quoted(self.texts[code], 40) for code in wrong])
            remedy = " Dates such as 2001-02-03 can be converted to days." if dates else ""
            raise DataError(
                f"column '{self.name}' contains numbers, but other values in {counted(rows, 'row')}: {shown}.{remedy}"
            )
        return self.with_values(values, DAYS if dates else "")

    def with_values(self, values: np.ndarray, unit: str) -> Column:
        """Numbers in the place of its texts. values: one per text."""
        numbers = np.append(values, np.nan)[self.codes]  # code -1: the last
        return Column(name=self.name, numbers=numbers, unit=unit)


def _days(text: str) -> float | None:
    """Days from 1970-01-01 to a date as ISO 8601 writes it; a time of the day is passed over."""
    match = _ISO.fullmatch(text)
    try:
        return None if match is None else float(date(*map(int, match.groups()[:3])).toordinal() - EPOCH)
    except ValueError:
        return None


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

    def until(self, end: int) -> Frame:
        """Without the empty rows at its end, of which spreadsheets leave some. Raises DataError where none is left."""
        if not end:
            raise DataError(f"{self.where} has a header but no rows.")
        if end == self.rows:
            return self
        note = f"{counted(self.rows - end, 'empty row')} at the end left out"
        return replace(self.take(np.arange(end)), notes=(*self.notes, note))
