"""The tables. Answers are only ever added; an answer that an `undone` row follows does not count."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, MetaData, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import JSON, Float, Integer, String

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
# Times are milliseconds since 1970 in UTC: the same number in every database.
_TIME = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """The base of all tables. Constraints have names, so that migrations can refer to them."""

    metadata = MetaData(naming_convention=_NAMES)


class Project(Base):
    """The settings of the project, one row: a database holds one project.

    key: random; tells the cookies and browser stores of projects on one host apart. votes: people per image. seed: of
    everybody's order. alone: the changed picture comes first, the original on demand. about: how the images were made.
    """

    __tablename__ = "project"
    __table_args__ = (CheckConstraint("id = 1", name="single"), CheckConstraint("votes >= 1", name="votes"))
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(200))
    votes: Mapped[int]
    seed: Mapped[int] = mapped_column(_TIME)
    alone: Mapped[bool]
    about: Mapped[dict[str, Any]] = mapped_column(JSON)
    created: Mapped[int] = mapped_column(_TIME)


class Image(Base):
    """A changed picture beside its original.

    key: random; the only name by which browsers know it. label: the class of the example that it was made from.
    original, changed: SHA-256 of the PNG files, which are their names. confidences: what the model says of the changed
    picture, by class; never sent to an annotator.
    """

    __tablename__ = "images"
    __table_args__ = (UniqueConstraint("model", "source", "source_id", "changed"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(32), unique=True)
    label: Mapped[str] = mapped_column(String(1000))
    original: Mapped[str | None] = mapped_column(String(64))
    changed: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(1000))
    source_id: Mapped[str] = mapped_column(String(1000))
    model: Mapped[str] = mapped_column(String(1000))
    search: Mapped[str] = mapped_column(String(1000))
    target: Mapped[str] = mapped_column(String(1000))
    rmse: Mapped[float | None] = mapped_column(Float(53))
    confidences: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))


class Person(Base):
    """Somebody who has, or had, a personal link. role: `annotator` or `owner`."""

    __tablename__ = "people"
    __table_args__ = (CheckConstraint("role in ('annotator', 'owner')", name="role"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(32), unique=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    created: Mapped[int] = mapped_column(_TIME)


class Secret(Base):
    """A link or a session: the SHA-256 of its token, never the token. kind: `link` or `session`."""

    __tablename__ = "secrets"
    __table_args__ = (CheckConstraint("kind in ('link', 'session')", name="kind"),)
    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    person: Mapped[int] = mapped_column(ForeignKey("people.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    created: Mapped[int] = mapped_column(_TIME)
    expires: Mapped[int | None] = mapped_column(_TIME)
    revoked: Mapped[int | None] = mapped_column(_TIME)


class Assignment(Base):
    """An image that was handed to a person. Without an answer it lapses some hours after `time`: others may get it."""

    __tablename__ = "assignments"
    __table_args__ = (Index(None, "person"),)
    image: Mapped[int] = mapped_column(ForeignKey("images.id"), primary_key=True)
    person: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
    time: Mapped[int] = mapped_column(_TIME)


class Answer(Base):
    """An answer of a person about an image (odd rounds), or its undo (even rounds). Rows are never altered.

    client: made by the browser, so that a repeated submit is recognised. milliseconds: how long the image was shown.
    """

    __tablename__ = "answers"
    __table_args__ = (
        UniqueConstraint("image", "person", "round"),
        ForeignKeyConstraint(["image", "person"], ["assignments.image", "assignments.person"]),
        CheckConstraint("round >= 1", name="round"),
        CheckConstraint("answer in ('unchanged', 'unsure', 'changed', 'undone')", name="answer"),
        CheckConstraint("(answer = 'undone') = (round % 2 = 0)", name="in_turn"),
        Index(None, "person"),
    )
    id: Mapped[int] = mapped_column(_TIME, primary_key=True)
    client: Mapped[str] = mapped_column(String(64), unique=True)
    image: Mapped[int]
    person: Mapped[int]
    round: Mapped[int]
    answer: Mapped[str] = mapped_column(String(16))
    time: Mapped[int] = mapped_column(_TIME)
    milliseconds: Mapped[int | None]
