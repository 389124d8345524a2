"""Running a server of pages until it is stopped: where it listens, how it is called, its log."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import uvicorn

from advex.annotation.connections import Connection
from advex.annotation.security import LOOPBACK, Guard, Limits
from advex.errors import SpecError, visible

_KEEP_ALIVE, _GRACE = 30, 5  # seconds
_BACKLOG = 2048  # connections that wait


def limits_of(host: str, public: str | None = None) -> Limits:
    """The names by which a server may be called. Raises SpecError for a public address that cannot be meant."""
    hosts = {*LOOPBACK, host.lower()} - {"0.0.0.0", "::"}
    if public is None:
        return Limits(hosts=frozenset(hosts))
    parts = urlsplit(public)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise SpecError(f"--public {public} must have the form https://NAME or https://NAME:PORT.")
    return Limits(hosts=frozenset({*hosts, parts.hostname.lower()}), secure=parts.scheme == "https")


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises SpecError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # from now on: whoever opens a link at once is answered in a moment
    except OSError as error:
        listener.close()
        raise SpecError(f"Cannot listen on {host}, port {port}: {error.strerror}. Try --port 0.") from None
    listener.set_inheritable(True)
    return listener


def address_of(listener: socket.socket, host: str) -> str:
    """Where it is reached, as a browser is told."""
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    port = listener.getsockname()[1]
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def serve(app: Guard, listener: socket.socket, *, verbose: bool) -> None:
    """Serve until Ctrl-C, or SIGTERM with its own exit code. verbose: a line on stderr for each request."""
    # Our own log names routes; uvicorn's would name what strangers typed.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Visible("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    logging.getLogger("advex.annotation").setLevel(logging.INFO if verbose else logging.WARNING)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, proxy_headers=False, lifespan="off",
        http=Connection, ws="none", timeout_keep_alive=_KEEP_ALIVE, timeout_graceful_shutdown=_GRACE,
        h11_max_incomplete_event_size=16_384,
    )  # fmt: skip
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
