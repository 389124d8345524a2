"""What every server of pages shares: who comes in, sessions, refusals, files and templates. Knows no database."""

# Not `from __future__ import annotations`: FastAPI reads them, and they name what is local to a function.

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import jinja2
from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from advex._version import __version__
from advex.annotation import SESSION_DAYS
from advex.annotation.forms import Problem, Token
from advex.annotation.security import LET_IN, UNFORESEEN, Bucket, Limits, is_csrf_token

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_MALFORMED = "The request is malformed."


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A person with a session. key: tells people apart who share a browser."""

    id: int
    key: str
    name: str
    owner: bool


@dataclass(frozen=True, kw_only=True)
class Site:
    """What the owner's further pages belong to.

    name: at the top of each page. kept: the folder of what the owner keeps. answers: whether people's answers are at /.
    """

    name: str
    kept: Path
    answers: bool = True


class Door:
    """Finds out who makes a request, and refuses those who may not.

    who: the person of a session's token, or None. cookie: the name of the session's cookie. Most methods are FastAPI
    dependencies; those for requests that change something check the CSRF header too.
    """

    def __init__(self, who: Callable[[str], Guest | None], cookie: str) -> None:
        self._who, self.cookie = who, cookie

    def session(self, request: Request) -> str:
        """The token in the cookie, valid or not; empty without a cookie."""
        return request.cookies.get(self.cookie, "")

    def anybody(self, request: Request) -> Guest:
        """The person whose session it is. Raises HTTPException 401 without one."""
        guest = self.guest(request)
        if guest is None:
            raise HTTPException(401, "Open your personal link again.")
        return guest

    def guest(self, request: Request) -> Guest | None:
        """The person whose session it is, or None."""
        guest = self._who(self.session(request))
        if guest is not None:
            request.scope[LET_IN] = guest.id
        return guest

    def annotator(self, request: Request) -> Guest:
        """An annotator. Raises HTTPException 403 for the owner."""
        guest = self.anybody(request)
        if guest.owner:
            raise HTTPException(403, "The owner's link only shows answers; use an annotator's link to give them.")
        return guest

    def owner(self, request: Request) -> Guest:
        """The owner. Raises HTTPException 403 for anybody else."""
        guest = self.anybody(request)
        if not guest.owner:
            raise HTTPException(403, "Only the owner can open this page.")
        return guest

    def writer(self, request: Request, x_csrf_token: Annotated[str, Header()] = "") -> Guest:
        """An annotator, by a request from our page. Raises HTTPException 403."""
        guest = self.annotator(request)
        self._check(request, x_csrf_token)
        return guest

    def keeper(self, request: Request, x_csrf_token: Annotated[str, Header()] = "") -> Guest:
        """The owner, by a request from our page. Raises HTTPException 403."""
        guest = self.owner(request)
        self._check(request, x_csrf_token)
        return guest

    def _check(self, request: Request, token: str) -> None:
        if not is_csrf_token(token, self.session(request)):
            raise HTTPException(403, "The page is out of date: reload it.")


class OwnerPages(Protocol):
    """More pages, for the owner alone: adds their routes behind the door."""

    def __call__(self, app: FastAPI, site: Site, door: Door) -> None: ...


def new_app(name: str) -> FastAPI:
    """An application without pages, whose every refusal is one sentence that repeats nothing of the request."""
    app = FastAPI(title=name, version=__version__, docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(HTTPException)
    def known(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # of a body that is no text at all
            return refusal(422, _MALFORMED)
        return refusal(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(Exception)
    def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return refusal(500, UNFORESEEN)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return refusal(422, _MALFORMED)

    return app


def refusal(status: int, sentence: str, headers: Any = None) -> JSONResponse:
    """Why there is nothing else."""
    return JSONResponse({"error": sentence}, status, headers=headers)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals that a route may answer with, for its OpenAPI description."""
    return {status: {"model": Problem} for status in statuses}


def add_session(
    app: FastAPI, site: Site, door: Door, limits: Limits, enter: Callable[[str], str | None], days: int = SESSION_DAYS
) -> None:
    """Add the way in: the page of a personal link, and what exchanges its token for a session.

    enter: a session's token for that of a link, or None for a link that is not valid. days: the browser keeps it;
    0: until it is closed.
    """
    wrong = Bucket(limits.attempts / 60, limits.attempts)

    @app.get("/enter", include_in_schema=False)
    def entrance() -> HTMLResponse:
        return HTMLResponse(page("enter.html.j2", project=site))

    @app.post("/api/session", status_code=204, responses=problems(401, 403, 413, 422, 429))
    def come_in(body: Token, request: Request, response: Response, x_advex: Annotated[str, Header()] = "") -> None:
        """Exchange a personal link's token for a session's cookie."""
        address = request.client.host if request.client else ""
        if x_advex != "enter":  # a form on another site cannot send it
            raise HTTPException(403, "Use the personal link.")
        if wrong.empty(address):
            raise HTTPException(429, "Too many wrong links. Wait a minute.")
        session = enter(body.token)
        if session is None:
            wrong.take(address)
            raise HTTPException(401, "This link is not valid or has been replaced. Ask for a new one.")
        response.set_cookie(
            door.cookie, session, max_age=days * 86_400 or None, path="/", httponly=True, samesite="strict",
            secure=limits.secure,
        )  # fmt: skip


def add_leave(app: FastAPI, door: Door, limits: Limits, leave: Callable[[str], None]) -> None:
    """Add the way out. leave: ends a session, by its token."""

    @app.post("/api/leave", status_code=204, responses=problems(401, 403, 413, 422, 429))
    def go(request: Request, response: Response, guest: Annotated[Guest, Depends(door.writer)]) -> None:
        """End the session on this device."""
        leave(door.session(request))
        response.delete_cookie(door.cookie, path="/", httponly=True, samesite="strict", secure=limits.secure)


def add_files(app: FastAPI) -> dict[str, bytes]:
    """Add scripts, style and icon; returns them by name."""
    files = {path.name: path.read_bytes() for path in (_HERE / "static").iterdir() if path.suffix in _TYPES}

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "There is no such page.")
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers={"cache-control": "no-cache"})

    return files


def digest(files: dict[str, bytes]) -> str:
    """Of all files together: it changes with any of them."""
    return hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()


def page(template: str, **content: Any) -> str:
    """A page. Templates escape every name; nothing is fetched from other servers."""
    return templates().get_template(template).render(**content)


@functools.cache
def templates() -> jinja2.Environment:
    """The pages' templates."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
