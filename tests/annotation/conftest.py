"""Projects to test with: small pictures, a store on each database, a server as a process, a browser."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
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
    store.found("a project", **{"votes": 2, "seed": 7, "alone": False, "about": {}, **settings})
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


def person(store: Store, name: str, *, owner: bool = False) -> people.Guest:
    """Somebody with a link."""
    people.invite(store.database, name, owner=owner)
    return next(guest for guest in people.people(store.database) if guest.name == name)


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """What tests make projects with."""
    return SimpleNamespace(png=png, keep=keep, fill=fill, person=person, free_port=free_port)


# -- databases -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server on loopback, in a scratch folder, without a database name."""
    initdb, server = program("initdb"), program("postgres")
    if initdb is None or server is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    folder = Path(tempfile.mkdtemp(prefix="advex-pg-"))
    who: dict[str, Any] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        who = {"user": "nobody", "group": "nogroup"}
        shutil.chown(folder, **who)
    data, port = folder / "data", free_port()
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **who}
    process = None
    try:
        made = subprocess.run(
            [initdb, "-D", data, "-A", "trust", "-U", "advex", "-E", "UTF8", "--no-sync"], check=False, **quiet
        )
        if made.returncode:
            pytest.skip("PostgreSQL's initdb does not work here")
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        process = subprocess.Popen([server, "-D", data, "-p", str(port), *options], **quiet)
        _wait_for(port)
        yield f"postgresql://advex@127.0.0.1:{port}"
    finally:
        if process is not None:
            process.terminate()
            process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, seconds: float = 60) -> None:
    import psycopg

    for _ in range(round(seconds / 0.1)):
        try:
            psycopg.connect(f"host=127.0.0.1 port={port} user=advex dbname=postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("PostgreSQL did not start")


def new_database(server: str) -> str:
    """An empty database; returns its URL."""
    import psycopg

    name = f"test_{time.monotonic_ns()}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
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

    def __init__(self, folder: Path, *arguments: str, port: int | None = None) -> None:
        self.port = port or free_port()
        command = [
            sys.executable,
            "-m",
            "advex",
            "annotate",
            "serve",
            str(folder),
            "--port",
            str(self.port),
            *arguments,
        ]
        self.errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  (closed by the fixture)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        assert self.process.stdout is not None
        self.links: dict[str, str] = {}
        for line in self.process.stdout:  # the owner's is the last
            name, _, link = line.rstrip("\n").partition("\t")
            self.links[name] = link
            if name == "owner":
                break
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)

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

    def start(folder: Path, *arguments: str, port: int | None = None) -> Served:
        running.append(Served(folder, *arguments, port=port))
        return running[-1]

    yield start
    for each in running:
        if each.process.poll() is None:
            each.stop()
        each.errors.close()


# -- a browser -----------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()
