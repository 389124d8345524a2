"""Requests and responses on their way through the guard: bodies that are too long, headers on every answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_THROWN_AWAY = 100_000_000  # bytes of a refused body that are received
_AT_ONCE = (408, 429)  # refusals for which nothing more is received
_POLICY = b"content-security-policy"


def too_long(most: int) -> tuple[int, str]:
    """The refusal of a body of more bytes."""
    return 413, f"The request is too long: at most {most:,} bytes are accepted."


class Body:
    """The body of a request. Raises HTTPException 413 once it is longer than `most`, whatever Content-Length says."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._length = receive, most, 0
        self._whole: list[Message] = []
        self.ended = False

    async def __call__(self) -> Message:
        if self._whole:
            return self._whole.pop()
        message = await self._next()
        if self._length > self._most:
            raise HTTPException(*too_long(self._most))
        return message

    async def _next(self) -> Message:
        message = await self._receive()
        self._length += len(message.get("body", b""))
        self.ended = not message.get("more_body", False)
        return message

    async def collect(self) -> None:
        """Receive the whole body; the next call returns it in one piece."""
        pieces: list[bytes] = []
        while not self.ended:
            pieces.append((await self()).get("body", b""))
        self._whole.append({"type": "http.request", "body": b"".join(pieces), "more_body": False})

    async def throw_away(self, seconds: float) -> None:
        """Receive the rest and drop it: clients that send everything before they read would not get the refusal."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.ended and self._length < _THROWN_AWAY:
                    await self._next()


class Response:
    """Passes a response on with our headers, but for a policy of its own; remembers whether it began.

    A refusal ends once the request has come to its end, for which it waits so many seconds at most.
    """

    def __init__(self, send: Send, headers: dict[str, str], body: Body, patience: float) -> None:
        self.send, self.status = send, 0
        self._body, self._patience = body, patience
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
        elif self._refuses_early(message):
            await self.send({**message, "more_body": True})
            await self._body.throw_away(self._patience)
            message = {"type": "http.response.body", "body": b""}
        await self.send(message)

    def _refuses_early(self, message: Message) -> bool:
        """Whether this message ends a refusal while the request is still being sent."""
        refused = self.status >= 400 and self.status not in _AT_ONCE
        return refused and not message.get("more_body", False) and not self._body.ended

    async def problem(self, status: int, sentence: str) -> None:
        """Send a refusal as JSON, unless a response has begun."""
        if self.status:
            return
        body = json.dumps({"error": sentence}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"connection", b"close")]
        headers += [(b"retry-after", b"1")] if status == 429 else []
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})
