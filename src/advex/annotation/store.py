"""The store of a project: images, who is asked about which, and answers, as docs/annotate.md promises."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from advex.annotation import ANSWERS, FILE, PICTURES, UNDONE
from advex.annotation.database import Database
from advex.annotation.forms import AssignedImage, LastAnswer, Progress
from advex.annotation.models import Answer, Assignment, Image, Person, Project
from advex.errors import ArtifactError

HOURS = 12.0
_CHUNK = 250  # images whose free places are looked up at once


class Refused(ArtifactError):
    """An answer that cannot be kept. kind: about something `unknown`, or in `conflict` with another answer."""

    def __init__(self, kind: Literal["unknown", "conflict"], sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class NewImage:
    """An image to ask about: see `models.Image`."""

    label: str
    changed: str
    original: str | None = None
    source: str = ""
    source_id: str = ""
    model: str = ""
    search: str = ""
    target: str = ""
    rmse: float | None = None
    confidences: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A standing answer. image: the number of its image."""

    image: int
    label: str
    person: str
    answer: str
    time: int


def now() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


class Store:
    """One project: its images and answers, in a database beside a folder of pictures.

    folder: the project's; its pictures are `pictures/SHA256.png`. database: a URL; a file in the folder if left
    away. hours: how long an image that was handed out waits for its answer before another may get it.
    """

    def __init__(self, folder: Path, database: str | None = None, *, hours: float = HOURS) -> None:
        self.folder = folder
        self.database = Database(database or folder / FILE)
        self._lapse = round(hours * 3_600_000)
        self._orders: dict[int, dict[int, int]] = {}

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    # -- the project ------------------------------------------------------------------------------------------

    def create_project(self, name: str, *, votes: int, seed: int, alone: bool, about: dict[str, Any]) -> Project:
        """Create the project, or return the existing one unchanged."""
        with self.database.write() as session:
            if session.get(Project, 1) is None:
                made = Project(id=1, key=secrets.token_hex(8), name=name, votes=votes, seed=seed, alone=alone)
                made.about, made.created = about, now()
                session.add(made)
        return self.project()

    def project(self) -> Project:
        """The project's settings. Raises ArtifactError if none was created."""
        with self.database.read() as session:
            project = session.get(Project, 1)
            if project is None:
                raise ArtifactError(f"{self.database.place} contains no project: run advex annotate prepare first.")
            session.expunge(project)
            return project

    def add_images(self, images: Sequence[NewImage]) -> int:
        """Add the images that are new. Returns how many those are."""
        with self.database.write() as session:
            return add_images(session, images)

    def images(self) -> list[Image]:
        """All images, in the order in which they were added."""
        with self.database.read() as session:
            images = list(session.scalars(select(Image).order_by(Image.id)))
            session.expunge_all()
            return images

    # -- asking -----------------------------------------------------------------------------------------------

    def next(self, person: int, count: int) -> list[AssignedImage]:
        """The next images of a person, in their own order: those handed out before, then new ones.

        An image has as many places as the project wants votes. A place is taken by an answer, or for some
        hours by being handed out.
        """
        with self.database.write() as session:  # durable: answers to what a crash forgot would be refused
            # One at a time: places are counted, then taken. (SQLite lets only one write at all.)
            project = session.scalars(select(Project).with_for_update()).one()
            order = self._order(session, project.seed, person)
            waiting = _assigned(session, person, ~_answered())
            waiting = sorted(waiting, key=lambda each: order[each.image])[:count]
            for each in waiting:
                if each.time < now() - self._lapse // 4:
                    each.time = now()
            chosen = [each.image for each in waiting]
            for image in self._free(session, project.votes, person, order, count - len(chosen)):
                session.add(Assignment(image=image, person=person, time=now()))
                chosen.append(image)
            images = {each.id: each for each in session.scalars(select(Image).where(Image.id.in_(chosen)))}
            return [AssignedImage(key=images[image].key, label=images[image].label) for image in chosen]

    def _order(self, session: Session, seed: int, person: int) -> dict[int, int]:
        """The place of each image in this person's order, which depends on the seed, the person and the image alone."""
        total = session.scalar(select(func.count()).select_from(Image)) or 0
        if person not in self._orders or len(self._orders[person]) != total:
            numbers = session.scalars(select(Image.id))
            ranked = sorted(numbers, key=lambda image: hashlib.sha256(f"{seed}|{person}|{image}".encode()).digest())
            self._orders[person] = {image: place for place, image in enumerate(ranked)}
        return self._orders[person]

    def _free(self, session: Session, votes: int, person: int, order: Iterable[int], wanted: int) -> Iterator[int]:
        mine = set(session.scalars(select(Assignment.image).where(Assignment.person == person)))
        candidates = [image for image in order if image not in mine] if wanted > 0 else []
        for start in range(0, len(candidates), _CHUNK):
            chunk = candidates[start : start + _CHUNK]
            full = set(session.scalars(_full(votes, now() - self._lapse).where(Assignment.image.in_(chunk))))
            for image in chunk:
                if image not in full:
                    yield image
                    wanted -= 1
                    if wanted == 0:
                        return

    def progress(self, person: int) -> Progress:
        """How far a person is."""
        with self.database.read() as session:
            votes = session.scalars(select(Project.votes)).one()
            total = session.scalar(select(func.count()).select_from(Image)) or 0
            answered = session.scalar(
                select(func.count()).select_from(_standing().where(Answer.person == person).subquery())
            )
            mine = select(Assignment.image).where(Assignment.person == person)
            others = _full(votes, now() - self._lapse).where(Assignment.image.not_in(mine)).subquery()
            full = session.scalar(select(func.count()).select_from(others)) or 0
            row = session.execute(
                _standing(Answer.client, Image.key, Image.label)
                .join(Image, Image.id == Answer.image)
                .where(Answer.person == person)
                .order_by(Answer.id.desc())
                .limit(1)
            ).first()
            last = None
            if row is not None:
                last = LastAnswer(client=row.client, image=AssignedImage(key=row.key, label=row.label))
            return Progress(answered=answered or 0, left=total - (answered or 0) - full, last=last)

    def picture(self, person: int, key: str, which: Literal["original", "changed"]) -> Path:
        """The file of a picture that was handed to a person. Raises Refused."""
        with self.database.read() as session:
            owner = exists().where(Person.id == person, Person.role == "owner")
            assigned = exists().where(Assignment.image == Image.id, Assignment.person == person)
            image = session.scalars(select(Image).where(Image.key == key, owner | assigned)).first()
            name = None if image is None else getattr(image, which)
        if name is None:
            raise Refused("unknown", "There is no such picture.")
        return self.folder / PICTURES / f"{name}.png"

    # -- answers ----------------------------------------------------------------------------------------------

    def answer(self, person: int, *, client: str, image: str, answer: str, milliseconds: int | None = None) -> None:
        """Keep an answer; it is committed when this returns. Repeating it changes nothing. Raises Refused."""
        if answer not in ANSWERS:
            raise Refused("unknown", f"There is no answer '{answer}'.")
        with self.database.read() as session:
            number = session.scalar(
                select(Image.id).join(Assignment).where(Image.key == image, Assignment.person == person)
            )
        if number is None:
            raise Refused("unknown", "There is no such image.")
        self._keep(Answer(client=client, image=number, person=person, answer=answer, milliseconds=milliseconds))

    def undo(self, person: int, *, client: str, undoes: str) -> None:
        """Undo an answer of the same person by adding a row. Repeating it changes nothing. Raises Refused."""
        with self.database.read() as session:
            given = session.scalars(select(Answer).where(Answer.client == undoes, Answer.person == person)).first()
            if given is None or given.answer == UNDONE:
                raise Refused("unknown", "There is no such answer to undo.")
            image, of = given.image, given.round
        self._keep(Answer(client=client, image=image, person=person, answer=UNDONE), after=of)

    def _keep(self, row: Answer, after: int | None = None) -> None:
        """Add a row as the next round. after: the round that it must follow."""
        client, image, person, answer = row.client, row.image, row.person, row.answer
        try:
            with self.database.write() as session:
                mine = (Answer.image == image, Answer.person == person)
                last = session.scalar(select(func.max(Answer.round)).where(*mine)) or 0
                # Asked after it: what PostgreSQL shows of this very answer's other request, it shows here too.
                if _repeated(session, client, image, person, answer):
                    return
                # Odd rounds are answers: this one must come in turn.
                if (last % 2 == 0) == (answer == UNDONE) or after not in (None, last):
                    raise Refused(
                        "conflict", "The answer was undone." if answer == UNDONE else "It has already been answered."
                    )
                row.round, row.time = last + 1, now()
                session.add(row)
        except IntegrityError:
            # Another request was quicker: with the same row, or with another answer of this round.
            with self.database.read() as session:
                if not _repeated(session, client, image, person, answer):
                    raise Refused("conflict", "It has already been answered.") from None

    # -- what was said ----------------------------------------------------------------------------------------

    def votes(self) -> list[Vote]:
        """All answers that were not undone, in the order in which they came."""
        with self.database.read() as session:
            rows = session.execute(
                _standing(Answer.image, Image.label, Person.name, Answer.answer, Answer.time)
                .join(Image, Image.id == Answer.image)
                .join(Person, Person.id == Answer.person)
                .order_by(Answer.id)
            )
            return [
                Vote(image=row.image, label=row.label, person=row.name, answer=row.answer, time=row.time)
                for row in rows
            ]

    def state(self) -> tuple[int, int, int]:
        """Numbers that change with every answer, image and person."""
        with self.database.read() as session:
            newest = [session.scalar(select(func.max(table.id))) or 0 for table in (Answer, Image, Person)]
            return newest[0], newest[1], newest[2]


def add_images(session: Session, images: Sequence[NewImage]) -> int:
    """Add the images that are new, as part of a transaction. Returns how many those are."""
    columns = (Image.model, Image.source, Image.source_id, Image.changed)
    known = {tuple(row) for row in session.execute(select(*columns))}
    new = {(each.model, each.source, each.source_id, each.changed): each for each in images}
    added = [each for identity, each in new.items() if identity not in known]
    session.add_all(Image(key=secrets.token_hex(16), **vars(each)) for each in added)
    session.flush()
    return len(added)


def _repeated(session: Session, client: str, image: int, person: int, answer: str) -> bool:
    """Whether the same row was kept before. Raises Refused if another row has its client id."""
    kept = session.execute(select(Answer.image, Answer.person, Answer.answer).where(Answer.client == client)).first()
    if kept is not None and tuple(kept) != (image, person, answer):
        raise Refused("conflict", "This client id belongs to another answer.")
    return kept is not None


def _standing(*columns: Any) -> Any:
    """Select answers that were not undone."""
    later = aliased(Answer)
    undone = exists().where(later.image == Answer.image, later.person == Answer.person, later.round == Answer.round + 1)
    return select(*(columns or (Answer.id,))).select_from(Answer).where(Answer.answer != UNDONE, ~undone)


def _answered() -> ColumnElement[bool]:
    """Whether an assignment has a standing answer."""
    last = select(func.max(Answer.round)).where(Answer.image == Assignment.image, Answer.person == Assignment.person)
    return func.coalesce(last.scalar_subquery(), 0) % 2 == 1


def _assigned(session: Session, person: int, which: ColumnElement[bool]) -> list[Assignment]:
    return list(session.scalars(select(Assignment).where(Assignment.person == person, which)))


def _full(votes: int, lapsed: int) -> Any:
    """Select images without a free place."""
    taken = _answered() | (Assignment.time > lapsed)
    return select(Assignment.image).where(taken).group_by(Assignment.image).having(func.count() >= votes)
