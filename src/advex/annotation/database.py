"""Connections, transactions and the schema: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from advex.errors import ArtifactError, SpecError

_BUSY = 15_000  # milliseconds that a writer waits for another
_LOCK = 0x61647665  # of PostgreSQL: one process migrates at a time


class Database:
    """An engine whose schema is up to date. Raises SpecError for a URL that means nothing, ArtifactError else."""

    def __init__(self, url: str | Path) -> None:
        self.engine = _engine(_url(url))
        try:
            with self._transaction(write=True) as connection:
                _migrate(connection)
        except DBAPIError as error:
            self.close()
            raise ArtifactError(f"{self.place} cannot be opened: {_reason(error)}.") from None
        except ArtifactError:
            self.close()
            raise

    @property
    def place(self) -> str:
        """Where it is, without a password."""
        return str(self.engine.url.database) if self.sqlite else self.engine.url.render_as_string()

    @property
    def sqlite(self) -> bool:
        """Whether it is a file of SQLite."""
        return self.engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that sees one state of everything."""
        with self._transaction(write=False) as connection, Session(connection) as session:
            yield session

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Session]:
        """A transaction that is committed when the block ends; nothing of it remains when it raises.

        durable: on the disk by then. What can be made again need not wait for that.
        """
        with self._transaction(write=True, durable=durable) as connection, Session(connection) as session:
            yield session
            session.flush()

    @contextlib.contextmanager
    def _transaction(self, *, write: bool, durable: bool = True) -> Iterator[Connection]:
        options: dict[str, Any] = {"advex_write": write, "advex_durable": durable}
        if not self.sqlite:
            options["isolation_level"] = "READ COMMITTED" if write else "REPEATABLE READ"
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            if not (durable or self.sqlite):
                connection.execute(text("SET LOCAL synchronous_commit = off"))
            yield connection

    def close(self) -> None:
        """Give every connection back."""
        self.engine.dispose()


def _url(url: str | Path) -> URL:
    if isinstance(url, Path):
        return URL.create("sqlite", database=str(url))
    try:
        found = make_url(url)
    except ArgumentError:
        raise SpecError("The database URL cannot be read; write postgresql://USER@HOST/NAME.") from None
    if found.drivername in ("postgresql", "postgres"):
        found = found.set(drivername="postgresql+psycopg")
    if found.get_backend_name() not in ("sqlite", "postgresql"):
        raise SpecError(f"The database '{found.get_backend_name()}' is not supported; use sqlite or postgresql.")
    return found


def _engine(url: URL) -> Engine:
    try:
        # A traceback must not tell a token: SQL is shown without its parameters.
        engine = create_engine(url, hide_parameters=True, pool_pre_ping=url.get_backend_name() == "postgresql")
    except (ModuleNotFoundError, NoSuchModuleError):
        raise SpecError("PostgreSQL needs a driver: pip install 'advex[postgres]'.") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: object, record: object) -> None:
    connection.isolation_level = None  # pyright: ignore  (transactions are begun below, not by the driver's guesses)
    for pragma in (f"busy_timeout = {_BUSY}", "journal_mode = WAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()  # pyright: ignore


def _begin(connection: Connection) -> None:
    # A reader that becomes a writer half-way would fail where another was quicker: writers say so at once.
    options = connection.get_execution_options()
    write, durable = options.get("advex_write", True), options.get("advex_durable", True)
    connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _reason(error: DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    return lines[0].rstrip(".")


# -- the schema ----------------------------------------------------------------------------------------------


def _migrate(connection: Connection) -> None:
    """Bring the schema up to date. Raises ArtifactError for a foreign or a newer one."""
    from alembic import command
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = migrations(connection)
    known = {each.revision for each in ScriptDirectory.from_config(config).walk_revisions()}
    there = set(MigrationContext.configure(connection).get_current_heads())
    if there - known:
        raise ArtifactError("The database was written by a newer version of advex: update advex.")
    try:
        command.upgrade(config, "head")
    except OperationalError as error:
        raise ArtifactError(f"The database holds tables of something else: {_reason(error)}.") from None


def migrations(connection: Connection):
    """Alembic's configuration for a connection: its commands then work on it."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
