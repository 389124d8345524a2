"""How `advex annotate serve` ends, and where it does not begin: quickly, with one sentence, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from advex.annotation.store import Store

HEAD = b"POST /api/answers HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n"


def ended(server: Any, seconds: float) -> tuple[int, float]:
    """The exit code, and how long it took."""
    began = time.monotonic()
    return server.process.wait(seconds), time.monotonic() - began


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_it_ends_when_told_whatever_is_open(
    lite: Store, make: SimpleNamespace, serve: Callable[..., Any], number: signal.Signals, code: int
) -> None:
    """Connections that rest, that never said anything, and a request that does not come to its end."""
    make.fill(lite, 2)
    server = serve(lite.folder)
    with contextlib.ExitStack() as open_:
        resting, silent, unfinished = (
            open_.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20)) for _ in range(3)
        )
        resting.sendall(b"GET /enter HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert resting.recv(12) == b"HTTP/1.1 200"
        unfinished.sendall(HEAD + b"{")
        server.process.send_signal(number)
        exit_code, took = ended(server, 30)
        assert silent.recv(1) == b""
    assert exit_code == code
    assert took < 15  # five seconds for what is in flight, and a slow machine's
    assert server.said().splitlines()[1:] == []


def test_a_second_ctrl_c_ends_it_at_once(lite: Store, make: SimpleNamespace, serve: Callable[..., Any]) -> None:
    make.fill(lite, 2)
    server = serve(lite.folder)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as unfinished:
        unfinished.sendall(HEAD + b"{")
        server.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(0.5)
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGINT)
        assert ended(server, 30)[0] == 0
    assert "Traceback" not in server.said()


def test_an_answer_in_flight_is_kept_and_acknowledged(
    lite: Store, make: SimpleNamespace, serve: Callable[..., Any], enter: Callable[..., Any]
) -> None:
    """The rest of its body comes after SIGTERM."""
    make.fill(lite, 2)
    server = serve(lite.folder)
    guest = enter(server, "annotator")
    body = json.dumps({"client": "client-1", "image": guest.images()[0], "answer": "changed"}).encode()
    head = f"POST /api/answers HTTP/1.1\r\nHost: localhost\r\nCookie: {guest.cookie}\r\nX-CSRF-Token: {guest.csrf}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as flying:
        flying.sendall(head.encode() + body[:5])
        guest.get("/enter")  # by now that has been received
        server.process.send_signal(signal.SIGTERM)
        while True:  # it takes nobody in any more
            try:
                socket.create_connection(("127.0.0.1", server.port), timeout=20).close()
            except ConnectionRefusedError:
                break
            time.sleep(0.01)
        flying.sendall(body[5:])
        assert flying.recv(12) == b"HTTP/1.1 200"
    assert ended(server, 30)[0] == 128 + signal.SIGTERM
    assert [vote.answer for vote in lite.votes()] == ["changed"]


def test_a_port_that_is_taken(lite: Store, make: SimpleNamespace) -> None:
    make.fill(lite, 2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        command = [sys.executable, "-m", "advex", "annotate", "serve", str(lite.folder), "--port"]
        done = subprocess.run([*command, str(other.getsockname()[1])], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""  # no link was spent
    (line,) = done.stderr.splitlines()
    assert "Address already in use" in line
    assert "--port 0" in line


def test_two_servers_on_one_project_keep_what_both_get(
    store: Store, url: str | None, make: SimpleNamespace, serve: Callable[..., Any], enter: Callable[..., Any]
) -> None:
    """Two at once are allowed: the database keeps their answers apart, not a lock file that a crash would leave."""
    make.fill(store, 6, votes=2)
    database = ["--database", url] if url else []
    guests = [
        enter(serve(store.folder, "--annotator", name, *database), name) for name in (f"{each} ann" for each in "ab")
    ]
    given = [guest.images()[:3] for guest in guests]
    for turn in range(3):
        for number, guest in enumerate(guests):
            assert guest.answer(f"client-{number}-{turn}", given[number][turn], "unsure") == 200
    assert sorted(vote.person for vote in store.votes()) == ["a ann"] * 3 + ["b ann"] * 3


def test_a_second_server_leaves_the_owners_link_of_the_first(
    lite: Store, make: SimpleNamespace, serve: Callable[..., Any], enter: Callable[..., Any]
) -> None:
    make.fill(lite, 2)
    first = serve(lite.folder)
    owner = enter(first, "owner")
    second = serve(lite.folder)
    assert "--new-link owner" in second.said()
    assert "--new-link owner" not in first.said()
    for server in (first, second):  # the session goes on, and both links still let in
        assert b'id="live"' in enter(server, "owner").get("/")
    assert b'id="live"' in owner.get("/")
    third = serve(lite.folder, "--new-link", "owner")
    assert "--new-link owner" not in third.said()
    owner.get("/")
    assert owner.response.status == 401
    assert [enter(server, "owner").cookie for server in (first, second)] == ["", ""]
