"""Projects of `advex annotate` as annotated folders, as docs/annotated.md describes them, and back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import normalize

from advex import data
from advex.annotation import PICTURES, UNDONE
from advex.data import Annotation
from advex.data.annotated.answers import judge, read
from advex.data.images.png import decode_png
from advex.errors import ArtifactError, DataError
from advex.files import atomic, read_bytes
from advex.ownership import owned

if TYPE_CHECKING:
    from advex.annotation.exchange import Row
    from advex.annotation.store import Store

_LARGEST = 2**26  # bytes of a picture
_NAME = 16  # hexadecimal digits of a picture's SHA-256 that are its name in a folder


def write_folder(store: Store, folder: Path, *, overwrite: bool = False) -> int:
    """Write the standing answers, with the pictures, as an annotated folder. Returns how many there were."""
    from advex.annotation.exchange import rows_of

    standing: dict[tuple[str, ...], Row] = {}
    for row in rows_of(store):  # of each person's rows on an image the last comes last
        standing[(*row.image, row.annotator or "")] = row
    given = [row for row in standing.values() if row.answer != "undone"]
    pictures = {_name(row): _bytes(store, row.picture) for row in standing.values()}
    answers = [
        Annotation(
            picture=_name(row), label=row.label, answer=row.answer or "", annotator=row.annotator or "",
            source=row.source, source_id=row.source_id, model=row.model, search=row.search, target=row.target,
            rmse=row.rmse, time=row.time or "",
        )
        for row in given
    ]  # fmt: skip
    with owned(folder):
        data.write_annotated(folder, pictures, answers, overwrite=overwrite)
    return sum(bool(answer.answer) for answer in answers)


def _name(row: Row) -> str:
    return f"{row.picture[:_NAME]}.png"


def _bytes(store: Store, name: str) -> bytes:
    path = store.folder / PICTURES / f"{name}.png"
    encoded = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(encoded).hexdigest() != name:
        raise ArtifactError(f"{path} is missing or was changed: its answers are about another picture.")
    return encoded


def read_folder(store: Store, folder: Path) -> list[Row]:
    """The rows of an annotated folder; its pictures are copied into the project. Raises DataError."""
    from advex.annotation.exchange import as_number, as_text, checked

    table = folder / data.TABLE
    lines = read(table).lines
    judged = {each.about.picture: each.about for each in judge(read(table), str(table))}
    digests = {name: _copy(store, folder / name) for name in judged}
    rounds: dict[tuple[str, str], int] = {}
    rows = []
    for number, answer in lines:
        where, about = f"{table}, line {number}", judged[answer.picture]
        image = {
            "picture": digests[answer.picture], "original": None, "label": about.label, "source": about.source,
            "source_id": about.source_id or answer.picture, "model": about.model, "search": about.search,
            "target": about.target, "rmse": about.rmse, "confidences": None,
        }  # fmt: skip
        row = checked(image, where)
        if not answer.answer:
            rows.append(row)
            continue
        who = answer.annotator or f"unnamed {number}"
        try:
            time = as_text(as_number(answer.time or as_text(0)))
        except (ValueError, OverflowError):
            raise DataError(f"{where}: the time '{answer.time}' must have the form 2026-11-20.") from None
        person = (answer.picture, normalize("NFC", who))
        last = rounds[person] = rounds.get(person, -1) + 2
        digest = hashlib.sha256(f"{row.image}|{who}".encode()).hexdigest()[:32]
        # Who answers again takes back what was said before.
        for turn, word in [(last - 1, UNDONE), (last, answer.answer)][last == 1 :]:
            said = {"annotator": who, "answer": word, "round": turn, "time": time, "client": f"{digest}-{turn}"}
            rows.append(checked({**image, **said}, where))
    return rows


def _copy(store: Store, path: Path) -> str:
    try:
        encoded = read_bytes(path, _LARGEST, "a picture")
        decode_png(encoded)
    except (OSError, DataError) as error:
        raise DataError(f"{path} cannot be imported: {error}.") from None
    digest = hashlib.sha256(encoded).hexdigest()
    with atomic(store.folder / PICTURES / f"{digest}.png") as temporary:
        temporary.write_bytes(encoded)
    return digest
