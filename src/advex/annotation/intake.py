"""Taking the rows of a table into a project: images and answers that it does not have yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import DataError as NotTaken
from sqlalchemy.orm import Session

from advex.annotation import PICTURES, UNDONE
from advex.annotation.exchange import COLUMNS, Row, as_number
from advex.annotation.models import Answer, Assignment, Image
from advex.annotation.people import annotator
from advex.annotation.store import NewImage, Store, add_images
from advex.errors import DataError, SpecError, quoted


def take_in(store: Store, rows: Sequence[Row]) -> tuple[int, int]:
    """Add images and answers that the project does not have yet, all of them or none. Returns how many of each.

    Raises DataError for pictures whose files the project lacks, and for answers in conflict with those that it has.
    """
    _check_pictures(store.folder / PICTURES, rows)
    images = {row.image: _new_image(row) for row in rows}
    try:
        with store.database.write() as session:
            return add_images(session, list(images.values())), _add_answers(session, rows)
    except NotTaken as error:
        raise DataError(f"The database rejected these answers: {str(error.orig).splitlines()[0]}.") from None


def _add_answers(session: Session, rows: Sequence[Row]) -> int:
    """Add the answers to images and people that are known; returns how many were new. Raises DataError."""
    images = {
        (each.model, each.source, each.source_id, each.changed): each.id for each in session.scalars(select(Image))
    }
    people = _people(session, {row.annotator for row in rows if row.annotator is not None})
    assigned = {(each.image, each.person) for each in session.scalars(select(Assignment))}
    answers = {each.client: each for each in session.scalars(select(Answer))}
    rounds = {(each.image, each.person, each.round) for each in answers.values()}
    new = []
    for row in sorted((row for row in rows if row.answer), key=lambda row: (row.time or "", row.round or 0)):
        answer = _answer(row, images[row.image], people[row.annotator or ""])
        place = (answer.image, answer.person)
        if (kept := answers.get(answer.client)) is not None:
            if any(getattr(kept, name) != getattr(answer, name) for name in ("image", "person", "round", "answer")):
                raise DataError(f"The answer {answer.client} is already stored with other contents.")
            continue
        if (*place, answer.round) in rounds:
            raise DataError(
                f"'{row.annotator}' has already given another answer to {row.picture[:12]}... in this round."
            )
        if (answer.round % 2 == 0) != (answer.answer == UNDONE):
            raise DataError(
                f"The answer {answer.client} is out of order: answers have odd round numbers, undos even ones."
            )
        if place not in assigned:
            session.add(Assignment(image=answer.image, person=answer.person, time=answer.time))
            assigned.add(place)
        rounds.add((*place, answer.round))
        answers[answer.client] = answer
        new.append(answer)
    session.flush()
    session.add_all(new)
    return len(new)


def _check_pictures(folder: Path, rows: Iterable[Row]) -> None:
    wanted = {name for row in rows for name in (row.picture, row.original) if name}
    missing = sorted(name for name in wanted if not (folder / f"{name}.png").is_file())
    if missing:
        raise DataError(
            f"{folder} is missing {len(missing):,} of the pictures, e.g. {missing[0]}.png: copy them there first."
        )


def _new_image(row: Row) -> NewImage:
    about = {name: getattr(row, name) for name in COLUMNS[1:10]}
    return NewImage(changed=row.picture, **about)


def _people(session: Session, names: Iterable[str]) -> dict[str, int]:
    """The numbers of people by the names in the table; new ones come without a link. Raises DataError."""
    numbers = {}
    for name in sorted(names):
        try:
            numbers[name] = annotator(session, name).id
        except SpecError as error:
            raise DataError(f"The annotator name {quoted(name)} is not valid: {error}") from None
    return numbers


def _answer(row: Row, image: int, person: int) -> Answer:
    assert row.time is not None
    said = {name: getattr(row, name) for name in ("client", "answer", "round", "milliseconds")}
    return Answer(image=image, person=person, time=as_number(row.time), **said)
