"""The server dies by SIGKILL under load: every answer that it acknowledged is there, once and unaltered."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2

from advex.annotation import ANSWERS
from advex.annotation.models import Answer
from advex.annotation.store import Store

PEOPLE, IMAGES = 20, 250  # 5,000 answers
KILLS = 4


class Annotator(threading.Thread):
    """Answers everything it is asked, as the page does: an answer is sent again until it is acknowledged."""

    def __init__(self, address: str, link: str, number: int, deadline: float) -> None:
        super().__init__()
        self.address, self.number, self.deadline = address, number, deadline
        self.http = httpx2.Client(base_url=address, timeout=20)
        self.random = random.Random(number)
        self.kept: dict[str, tuple[str, str]] = {}  # client id -> (image, answer), acknowledged
        self.sent = 0
        token = link.partition("#")[2]
        entered = self.http.post("/api/session", json={"token": token}, headers={"X-Advex": "enter"})
        assert entered.status_code == 204
        found = re.search(r'name="csrf" content="(\w+)"', self.http.get("/").text)
        assert found is not None
        self.headers = {"X-CSRF-Token": found[1]}

    def insist(self, method: str, path: str, **given: Any) -> Any:
        """Ask until there is an answer."""
        while time.monotonic() < self.deadline:
            try:
                answer = self.http.request(method, path, headers=self.headers, **given)
            except httpx2.TransportError:
                time.sleep(0.1)
                continue
            if answer.status_code == 200:
                return answer.json()
            assert answer.status_code in (429, 500), answer.text
            time.sleep(0.1)
        raise TimeoutError

    def run(self) -> None:
        while images := self.insist("GET", "/api/next?count=25")["images"]:
            for image in images:
                client = f"person-{self.number}-{self.sent}"
                self.sent += 1
                body = {"client": client, "image": image["key"], "answer": self.random.choice(ANSWERS)}
                self.insist("POST", "/api/answers", json=body)
                self.kept[client] = (image["key"], body["answer"])


def test_no_acknowledged_answer_is_lost_when_the_server_is_killed(
    tmp_path: Path, url: str | None, make: SimpleNamespace, serve: Callable[..., Any]
) -> None:
    (tmp_path / "project").mkdir()
    store = Store(tmp_path / "project", url)
    make.fill(store, IMAGES, votes=PEOPLE)
    names = [f"person {number}" for number in range(PEOPLE)]
    arguments = [part for name in names for part in ("--annotator", name)]
    database = [] if url is None else ["--database", url]
    server = serve(store.folder, *arguments, *database)
    deadline = time.monotonic() + 500
    annotators = [Annotator(server.address, server.links[name], number, deadline) for number, name in enumerate(names)]
    for annotator in annotators:
        annotator.start()
    total = PEOPLE * IMAGES
    for kill in range(1, KILLS + 1):
        while sum(len(each.kept) for each in annotators) < total * kill / (KILLS + 1) and time.monotonic() < deadline:
            time.sleep(0.02)
        server.kill()
        server = serve(store.folder, *database, port=server.port)
    for annotator in annotators:
        annotator.join()
        annotator.http.close()
    server.kill()

    acknowledged = {client: said for annotator in annotators for client, said in annotator.kept.items()}
    keys = {image.id: image.key for image in store.images()}
    with store.database.read() as session:
        rows = [(row.client, keys[row.image], row.answer, row.person, row.round) for row in session.query(Answer)]
    assert {client: (image, answer) for client, image, answer, _, _ in rows} == acknowledged
    assert len(rows) == len(acknowledged) == total
    assert set(Counter((image, person) for _, image, _, person, _ in rows).values()) == {1}
    assert {of for *_, of in rows} == {1}
    store.close()
