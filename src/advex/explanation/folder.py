"""The folder of `advex explain`: the files of every input, `explanations.json` about them, and contact sheets.

What is finished is kept in `unfinished.jsonl` until all is: a run that was stopped or killed goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from advex import progress
from advex._version import __version__
from advex.artifacts import weights_hash
from advex.classifier import Classifier
from advex.data.images.png import decode_png, encode_png
from advex.documents import parse_json
from advex.drawing.contact_sheet import SIDE, Cell, Legend, Row, draw
from advex.environment import without_places
from advex.errors import AdvexError, AdvexWarning, ArtifactError, InputError
from advex.explanation.subjects import Failure, Subject, class_name, file_names
from advex.files import atomic, read_bytes, write_text, writing
from advex.lookup.models import Opened
from advex.ownership import owned
from advex.progress import QUIET, Terminal

FIGURES, UNFINISHED = "explanations.json", "unfinished.jsonl"
_LARGEST = 2**28  # bytes of what is unfinished
_ACROSS = 8  # cells of a contact sheet side by side, next to the input
_PAIRS = 4  # where each row is one cell
_LINES = 24  # of cells, per sheet


class Request(Protocol):
    """What is asked about every input: see `PictureRequest`, `MapRequest` and `RowRequest`. Its repr says all of it."""

    @property
    def side(self) -> int:
        """Pixels of a cell of the contact sheet, about."""
        ...

    @property
    def legend(self) -> Legend:
        """The colours of the contact sheet, and what they mean."""
        ...

    def about(self) -> dict[str, Any]:
        """What decides the answers, but for the targets, as `explanations.json` holds it."""
        ...

    def answer(
        self, classifier: Classifier, subject: Subject, confidences: Tensor, folder: Path, prefix: str
    ) -> dict[str, Any]:
        """Explain one input and write its files. Raises AdvexError for what cannot be explained."""
        ...

    def sheet_rows(self, answer: dict[str, Any], folder: Path) -> list[Row]:
        """The contact sheet's rows of one answer, drawn from its files."""
        ...


class Journal:
    """The answers that are finished, a line each, under the digest of all that decides them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / UNFINISHED
        self.answers: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            held = read_bytes(self.path, _LARGEST, "a list of answers", ArtifactError).decode("utf-8", "replace")
            for line in held.splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that was cut off
                    entry = parse_json(line, UNFINISHED)
                    self.answers[entry["key"]] = dict(entry["answer"])
        self._write()

    def _write(self) -> None:
        lines = [json.dumps({"key": key, "answer": answer}) for key, answer in self.answers.items()]
        write_text(self.path, "".join(f"{line}\n" for line in lines))

    def keep(self, key: str, answer: dict[str, Any]) -> None:
        """Add an answer whose files are written. Raises ValueError for numbers that strict JSON does not have."""
        self.answers[key] = answer
        line = json.dumps({"key": key, "answer": answer}, allow_nan=False) + "\n"
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def answered(self, key: str, folder: Path) -> dict[str, Any] | None:
        """An answer that is finished and whose files are all in the folder."""
        answer = self.answers.get(key)
        return answer if answer is not None and all((folder / name).is_file() for name in _names(answer)) else None


def _names(answer: Any) -> Iterator[str]:
    """The files that an answer names."""
    if isinstance(answer, dict):
        for key, value in answer.items():
            if key in ("picture", "difference", "overlay", "values") and isinstance(value, str):
                yield value
            else:
                yield from _names(value)
    elif isinstance(answer, list):
        for value in answer:
            yield from _names(value)


@contextlib.contextmanager
def unfinished(folder: Path) -> Iterator[Journal]:
    """The journal of a folder, which ends with the block; kept where the block fails and anything is finished."""
    with owned(folder):
        journal = Journal(folder)
        try:
            yield journal
        except BaseException:
            if not journal.answers:
                journal.path.unlink(missing_ok=True)
            raise
        journal.path.unlink(missing_ok=True)


def explain_into(
    folder: Path,
    model: Opened,
    subjects: Sequence[Subject | Failure],
    request: Request,
    say: Terminal = QUIET,
    journal: Journal | None = None,
    *,
    figures: str = FIGURES,
) -> dict[str, Any]:
    """Explain every input; write its files, contact sheets and `explanations.json`. Returns what that file holds.

    An input that cannot be explained does not lose the others: it is named in `failed` and in a warning. journal: of
    a run over several models; without one the folder has its own. figures: another name of the JSON file. Raises the
    first input's AdvexError where none can be explained, Interrupted when stopped: the same call goes on from there.
    """
    if journal is None:
        with unfinished(folder) as journal:
            return explain_into(folder, model, subjects, request, say, journal, figures=figures)
    classifier = model.classifier
    identity = json.dumps([__version__, weights_hash(classifier), classifier.class_names, repr(request)])
    answers: list[dict[str, Any]] = []
    unread = [subject for subject in subjects if isinstance(subject, Failure)]
    if unread and len(unread) == len(subjects):
        raise unread[0].error
    _warn_of(unread)  # before the work
    failures: list[Failure] = []
    prefixes = file_names([subject.name for subject in subjects])
    pairs = zip(subjects, prefixes, strict=True)
    named = [(subject, prefix) for subject, prefix in pairs if isinstance(subject, Subject)]
    with progress.stopping() as stop, say.progress(f"explain with {model.name}") as bar:
        for number, (subject, prefix) in enumerate(named):
            try:
                with progress.until(stop, f"Stopped after {number} of {len(named)} inputs; their results are kept."):
                    answers.append(_answer(folder, classifier, subject, request, prefix, identity, journal))
            except ArtifactError:
                raise  # what cannot be written of one input cannot be written of the others
            except AdvexError as error:
                failures.append(Failure(name=subject.name, error=error))
            bar(number + 1, len(named))
    if failures and not answers:
        raise failures[0].error
    _warn_of(failures)
    return _write(folder, model, request, answers, [*unread, *failures], figures)


def _warn_of(failures: Sequence[Failure]) -> None:
    for failure in failures:
        warnings.warn(f"{failure.error} ({failure.name} is left out.)", AdvexWarning, stacklevel=3)


def _answer(
    folder: Path,
    classifier: Classifier,
    subject: Subject,
    request: Request,
    prefix: str,
    identity: str,
    journal: Journal,
) -> dict[str, Any]:
    """One input's answer: from the journal where it is finished, else made and kept there."""
    digest = hashlib.sha256(f"{identity}|{prefix}|{subject.name}|{subject.label}|{subject.y}|{subject.note}".encode())
    digest.update(f"{subject.x.dtype} {tuple(subject.x.shape)}".encode() + subject.x.cpu().numpy().tobytes())
    answer = journal.answered(digest.hexdigest(), folder)
    if answer is not None:
        return answer
    confidences = classifier.predict(subject.x.to(classifier.device, classifier.dtype)[None])[0]
    if not confidences.isfinite().all():
        raise InputError(f"The model returns NaN or infinity for {subject.name}.")
    answer = {
        "name": subject.name,
        "label": subject.label,
        "note": subject.note,
        "says": class_name(classifier, int(confidences.argmax())),
        "confidences": confidences.tolist(),
        **request.answer(classifier, subject, confidences, folder, prefix),
    }
    journal.keep(digest.hexdigest(), answer)
    return answer


def _write(
    folder: Path,
    model: Opened,
    request: Request,
    answers: Sequence[dict[str, Any]],
    failures: Sequence[Failure],
    figures: str,
) -> dict[str, Any]:
    names = model.classifier.class_names
    failed = [{"name": failure.name, "reason": str(failure.error)} for failure in failures]
    rows = [row for answer in answers for row in request.sheet_rows(answer, folder)]
    result = {
        "advex": __version__,
        "command": without_places(progress.command_line()),
        "model": model.name,
        "source": without_places(model.source),
        "class_names": None if names is None else list(names),
        **request.about(),
        "inputs": list(answers),
        **({"failed": failed} if failed else {}),
        "sheets": [path.name for path in write_sheets(rows, folder, request.side, model.name, request.legend)],
    }
    write_text(folder / figures, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def write_sheets(
    rows: Sequence[Row], folder: Path, side: int = SIDE, title: str = "", legend: Legend = ()
) -> list[Path]:
    """Write contact sheets, `sheet.png` and `sheet-2.png`, ... where there are many rows; returns the files.

    side, title, legend: see `contact_sheet.draw`. rows: the first cell is the input. More cells than go side by side
    continue on the next line, below its own. Rows that all have but one cell stand side by side.
    """
    lines = []
    if all(len(row.cells) == 1 for row in rows):
        cells = [cell for row in rows for cell in row.cells]
        paired = [Row(tuple(cells[start : start + _PAIRS])) for start in range(0, len(cells), _PAIRS)]
        return _sheets(paired, folder, side, title, legend)
    for row in rows:
        first, *cells = row.cells
        blank = Cell(tuple(encode_png(decode_png(png) * 0 + 255) for png in first.pictures))
        for start in range(0, len(cells), _ACROSS):
            lines.append(Row((blank if start else first, *cells[start : start + _ACROSS])))
    return _sheets(lines, folder, side, title, legend)


def _sheets(lines: Sequence[Row], folder: Path, side: int, title: str, legend: Legend) -> list[Path]:
    paths = []
    for start in range(0, len(lines), _LINES):
        path = folder / ("sheet.png" if start == 0 else f"sheet-{start // _LINES + 1}.png")
        with atomic(path) as temporary:
            draw(lines[start : start + _LINES], side, title, legend).save(temporary, "PNG")
        paths.append(path)
    return paths
