"""People, their personal links and their sessions. Tokens have 128 random bits; only their SHA-256 is kept."""

from __future__ import annotations

import hashlib
import re
import secrets
from unicodedata import normalize

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from advex.annotation import SESSION_DAYS
from advex.annotation.database import Database
from advex.annotation.models import Person, Secret
from advex.annotation.store import now
from advex.annotation.web import Guest as Guest
from advex.errors import SpecError, quoted
from advex.registry import numbered

OWNER = "owner"  # a role, and the name of whoever has it
_DAY = 86_400_000
# Characters that are invisible alone: zero-width joiners, and the tags that make a flag of a black one.
_JOINED = re.compile("(?<=[^\x00-\x7f\u200c\u200d])[\u200c\u200d]|(?<=\U0001f3f4)[\U000e0020-\U000e007e]+\U000e007f")


def person_name(text: str) -> str:
    """The name as it is kept, with composed characters and single spaces. Raises SpecError for an impossible name.

    Joiners are letters where scripts and emoji have them: after a character that is not of ASCII, where they show.
    """
    name = normalize("NFC", " ".join(text.split()))
    if not 1 <= len(name) <= 200 or not _JOINED.sub("", name).isprintable():
        raise SpecError("A name must have 1 to 200 printable characters.")
    return name


def annotator(session: Session, name: str) -> Person:
    """The annotator of this name, added if the project has none. Links and imported answers both come through here.

    Raises SpecError for a name that cannot be one, or is the owner's.
    """
    name = person_name(name)
    person = _named(session, name)
    if person is None and name != OWNER:
        person = Person(key=secrets.token_hex(8), name=name, role="annotator", created=now())
        session.add(person)
        session.flush()
    elif person is None or person.role != "annotator":
        raise SpecError(f"{quoted(name)} is the name of a project's owner; choose another.")
    return person


def invite(database: Database, name: str) -> str:
    """A new personal link's token for an annotator, shown once. Earlier links, and sessions by them, end.

    Raises SpecError as `annotator`.
    """
    with database.write() as session:
        person = annotator(session, name)
        _end(session, person.id)
        return _issue(session, person.id, "link", None)


def invite_owner(database: Database, *, renew: bool = False) -> str:
    """A new personal link's token for the owner, shown once. renew: earlier links, and sessions by them, end."""
    with database.write() as session:
        everybody = list(session.scalars(select(Person)))
        owners = [person for person in everybody if person.role == OWNER]
        if not owners:
            name = numbered([*(person.name for person in everybody), OWNER])[-1]  # an old import may have taken it
            owners = [Person(key=secrets.token_hex(8), name=name, role=OWNER, created=now())]
            session.add(owners[0])
            session.flush()
        if renew:
            _end(session, owners[0].id)
        return _issue(session, owners[0].id, "link", None)


def revoke(database: Database, name: str) -> None:
    """End a person's link and sessions; what they answered stays. Raises SpecError for an unknown name."""
    with database.write() as session:
        person = _named(session, person_name(name))
        if person is None:
            raise SpecError(f"There is nobody called {quoted(name)} in this project.")
        _end(session, person.id)


def _named(session: Session, name: str) -> Person | None:
    """The person of this name, which is composed; names that an older version kept may not be."""
    return next((each for each in session.scalars(select(Person)) if normalize("NFC", each.name) == name), None)


def people(database: Database) -> list[Guest]:
    """All people, in the order in which they were added."""
    with database.read() as session:
        return [_guest(person) for person in session.scalars(select(Person).order_by(Person.id))]


def enter(database: Database, token: str) -> tuple[Guest, str] | None:
    """The person of a link's token, and the token of a new session; None for a token that is unknown or revoked."""
    with database.write() as session:
        person = _owner_of(session, token, "link")
        if person is None:
            return None
        return _guest(person), _issue(session, person.id, "session", now() + SESSION_DAYS * _DAY)


def who(database: Database, token: str) -> Guest | None:
    """The person whose session it is; None for a token that is unknown, revoked or expired."""
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
    return Guest(id=person.id, key=person.key, name=person.name, owner=person.role == OWNER)
