"""The server dies by SIGKILL under load, the database too: each acknowledged answer is there, once and unaltered."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from advex.annotation import ANSWERS, UNDONE
from advex.annotation.models import Answer
from advex.annotation.store import Store

PEOPLE, IMAGES = 20, 100  # 2,000 answers, and those that were taken back
UNDO = 25  # each so many-th answer is taken back and given anew
KILLS = 4


class Annotator(threading.Thread):
    """Answers everything it is asked, as the page does: what it says is sent again until it is acknowledged."""

    def __init__(self, port: int, link: str, number: int, deadline: float) -> None:
        super().__init__(daemon=True)
        self.number, self.deadline = number, deadline
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self.random = random.Random(number)
        self.kept: dict[str, tuple[str, str]] = {}  # client id -> (image, answer), acknowledged
        self.flying = ""  # the client id that was sent and has no response yet
        self.broken: set[str] = set()  # those whose connection broke meanwhile
        self.clients = (f"person-{number}-{count}" for count in itertools.count())
        self.headers = {"X-Advex": "enter", "Content-Type": "application/json"}
        self.ask("POST", "/api/session", {"token": link.partition("#")[2]})
        cookie = self.answer.getheader("set-cookie")
        assert cookie is not None
        self.headers["Cookie"] = cookie.partition(";")[0]
        csrf = re.search(rb'name="csrf" content="(\w+)"', self.ask("GET", "/"))
        assert csrf is not None
        self.headers["X-CSRF-Token"] = csrf[1].decode()

    def ask(self, method: str, path: str, body: Any = None) -> bytes:
        """Ask once; the response's body."""
        self.http.request(method, path, body and json.dumps(body), self.headers)
        self.flying = body.get("client", "") if body else ""
        self.answer = self.http.getresponse()
        said = self.answer.read()
        self.flying = ""
        return said

    def insist(self, method: str, path: str, body: Any = None) -> Any:
        """Ask until there is an answer."""
        while time.monotonic() < self.deadline:
            try:
                said = self.ask(method, path, body)
            except (OSError, http.client.HTTPException):
                self.http.close()
                self.broken.add(self.flying)
                self.flying = ""
            else:
                if self.answer.status == 200:
                    return json.loads(said)
                assert self.answer.status in (429, 503), said
            time.sleep(0.05)
        raise TimeoutError

    def say(self, image: str, *, undoes: str = "") -> str:
        """Send an answer, or take one back; its client id."""
        client, answer = next(self.clients), UNDONE if undoes else self.random.choice(ANSWERS)
        if undoes:
            self.insist("POST", "/api/undo", {"client": client, "undoes": undoes})
        else:
            self.insist("POST", "/api/answers", {"client": client, "image": image, "answer": answer})
        self.kept[client] = (image, answer)
        return client

    def run(self) -> None:
        while images := self.insist("GET", "/api/next?count=50")["images"]:
            for key in [each["key"] for each in images]:
                client = self.say(key)
                if self.random.randrange(UNDO) == 0:
                    self.say(key, undoes=client)
                    self.say(key)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def postgres(request: pytest.FixtureRequest) -> Any:
    """None for SQLite, else a server of its own: other tests' must not die."""
    return None if request.param == "sqlite" else request.getfixturevalue("own_postgres")


def test_no_acknowledged_answer_is_lost_when_the_server_is_killed(
    tmp_path: Path, postgres: Any, make: SimpleNamespace, serve: Callable[..., Any]
) -> None:
    (tmp_path / "project").mkdir()
    url = postgres and f"{postgres.url}/postgres"
    store = Store(tmp_path / "project", url)
    make.fill(store, IMAGES, votes=PEOPLE)
    names = [f"person {number}" for number in range(PEOPLE)]
    database = ["--database", url] if url else []
    server = serve(store.folder, *[part for name in names for part in ("--annotator", name)], *database)
    deadline = time.monotonic() + 400
    annotators = [Annotator(server.port, server.links[name], number, deadline) for number, name in enumerate(names)]
    for annotator in annotators:
        annotator.start()
    broken: set[str] = set()
    for kill in range(1, KILLS + 1):
        enough = PEOPLE * IMAGES * kill / (KILLS + 1)
        while sum(len(each.kept) for each in annotators) < enough:
            assert any(each.is_alive() for each in annotators)  # the threads' own failures are told at the end
            time.sleep(0.01)
        flying = {each.flying for each in annotators} - {""}
        server.kill()
        if postgres and kill == 2:
            postgres.kill()
            postgres.start()
        server = serve(store.folder, *database, port=server.port)
        # It was not resting: answers that it had received got no acknowledgement.
        broken |= flying & {client for each in annotators for client in each.broken}
        assert len(broken) >= kill
        if postgres and kill == 3:  # the database alone: the server goes on by itself
            postgres.kill()
            postgres.start()
    for annotator in annotators:
        annotator.join()
        annotator.http.close()
    server.kill()

    acknowledged = {client: said for annotator in annotators for client, said in annotator.kept.items()}
    keys = {image.id: image.key for image in store.images()}
    with store.database.read() as session:
        rows = [(row.client, keys[row.image], row.answer, row.person, row.round) for row in session.query(Answer)]
    assert {client: (image, answer) for client, image, answer, _, _ in rows} == acknowledged
    assert len(rows) == len(acknowledged)
    assert len(store.votes()) == PEOPLE * IMAGES
    # Rounds without a gap, each once: nothing was counted twice where it was sent twice.
    given = Counter((image, person) for _, image, _, person, _ in rows)
    assert len(given) == PEOPLE * IMAGES
    assert set(given.values()) == {1, 3}
    assert Counter(of for *_, of in rows) == {
        1: PEOPLE * IMAGES,
        2: (undone := sum(number == 3 for number in given.values())),
        3: undone,
    }
    store.close()
