"""Checks of every request (host, origin, size, rate), headers of every response, and a log without secrets.

The rules are those of docs/annotate.md; each has its test in tests/annotation/test_security.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException

from advex.annotation.messages import App, Body, Receive, Response, Scope, Send, too_long
from advex.errors import SpecError

log = logging.getLogger("advex.annotation")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CSP = "; ".join([
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob:", "connect-src 'self'",
    "worker-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
])  # fmt: skip
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
UNFORESEEN = "Something went wrong here. Nothing was lost; try again."
UNUSABLE = "Nothing can be saved right now. Acknowledged answers are safe; send the others again."
_HEAD = 16_384  # bytes of a request before its body
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
LET_IN = "advex.guest"  # where a request's scope says whose it is, once that is known
_MOST_GUESTS = 10_000  # whose rate is remembered


@dataclass(frozen=True, kw_only=True)
class Limits:
    """hosts: names by which the server may be called. secure: behind HTTPS. body: bytes of a request.

    uploads: paths to which more may be sent, and how much; of that nothing is read before the session is known.
    rate, burst: requests of a guest, per second and at once; of an address, for all without a session. attempts: wrong
    links from one address, per minute. patience: seconds that a body may take.
    """

    hosts: frozenset[str] = frozenset(LOOPBACK)
    secure: bool = False
    body: int = 16_384
    uploads: Mapping[str, int] = field(default_factory=dict)
    rate: float = 50.0
    burst: int = 400
    attempts: int = 20
    patience: float = 20.0


def check_address(host: str, allow_remote: bool) -> None:
    """Raise SpecError for an address that others can reach, unless that was asked for."""
    if host not in LOOPBACK and not allow_remote:
        raise SpecError(
            f"--host {host} lets other machines connect. Pass --allow-remote if that is intended (behind HTTPS)."
        )


def csrf_token(session: str) -> str:
    """The token that a page sends beside its cookie: another site can make a browser send the cookie, but not this."""
    return hashlib.sha256(f"csrf|{session}".encode()).hexdigest()


def is_csrf_token(given: str, session: str) -> bool:
    """Whether this is the token of the session, compared in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), csrf_token(session).encode())


@dataclass
class Bucket:
    """A rate limit for each key: `burst` requests at once, and `rate` per second after that."""

    rate: float
    burst: int
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def _now(self, key: str) -> float:
        left, then = self._left.get(key, (float(self.burst), time.monotonic()))
        return min(self.burst, left + (time.monotonic() - then) * self.rate)

    def empty(self, key: str) -> bool:
        """Whether the key has no request left."""
        return self._now(key) < 1

    def take(self, key: str) -> bool:
        """Take one request of the key's. False: there was none left."""
        left = self._now(key)
        self._left[key] = (max(0.0, left - 1), time.monotonic())
        self._left.move_to_end(key)
        if len(self._left) > _MOST_GUESTS:
            self._left.popitem(last=False)
        return left >= 1


class Guard:
    """The outermost layer of the application. cookie: the name of the session's cookie."""

    def __init__(self, app: App, limits: Limits, cookie: str) -> None:
        self.app, self.limits, self._cookie = app, limits, f"{cookie}="
        self._rates = Bucket(limits.rate, limits.burst)
        self._known: OrderedDict[str, int] = OrderedDict()  # hash of a session -> whose it is

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets here
            return
        body = Body(receive, self._most(scope))
        began, response = time.perf_counter(), Response(send, self._extra(), body, self.limits.patience)
        try:
            if (refused := self._refusal(scope)) is not None:
                await response.problem(*refused)
            else:
                if scope["path"] not in self.limits.uploads:  # of those nothing is read before it is needed
                    await asyncio.wait_for(body.collect(), self.limits.patience)
                await self.app(scope, body, response)
            self._remember(scope, response.status)
        except TimeoutError:
            await response.problem(408, "The request was incomplete.")
        except HTTPException as error:
            await response.problem(error.status_code, error.detail)
        except Exception as error:  # nothing of it may reach the guest
            log.error("%s: %s", _route(scope), type(error).__name__)
            await response.problem(500, UNFORESEEN)
        # The route, not the path, and no method but those that exist: else it would hold what strangers typed.
        method = scope["method"] if scope["method"] in _METHODS else "-"
        log.info("%s %s %s %.0f ms", method, _route(scope), response.status, 1000 * (time.perf_counter() - began))

    def _extra(self) -> dict[str, str]:
        return HEADERS | ({"strict-transport-security": "max-age=31536000"} if self.limits.secure else {})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        parts = [scope.get("raw_path", b""), scope.get("query_string", b"")]
        parts += [part for header in scope["headers"] for part in header]
        if sum(map(len, parts)) > _HEAD:
            return 431, "The request headers are too long."
        headers = _headers(scope)
        if "transfer-encoding" in headers and "content-length" in headers:  # a proxy might believe the other one
            return 400, "The request states its length in two ways."
        host = headers.get("host", "")
        if _name(host) not in self.limits.hosts:
            return 421, "This server does not have that name."
        if scope["method"] not in ("GET", "HEAD") and not _same_origin(headers, host):
            return 403, "Requests from other sites are refused."
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:12]) > self._most(scope):
            return too_long(self._most(scope))
        if not self._rates.take(self._guest(scope, headers)):
            return 429, "Too many requests. Wait a moment."
        return None

    def _guest(self, scope: Scope, headers: dict[str, str]) -> str:
        """Whose rate counts: the person's, for a session that was let in before, else the address's."""
        guest = self._known.get(self._session(headers))
        return f"address {(scope.get('client') or ('',))[0]}" if guest is None else f"guest {guest}"

    def _session(self, headers: dict[str, str]) -> str:
        cookies = (part.strip() for part in headers.get("cookie", "").split(";"))
        session = "".join(part for part in cookies if part.startswith(self._cookie))
        return hashlib.sha256(session.encode("utf-8", "replace")).hexdigest()

    def _remember(self, scope: Scope, status: int) -> None:
        session = self._session(_headers(scope))
        if LET_IN in scope:
            self._known[session] = scope[LET_IN]
            if len(self._known) > _MOST_GUESTS:
                self._known.popitem(last=False)
        elif status == 401:
            self._known.pop(session, None)

    def _most(self, scope: Scope) -> int:
        return self.limits.uploads.get(scope["path"], self.limits.body)


def _headers(scope: Scope) -> dict[str, str]:
    """The headers by lower-case name: of a repeated one the last, of a repeated Host none."""
    pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    headers = dict(pairs)
    if sum(name == "host" for name, _ in pairs) > 1:
        headers["host"] = ""
    return headers


def _name(host: str) -> str:
    """The name in a Host header, without the port: `Localhost:80` -> `localhost`, `[::1]:80` -> `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _same_origin(headers: dict[str, str], host: str) -> bool:
    """Whether a request comes from our pages, by the headers that browsers add; other programs add none."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def _route(scope: Scope) -> str:
    route = scope.get("route")
    return getattr(route, "path", "-")
