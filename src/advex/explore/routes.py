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

from advex.annotation import pages
from advex.annotation.app import Door, Room, problems
from advex.annotation.forms import KEY
from advex.annotation.people import Guest
from advex.annotation.store import Store
from advex.explore import FOLDER
from advex.explore.desk import Desk
from advex.explore.requests import (
    LARGEST_RHO,
    STEP_RHO,
    UPLOAD_BYTES,
    UPLOAD_PIXELS,
    Catalogue,
    ExploreRequest,
    ExploreResponse,
    Fitted,
    Refusal,
    Which,
)
from advex.report.pages.page import policy

UPLOAD = "/api/explore/pictures"
_PICTURE = r"^(\d{1,9}|[0-9a-f]{32})$"
_STATUS = {"superseded": 409, "wrong": 422, "busy": 503, "broken": 503}
_NO_PICTURE = "This picture is no longer here: choose it again."
_NO_ANSWER = "This explanation is no longer here: make it again."
_PATIENCE = 120.0  # seconds for a file to arrive
_MOST_PICTURES, _MOST_ANSWERS = 12, 24  # in memory, of all sessions

T = TypeVar("T")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Asked(_Body):
    """A model, and the classes that it may be asked to go towards."""

    name: str
    classes: list[str]


class Group(_Body):
    """A class of the data, and how many examples it has."""

    name: str
    count: int


class Choice(_Body):
    """What there is to choose from: models and classes are asked for by their place, maps by their spec."""

    data: str
    models: list[Asked]
    labels: list[Group]
    explainers: list[str]


class Wanted(_Body):
    """What is asked. page: made by the browser, one for each open page. picture: a number, or a key of one's own."""

    page: str = Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")
    model: int = Field(ge=0, le=1000)
    picture: str = Field(pattern=_PICTURE)
    target: int = Field(ge=0, le=10**6)
    rho: float | None = Field(ge=0, le=1)
    explainer: str = Field(max_length=100)


class Shelved(_Body):
    """An explanation by its key, and what it says."""

    key: str
    pictures: list[Which]
    told: dict[str, Any]


class Offered(_Body):
    """An example: its number, and what it is called."""

    number: int
    id: str
    label: int


class Taken(_Body):
    """A picture of the owner's own. note: what was done to it."""

    key: str
    name: str
    note: str


class Kept(_Body):
    """An explanation that was saved. folder: within the project's. total: how many there are."""

    folder: str
    total: int
    report: str


class Save(_Body):
    """Which explanation to save."""

    key: str = Field(pattern=KEY)


@dataclass
class Shelf(Generic[T]):
    """The latest things of each session, under random keys, in memory. most: of all sessions together."""

    most: int
    _things: OrderedDict[tuple[str, str], T] = field(default_factory=OrderedDict)

    def put(self, session: str, thing: T) -> str:
        """Keep something; returns its key."""
        key = secrets.token_hex(16)
        self._things[session, key] = thing
        while len(self._things) > self.most:
            self._things.popitem(last=False)
        return key

    def get(self, session: str, key: str, gone: str) -> T:
        """What has this key in this session. Raises HTTPException 404 with a sentence."""
        if (session, key) not in self._things:
            raise HTTPException(404, gone)
        self._things.move_to_end((session, key))
        return self._things[session, key]


def room(desk: Desk, catalogue: Catalogue) -> Room:
    """What adds the explore page to the annotation server: see `annotation.app.Room`."""

    def add(app: FastAPI, store: Store, door: Door) -> None:
        pictures: Shelf[Fitted] = Shelf(_MOST_PICTURES)
        answers: Shelf[ExploreResponse] = Shelf(_MOST_ANSWERS)
        _add_page(app, store, door, catalogue)
        _add_pictures(app, door, desk, pictures)
        _add_explanations(app, door, desk, pictures, answers)
        _add_saved(app, store, door, desk, answers)

    return add


async def _of(future: Future[T]) -> T:
    """What a future holds, without a thread that waits for it. Raises HTTPException for a Refusal."""
    try:
        return await asyncio.wrap_future(future)
    except Refusal as refusal:
        raise HTTPException(_STATUS[refusal.kind], refusal.sentence) from None


def _add_page(app: FastAPI, store: Store, door: Door, catalogue: Catalogue) -> None:
    limits = {"rho": LARGEST_RHO, "step": STEP_RHO, "bytes": UPLOAD_BYTES, "pixels": UPLOAD_PIXELS}

    @app.get("/explore", include_in_schema=False)
    def explore(request: Request) -> HTMLResponse:
        if door.guest(request) is None:
            return HTMLResponse(pages.closed(store), 401)
        door.owner(request)
        return HTMLResponse(pages.explore(store, door.session(request), limits))

    @app.get("/api/explore", responses=problems(401, 403, 429))
    def about(guest: Annotated[Guest, Depends(door.owner)]) -> Choice:
        """The models, classes and maps to choose from."""
        return Choice(
            data=catalogue.data,
            models=[Asked(name=name, classes=list(classes)) for name, classes in catalogue.models],
            labels=[Group(name=name, count=count) for name, count in catalogue.labels],
            explainers=list(catalogue.explainers),
        )


def _add_pictures(app: FastAPI, door: Door, desk: Desk, pictures: Shelf[Fitted]) -> None:
    one_by_one = asyncio.Semaphore(1)  # whatever is sent, one file at a time is in memory

    @app.get(UPLOAD, responses=problems(401, 403, 422, 429, 503))
    async def browse(
        guest: Annotated[Guest, Depends(door.owner)],
        start: Annotated[int, Query(ge=0, le=10**9)] = 0,
        count: Annotated[int, Query(ge=1, le=60)] = 24,
        label: Annotated[int | None, Query(ge=0, le=10**6)] = None,
    ) -> list[Offered]:
        """Some of the data's pictures, of one class or of all."""
        found = await _of(desk.quick("browse", start, count, label))
        return [Offered(number=number, id=name, label=of) for number, name, of in found]

    @app.get("/explore/pictures/{picture}", include_in_schema=False)
    async def small(picture: str, request: Request, guest: Annotated[Guest, Depends(door.owner)]) -> Response:
        if not re.fullmatch(_PICTURE, picture):
            raise HTTPException(404, _NO_PICTURE)
        if len(picture) == 32:
            return _png(pictures.get(door.session(request), picture, _NO_PICTURE).png)
        return _png(await _of(desk.quick("thumbnail", int(picture))))

    body = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}

    @app.post(UPLOAD, responses=problems(401, 403, 408, 413, 422, 429, 503), openapi_extra={"requestBody": body})
    async def upload(request: Request, guest: Annotated[Guest, Depends(door.keeper)]) -> Taken:
        """Take a picture file. Its pixels are measured, decoded and written anew; nothing else of it is kept."""
        async with one_by_one:
            fitted: Fitted = await _of(desk.quick("fit", await _body(request)))
        return Taken(key=pictures.put(door.session(request), fitted), name=fitted.name, note=fitted.note)


async def _body(request: Request) -> bytes:
    try:
        return await asyncio.wait_for(request.body(), _PATIENCE)
    except TimeoutError:
        raise HTTPException(408, "The file did not arrive in time.") from None


def _png(data: bytes) -> Response:
    return Response(data, media_type="image/png")


def _add_explanations(
    app: FastAPI, door: Door, desk: Desk, pictures: Shelf[Fitted], answers: Shelf[ExploreResponse]
) -> None:
    @app.post("/api/explore/explanations", responses=problems(401, 403, 404, 409, 413, 422, 429, 503))
    async def explain(body: Wanted, request: Request, guest: Annotated[Guest, Depends(door.keeper)]) -> Shelved:
        """Explain a picture. A newer request of the same page takes the place of this one, which then gets a 409."""
        session = door.session(request)
        asked = body.model_dump(exclude={"page", "picture"})
        if len(body.picture) == 32:
            own = pictures.get(session, body.picture, _NO_PICTURE)
            question = ExploreRequest(picture=own.png, name=own.name, note=own.note, **asked)
        else:
            question = ExploreRequest(picture=int(body.picture), **asked)
        page = f"{session} {body.page}"
        future = desk.ask(page, question)
        async with _given_up_when_gone(request, lambda: desk.drop(page, future)):
            answer = await _of(future)
        return Shelved(key=answers.put(session, answer), pictures=list(answer.pictures), told=answer.told)

    @app.get("/explore/explanations/{key}/{which}", include_in_schema=False)
    def picture(key: str, which: Which, request: Request, guest: Annotated[Guest, Depends(door.owner)]) -> Response:
        found = answers.get(door.session(request), key, _NO_ANSWER).pictures
        if which not in found:
            raise HTTPException(404, _NO_ANSWER)
        return _png(found[which])


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


def _add_saved(app: FastAPI, store: Store, door: Door, desk: Desk, answers: Shelf[ExploreResponse]) -> None:
    path = store.folder / FOLDER / "report.html"

    @app.post("/api/explore/saved", responses=problems(401, 403, 404, 413, 422, 429, 503))
    async def save(body: Save, request: Request, guest: Annotated[Guest, Depends(door.keeper)]) -> Kept:
        """Keep an explanation in the project's folder, and on its page. The same one again changes nothing."""
        answer = answers.get(door.session(request), body.key, _NO_ANSWER)
        name, total = await _of(desk.quick("save", store.folder, body.key, answer))
        return Kept(folder=f"{FOLDER}/{name}", total=total, report=f"{FOLDER}/{path.name}")

    @app.get("/explore/report", include_in_schema=False)
    def report(guest: Annotated[Guest, Depends(door.owner)]) -> Response:
        if not path.is_file():
            raise HTTPException(404, "Nothing is saved yet.")
        return FileResponse(path, media_type="text/html", headers={"content-security-policy": policy()})
