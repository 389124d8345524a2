"""The annotation server: pages and a small JSON interface over the store. It calls no other server."""

# Not `from __future__ import annotations`: FastAPI reads them, and they name what is local to a function.

import functools
import hashlib
import re
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from advex.annotation import EXPLORED, PICTURES, pages, people
from advex.annotation.database import Unusable
from advex.annotation.forms import KEY, Acknowledgement, NewAnswer, NextImages, Progress, Retraction
from advex.annotation.security import UNUSABLE, Guard, Limits, log
from advex.annotation.store import Refused, Store
from advex.annotation.web import (
    Door,
    Guest,
    OwnerPages,
    Site,
    add_files,
    add_leave,
    add_session,
    digest,
    new_app,
    problems,
    refusal,
)
from advex.annotation.web import page as web_page

_STATUS = {"unknown": 404, "conflict": 409}


def make_app(store: Store, limits: Limits | None = None, explore: OwnerPages | None = None) -> Guard:
    """The application of a project: see `advex annotate serve`. explore: adds the pages under /explore."""
    limits = limits or Limits()
    project = store.project()
    # Cookies know no ports: projects on one host must not share them. `__Host-`: no neighbouring host can set it.
    cookie = f"{'__Host-' if limits.secure else ''}advex-{project.key}"
    app = new_app("advex annotate")
    _answer_problems(app)
    site = Site(name=project.name, kept=store.folder / EXPLORED)
    door = Door(functools.partial(people.who, store.database), cookie)

    def enter(token: str) -> str | None:
        entered = people.enter(store.database, token)
        return None if entered is None else entered[1]

    add_session(app, site, door, limits, enter)
    add_leave(app, door, limits, functools.partial(people.leave, store.database))
    _add_questions(app, store, door)
    _add_pages(app, store, door, explores=explore is not None)
    if explore is not None:
        explore(app, site, door)
    return Guard(app, limits, cookie)


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
            return page(lambda: web_page("closed.html.j2", project=store.project()), 401)
        if guest.owner:
            return page(lambda: pages.owner(store, explores=explores))
        asking = page(lambda: pages.annotate(store, guest, door.session(request)))
        asking.headers["x-advex-person"] = guest.key  # static/worker.js keeps pages that name a person, and no others
        return asking

    @app.get("/owner/live", include_in_schema=False)
    def live(guest: Annotated[Guest, Depends(door.owner)]) -> HTMLResponse:
        return page(lambda: pages.live(store))

    files = add_files(app)

    @app.get("/worker.js", include_in_schema=False)
    def worker() -> Response:
        """The service worker: at the root, since a worker serves what lies below it. It changes with any file."""
        source = f'const VERSION = "{digest(files)[:12]}";\n'.encode() + files["worker.js"]
        return Response(source, media_type="text/javascript; charset=utf-8", headers={"cache-control": "no-cache"})


def _answer_problems(app: FastAPI) -> None:
    """Answer what the store refuses, too, in a sentence."""

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> JSONResponse:
        return refusal(_STATUS[error.kind], str(error))

    @app.exception_handler(Unusable)
    def unusable(request: Request, error: Unusable) -> JSONResponse:
        log.error("%s", error)  # for who runs the server; guests learn no names of machines
        return refusal(503, UNUSABLE, {"retry-after": "5"})
