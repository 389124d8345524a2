"""`annotations.csv`: what people answered about changed pictures, one line per answer.

A table, because people write it in a spreadsheet as well as programs do; docs/annotated.md describes it.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from advex.errors import DataError, did_you_mean, quoted
from advex.files import check_file, read_bytes

TABLE = "annotations.csv"
UNCHANGED, CHANGED, UNSURE = "unchanged", "changed", "unsure"
ANSWERS = (UNCHANGED, CHANGED, UNSURE)
# What answers that cannot decide come to.
TIE, UNANSWERED = "tie", "unanswered"

_REQUIRED = ("picture", "label", "answer")
_LARGEST, _MOST, _LONGEST = 2**26, 10**6, 1000  # bytes and lines of a table, characters of a cell
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# A spreadsheet takes a cell that begins so for a formula. It is kept text by an apostrophe before it.
_FORMULA = re.compile("'*[=+\\-@\uff1d\uff0b\uff0d\uff20]")


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One answer to the question whether a changed picture still shows what it showed: a line of the table.

    picture: the PNG file, relative to the folder, "/" between folders. label: the class of the example
    that it was made from. answer: one of `ANSWERS`, or empty: not answered yet. annotator: who answered,
    in any words. time: when. The rest says how the picture was made: from which example (`source_id`) of
    which data set (`source`, as `Dataset.name`), with which model, by which search (a spec string),
    towards which class (`target`), at which distance (`rmse`, in [0, 1]).
    """

    picture: str
    label: str
    answer: str = ""
    annotator: str = ""
    source: str = ""
    source_id: str = ""
    model: str = ""
    search: str = ""
    target: str = ""
    rmse: float | None = None
    time: str = ""


COLUMNS = tuple(field.name for field in dataclasses.fields(Annotation))
_OF_THE_ANSWER = ("answer", "annotator", "time")  # the others are the picture's own


@dataclass(frozen=True, kw_only=True)
class Table:
    """The lines of a table, each with its number. unknown: columns that mean nothing here."""

    lines: tuple[tuple[int, Annotation], ...]
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A picture and its answers.

    about: what its lines say of the picture; its fields `answer`, `annotator` and `time` are empty.
    votes: how many of `ANSWERS` were given. replaced: answers that their annotator took back by a
    later one, and that do not count.
    """

    about: Annotation
    votes: Mapping[str, int]
    replaced: int = 0

    @property
    def verdict(self) -> str:
        """The majority of the definite answers: `unchanged` or `changed`; else `tie`, `unsure` or `unanswered`."""
        same, other = self.votes.get(UNCHANGED, 0), self.votes.get(CHANGED, 0)
        if same != other:
            return UNCHANGED if same > other else CHANGED
        return TIE if same else UNSURE if self.votes.get(UNSURE) else UNANSWERED


def check_place(path: Path) -> None:
    """Raise DataError for what belongs to annotated pictures and is not the folder of them."""
    if path.name == TABLE and path.is_file():
        raise DataError(f"{path} is a table of answers: name its folder, {path.parent}.")
    if (path / "annotation.sqlite").is_file() or any(path.glob("made/*/shards/*.parquet")):
        raise DataError(
            f"{path} is a project of advex annotate, not a data set: advex train learns from its answers with "
            f"annotations={path}, and `advex annotate export {path} FOLDER` makes data of them."
        )


def read(path: Path) -> Table:
    """The table in a file. Raises DataError."""
    return parse(read_bytes(path, _LARGEST, "a table of answers"), str(path))


def is_foreign(path: Path) -> bool:
    """Whether a file of our name is a table of another kind: it can be read, and names none of our columns."""
    try:
        check_file(path)
        with path.open("rb") as file:
            text = file.read(2**16).partition(b"\n")[0].decode("utf-8-sig")
        names = [_column(cell) for cell in next(_rows(text), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return any(names) and not {"picture", "answer"} & set(names)


def parse(data: bytes, where: str) -> Table:
    """The table in the bytes of a file. where: its name, for errors. Raises DataError, naming the line."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{where}, line {line}: this line is not UTF-8 text. Save the table as 'CSV UTF-8'.") from None
    rows = _rows(text)
    lines: list[tuple[int, Annotation]] = []
    try:
        names = [_column(cell) for cell in next(rows, [])]
        _check_columns(names, where)
        row: list[str] = names
        for row in rows:
            place = f"{where}, line {rows.line_num}"
            if any(cell.strip() for cell in row):
                lines.append((rows.line_num, _answer(row, names, place)))
            if len(lines) > _MOST:
                raise DataError(f"{place}: a table of answers can have at most {_MOST:,} lines.")
    except csv.Error as error:
        raise DataError(
            f"{where}, line {rows.line_num}: {error}. Is a quotation mark missing, or is the file cut off?"
        ) from None
    if any(row) and len(row) < len(names) and not text.endswith(("\n", "\r")):
        raise DataError(
            f"{where}, line {rows.line_num}: the file is cut off: this line has {len(row)} cells for "
            f"{len(names)} columns and does not end."
        )
    unknown = [name for name in names if name and name not in COLUMNS]
    return Table(lines=tuple(lines), unknown=tuple(unknown))


def judge(table: Table, where: str) -> tuple[Judged, ...]:
    """The pictures of a table, in its order. Raises DataError where lines contradict each other.

    Of several answers of one annotator the last counts; answers without a name are each their own.
    """
    of_picture: dict[str, list[tuple[int, Annotation]]] = {}
    for line, answer in table.lines:
        of_picture.setdefault(answer.picture, []).append((line, answer))
    judged = []
    for lines in of_picture.values():
        about = _agreed(lines, where)
        counted: dict[str, str] = {}
        given = [(line, each) for line, each in lines if each.answer]
        for line, each in given:
            counted[f"annotator {each.annotator}" if each.annotator else f"line {line}"] = each.answer
        judged.append(Judged(about=about, votes=Counter(counted.values()), replaced=len(given) - len(counted)))
    return tuple(judged)


def as_csv(answers: Sequence[Annotation], where: str) -> str:
    """The text of a table that reads back as these answers. Raises DataError for what would not."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    wanted = [_normal(each) for each in answers]
    for each in wanted:
        values = [getattr(each, name) for name in COLUMNS]
        writer.writerow(["" if value is None else _kept(str(value)) for value in values])
    # The mark at the start tells spreadsheets that this is UTF-8.
    text = "\ufeff" + file.getvalue()
    try:
        written = [answer for _, answer in parse(text.encode("utf-8"), where).lines]
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {error.object[error.start : error.end]!a} cannot be stored as text.") from None
    if len(written) < len(wanted):
        raise DataError(f"{where}: an answer has no picture.")
    for wish, answer in zip(wanted, written, strict=True):
        for name in COLUMNS:
            if getattr(wish, name) != getattr(answer, name):
                raise DataError(
                    f"{where}: the {name} {quoted(str(getattr(wish, name)))} of {quoted(wish.picture)} would "
                    f"be read back as {quoted(str(getattr(answer, name)))}. Remove spaces at its ends."
                )
    return text


# -- lines and cells -----------------------------------------------------------------------------------------


def _rows(text: str) -> Any:
    """A `csv.reader`. Spreadsheets separate cells by what the country's numbers leave free."""
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)


def _column(cell: str) -> str:
    return "_".join(cell.lower().split())


def _check_columns(names: Sequence[str], where: str) -> None:
    for name in COLUMNS:
        if names.count(name) > 1:
            raise DataError(f"{where}: two columns are called '{name}'.")
    for name in _REQUIRED:
        if name not in names:
            given = [quoted(each)[1:-1] for each in names if each][:20]
            near = did_you_mean(name, given) if given else "it is empty."
            needed = ", ".join(_REQUIRED)
            raise DataError(f"{where}: the first line must name the columns {needed}; '{name}' is missing: {near}")


def _answer(row: Sequence[str], names: Sequence[str], place: str) -> Annotation:
    """One line, checked."""
    cells: dict[str, str] = {}
    for column, cell in enumerate(row):
        cell = cell.strip()
        name = names[column] if column < len(names) else ""
        if name == "" and cell:
            raise DataError(
                f"{place}: there are more cells than columns. Quote cells that contain the separator, such as a comma."
            )
        if name not in COLUMNS:
            continue
        if len(cell) > _LONGEST or _CONTROL.search(cell):
            cause = f"is longer than {_LONGEST} characters" if len(cell) > _LONGEST else "contains control characters"
            raise DataError(f"{place}: the {name} {quoted(cell)} {cause}.")
        cells[name] = cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
    picture, answer = cells.get("picture", ""), cells.get("answer", "").lower()
    _check_picture(picture, place)
    if answer and answer not in ANSWERS:
        raise DataError(f"{place}: there is no answer {quoted(answer)}: {did_you_mean(answer, ANSWERS)}")
    texts = {name: cells.get(name, "") for name in COLUMNS if name != "rmse"}
    texts |= {"answer": answer, "label": _nfc(texts["label"]), "target": _nfc(texts["target"])}
    return Annotation(**texts, rmse=_rmse(cells.get("rmse", ""), place))


def _check_picture(name: str, place: str) -> None:
    if not name:
        raise DataError(f"{place}: the picture is missing.")
    if "\\" in name or PureWindowsPath(name).drive or {"", ".", ".."} & set(name.split("/")):
        raise DataError(
            f"{place}: the picture {quoted(name)} must be given as a path relative to the folder of the "
            "table, with / between folders and without '..'."
        )
    if not name.lower().endswith(".png"):
        raise DataError(f"{place}: the picture {quoted(name)} is not a .png file; other formats may not be lossless.")


def _rmse(cell: str, place: str) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell.replace(",", ".", 1))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # also true for NaN
        raise DataError(f"{place}: the rmse {quoted(cell)} is not a number in [0, 1].")
    return value


def _agreed(lines: Sequence[tuple[int, Annotation]], where: str) -> Annotation:
    """What the lines of one picture say of it. A line may leave out what another says."""
    agreed: dict[str, Any] = {}
    picture = quoted(lines[0][1].picture)
    for name in COLUMNS:
        said = [(line, value) for line, each in lines if (value := getattr(each, name)) not in ("", None)]
        if name in _OF_THE_ANSWER or not said:
            continue
        (at, first), *more = said
        for line, value in more:
            if value != first:
                raise DataError(
                    f"{where}: lines {at} and {line} give {picture} two different values of '{name}': "
                    f"{quoted(str(first))} and {quoted(str(value))}."
                )
        agreed[name] = first
    if "label" not in agreed:
        raise DataError(f"{where}, line {lines[0][0]}: {picture} has no label.")
    return Annotation(**agreed)


def _normal(answer: Annotation) -> Annotation:
    rmse = None if answer.rmse is None else float(answer.rmse)
    return dataclasses.replace(answer, label=_nfc(answer.label), target=_nfc(answer.target), rmse=rmse)


def _kept(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text


def _nfc(text: str) -> str:
    # One spelling of accents, as for the names of class folders.
    return unicodedata.normalize("NFC", text)
