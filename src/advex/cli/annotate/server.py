"""Running the annotation server: links on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING
from unicodedata import normalize
from urllib.parse import urlsplit

from advex.annotation import people
from advex.annotation.app import OwnerPages, make_app
from advex.annotation.connections import Connection
from advex.annotation.security import LOOPBACK, Limits, check_address
from advex.annotation.store import Store
from advex.cli import terminal
from advex.errors import SpecError, quoted, visible
from advex.progress import Terminal

if TYPE_CHECKING:
    from advex.explore.desk import Desk

_KEEP_ALIVE, _GRACE = 30, 5  # seconds
_BACKLOG = 2048  # connections that wait
_SAY = Terminal()


def serve(
    store: Store,
    *,
    annotators: list[str],
    renewed: list[str],
    revoked: list[str],
    host: str,
    port: int,
    allow_remote: bool,
    public: str | None,
    verbose: bool,
    explore: Desk | None = None,
) -> None:
    """Print the links and serve until stopped. Raises SpecError for an address that cannot be meant.

    explore: asks models for the owner, once these are open.
    """
    import uvicorn

    check_address(host, allow_remote)
    limits = _limits(host, public)
    with _listening(host, port) as listener, _explored(explore) as (room, uploads):
        address = public.rstrip("/") if public else _address(host, listener.getsockname()[1])
        _hand_out(store, address, annotators, renewed, revoked)
        # Our own log names routes; uvicorn's would name what strangers typed.
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Visible("%(message)s"))
        logging.basicConfig(handlers=[handler], level=logging.WARNING)
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        logging.getLogger("advex.annotation").setLevel(logging.INFO if verbose else logging.WARNING)
        config = uvicorn.Config(
            make_app(store, replace(limits, uploads=uploads), room), log_config=None, access_log=False,
            server_header=False, proxy_headers=False, lifespan="off", http=Connection, ws="none",
            timeout_keep_alive=_KEEP_ALIVE, timeout_graceful_shutdown=_GRACE, h11_max_incomplete_event_size=16_384,
        )  # fmt: skip
        _SAY.note(f"serving {store.project().name} at {address} (Ctrl-C ends)")
        with _told_to_end(), contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how one ends it
            uvicorn.Server(config).run(sockets=[listener])


class _Visible(logging.Formatter):
    """Lines of a log without control characters: a folder's name, say, may hold some."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM ends the server as Ctrl-C does, all that is open closed in order, but with its own exit code."""

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)  # the server catches it, ends, and raises it again
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _explored(desk: Desk | None) -> Iterator[tuple[OwnerPages | None, dict[str, int]]]:
    """What adds the explore page, and how much may be uploaded where; its process ends with the block."""
    if desk is None:
        yield None, {}
        return
    from advex.explore import routes
    from advex.explore.requests import UPLOAD_BYTES

    with contextlib.closing(desk):
        _SAY.note("opening the models and pictures to explore")
        yield routes.owner_pages(desk, desk.open()), {routes.UPLOAD: UPLOAD_BYTES}


def _limits(host: str, public: str | None) -> Limits:
    hosts = {*LOOPBACK, host.lower()} - {"0.0.0.0", "::"}
    if public is None:
        return Limits(hosts=frozenset(hosts))
    parts = urlsplit(public)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise SpecError(f"--public {public} is not of the form https://NAME or https://NAME:PORT.")
    return Limits(hosts=frozenset({*hosts, parts.hostname.lower()}), secure=parts.scheme == "https")


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises SpecError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # from now on: whoever opens a link at once is answered in a moment
    except OSError as error:
        listener.close()
        raise SpecError(f"Nothing can listen on {host}, port {port}: {error.strerror}. Try --port 0.") from None
    listener.set_inheritable(True)
    return listener


def _address(host: str, port: int) -> str:
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _hand_out(store: Store, address: str, annotators: list[str], renewed: list[str], revoked: list[str]) -> None:
    """Print a link for everybody who needs one. Links that were given before cannot be told again: only renewed."""
    database = store.database
    for name in revoked:
        people.revoke(database, name)
    guests = people.people(database)
    owners = [guest.name for guest in guests if guest.owner]
    known = {normalize("NFC", guest.name) for guest in guests if not guest.owner}
    again = [people.person_name(name) for name in renewed]
    if unknown := [name for name in again if name not in known.union(owners)]:
        raise SpecError(f"There is nobody called {quoted(unknown[0])} in this project.")
    wanted = [people.person_name(name) for name in annotators] or ([] if known else ["annotator"])
    new = [name for name in wanted if name not in known] + [name for name in again if name not in owners]
    links = {name: people.invite(database, name) for name in dict.fromkeys(new)}
    ends = bool({*owners} & {*again, *revoked})
    token = people.invite_owner(database, renew=ends)
    for name, each in [*links.items(), (owners[0] if owners else people.OWNER, token)]:
        terminal.emit(f"{name}\t{address}/enter#{each}")
    if owners and not ends:
        _SAY.note(f"earlier links of the owner go on; --new-link {owners[0]} ends them")
    if has := sorted(known - links.keys() - set(revoked)):
        _SAY.note(f"have their link already (--new-link NAME gives another): {', '.join(has)}")
