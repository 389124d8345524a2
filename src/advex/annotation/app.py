"""The annotation server: pages and a small JSON interface over the store. It calls no other server."""

# Not `from __future__ import annotations`: FastAPI reads them, and they name what is local to a function.

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from advex._version import __version__
from advex.annotation import PICTURES, pages, people
from advex.annotation.database import Unusable
from advex.annotation.forms import KEY, Acknowledgement, NewAnswer, NextImages, Problem, Progress, Retraction, Token
from advex.annotation.people import Guest
from advex.annotation.security import LET_IN, UNFORESEEN, UNUSABLE, Bucket, Guard, Limits, is_csrf_token, log
from advex.annotation.store import Refused, Store

_STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_MALFORMED = "The request is not of the form that is needed."
_STATUS = {"unknown": 404, "conflict": 409}


class OwnerPages(Protocol):
    """More pages, for the owner alone: adds their routes behind the door."""

    def __call__(self, app: FastAPI, store: Store, door: "Door") -> None: ...


def make_app(store: Store, limits: Limits | None = None, explore: OwnerPages | None = None) -> Guard:
    """The application of a project: see `advex annotate serve`. explore: adds the pages under /explore."""
    limits = limits or Limits()
    project = store.project()
    # Cookies know no ports: projects on one host must not share them. `__Host-`: no neighbouring host can set it.
    cookie = f"{'__Host-' if limits.secure else ''}advex-{project.key}"
    app = FastAPI(title="advex annotate", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    _answer_problems(app)
    come_in = Door(store, cookie)
    _add_session(app, store, limits, cookie, come_in)
    _add_questions(app, store, come_in)
    _add_pages(app, store, come_in, explores=explore is not None)
    if explore is not None:
        explore(app, store, come_in)
    return Guard(app, limits, cookie)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals that a route may answer with, for its OpenAPI description."""
    return {status: {"model": Problem} for status in statuses}


class Door:
    """Finds out who makes a request, and refuses those who may not.

    Most methods are FastAPI dependencies; those for requests that change something check the CSRF header too.
    """

    def __init__(self, store: Store, cookie: str) -> None:
        self._store, self._cookie = store, cookie

    def session(self, request: Request) -> str:
        """The token in the cookie, valid or not; empty without a cookie."""
        return request.cookies.get(self._cookie, "")

    def anybody(self, request: Request) -> Guest:
        """The person whose session it is. Raises HTTPException 401 without one."""
        guest = self.guest(request)
        if guest is None:
            raise HTTPException(401, "Open your personal link again.")
        return guest

    def guest(self, request: Request) -> Guest | None:
        """The person whose session it is, or None."""
        guest = people.who(self._store.database, self.session(request))
        if guest is not None:
            request.scope[LET_IN] = guest.id
        return guest

    def annotator(self, request: Request) -> Guest:
        """An annotator. Raises HTTPException 403 for the owner."""
        guest = self.anybody(request)
        if guest.owner:
            raise HTTPException(403, "The owner's link shows answers; to give some, use an annotator's.")
        return guest

    def owner(self, request: Request) -> Guest:
        """The owner. Raises HTTPException 403 for anybody else."""
        guest = self.anybody(request)
        if not guest.owner:
            raise HTTPException(403, "This page is the owner's.")
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
            raise HTTPException(403, "The page is out of date: load it again.")


def _add_session(app: FastAPI, store: Store, limits: Limits, cookie: str, door: Door) -> None:
    wrong = Bucket(limits.attempts / 60, limits.attempts)

    @app.post("/api/session", status_code=204, responses=problems(401, 403, 413, 422, 429))
    def enter(body: Token, request: Request, response: Response, x_advex: Annotated[str, Header()] = "") -> None:
        """Exchange a personal link's token for a session's cookie."""
        address = request.client.host if request.client else ""
        if x_advex != "enter":  # a form on another site cannot send it
            raise HTTPException(403, "Use the personal link.")
        if wrong.empty(address):
            raise HTTPException(429, "Too many wrong links. Wait a minute.")
        entered = people.enter(store.database, body.token)
        if entered is None:
            wrong.take(address)
            raise HTTPException(401, "This link is not valid, or no longer. Ask for a new one.")
        response.set_cookie(
            cookie, entered[1], max_age=people.SESSION_DAYS * 86_400, path="/", httponly=True, samesite="strict",
            secure=limits.secure,
        )  # fmt: skip

    @app.post("/api/leave", status_code=204, responses=problems(401, 403, 413, 422, 429))
    def leave(request: Request, response: Response, guest: Annotated[Guest, Depends(door.writer)]) -> None:
        """End the session on this device."""
        people.leave(store.database, door.session(request))
        response.delete_cookie(cookie, path="/", httponly=True, samesite="strict", secure=limits.secure)


def _add_questions(app: FastAPI, store: Store, door: Door) -> None:
    refused = problems(401, 403, 404, 409, 413, 422, 429)

    @app.get("/api/next", responses=problems(401, 403, 422, 429))
    def next_images(
        guest: Annotated[Guest, Depends(door.annotator)], count: Annotated[int, Query(ge=1, le=50)] = 10
    ) -> NextImages:
        """The next images of this annotator, in their own order."""
        return NextImages(images=store.next(guest.id, count), progress=store.progress(guest.id))

    @app.get("/api/progress", responses=problems(401, 403, 422, 429))
    def how_far(guest: Annotated[Guest, Depends(door.annotator)]) -> Progress:
        """How many images this annotator has answered, and how many are left."""
        return store.progress(guest.id)

    @app.post("/api/answers", responses=refused)
    def answer(body: NewAnswer, guest: Annotated[Guest, Depends(door.writer)]) -> Acknowledgement:
        """Keep an answer. Once this is acknowledged, it is committed; the same again changes nothing."""
        store.answer(guest.id, client=body.client, image=body.image, answer=body.answer, milliseconds=body.milliseconds)
        return Acknowledgement()

    @app.post("/api/undo", responses=refused)
    def undo(body: Retraction, guest: Annotated[Guest, Depends(door.writer)]) -> Acknowledgement:
        """Take an answer of one's own back."""
        store.undo(guest.id, client=body.client, undoes=body.undoes)
        return Acknowledgement()

    @app.get(
        "/pictures/{key}/{which}",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}, **problems(401, 403, 404, 422, 429)},
    )
    def picture(
        key: str, which: Literal["original", "changed"], guest: Annotated[Guest, Depends(door.anybody)]
    ) -> Response:
        """A PNG, byte for byte as it was checked against the model."""
        if not re.fullmatch(KEY, key):
            raise HTTPException(404, "There is no such picture.")
        path = store.picture(guest.id, key, which)
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != path.stem:
            raise HTTPException(500, f"A file in {PICTURES} is missing or was changed.")
        # For good: another picture would have another key.
        return Response(data, media_type="image/png", headers={"cache-control": "private, max-age=31536000, immutable"})


def _add_pages(app: FastAPI, store: Store, door: Door, *, explores: bool) -> None:
    def page(make: Callable[[], str], status: int = 200) -> HTMLResponse:
        return HTMLResponse(make(), status)

    @app.get("/", include_in_schema=False)
    def home(request: Request) -> HTMLResponse:
        guest = door.guest(request)
        if guest is None:
            return page(lambda: pages.closed(store), 401)
        if guest.owner:
            return page(lambda: pages.owner(store, explores=explores))
        asking = page(lambda: pages.annotate(store, guest, door.session(request)))
        asking.headers["x-advex-person"] = guest.key  # static/worker.js keeps pages that name a person, and no others
        return asking

    @app.get("/enter", include_in_schema=False)
    def entrance() -> HTMLResponse:
        return page(lambda: pages.enter(store))

    @app.get("/owner/live", include_in_schema=False)
    def live(guest: Annotated[Guest, Depends(door.owner)]) -> HTMLResponse:
        return page(lambda: pages.live(store))

    files = {path.name: path.read_bytes() for path in _STATIC.iterdir() if path.suffix in _TYPES}

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "There is no such page.")
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers={"cache-control": "no-cache"})

    digest = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()

    @app.get("/worker.js", include_in_schema=False)
    def worker() -> Response:
        """The service worker: at the root, since a worker serves what lies below it. It changes with any file."""
        source = f'const VERSION = "{digest[:12]}";\n'.encode() + files["worker.js"]
        return Response(source, media_type=_TYPES[".js"], headers={"cache-control": "no-cache"})


def _answer_problems(app: FastAPI) -> None:
    """Make every refusal one sentence that repeats nothing of the request."""

    def say(status: int, sentence: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers=headers)

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> JSONResponse:
        return say(_STATUS[error.kind], str(error))

    @app.exception_handler(Unusable)
    def unusable(request: Request, error: Unusable) -> JSONResponse:
        log.error("%s", error)  # for who runs the server; guests learn no names of machines
        return say(503, UNUSABLE, {"retry-after": "5"})

    @app.exception_handler(HTTPException)
    def known(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # of a body that is no text at all
            return say(422, _MALFORMED)
        return say(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(Exception)
    def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return say(500, UNFORESEEN)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return say(422, _MALFORMED)
