"""The explore page and its interface, for the owner alone. Nothing here computes, and nothing waits in a thread."""

# Not `from __future__ import annotations`: FastAPI reads them, and they name what is local to a function.

import asyncio
import contextlib
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from advex.annotation import web
from advex.annotation.forms import KEY
from advex.annotation.security import csrf_token
from advex.annotation.web import Door, Guest, OwnerPages, Site, problems
from advex.explore.desk import Desk
from advex.explore.requests import (
    LARGEST_RHO,
    LONGEST_NAME,
    STEP_RHO,
    UPLOAD_BYTES,
    UPLOAD_PIXELS,
    Catalogue,
    Example,
    ExploreRequest,
    ExploreResponse,
    FittedPicture,
    Refusal,
    Which,
)
from advex.report.templates import policy

UPLOAD = "/api/explore/pictures"
_PICTURE = r"^(\d{1,9}|[0-9a-f]{32})$"
_STATUS = {"superseded": 409, "wrong": 422, "busy": 503, "broken": 503}
_NO_PICTURE = "This picture is no longer available: choose it again."
_NO_EXPLANATION = "This explanation is no longer available: make it again."
_PATIENCE = 120.0  # seconds for a file to arrive
_MOST_PICTURES, _MOST_EXPLANATIONS = 12, 24  # in memory, of all sessions

T = TypeVar("T")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PageRequest(_Body):
    """A request of a page. page: made by the browser, one for each open page. picture: the number of an example, or
    the key of a picture of the owner's own. target: a class; None: the one that the model finds second likeliest."""

    page: str = Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")
    model: int = Field(ge=0, le=1000)
    picture: str = Field(pattern=_PICTURE)
    target: int | None = Field(ge=0, le=10**6)
    rho: float | None = Field(ge=0, le=1)
    explainer: str = Field(max_length=100)


class StoredExplanation(_Body):
    """An explanation that is in memory: its key, and what it says in words."""

    key: str
    pictures: list[Which]
    summary: dict[str, Any] = Field(serialization_alias="told")


class UploadedPicture(_Body):
    """A picture of the owner's own. note: what was done to it."""

    key: str
    name: str
    note: str


class SavedExplanation(_Body):
    """An explanation that was saved. folder: within that of the project. total: how many were saved so far."""

    folder: str
    total: int
    report: str


class SaveRequest(_Body):
    """Which explanation to save."""

    key: str = Field(pattern=KEY)


@dataclass
class SessionCache(Generic[T]):
    """The latest values of each session, under random keys, in memory. most: of all sessions together."""

    most: int
    _values: OrderedDict[tuple[str, str], T] = field(default_factory=OrderedDict)

    def put(self, session: str, value: T) -> str:
        """Keep a value; returns its key."""
        key = secrets.token_hex(16)
        self._values[session, key] = value
        while len(self._values) > self.most:
            self._values.popitem(last=False)
        return key

    def get(self, session: str, key: str, gone: str) -> T:
        """What has this key in this session. Raises HTTPException 404 with a sentence."""
        if (session, key) not in self._values:
            raise HTTPException(404, gone)
        self._values.move_to_end((session, key))
        return self._values[session, key]


def owner_pages(desk: Desk, catalogue: Catalogue) -> OwnerPages:
    """What adds the explore page to the annotation server: see `annotation.web.OwnerPages`."""

    def add(app: FastAPI, site: Site, door: Door) -> None:
        pictures: SessionCache[FittedPicture] = SessionCache(_MOST_PICTURES)
        explanations: SessionCache[ExploreResponse] = SessionCache(_MOST_EXPLANATIONS)
        _add_page(app, site, door, catalogue)
        _add_pictures(app, door, desk, pictures)
        _add_explanations(app, door, desk, pictures, explanations)
        _add_saved(app, site, door, desk, explanations)

    return add


async def _result(future: Future[T]) -> T:
    """What a future holds, without a thread that waits for it. Raises HTTPException for a Refusal."""
    try:
        return await asyncio.wrap_future(future)
    except Refusal as refusal:
        raise HTTPException(_STATUS[refusal.kind], refusal.sentence) from None


def _add_page(app: FastAPI, site: Site, door: Door, catalogue: Catalogue) -> None:
    limits = {"rho": LARGEST_RHO, "step": STEP_RHO, "bytes": UPLOAD_BYTES, "pixels": UPLOAD_PIXELS}

    @app.get("/explore", include_in_schema=False)
    def explore(request: Request) -> HTMLResponse:
        if door.guest(request) is None:
            return HTMLResponse(web.page("closed.html.j2", project=site), 401)
        door.owner(request)
        return HTMLResponse(
            web.page("explore.html.j2", project=site, csrf=csrf_token(door.session(request)), limits=limits)
        )

    @app.get("/api/explore", responses=problems(401, 403, 429))
    def about(guest: Annotated[Guest, Depends(door.owner)]) -> Catalogue:
        """The models, classes and maps to choose from."""
        return catalogue


def _add_pictures(app: FastAPI, door: Door, desk: Desk, pictures: SessionCache[FittedPicture]) -> None:
    single = asyncio.Semaphore(1)  # whatever is sent, one file at a time is in memory

    @app.get(UPLOAD, responses=problems(401, 403, 422, 429, 503))
    async def browse(
        guest: Annotated[Guest, Depends(door.owner)],
        start: Annotated[int, Query(ge=0, le=10**9)] = 0,
        count: Annotated[int, Query(ge=1, le=60)] = 24,
        label: Annotated[int | None, Query(ge=0, le=10**6)] = None,
    ) -> list[Example]:
        """Some of the data's pictures, of one class or of all."""
        return await _result(desk.quick("browse", start, count, label))

    @app.get("/explore/pictures/{picture}", include_in_schema=False)
    async def small(picture: str, request: Request, guest: Annotated[Guest, Depends(door.owner)]) -> Response:
        if not re.fullmatch(_PICTURE, picture):
            raise HTTPException(404, _NO_PICTURE)
        if len(picture) == 32:
            return _png(pictures.get(door.session(request), picture, _NO_PICTURE).png)
        return _png(await _result(desk.quick("thumbnail", int(picture))))

    body = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}

    @app.post(UPLOAD, responses=problems(401, 403, 408, 413, 422, 429, 503), openapi_extra={"requestBody": body})
    async def upload(
        request: Request,
        guest: Annotated[Guest, Depends(door.keeper)],
        name: Annotated[str, Query(max_length=LONGEST_NAME)] = "",
    ) -> UploadedPicture:
        """Take a picture file. Its pixels are measured, decoded and written anew; nothing else is kept but its name."""
        async with single:
            fitted: FittedPicture = await _result(desk.quick("fit", await _body(request), name))
        return UploadedPicture(key=pictures.put(door.session(request), fitted), name=fitted.name, note=fitted.note)


async def _body(request: Request) -> bytes:
    try:
        return await asyncio.wait_for(request.body(), _PATIENCE)
    except TimeoutError:
        raise HTTPException(408, "The file did not arrive in time.") from None


def _png(data: bytes) -> Response:
    return Response(data, media_type="image/png")


def _add_explanations(
    app: FastAPI,
    door: Door,
    desk: Desk,
    pictures: SessionCache[FittedPicture],
    explanations: SessionCache[ExploreResponse],
) -> None:
    @app.post("/api/explore/explanations", responses=problems(401, 403, 404, 409, 413, 422, 429, 503))
    async def explain(
        body: PageRequest, request: Request, guest: Annotated[Guest, Depends(door.keeper)]
    ) -> StoredExplanation:
        """Explain a picture. A newer request of the same page takes the place of this one, which then gets a 409."""
        session = door.session(request)
        settings = body.model_dump(exclude={"page", "picture"})
        if len(body.picture) == 32:
            own = pictures.get(session, body.picture, _NO_PICTURE)
            subject = ExploreRequest(picture=own.png, name=own.name, note=own.note, **settings)
        else:
            subject = ExploreRequest(picture=int(body.picture), **settings)
        page = f"{session} {body.page}"
        future = desk.ask(page, subject)
        async with _given_up_when_gone(request, lambda: desk.drop(page, future)):
            response = await _result(future)
        key = explanations.put(session, response)
        return StoredExplanation(key=key, pictures=list(response.pictures), summary=response.summary)

    @app.get("/explore/explanations/{key}/{which}", include_in_schema=False)
    def picture(key: str, which: Which, request: Request, guest: Annotated[Guest, Depends(door.owner)]) -> Response:
        explanation = explanations.get(door.session(request), key, _NO_EXPLANATION)
        if which not in explanation.pictures:
            raise HTTPException(404, _NO_EXPLANATION)
        return _png(explanation.pictures[which])


@contextlib.asynccontextmanager
async def _given_up_when_gone(request: Request, give_up: Callable[[], None]) -> AsyncIterator[None]:
    """Inside, calls give_up once the browser no longer listens."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        give_up()

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()


def _add_saved(app: FastAPI, site: Site, door: Door, desk: Desk, explanations: SessionCache[ExploreResponse]) -> None:
    path = site.kept / "report.html"

    @app.post("/api/explore/saved", responses=problems(401, 403, 404, 413, 422, 429, 503))
    async def save(
        body: SaveRequest, request: Request, guest: Annotated[Guest, Depends(door.keeper)]
    ) -> SavedExplanation:
        """Keep an explanation in a folder, and on its page. The same one again changes nothing."""
        explanation = explanations.get(door.session(request), body.key, _NO_EXPLANATION)
        name, total = await _result(desk.quick("save", site.kept, body.key, explanation))
        return SavedExplanation(folder=f"{site.kept.name}/{name}", total=total, report=f"{site.kept.name}/{path.name}")

    @app.get("/explore/report", include_in_schema=False)
    def report(guest: Annotated[Guest, Depends(door.owner)]) -> Response:
        if not path.is_file():
            raise HTTPException(404, "Nothing is saved yet.")
        return FileResponse(path, media_type="text/html", headers={"content-security-policy": policy()})
