"""Nobody gets in who was not invited, and nobody learns more than they should: the cases one by one."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import re
import socket
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import schemathesis
import uvicorn
import uvicorn.server
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi import checks as conformance
from starlette.testclient import TestClient

from advex.annotation import PICTURES, people
from advex.annotation.app import make_app
from advex.annotation.connections import Connection
from advex.annotation.security import Bucket, Guard, Limits, check_address, csrf_token
from advex.annotation.store import Store
from advex.errors import SpecError

CHECKS = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")

BASE = "http://127.0.0.1"


@pytest.fixture
def project(lite: Store, make: SimpleNamespace) -> Store:
    make.fill(lite, 6)
    return lite


class Visitor:
    """A browser without a screen: sends what browsers send."""

    def __init__(self, app: Guard, store: Store) -> None:
        self.http = TestClient(app, base_url=BASE, raise_server_exceptions=False)
        self.store = store

    def enter(self, token: str, **headers: str) -> Any:
        return self.http.post("/api/session", json={"token": token}, headers={"X-Advex": "enter"} | headers)

    @property
    def session(self) -> str:
        return next(iter(self.http.cookies.jar)).value or ""

    def post(self, path: str, body: Any, **headers: Any) -> Any:
        return self.http.post(path, json=body, headers={"X-CSRF-Token": csrf_token(self.session)} | headers)

    def images(self) -> list[str]:
        return [each["key"] for each in self.http.get("/api/next").json()["images"]]


@pytest.fixture
def visit(project: Store, make: SimpleNamespace) -> Callable[..., Visitor]:
    """Somebody with a session, or without (name=None). Several share one server."""
    app = make_app(project)

    def come(name: str | None = "anna", *, owner: bool = False, of: Guard | None = None) -> Visitor:
        visitor = Visitor(of or app, project)
        if name is not None:
            assert visitor.enter(make.link(project, name, owner=owner)).status_code == 204
        return visitor

    return come


# -- coming in -----------------------------------------------------------------------------------------------


def test_a_link_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(visit: Callable[..., Visitor]) -> None:
    visitor = visit(None)
    answer = visitor.enter(people.invite(visitor.store.database, "anna"))
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    assert visitor.store.project().key in cookie.partition("=")[0]  # projects on one host do not share it
    assert answer.content == b""
    assert visitor.http.get("/").status_code == 200


def test_behind_https_the_cookie_is_secure(project: Store) -> None:
    limits = Limits(secure=True, hosts=frozenset({"ask.lab.org"}))
    http = TestClient(make_app(project, limits), base_url="https://ask.lab.org")
    token = people.invite(project.database, "anna")
    answer = http.post("/api/session", json={"token": token}, headers={"X-Advex": "enter"})
    assert "Secure" in answer.headers["set-cookie"]
    assert answer.headers["set-cookie"].startswith("__Host-")  # no neighbouring name can set it
    assert "max-age" in answer.headers["strict-transport-security"]
    assert http.get("/").status_code == 200


PROTECTED = [
    ("GET", "/api/next"), ("GET", "/api/progress"), ("POST", "/api/answers"), ("POST", "/api/undo"),
    ("POST", "/api/leave"), ("GET", "/owner/live"), ("GET", f"/pictures/{'0' * 32}/changed"),
]  # fmt: skip
BODIES = {
    "/api/answers": {"client": "client-1", "image": "0" * 32, "answer": "changed"},
    "/api/undo": {"client": "client-2", "undoes": "client-1"},
}


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize("cookie", [None, "", "x" * 22, "../../etc/passwd", "\u00ff", "a" * 5000])
def test_without_a_session_nothing_is_told(
    visit: Callable[..., Visitor], method: str, path: str, cookie: str | None
) -> None:
    visitor = visit(None)
    headers = {"X-CSRF-Token": csrf_token(cookie or "")}
    if cookie is not None:
        name = f"advex-{visitor.store.project().key}"
        headers["Cookie"] = f"{name}={cookie}".encode("latin-1")  # pyright: ignore
    answer = visitor.http.request(method, path, json=BODIES.get(path), headers=headers)
    assert answer.status_code == 401
    assert answer.json() == {"error": "Open your personal link again."}


def test_revoked_links_and_sessions_are_over_at_once(visit: Callable[..., Visitor]) -> None:
    visitor = visit("anna")
    token = people.invite(visitor.store.database, "anna")  # a new link: the session by the old one ends
    assert visitor.http.get("/api/next").status_code == 401
    assert visitor.enter(token).status_code == 204
    assert visitor.http.get("/api/next").status_code == 200
    people.revoke(visitor.store.database, "anna")
    assert visitor.http.get("/api/next").status_code == 401
    assert visitor.enter(token).status_code == 401


def test_leaving_ends_the_session(visit: Callable[..., Visitor]) -> None:
    visitor = visit("anna")
    session = visitor.session
    assert visitor.post("/api/leave", None).status_code == 204
    assert people.who(visitor.store.database, session) is None


def test_guessing_links_is_slowed(visit: Callable[..., Visitor]) -> None:
    visitor = visit(None)
    codes = [visitor.enter(f"guess-{number}").status_code for number in range(25)]
    assert codes[:20] == [401] * 20
    assert codes[20:] == [429] * 5
    # Not even the right one now: whoever guesses learns nothing.
    assert visitor.enter(people.invite(visitor.store.database, "anna")).status_code == 429


# -- other sites ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": BASE}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"X-CSRF-Token": ""}, 403),
        ({"X-CSRF-Token": csrf_token("another session")}, 403),
        ({"X-CSRF-Token": "\u00e9"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9"}, 403),  # another port is another site
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "evil.example:127.0.0.1"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "LOCALHOST:8321"}, 200),
        ({"Host": "[::1]:8321"}, 200),
    ],
)
def test_answers_come_from_our_page_alone(visit: Callable[..., Visitor], headers: dict[str, str], status: int) -> None:
    """Also against DNS rebinding: the page of another site that resolves to us names itself in Host."""
    visitor = visit()
    body = {"client": "client-1", "image": visitor.images()[0], "answer": "changed"}
    cookie = next(iter(visitor.http.cookies.jar))
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    raw = {"Cookie": f"{cookie.name}={cookie.value}".encode()} | raw
    assert visitor.post("/api/answers", body, **raw).status_code == status
    assert len(visitor.store.votes()) == (status == 200)


def test_a_form_of_another_site_cannot_come_in(visit: Callable[..., Visitor]) -> None:
    """Nor sign somebody in as another: a form can send no such header."""
    visitor = visit(None)
    token = people.invite(visitor.store.database, "anna")
    assert visitor.http.post("/api/session", json={"token": token}).status_code == 403
    assert visitor.enter(token, Origin="http://evil.example").status_code == 403


def test_every_answer_has_the_headers_and_none_allows_other_origins(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    key = visitor.images()[0]
    paths = ["/", "/enter", "/api/next", f"/pictures/{key}/changed", "/static/annotate.js", "/nowhere", "/owner/live"]
    for path in paths:
        headers = visitor.http.get(path, headers={"Origin": "http://evil.example"}).headers
        policy = headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
        kept = headers["cache-control"]
        assert kept == {"p": "private, max-age=31536000, immutable", "s": "no-cache"}.get(path[1:2], "no-store")


def test_pages_hold_no_script_style_or_address_of_elsewhere(visit: Callable[..., Visitor]) -> None:
    pages = [visit(None).http.get("/").text, visit(None).http.get("/enter").text, visit().http.get("/").text]
    pages.append(visit("owner", owner=True).http.get("/").text)
    static = Path(make_app.__code__.co_filename).parent / "static"
    for text in pages:
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
    for text in pages + [path.read_text() for path in static.iterdir()]:
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+", re.sub(r"(?m)^\s*//.*$| // .*$", "", text)))
        assert addresses <= {"http://www.w3.org"}  # the name space of SVG


# -- paths and pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/pictures/../../annotation.sqlite/changed", "/pictures/..%2f..%2fannotation.sqlite/changed",
        "/pictures/%2e%2e%2f%2e%2e%2fetc%2fpasswd/changed", "/pictures//etc/passwd/changed",
        "/pictures/..%5c..%5cannotation.sqlite/changed", "/pictures/%00/changed", "/pictures/a%00.png/changed",
        "/pictures/{key}/..%2f..%2fannotation.sqlite", "/pictures/{key}/confidences", "/pictures/{key}/changed/..",
        "/pictures/{changed}/changed", "/pictures/{changed}.png/changed", "/pictures/{KEY}/changed",
        "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/", "/static/style.css%00",
        "/static//etc/passwd", "//etc/passwd", "/annotation.sqlite", "/project/pictures", "/openapi.json", "/docs",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(visit: Callable[..., Visitor], path: str) -> None:
    visitor = visit()
    (key, *_), image = visitor.images(), visitor.store.images()[0]
    filled = path.format(key=key, KEY=key.upper(), changed=image.changed)
    answer = visitor.http.get(filled, follow_redirects=False)
    assert answer.status_code in (404, 422)
    assert list(answer.json()) == ["error"]


def test_pictures_are_the_bytes_that_were_checked(visit: Callable[..., Visitor], project: Store) -> None:
    visitor = visit()
    key = visitor.images()[0]
    image = next(image for image in project.images() if image.key == key)
    for which, name in (("original", image.original), ("changed", image.changed)):
        path = project.folder / PICTURES / f"{name}.png"
        answer = visitor.http.get(f"/pictures/{key}/{which}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"] == "image/png"
        # No Range: parts of files are where servers have been slow or wrong.
        assert visitor.http.get(f"/pictures/{key}/{which}", headers={"Range": "bytes=0-1"}).status_code == 200
    path.write_bytes(path.read_bytes() + b"<script>")
    answer = visitor.http.get(f"/pictures/{key}/changed")
    assert (answer.status_code, list(answer.json())) == (500, ["error"])
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert visitor.http.get(f"/pictures/{key}/changed").status_code == 500


def test_annotators_see_nothing_but_what_they_judge(visit: Callable[..., Visitor], make: SimpleNamespace) -> None:
    """No confidences, targets, names, or answers of others, anywhere."""
    anna, ben = visit("anna"), visit("ben")
    keys = anna.images()
    for number, key in enumerate(keys):
        body = {"client": f"anna-client-{number}", "image": key, "answer": "changed"}
        assert anna.post("/api/answers", body).status_code == 200
    texts = [ben.http.get(path).text for path in ("/", "/api/next", "/api/progress")]
    for secret in ("anna", 'changed"}', "robust", "minimal", "0.75", "data/train", ".png", "rmse", "confiden"):
        assert not [text for text in texts[1:] if secret in text]
    assert "anna" not in texts[0]
    assert set(ben.http.get("/api/next").json()["images"][0]) == {"key", "label"}
    assert ben.http.get("/api/progress").json()["answered"] == 0
    assert ben.http.get("/owner/live").status_code == 403
    assert ben.post("/api/undo", {"client": "ben-client-1", "undoes": "anna-client-0"}).status_code == 404


def test_pictures_of_others_are_not_shown(project: Store, visit: Callable[..., Visitor]) -> None:
    anna, ben = visit("anna"), visit("ben")
    hers = [each["key"] for each in anna.http.get("/api/next?count=1").json()["images"]]
    assert anna.http.get(f"/pictures/{hers[0]}/changed").status_code == 200
    assert ben.http.get(f"/pictures/{hers[0]}/changed").status_code == 404
    assert visit("owner", owner=True).http.get(f"/pictures/{hers[0]}/changed").status_code == 200


def test_the_owner_gives_no_answers(visit: Callable[..., Visitor]) -> None:
    owner = visit("owner", owner=True)
    assert owner.http.get("/api/next").status_code == 403
    assert owner.post("/api/answers", BODIES["/api/answers"]).status_code == 403
    assert owner.http.get("/owner/live").status_code == 200


# -- too much, and nonsense ----------------------------------------------------------------------------------


def test_long_bodies_are_refused_before_they_are_read(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    assert visitor.post("/api/answers", {"client": "x" * 20_000}).status_code == 413

    headers = {"X-CSRF-Token": csrf_token(visitor.session), "Content-Type": "application/json"}
    bomb = zlib.compress(b" " * 10**7)[:16_000]
    packed = headers | {"Content-Encoding": "deflate"}
    assert visitor.http.post("/api/answers", content=bomb, headers=packed).status_code == 422
    for length in ("-1", "1e3", "9" * 400, "\u0661"):
        sent: dict[str, Any] = headers | {"Content-Length": length.encode()}
        assert visitor.http.post("/api/answers", content=b"{}", headers=sent).status_code == 413


def test_endless_bodies_are_not_read_to_their_end(project: Store) -> None:
    """Sent in pieces, without a length."""
    read, sent = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1_000_000
        return {"type": "http.request", "body": b" " * 1_000_000, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/answers", "headers": [(b"host", b"localhost")]}
    asyncio.run(make_app(project)(scope, receive, send))
    assert sent[0]["status"] == 413
    assert read <= 110_000_000
    assert b"at most 16,384 bytes" in sent[1]["body"]


def test_too_many_requests_are_refused_and_forgotten(project: Store, visit: Callable[..., Visitor]) -> None:
    visitor = visit(of=make_app(project, Limits(rate=0.001, burst=30)))
    assert visitor.http.get("/").status_code == 200  # from now on it counts by itself, not by its address
    codes = [visitor.http.get("/api/progress").status_code for _ in range(40)]
    assert codes.count(200) == 30
    assert set(codes[30:]) == {429}
    other = Visitor(visitor.http.app, project)  # pyright: ignore  (another session: not slowed)
    assert other.http.get("/enter").status_code == 200
    bucket = Bucket(rate=1000.0, burst=2)
    assert [bucket.take("a") for _ in range(3)] == [True, True, False]
    assert bucket.take("b")


def test_made_up_and_lost_sessions_are_counted_by_their_address(project: Store, visit: Callable[..., Visitor]) -> None:
    visitor = visit(of=make_app(project, Limits(rate=0.001, burst=30)))
    name, good = next(iter(visitor.http.cookies.jar)).name, visitor.session
    assert visitor.http.get("/").status_code == 200
    visitor.http.cookies.clear()
    for tossed in (f"{name}=made-up-{{}}", f"{name}=made-up-{{}}; other=1", "x={}"):
        for number in range(20):
            last = visitor.http.get("/enter", headers={"Cookie": tossed.format(number)})
    assert last.status_code == 429  # whatever was in the cookie
    assert visitor.http.get("/api/progress", headers={"Cookie": f"{name}={good}"}).status_code == 200
    # Whoever is let in by several forms of one cookie is still one.
    forms = [f"{name}=junk-{number}; {name}={good}" for number in range(5)]
    codes = [visitor.http.get("/api/progress", headers={"Cookie": form}).status_code for form in forms]
    assert set(codes) == {429}  # they are strangers first, and of these there were too many
    people.revoke(project.database, "anna")
    codes = [visitor.http.get("/api/progress", headers={"Cookie": f"{name}={good}"}).status_code for _ in range(2)]
    assert codes == [401, 429]


def test_requests_that_say_their_length_twice_or_have_endless_heads(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    both = {"Transfer-Encoding": "chunked", "Content-Length": "4"}
    answer = visitor.http.post("/api/answers", content=b"0\r\n\r\n", headers=both)
    assert (answer.status_code, answer.headers["connection"]) == (400, "close")
    assert visitor.http.get("/", headers={"X-Long": "a" * 20_000}).status_code == 431
    assert visitor.http.get("/" + "a" * 20_000).status_code == 431


def test_bodies_that_do_not_come_to_their_end(project: Store) -> None:
    async def receive() -> dict[str, Any]:
        return await asyncio.Event().wait()  # pyright: ignore  (never)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/answers", "headers": [(b"host", b"localhost")]}
    asyncio.run(make_app(project, Limits(patience=0.01))(scope, receive, send))
    assert sent[0]["status"] == 408


def test_who_sends_too_much_hears_why(project: Store, serve: Callable[..., Any]) -> None:
    """By a real connection, on which a client sends everything before it listens."""
    server = serve(project.folder, "--verbose")
    for path in ("/api/answers", "/api/next", "/enter"):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
            connection.request("POST", path, bytes(20_000_000))
            response = connection.getresponse()
            assert response.status == 413
            assert "16,384" in json.loads(response.read())["error"]


def test_the_log_holds_nothing_as_typed(project: Store, serve: Callable[..., Any]) -> None:
    server = serve(project.folder, "--verbose")
    head = b"SECRET-1 /secret-2?secret-3 HTTP/1.1\r\nHost: secret-4\r\nCookie: secret-5\r\nConnection: close\r\n\r\n"
    for sent in (head, head.replace(b"secret-4", b"localhost"), b"\x1b[31msecret-7\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(sent)
            while connection.recv(4096):
                pass
    server.stop()
    assert "secret" not in server.said().lower()
    assert "\x1b" not in server.said()
    assert server.said().count("- - 4") == 2


@pytest.mark.parametrize("begun", [b"", b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow:"])
def test_connections_that_only_wait_are_closed(begun: bytes) -> None:
    """Also where they go on byte by byte; those that ask are answered."""

    class Hasty(Connection):
        seconds = 1.0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def attack() -> tuple[bytes, bytes]:
        config = uvicorn.Config(app, http=Hasty, lifespan="off", log_config=None)
        state = uvicorn.server.ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: Hasty(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        (slow, slowly), (right, rightly) = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        rightly.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        slowly.write(begun)
        closed = await asyncio.wait_for(slow.read(), 20)
        answered = await right.read(12)  # though it rests longer than the other was given
        slowly.close()
        rightly.close()
        server.close()
        return closed, answered

    assert asyncio.run(attack()) == (b"", b"HTTP/1.1 204")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{", b"\xff", b"[" * 10_000, b'{"client":"client-1"}',
        b'{"client":"a b","image":"x","answer":"changed"}',
        b'{"client":"client-1","image":"' + b"0" * 32 + b'","answer":"undone"}',
        b'{"client":"client-1","image":"' + b"0" * 32 + b'","answer":"changed","person":2}',
        b'{"client":"client-1","image":"' + b"0" * 32 + b'","answer":"changed","milliseconds":-1}',
        b'{"client":"client-1","image":"' + b"0" * 32 + b'","answer":"changed","milliseconds":1e400}',
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_one_sentence_that_repeats_nothing(visit: Callable[..., Visitor], body: bytes) -> None:
    visitor = visit()
    headers = {"X-CSRF-Token": csrf_token(visitor.session), "Content-Type": "application/json"}
    answer = visitor.http.post("/api/answers", content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.json() == {"error": "The request is malformed."}


def test_failures_are_one_sentence_and_the_log_has_no_secrets(
    visit: Callable[..., Visitor], project: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    visitor = visit(None)
    token = people.invite(project.database, "anna")
    visitor.enter(token)
    visitor.enter("wrong-token-wrong-token")
    key = visitor.images()[0]
    visitor.http.get(f"/pictures/{key}/changed")
    visitor.http.get("/enter?token=in-the-query")

    def broken(*_: Any) -> None:
        raise RuntimeError(f"secret {token}")

    monkeypatch.setattr(project, "next", broken)
    answer = visitor.http.get("/api/next")
    assert answer.status_code == 500
    assert answer.json() == {"error": "Something went wrong here. Nothing was lost; try again."}
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name == "advex.annotation")
    assert "GET /pictures/{key}/{which} 200" in ours
    assert "/api/next: RuntimeError" in ours
    for secret in (token, visitor.session, csrf_token(visitor.session), "wrong-token", "in-the-query", key, "secret"):
        assert secret not in ours


def test_the_server_listens_on_loopback_unless_told_otherwise() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        check_address(host, False)
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        with pytest.raises(SpecError, match="--allow-remote"):
            check_address(host, False)
        check_address(host, True)


def test_the_server_calls_nobody(visit: Callable[..., Visitor], monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = visit()
    called: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: called.append(address))
    key = visitor.images()[0]
    visitor.post("/api/answers", {"client": "client-1", "image": key, "answer": "changed"})
    for path in ("/", "/enter", f"/pictures/{key}/changed", "/static/style.css"):
        visitor.http.get(path)
    assert called == []


def test_names_of_any_kind_are_text_on_every_page(lite: Store, make: SimpleNamespace) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&{{7*7}}"
    make.fill(lite, 2, labels=(evil,))
    app = make_app(lite)
    for name, owner in (("anna" + evil, False), ("ben" + evil, False), ("owner", True)):
        visitor = Visitor(app, lite)
        visitor.enter(make.link(lite, name, owner=owner))
        if not owner:
            given = "changed" if name.startswith("a") else "unsure"
            for number, key in enumerate(visitor.images()):
                visitor.post("/api/answers", {"client": f"{name[:3]}-client-{number}", "image": key, "answer": given})
    text = visitor.http.get("/").text
    assert "<img src=x" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;&#34;&#39;&amp;{{7*7}}") >= 5
    from advex.annotation import pages

    assert "<img src=x" not in pages.standalone(lite)


# -- every request that the interface allows, and many that it does not -----------------------------------------


OPERATIONS = {
    "POST /api/session", "POST /api/leave", "GET /api/next", "GET /api/progress", "POST /api/answers",
    "POST /api/undo", "GET /pictures/{key}/{which}",
}  # fmt: skip


PLAIN = {"POST /api/leave", "GET /api/progress"}  # nothing is asked that could be asked wrongly


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *((label, "POSITIVE") for label in sorted(OPERATIONS)),
        *((label, "NEGATIVE") for label in sorted(OPERATIONS - PLAIN)),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_interface_keeps_to_its_description(lite: Store, make: SimpleNamespace, label: str, mode: str) -> None:
    """Schemathesis over the OpenAPI: no failure, no undocumented status, no body of another form."""
    make.fill(lite, 40)
    guard = make_app(lite, Limits(rate=1e6, burst=10**6, attempts=10**6))
    visitor = Visitor(guard, lite)
    visitor.enter(people.invite(lite.database, "anna"))
    keys = visitor.images()
    app: Any = guard.app
    schema: Any = schemathesis.openapi.from_dict(app.openapi())
    operations = {each.ok().label: each.ok() for each in schema.get_all_operations()}
    assert operations.keys() == OPERATIONS
    strategy = operations[label].as_strategy(generation_mode=getattr(schemathesis.GenerationMode, mode))
    checks = [getattr(conformance, name) for name in CHECKS]
    seen = set()

    every: Any = list(HealthCheck)

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=every)
    @given(case=strategy)
    def ask(case: Any) -> None:
        if mode == "POSITIVE" and isinstance(case.body, dict) and "image" in case.body:
            case.body["image"] = keys[sum(case.body["client"].encode()) % len(keys)]
        sent = case.as_transport_kwargs(base_url=BASE)
        headers = {"X-CSRF-Token": csrf_token(visitor.session), "X-Advex": "enter"}
        if label == "POST /api/leave":  # else it would be over
            headers = {"X-CSRF-Token": "wrong"}
        kept = {name: value for name, value in (sent.pop("headers") or {}).items() if name.lower() in headers}
        typed = {"Content-Type": "application/json"} | kept | headers
        sent["headers"] = {name: str(value).encode() for name, value in typed.items()}
        sent.pop("cookies", None)
        if "data" in sent:
            sent["content"] = sent.pop("data")
        answer = visitor.http.request(**sent)
        seen.add(answer.status_code)
        case.validate_response(answer, checks=checks)

    ask()
    expected = {"POST /api/answers": {200, 409}, "GET /api/next": {200}, "GET /api/progress": {200}}
    if mode == "POSITIVE":
        assert seen >= expected.get(label, set())
