"""Who may ask, what is refused, and what is kept: over HTTP, with a small network."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from advex.annotation import EXPLORED as FOLDER
from advex.annotation import people
from advex.annotation.app import make_app
from advex.annotation.security import Limits, csrf_token
from advex.annotation.store import Store
from advex.cli import main
from advex.errors import SpecError
from advex.explore import routes, sources
from advex.explore.desk import Desk
from advex.explore.requests import UPLOAD_BYTES
from advex.record.explored import NAME, Explored, read_explored
from advex.report import write_report

WANTED = {"page": "page-0001", "model": 0, "picture": "3", "target": 8, "rho": 0.15, "explainer": "gradient"}
KEY = "0" * 32
READ = ["/api/explore", "/api/explore/pictures", "/explore/pictures/0", f"/explore/explanations/{KEY}/input",
        "/explore/report"]  # fmt: skip
CHANGE = {"/api/explore/explanations": WANTED, "/api/explore/saved": {"key": KEY}, "/api/explore/pictures": {}}


class Visitor:
    """A browser without a screen."""

    def __init__(self, app: Any, store: Store, name: str | None, *, owner: bool = False) -> None:
        self.http = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        self.store = store
        if name is not None:
            token = people.invite_owner(store.database, renew=True) if owner else people.invite(store.database, name)
            answer = self.http.post("/api/session", json={"token": token}, headers={"X-Advex": "enter"})
            assert answer.status_code == 204

    def send(self, path: str, body: Any, **headers: str) -> Any:
        cookie = next(iter(self.http.cookies.jar)).value or ""
        content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        return self.http.post(path, **content, headers={"X-CSRF-Token": csrf_token(cookie)} | headers)

    def explain(self, **changes: Any) -> dict[str, Any]:
        answer = self.send("/api/explore/explanations", WANTED | changes)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def visit(lite: Store, make: SimpleNamespace, desk: Desk, catalogue: Any) -> Callable[..., Visitor]:
    """Somebody at one server: the owner, an annotator, or nobody (None)."""
    make.fill(lite, 4)
    app = make_app(lite, Limits(uploads={routes.UPLOAD: UPLOAD_BYTES}), routes.owner_pages(desk, catalogue))

    def come(name: str | None = "owner") -> Visitor:
        return Visitor(app, lite, name, owner=name == "owner")

    return come


@pytest.fixture
def owner(visit: Callable[..., Visitor]) -> Visitor:
    return visit()


def picture(width: int = 40, height: int = 30) -> bytes:
    """A PNG of noise."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


# -- the door --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "status"), [(None, 401), ("anna", 403)])
def test_nobody_but_the_owner_comes_in(visit: Callable[..., Visitor], name: str | None, status: int) -> None:
    visitor = visit(name)
    assert visitor.http.get("/explore").status_code == status
    for path in READ:
        answer = visitor.http.get(path)
        assert answer.status_code == status, path
        assert answer.json().keys() == {"error"}
    for path, body in CHANGE.items():
        cookie = next(iter(visitor.http.cookies.jar), SimpleNamespace(value="")).value or ""
        answer = visitor.http.post(path, json=body, headers={"X-CSRF-Token": csrf_token(cookie)})
        assert answer.status_code == status, path


@pytest.mark.parametrize("path", CHANGE)
def test_what_computes_or_changes_must_come_from_our_page(owner: Visitor, path: str) -> None:
    for headers in ({}, {"X-CSRF-Token": "x" * 64}, {"X-CSRF-Token": csrf_token("other")}):
        assert owner.http.post(path, json=CHANGE[path], headers=headers).status_code == 403
    assert owner.send(path, CHANGE[path], Origin="http://evil.example").status_code == 403
    assert owner.send(path, CHANGE[path], **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert owner.send(path, CHANGE[path], Host="evil.example").status_code == 421


def test_another_session_sees_nothing_of_this_one(visit: Callable[..., Visitor]) -> None:
    first = visit()
    explanation = first.explain()
    own = first.send(routes.UPLOAD, picture()).json()
    second = Visitor(first.http.app, first.store, None)
    token = people.invite_owner(first.store.database, renew=True)
    second.http.post("/api/session", json={"token": token}, headers={"X-Advex": "enter"})
    assert second.http.get(f"/explore/explanations/{explanation['key']}/input").status_code == 404
    assert second.http.get(f"/explore/pictures/{own['key']}").status_code == 404
    assert second.send("/api/explore/saved", {"key": explanation["key"]}).status_code == 404
    assert second.send("/api/explore/explanations", WANTED | {"picture": own["key"]}).status_code == 404


def test_every_answer_has_the_policies(owner: Visitor) -> None:
    owner.send("/api/explore/saved", {"key": owner.explain()["key"]})
    for path in ("/explore", *READ):
        headers = owner.http.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert ("script-src" in policy) == (path != "/explore/report")


def test_without_a_model_the_owner_is_told_how(lite: Store, make: SimpleNamespace) -> None:
    make.fill(lite, 2)
    visitor = Visitor(make_app(lite), lite, "owner", owner=True)
    assert visitor.http.get("/explore").status_code == 404
    assert "--model RUN --data DATA" in visitor.http.get("/").text
    assert 'href="/explore"' not in visitor.http.get("/").text


def test_a_model_without_data_cannot_be_served() -> None:
    with pytest.raises(SpecError, match="--data"):
        sources.desk(
            sources.Sources(models=["a"], data="", split=None, wrapping={}, device="cpu", max_samples=None, seed=0)
        )


# -- asking ----------------------------------------------------------------------------------------------------


def test_an_explanation_and_its_pictures(owner: Visitor) -> None:
    explanation = owner.explain()
    assert explanation["pictures"] == ["input", "changed", "difference", "map_input", "map_changed"]
    assert explanation["told"]["sentences"]
    for which in explanation["pictures"]:
        answer = owner.http.get(f"/explore/explanations/{explanation['key']}/{which}")
        assert answer.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.size == (8, 8)
    assert owner.explain(rho=None)["told"]["rmse"] > 0
    assert owner.explain(rho=0)["told"]["rmse"] == 0


def test_the_pictures_of_the_data(owner: Visitor) -> None:
    about = owner.http.get("/api/explore").json()
    assert [each["name"] for each in about["models"]] == ["small"]
    assert sum(each["count"] for each in about["labels"]) == 60
    offered = owner.http.get("/api/explore/pictures", params={"start": 5, "count": 4}).json()
    assert [each["number"] for each in offered] == [5, 6, 7, 8]
    sevens = owner.http.get("/api/explore/pictures", params={"label": 7}).json()
    assert {each["label"] for each in sevens} == {7}
    assert owner.http.get("/explore/pictures/5").headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"rho": 1.1}, 422), ({"rho": -0.1}, 422), ({"rho": "NaN"}, 422), ({"rho": "inf"}, 422), ({"model": 9}, 422),
        ({"target": 10}, 422), ({"target": -1}, 422), ({"explainer": "lime"}, 422), ({"picture": "60"}, 422),
        ({"picture": "../../etc/passwd"}, 422), ({"picture": "-1"}, 422), ({"picture": KEY}, 404), ({"page": "a"}, 422),
        ({"page": "<script>alert"}, 422), ({"more": 1}, 422), ({"explainer": "x" * 17_000}, 413),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_in_a_sentence(owner: Visitor, changes: dict[str, Any], status: int) -> None:
    answer = owner.send("/api/explore/explanations", WANTED | changes)
    assert answer.status_code == status
    assert answer.json()["error"].endswith(".")
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("path", ["x", "-1", "60", "..%2f..%2fetc%2fpasswd", "0" * 31, KEY, "9" * 9])
def test_pictures_have_numbers_and_keys_and_no_paths(owner: Visitor, path: str) -> None:
    assert owner.http.get(f"/explore/pictures/{path}").status_code in (404, 422)


def test_a_newer_request_of_a_page_takes_the_place_of_the_older(
    owner: Visitor, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = desk.ask

    def ask_twice(page: str, question: Any) -> Any:
        first = ask(page, question)
        ask(page, question)
        return first

    monkeypatch.setattr(desk, "ask", ask_twice)
    answer = owner.send("/api/explore/explanations", WANTED)
    assert answer.status_code == 409
    assert "newer request" in answer.json()["error"]
    monkeypatch.undo()
    assert owner.explain()["told"]["sentences"]


def test_only_the_latest_explanations_are_kept_in_memory(owner: Visitor) -> None:
    shelf: routes.SessionCache[int] = routes.SessionCache(2)
    first, second = shelf.put("a", 1), shelf.put("a", 2)
    assert shelf.get("a", first, "gone") == 1  # used last, so it stays
    shelf.put("a", 3)
    assert shelf.get("a", first, "gone") == 1
    with pytest.raises(Exception, match="gone"):
        shelf.get("a", second, "gone")
    with pytest.raises(Exception, match="gone"):
        shelf.get("b", first, "gone")


# -- files -----------------------------------------------------------------------------------------------------


def test_a_file_becomes_a_picture_to_ask_about(owner: Visitor) -> None:
    taken = owner.send(routes.UPLOAD, picture()).json()
    assert taken["note"] == "40x30 pixels scaled to cover 8x8, the centre cut out"
    shown = owner.http.get(f"/explore/pictures/{taken['key']}").content
    explanation = owner.explain(picture=taken["key"])
    assert owner.http.get(f"/explore/explanations/{explanation['key']}/input").content == shown
    owner.send("/api/explore/saved", {"key": explanation["key"]})
    ((_, entry),) = read_explored(owner.store.folder / FOLDER)
    assert (entry.data, entry.example, entry.label, entry.note) == (None, None, None, taken["note"])


@pytest.mark.parametrize("data", [b"", b"no picture", picture()[:200], b"<svg/>"])
def test_a_file_that_is_no_picture_is_refused_in_a_sentence(owner: Visitor, data: bytes) -> None:
    answer = owner.send(routes.UPLOAD, data)
    assert answer.status_code == 422
    assert "cannot be read as a picture" in answer.json()["error"]


def test_only_files_may_be_large_and_only_so_large(owner: Visitor, visit: Callable[..., Visitor]) -> None:
    assert owner.send(routes.UPLOAD, picture() + bytes(1_000_000)).status_code == 200
    assert owner.send(routes.UPLOAD, bytes(UPLOAD_BYTES + 1)).status_code == 413
    assert owner.send("/api/explore/saved", bytes(20_000)).status_code == 413

    def pieces() -> Iterator[bytes]:  # without a length
        for _ in range(UPLOAD_BYTES // 1_000_000 + 1):
            yield bytes(1_000_000)

    cookie = next(iter(owner.http.cookies.jar)).value or ""
    answer = owner.http.post(routes.UPLOAD, content=pieces(), headers={"X-CSRF-Token": csrf_token(cookie)})
    assert answer.status_code == 413
    stranger = visit(None)
    assert stranger.http.post(routes.UPLOAD, content=pieces()).status_code == 401


# -- saving ----------------------------------------------------------------------------------------------------


def test_what_is_saved_is_kept_once_and_shown_in_the_report(owner: Visitor) -> None:
    assert owner.http.get("/explore/report").status_code == 404
    first, second = owner.explain(), owner.explain(rho=None, target=1)
    for key in (first["key"], second["key"], first["key"]):
        kept = owner.send("/api/explore/saved", {"key": key}).json()
        assert kept["report"] == "explored/report.html"
    assert kept["total"] == 2
    folder = owner.store.folder / FOLDER
    assert not list(folder.glob(".*"))
    entries = dict(read_explored(folder))
    assert len(entries) == 2
    for path, entry in entries.items():
        assert entry.data == "digits/test"
        assert entry.seed == 0
        for which in ("input", "changed", "difference", "map-input", "map-changed"):
            with Image.open(path / f"{which}.png") as image:
                assert image.size == (8, 8)
    html = owner.http.get("/explore/report").text
    assert html == (folder / "report.html").read_text(encoding="utf-8")
    assert html.count("<article") == 2
    assert html.count("data:image/png") == 10
    for entry in entries.values():
        assert entry.search in html
        assert entry.weights[:12] in html
    assert "<script" not in html
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)


def test_the_command_that_is_kept_makes_the_same_picture(
    owner: Visitor, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.send("/api/explore/saved", {"key": owner.explain()["key"]})
    ((folder, entry),) = read_explored(owner.store.folder / FOLDER)
    command = [*shlex.split(entry.command), "--out", str(tmp_path / "again"), "--quiet"]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    made = (tmp_path / "again" / "input.toward-8.rho0.15.png").read_bytes()
    assert made == (folder / "changed.png").read_bytes()


def test_the_report_is_made_again_from_what_is_there(owner: Visitor, tmp_path: Path) -> None:
    for target in (1, 2):
        owner.send("/api/explore/saved", {"key": owner.explain(target=target)["key"]})
    folder = owner.store.folder / FOLDER
    expected = (folder / "report.html").read_bytes()
    assert write_report(folder, tmp_path / "again.html").read_bytes() == expected


def test_names_in_the_report_are_text(owner: Visitor) -> None:
    owner.send("/api/explore/saved", {"key": owner.explain()["key"]})
    folder = owner.store.folder / FOLDER
    path = next(folder.glob(f"*/{NAME}"))
    evil = "<script>alert(1)</script>"
    changed = json.loads(path.read_text(encoding="utf-8")) | {
        "name": evil,
        "label": evil,
        "source": evil,
        "model": evil,
    }
    path.write_text(Explored.model_validate(changed).model_dump_json(), encoding="utf-8")
    assert evil not in write_report(folder).read_text(encoding="utf-8")
