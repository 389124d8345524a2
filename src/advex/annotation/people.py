"""Who may come in: personal links and sessions. Tokens are random, 128 bits, and kept as their hash alone."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from advex.annotation.database import Database
from advex.annotation.models import Person, Secret
from advex.annotation.store import now
from advex.errors import SpecError

SESSION_DAYS = 30
_DAY = 86_400_000


@dataclass(frozen=True, kw_only=True)
class Guest:
    """Somebody who came in. key: tells the answers that wait in a shared browser apart."""

    id: int
    key: str
    name: str
    owner: bool


def invite(database: Database, name: str, *, owner: bool = False) -> str:
    """A new personal link's token, shown once. Earlier links of the person, and sessions by them, end.

    Raises SpecError for a name that cannot be one, or belongs to another role.
    """
    name, role = " ".join(name.split()), "owner" if owner else "annotator"
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise SpecError("A name has 1 to 200 printable characters.")
    with database.write() as session:
        person = session.scalars(select(Person).where(Person.name == name)).first()
        if person is None:
            person = Person(key=secrets.token_hex(8), name=name, role=role, created=now())
            session.add(person)
            session.flush()
        elif person.role != role:
            raise SpecError(f"'{name}' is the {person.role} of this project; choose another name.")
        _end(session, person.id)
        return _issue(session, person.id, "link", None)


def revoke(database: Database, name: str) -> None:
    """End a person's link and sessions; what they answered stays. Raises SpecError for an unknown name."""
    with database.write() as session:
        person = session.scalars(select(Person).where(Person.name == name)).first()
        if person is None:
            raise SpecError(f"There is nobody called '{name}' in this project.")
        _end(session, person.id)


def people(database: Database) -> list[Guest]:
    """Everybody, in the order in which they came."""
    with database.read() as session:
        return [_guest(person) for person in session.scalars(select(Person).order_by(Person.id))]


def enter(database: Database, token: str) -> tuple[Guest, str] | None:
    """Exchange a link's token for a new session's. None for a token that is unknown or revoked."""
    with database.write() as session:
        person = _owner_of(session, token, "link")
        if person is None:
            return None
        return _guest(person), _issue(session, person.id, "session", now() + SESSION_DAYS * _DAY)


def who(database: Database, token: str) -> Guest | None:
    """Whose session this is; None if nobody's, or over."""
    with database.read() as session:
        person = _owner_of(session, token, "session")
        return None if person is None else _guest(person)


def leave(database: Database, token: str) -> None:
    """End a session."""
    with database.write() as session:
        session.execute(update(Secret).where(Secret.hash == _hash(token)).values(revoked=now()))


def _owner_of(session: Session, token: str, kind: str) -> Person | None:
    # Found by its hash: how long that takes tells nothing of the token.
    usable = (Secret.revoked.is_(None), (Secret.expires.is_(None)) | (Secret.expires > now()))
    owners = select(Person).join(Secret).where(Secret.hash == _hash(token), Secret.kind == kind, *usable)
    return session.scalars(owners).first()


def _issue(session: Session, person: int, kind: str, expires: int | None) -> str:
    token = secrets.token_urlsafe(16)
    session.add(Secret(hash=_hash(token), person=person, kind=kind, created=now(), expires=expires))
    return token


def _end(session: Session, person: int) -> None:
    session.execute(update(Secret).where(Secret.person == person, Secret.revoked.is_(None)).values(revoked=now()))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _guest(person: Person) -> Guest:
    return Guest(id=person.id, key=person.key, name=person.name, owner=person.role == "owner")
