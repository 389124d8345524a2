"""Connections, transactions and the schema: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from advex.errors import ArtifactError, SpecError, install_extra

_BUSY = 15_000  # milliseconds that a writer waits for another process
_CONNECTIONS = 20  # kept open; a server's threads share them
_LOCK = 0x61647665  # of PostgreSQL: one process migrates at a time


class Unusable(ArtifactError):
    """The database can be neither read nor written now. Nothing that was acknowledged is lost."""


class Database:
    """An engine whose schema is up to date. Raises SpecError for a URL that means nothing, ArtifactError else.

    A file of SQLite that may not be written is opened for reading. Every transaction raises `Unusable`, with the
    reason, where the database fails: a full disk, a lost connection, a file that was removed or may not be written.
    """

    def __init__(self, url: str | Path) -> None:
        parsed = _url(url)
        self._file = Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None
        self.place = parsed.render_as_string() if self._file is None else str(self._file)  # without a password
        may_write = self._file is None or not self._file.is_file() or _may_write(self._file)
        self.engine = _engine(parsed if self._file is None or may_write else _for_reading(self._file))
        self._inode: int | None = None
        # In one process writers queue here. Those that SQLite turns away sleep, longer each time, and overtake.
        self._turn = threading.Lock() if self.sqlite else contextlib.nullcontext()
        try:
            with self._transaction(write=may_write) as connection:
                _check(connection, self.place)
                _migrate(connection, may_write=may_write)
            self._inode = _inode(self._file)
        except BaseException:
            self.close()
            raise

    @property
    def sqlite(self) -> bool:
        """Whether it is a file of SQLite."""
        return self.engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that sees one state of the database."""
        with self._transaction(write=False) as connection, Session(connection) as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is on the disk when the block has ended, or rolled back where the block raises."""
        with self._transaction(write=True) as connection, Session(connection) as session:
            yield session
            session.flush()

    @contextlib.contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        options: dict[str, Any] = {"advex_write": write}
        if not self.sqlite:
            options["isolation_level"] = "READ COMMITTED" if write else "REPEATABLE READ"
        try:
            with (
                self._turn if write else contextlib.nullcontext(),
                self.engine.connect().execution_options(**options) as connection,
                connection.begin(),
            ):
                yield connection
                # SQLite itself would go on with a file that has no name any more.
                if write and self._inode not in (None, _inode(self._file)):
                    raise Unusable(
                        f"{self.place} was removed or replaced while it was in use. Nothing more is saved there."
                    )
        except (DBAPIError, PoolTimeout) as error:
            if not _is_failure(error):
                raise
            raise Unusable(f"{self.place} cannot be used: {_reason(error)}.") from None

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _url(url: str | Path) -> URL:
    if isinstance(url, Path):
        return URL.create("sqlite", database=str(url))
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SpecError("The database URL is not valid; use the form postgresql://USER@HOST/NAME.") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise SpecError(f"The database '{parsed.get_backend_name()}' is not supported; use sqlite or postgresql.")
    return parsed


def _inode(file: Path | None) -> int | None:
    """The inode of a file; None where there is no such file."""
    return file.stat().st_ino if file is not None and file.is_file() else None


def _may_write(file: Path) -> bool:
    """Whether SQLite may write a file and, beside it, its log."""
    effective = os.access in os.supports_effective_ids
    return all(os.access(path, os.W_OK, effective_ids=effective) for path in (file, file.parent))


def _for_reading(file: Path) -> URL:
    # Without its log a file is whole; SQLite would want to write beside it all the same, unless nothing can change.
    log = file.with_name(f"{file.name}-wal")
    whole = {} if log.exists() and log.stat().st_size else {"immutable": "1"}
    return URL.create("sqlite", database=f"file:{quote(str(file))}", query={"mode": "ro", "uri": "true", **whole})


def _engine(url: URL) -> Engine:
    settings: dict[str, Any] = {"pool_size": _CONNECTIONS, "hide_parameters": True}  # a traceback must tell no token
    if url.get_backend_name() == "postgresql":
        # Commits reach the disk also where a server's settings do not ask for it; nobody waits for ever.
        options = f"-c synchronous_commit=on -c lock_timeout={_BUSY} {url.query.get('options', '')}"
        settings |= {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10, "options": options}}
    try:
        engine = create_engine(url, **settings)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise SpecError(f"PostgreSQL needs a driver: {install_extra('postgres')}") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", functools.partial(_prepare, url.query.get("mode") == "ro"))
        event.listen(engine, "begin", _begin)
    return engine


def _prepare(for_reading: bool, connection: object, record: object) -> None:
    connection.isolation_level = None  # pyright: ignore  (transactions are begun below, not by the driver's guesses)
    # fullfsync: macOS has a disk's own cache written only when asked for by this name.
    durable = ("journal_mode = WAL", "synchronous = FULL", "fullfsync = ON", "foreign_keys = ON")
    for pragma in (f"busy_timeout = {_BUSY}", *(() if for_reading else durable)):
        connection.execute(f"PRAGMA {pragma}").close()  # pyright: ignore


def _begin(connection: Connection) -> None:
    # A reader that becomes a writer half-way would fail where another was quicker: writers say so at once.
    write = connection.get_execution_options().get("advex_write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


_REASONS = {
    "disk is full": "the disk is full",
    "readonly": "it is read-only here; copy the project to a writable folder",
    "unable to open": "it cannot be opened here; copy the project to a writable folder",
    "is locked": "another program has been writing to it for too long",
    "malformed": "the file is damaged; restore the latest copy of it",
    "not a database": "the file is damaged, or is not a database",
}


def _is_failure(error: DBAPIError | PoolTimeout) -> bool:
    """Whether the database failed, rather than a statement."""
    # Of a damaged file SQLite raises the base class itself.
    return isinstance(error, OperationalError | InternalError | PoolTimeout) or type(error) is DatabaseError


def _reason(error: DBAPIError | PoolTimeout) -> str:
    if isinstance(error, PoolTimeout):
        return "all connections are in use"
    lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    known = [reason for part, reason in _REASONS.items() if part in lines[0]]
    return known[0] if known else lines[0].rstrip(".")


# -- the schema ----------------------------------------------------------------------------------------------


def _check(connection: Connection, place: str) -> None:
    """Raise ArtifactError for a damaged file of SQLite, before anybody answers anything."""
    sqlite = connection.dialect.name == "sqlite"
    if sqlite and connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one() != "ok":
        raise Unusable(f"{place} cannot be used: {_REASONS['malformed']}.")


def _migrate(connection: Connection, *, may_write: bool) -> None:
    """Bring the schema up to date. Raises ArtifactError for a foreign or a newer one."""
    from alembic import command
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = migrations(connection)
    known = {each.revision for each in ScriptDirectory.from_config(config).walk_revisions()}
    current = set(MigrationContext.configure(connection).get_current_heads())
    if current - known:
        raise ArtifactError("The database was written by a newer version of advex: update advex.")
    if not may_write:
        if current != set(ScriptDirectory.from_config(config).get_heads()):
            raise ArtifactError(
                "The database was written by an older version of advex: copy it to a writable folder, so that it "
                "can be upgraded."
            )
        return
    try:
        command.upgrade(config, "head")
    except OperationalError as error:
        raise ArtifactError(f"The database contains tables of another program: {_reason(error)}.") from None


def migrations(connection: Connection):
    """Alembic's configuration, whose commands work on this connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
