"""Projects to test with: small pictures, a store on each database, a server as a process, a browser."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra `annotate` is not installed")

from advex.annotation import PICTURES, people
from advex.annotation.store import NewImage, Store

BIN = [Path(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is, if anywhere."""
    return shutil.which(name) or next((str(folder / name) for folder in BIN if (folder / name).exists()), None)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def png(seed: int, side: int = 8) -> bytes:
    """Coloured noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def keep(folder: Path, data: bytes) -> str:
    """Write a picture into a project; returns its name."""
    digest = hashlib.sha256(data).hexdigest()
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    (folder / PICTURES / f"{digest}.png").write_bytes(data)
    return digest


def fill(store: Store, images: int, *, labels: tuple[str, ...] = ("cat", "dog"), **settings: Any) -> None:
    """Begin a project with so many images."""
    store.create_project("a project", **{"votes": 2, "seed": 7, "alone": False, "about": {}, **settings})
    store.add_images([
        NewImage(
            label=labels[number % len(labels)],
            original=keep(store.folder, png(2 * number)),
            changed=keep(store.folder, png(2 * number + 1)),
            source="data/train",
            source_id=f"{number}.png",
            model="robust",
            search="minimal",
            target=labels[(number + 1) % len(labels)],
            rmse=number / 1000,
            confidences={"cat": 0.25, "dog": 0.75},
        )
        for number in range(images)
    ])  # fmt: skip


def link(store: Store, name: str, *, owner: bool = False) -> str:
    """The token of a new link; earlier ones end."""
    return people.invite_owner(store.database, renew=True) if owner else people.invite(store.database, name)


def person(store: Store, name: str, *, owner: bool = False) -> people.Guest:
    """Somebody with a link."""
    link(store, name, owner=owner)
    return next(guest for guest in people.people(store.database) if guest.name == name)


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """What tests make projects with."""
    return SimpleNamespace(png=png, keep=keep, fill=fill, link=link, person=person)


# -- databases -----------------------------------------------------------------------------------------------


class Postgres:
    """A PostgreSQL server on loopback, in a scratch folder. url: without a database's name.

    fsync: whether it writes to the disk, as it does by default; nothing else makes a crash's end true.
    """

    def __init__(self, *, fsync: bool) -> None:
        initdb, server = program("initdb"), program("postgres")
        if initdb is None or server is None:
            pytest.skip("PostgreSQL is not installed")
        pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
        self.server = server
        self.folder = Path(tempfile.mkdtemp(prefix="advex-pg-"))
        who: dict[str, Any] = {}
        if os.geteuid() == 0:  # it refuses to run as root
            who = {"user": "nobody", "group": "nogroup"}
            shutil.chown(self.folder, **who)
        self.quiet: dict[str, Any] = {
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
            "cwd": self.folder,
            **who,
        }
        made = subprocess.run(
            [initdb, "-D", self.folder / "data", "-A", "trust", "-U", "advex", "-E", "UTF8", "--no-sync"],
            check=False, **self.quiet,
        )  # fmt: skip
        if made.returncode:
            shutil.rmtree(self.folder)
            pytest.skip("PostgreSQL's initdb does not work here")
        self.port = free_port()
        self.url = f"postgresql://advex@127.0.0.1:{self.port}"
        self.fsync = "on" if fsync else "off"
        self.start()

    def start(self) -> None:
        """Start it, after a crash too; returns once it takes connections."""
        import psycopg

        command = [self.server, "-D", self.folder / "data", "-p", str(self.port)]
        settings = ["listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}", f"fsync={self.fsync}"]
        command += [part for setting in settings for part in ("-c", setting)]
        self.process = subprocess.Popen(command, **self.quiet)
        for _ in range(600):
            try:
                psycopg.connect(f"{self.url}/postgres").close()
            except psycopg.OperationalError:
                if self.process.poll() is not None:  # after a crash: what is left of it has not ended yet
                    self.process = subprocess.Popen(command, **self.quiet)
                time.sleep(0.1)
            else:
                return
        pytest.fail("PostgreSQL did not start")

    def kill(self) -> None:
        """SIGKILL, to all of its processes."""
        family = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = family.read_text().split() if family.exists() else []
        self.process.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> None:
        """End it and remove what it wrote."""
        self.process.send_signal(signal.SIGQUIT)  # without waiting for clients, or writing what is thrown away next
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server, without a database's name."""
    server = Postgres(fsync=False)
    yield server.url
    server.stop()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that may be killed."""
    server = Postgres(fsync=True)
    yield server
    server.stop()


def new_database(server: str) -> str:
    """An empty database; returns its URL."""
    import psycopg
    from psycopg import sql

    name = f"test_{time.monotonic_ns()}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return f"{server}/{name}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """An empty database of each kind: None is SQLite's, in the project's folder."""
    return None if request.param == "sqlite" else new_database(request.getfixturevalue("postgres"))


@pytest.fixture
def store(url: str | None, tmp_path: Path) -> Iterator[Store]:
    """An empty store on each kind of database."""
    opened = Store(_folder(tmp_path), url)
    yield opened
    opened.close()


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Store]:
    """An empty store on SQLite."""
    opened = Store(_folder(tmp_path))
    yield opened
    opened.close()


def _folder(root: Path) -> Path:
    (root / "project" / PICTURES).mkdir(parents=True)
    return root / "project"


# -- a server, as a user starts it ------------------------------------------------------------------------------


class Served:
    """`advex annotate serve` as a process. links: name -> personal link."""

    def __init__(self, folder: Path, *arguments: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "advex", "annotate", "serve", str(folder), "--port", str(port), *arguments]
        self.errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  (closed by the fixture)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        assert self.process.stdout is not None
        self.links: dict[str, str] = {}
        for line in self.process.stdout:  # the owner's is the last; nothing, where it does not begin
            name, _, link = line.rstrip("\n").partition("\t")
            self.links[name] = link
            self.port = int(link.partition("/enter")[0].rpartition(":")[2])
            if name == "owner":
                break
        if self.links:  # until it serves: a connection waits for that
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
                connection.request("GET", "/enter")
                assert connection.getresponse().read()

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        """All of its stderr so far."""
        self.errors.flush()
        self.errors.seek(0)
        return self.errors.read()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self._gone()

    def stop(self) -> None:
        """SIGTERM."""
        self.process.terminate()
        self._gone()

    def _gone(self) -> None:
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Starts servers, and ends them."""
    running: list[Served] = []

    def start(folder: Path, *arguments: str, port: int = 0) -> Served:
        running.append(Served(folder, *arguments, port=port))
        return running[-1]

    yield start
    for each in running:
        each.stop()
        each.errors.close()


class Entered:
    """Somebody with a session at a server."""

    def __init__(self, server: Served, name: str) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.headers = {"X-Advex": "enter", "Content-Type": "application/json"}
        self.post("/api/session", {"token": server.links[name].partition("#")[2]})
        self.cookie = (self.response.getheader("set-cookie") or "").partition(";")[0]
        self.headers["Cookie"] = self.cookie
        csrf = re.search(rb'name="csrf" content="(\w+)"', self.get("/"))
        self.csrf = csrf[1].decode() if csrf else ""
        self.headers["X-CSRF-Token"] = self.csrf

    def get(self, path: str) -> bytes:
        """A response's body."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Any) -> bytes:
        """The same, of JSON sent."""
        return self._ask("POST", path, json.dumps(body))

    def upload(self, path: str, data: bytes) -> bytes:
        """The same, of bytes sent."""
        return self._ask("POST", path, data)

    def _ask(self, method: str, path: str, body: str | bytes | None) -> bytes:
        self.http.request(method, path, body, self.headers)
        self.response = self.http.getresponse()
        return self.response.read()

    def images(self) -> list[str]:
        """What is asked."""
        return [each["key"] for each in json.loads(self.get("/api/next"))["images"]]

    def answer(self, client: str, image: str, answer: str) -> int:
        """The status of an answer sent."""
        self.post("/api/answers", {"client": client, "image": image, "answer": answer})
        return self.response.status


@pytest.fixture
def enter() -> Iterator[Callable[..., Entered]]:
    """Lets somebody in at a server, by the personal link."""
    visitors: list[Entered] = []

    def come(server: Served, name: str) -> Entered:
        visitors.append(Entered(server, name))
        return visitors[-1]

    yield come
    for each in visitors:
        each.http.close()


# -- a browser -----------------------------------------------------------------------------------------------------

AXE = Path(__file__).parent / "axe" / "axe.min.js"


class Page:
    """A browser of one person, with all that it said and asked for. script: run before any other."""

    def __init__(self, browser: Any, link: str, script: str = "", **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.context.add_init_script(script)
        self.tab = self.context.new_page()
        self.said: list[str] = []
        self.requested: list[str] = []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.requested.append(request.url))
        self.tab.goto(link)

    def wait(self) -> Page:
        """Until a question is shown."""
        self.tab.wait_for_selector("#question:not([hidden])")
        return self

    def press(self, key: str) -> None:
        """A key, once a question is shown: before that it would mean nothing."""
        self.wait()
        self.tab.keyboard.press(key)

    def label(self) -> str:
        return self.tab.inner_text("#label")

    def count(self) -> str:
        return self.tab.inner_text("#count").partition(" ·")[0]

    def until(self, condition: str, seconds: float = 60) -> None:
        """Until a script says so. (Playwright's own waiting evaluates text in the page: our policy forbids that.)"""
        deadline = time.monotonic() + seconds
        while not self.tab.evaluate(condition):
            assert time.monotonic() < deadline, condition
            self.tab.wait_for_timeout(50)

    def saved(self, text: str = "All answers saved") -> None:
        """Until the page says so; where all is kept, nothing waits."""
        self.until(f"document.getElementById('saved').textContent.includes({text!r})")
        if text == "All answers saved":
            self.until("Object.keys(localStorage).every(key => !/-\\d{16}-/.test(key))")

    def loaded(self, pictures: int) -> None:
        """Until so many pictures were loaded."""
        entries = "performance.getEntriesByType('resource')"
        self.until(f"{entries}.filter(entry => entry.name.includes('/pictures/')).length >= {pictures}")

    def waiting(self) -> list[dict[str, Any]]:
        """Answers that are kept in the browser, in order."""
        script = "Object.keys(localStorage).filter(key => /-\\d{16}-/.test(key)).sort().map(key => localStorage[key])"
        return [json.loads(text) for text in self.tab.evaluate(script)]

    def serious(self) -> list[str]:
        """Serious findings of axe."""
        # Our policy lets no script in that is not ours: axe is run from outside of it.
        self.tab.evaluate(AXE.read_text(encoding="utf-8"))
        report = self.tab.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{each['id']}: {node['html']}"
            for each in report["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]


@pytest.fixture
def look(browser: Any) -> Iterator[Callable[..., Page]]:
    """Opens a link in a browser of its own."""
    opened: list[Page] = []

    def visit(link: str, **options: Any) -> Page:
        opened.append(Page(browser, link, **options))
        return opened[-1]

    yield visit
    for page in opened:
        page.context.close()


@pytest.fixture
def begin(
    lite: Store, serve: Callable[..., Served], look: Callable[..., Page]
) -> Callable[..., tuple[Store, Served, list[Page]]]:
    """Starts a project, a server, and a browser for each name."""

    def start(
        *names: str, images: int = 30, options: dict[str, Any] | None = None, **settings: Any
    ) -> tuple[Store, Served, list[Page]]:
        fill(lite, images, **settings)
        server = serve(lite.folder, *[part for name in names for part in ("--annotator", name)])
        return lite, server, [look(server.links[name], **(options or {})).wait() for name in names]

    return start
