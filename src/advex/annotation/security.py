"""What stands before every page: hosts, origins, sizes, rates, headers, and a log that tells no secrets.

The rules are those of docs/annotate.md; each has its test in tests/annotation/test_security.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException

from advex.errors import SpecError

log = logging.getLogger("advex.annotation")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

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
UNUSABLE = "Nothing can be kept just now. What was acknowledged is safe; what was not must be sent again."
_TOO_LONG = (413, "That is too long.")
_HEAD = 16_384  # bytes of a request before its body
LET_IN = "advex.guest"  # where a request's scope says whose it is, once that is known
_POLICY = b"content-security-policy"
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
        raise SpecError(f"--host {host} lets other machines in. Say --allow-remote if that is meant (behind HTTPS).")


def csrf_token(session: str) -> str:
    """What a page must send beside its cookie: other sites can make a browser send the cookie, but not know this."""
    return hashlib.sha256(f"csrf|{session}".encode()).hexdigest()


def is_csrf_token(given: str, session: str) -> bool:
    """Whether it is that session's, in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), csrf_token(session).encode())


@dataclass
class Bucket:
    """So many at once, and so many per second after that, for each key."""

    rate: float
    burst: int
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def _now(self, key: str) -> float:
        left, then = self._left.get(key, (float(self.burst), time.monotonic()))
        return min(self.burst, left + (time.monotonic() - then) * self.rate)

    def empty(self, key: str) -> bool:
        """Whether there is nothing left for this key."""
        return self._now(key) < 1

    def take(self, key: str) -> bool:
        """Take one. False: there was none."""
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
        began, sent = time.perf_counter(), _Sent(send, self._extra())
        try:
            refused = self._refusal(scope)
            received = None if refused else await self._received(scope, receive)
            if received is not None:
                await self.app(scope, received, sent)
            else:
                await sent.problem(*(refused or _TOO_LONG))
            self._remember(scope, sent.status)
        except TimeoutError:
            await sent.problem(408, "The request did not come to its end.")
        except Exception as error:  # nothing of it may reach the guest
            log.error("%s: %s", _route(scope), type(error).__name__)
            await sent.problem(500, UNFORESEEN)
        # The route, not the path: paths hold ids, and what was typed by strangers.
        log.info("%s %s %s %.0f ms", scope["method"], _route(scope), sent.status, 1000 * (time.perf_counter() - began))

    def _extra(self) -> dict[str, str]:
        return HEADERS | ({"strict-transport-security": "max-age=31536000"} if self.limits.secure else {})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        parts = [scope.get("raw_path", b""), scope.get("query_string", b"")]
        parts += [part for header in scope["headers"] for part in header]
        if sum(map(len, parts)) > _HEAD:
            return 431, "That is too long."
        headers = _headers(scope)
        if "transfer-encoding" in headers and "content-length" in headers:  # a proxy might believe the other one
            return 400, "The request says its length in two ways."
        host = headers.get("host", "")
        if _name(host) not in self.limits.hosts:
            return 421, "This server is not called so."
        if scope["method"] not in ("GET", "HEAD") and not _same_origin(headers, host):
            return 403, "Requests from other sites are refused."
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:12]) > self._most(scope):
            return _TOO_LONG
        if not self._rates.take(self._guest(scope, headers)):
            return 429, "Too many requests. Wait a moment."
        return None

    def _guest(self, scope: Scope, headers: dict[str, str]) -> str:
        """Who is counted: whoever was let in with this session, else the address: made-up cookies gain nothing."""
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

    async def _received(self, scope: Scope, receive: Receive) -> Receive | None:
        """From where the application reads the body; None where it is too long."""
        if scope["path"] in self.limits.uploads:
            return _counted(receive, self._most(scope))
        body = await asyncio.wait_for(self._body(receive), self.limits.patience)
        return None if body is None else _again(body, receive)

    async def _body(self, receive: Receive) -> bytes | None:
        """All of a request's body; None once it is longer than is allowed, whatever its length was said to be."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self.limits.body:
                return None
            more = message["type"] == "http.request" and message.get("more_body", False)
        return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Receives a body that was read already, then whatever comes."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


def _counted(receive: Receive, most: int) -> Receive:
    """Receives a body that is read as it is needed, and refuses once it is longer than was said."""
    seen = 0

    async def receive_counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise HTTPException(*_TOO_LONG)
        return message

    return receive_counted


class _Sent:
    """Passes a response on with our headers, but for a policy of its own; remembers whether it began."""

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self.send, self.status = send, 0
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name.lower() for name, _ in message["headers"]} & {_POLICY}  # of a report, which has a style inside
            ours = [(name, value) for name, value in self._headers if name not in own]
            replaced = {name for name, _ in ours}
            kept = [(name, value) for name, value in message["headers"] if name.lower() not in replaced]
            if not any(name.lower() == b"cache-control" for name, _ in kept):
                kept.append((b"cache-control", b"no-store"))
            message = {**message, "headers": kept + ours}
        await self.send(message)

    async def problem(self, status: int, sentence: str) -> None:
        """A refusal as JSON, unless something was sent already. What else came with the request is not read."""
        if self.status:
            return
        body = json.dumps({"error": sentence}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"connection", b"close")]
        headers += [(b"retry-after", b"1")] if status == 429 else []
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _headers(scope: Scope) -> dict[str, str]:
    """By lower-case name. Of a repeated one the last; a repeated Host counts as none."""
    pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    headers = dict(pairs)
    if sum(name == "host" for name, _ in pairs) > 1:
        headers["host"] = ""
    return headers


def _name(host: str) -> str:
    """`Localhost:80` -> `localhost`, `[::1]:80` -> `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _same_origin(headers: dict[str, str], host: str) -> bool:
    """What browsers say of where a request comes from; programs that are no browser say nothing."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def _route(scope: Scope) -> str:
    route = scope.get("route")
    return getattr(route, "path", "-")
