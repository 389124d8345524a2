"""`advex explore`: the page without a project. Who comes in, what is shown at once, and what it does without."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from advex.annotation.security import csrf_token
from advex.artifacts import save
from advex.classifier import Classifier
from advex.errors import DataError, SpecError
from advex.explore import alone, sources
from advex.explore.desk import Desk
from advex.explore.requests import Catalogue, ExploreRequest
from advex.explore.saved import check_folder
from advex.record.explored import Explored, read_explored

# A process that cannot import what the database of `advex annotate` needs.
WITHOUT_DATABASE = (
    "import sys; sys.modules.update(dict.fromkeys(('sqlalchemy', 'alembic', 'psycopg')));"
    "from advex.cli import main; main()"
)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two pictures, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("b.png", (8, 8)), ("a.jpg", (40, 30))):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (*reversed(size), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "c.png").write_bytes(b"no picture")
    return folder


def named(run: Path, *files: Path, **changes: Any) -> sources.Sources:
    """What is typed."""
    given: dict[str, Any] = {"models": [str(run)], "data": "", "split": None, "wrapping": {}, "device": "cpu"}
    return sources.Sources(**(given | {"max_samples": None, "seed": 0, "files": files} | changes))


# -- where it is kept --------------------------------------------------------------------------------------


def test_nothing_of_anybody_elses_is_overwritten(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    check_folder(kept)
    (kept / "20261129-101010-abc").mkdir(parents=True)
    (kept / "20261129-101010-abc" / "explanation.json").write_text("{}")
    (kept / "report.html").write_text("of these")
    check_folder(kept)
    for name in ("report.html", "record.json"):
        theirs = tmp_path / name
        theirs.mkdir()
        check_folder(theirs)
        (theirs / name).write_text("mine")
        with pytest.raises(SpecError, match=f"contains {name}"):
            check_folder(theirs)
    with pytest.raises(SpecError, match="is a file"):
        check_folder(kept / "report.html")


# -- what is shown ---------------------------------------------------------------------------------------------


def test_files_are_shown_under_their_names_without_classes(
    run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = sources.open_study(named(run, pictures))
    assert study.catalogue.labels == ()
    assert study.catalogue.count == 2
    assert [(each.id, each.label) for each in study.browse(0, 9, None)] == [("a.jpg", None), ("b.png", None)]
    assert "c.png cannot be read as a picture" in capsys.readouterr().err
    answer = study.explain(ExploreRequest(model=0, picture=0, target=8, rho=0.1, explainer="gradient"), lambda: False)
    entry = Explored.model_validate(answer.entry)
    assert (entry.name, entry.data, entry.example, entry.label) == ("a.jpg", None, None, None)
    assert entry.note == "40x30 pixels scaled to cover 8x8, the centre cut out"


def test_without_a_class_the_second_likeliest_is_meant(study: Any, trained: SimpleNamespace) -> None:
    for picture in range(5):
        answer = study.explain(
            ExploreRequest(model=0, picture=picture, target=None, rho=0.1, explainer="gradient"), lambda: False
        )
        confidences = trained.classifier.predict(trained.data.batch(slice(picture, picture + 1)).x)[0]
        second = sorted(range(10), key=lambda each: -confidences[each])[1]
        assert answer.entry["target"] == answer.summary["target"] == second


def test_what_cannot_be_shown_is_said(run: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"c\.png cannot be read as a picture"):
        sources.open_study(named(run, pictures / "c.png"))
    with pytest.raises(DataError, match="the file does not exist"):
        sources.open_study(named(run, tmp_path / "nowhere.png"))
    torch.manual_seed(0)
    of_any_size = save(Classifier("mlp:features=64,classes=3,widths=8"), tmp_path / "sizeless")
    with pytest.raises(SpecError, match="--size"):
        sources.open_study(named(of_any_size, pictures))
    assert sources.open_study(named(of_any_size, pictures, size="1x8x8")).data.shape == (1, 8, 8)


# -- who comes in ----------------------------------------------------------------------------------------------


@pytest.fixture
def visit(desk: Desk, catalogue: Catalogue, tmp_path: Path) -> Callable[..., Any]:
    """A browser without a screen, which came by a link or by none; of one server, whose links are `links`."""
    links = alone.Links()
    app = alone.make_app(desk, catalogue, tmp_path / "kept", links)

    def come(token: str | None) -> TestClient:
        http = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False, follow_redirects=False)
        if token is not None:
            answer = http.post("/api/session", json={"token": token}, headers={"X-Advex": "enter"})
            http.headers["X-Entered"] = str(answer.status_code)
        return http

    come.links = links
    return come


def test_the_link_lets_in_and_nothing_else_does(visit: Any) -> None:
    for _ in range(2):
        guest = visit(visit.links.link)
        assert guest.headers["X-Entered"] == "204"
        assert guest.get("/").headers["location"] == "/explore"
        assert guest.get("/explore").status_code == 200
        assert guest.get("/api/explore/pictures").status_code == 200
    for token in (None, "", visit.links.link[:-1], "x" * 22):
        stranger = visit(token)
        assert token is None or stranger.headers["X-Entered"] == "401"
        assert stranger.get("/").status_code == stranger.get("/explore").status_code == 401
        for path in ("/api/explore", "/api/explore/pictures", "/explore/pictures/0", "/explore/report"):
            assert stranger.get(path).status_code == 401, path
    guest = visit(visit.links.link)
    assert guest.post("/api/explore/saved", json={"key": "0" * 32}).status_code == 403  # not from our page
    assert guest.get("/explore", headers={"Host": "evil.example"}).status_code == 421


def test_the_link_that_a_browser_is_started_with_lets_in_once(visit: Any) -> None:
    assert visit(visit.links.once).headers["X-Entered"] == "204"
    assert visit(visit.links.once).headers["X-Entered"] == "401"


def test_what_is_saved_is_in_the_folder(visit: Any, tmp_path: Path) -> None:
    guest = visit(visit.links.link)
    headers = {"X-CSRF-Token": csrf_token(next(iter(guest.cookies.jar)).value or "")}
    wanted = {"page": "page-0001", "model": 0, "picture": "3", "target": None, "rho": 0.1, "explainer": "gradient"}
    made = guest.post("/api/explore/explanations", json=wanted, headers=headers).json()
    kept = guest.post("/api/explore/saved", json={"key": made["key"]}, headers=headers).json()
    ((folder, entry),) = read_explored(tmp_path / "kept")
    assert kept["folder"] == f"kept/{folder.name}"
    assert entry.target == made["told"]["target"]
    assert guest.get("/explore/report").text == (tmp_path / "kept" / "report.html").read_text(encoding="utf-8")


# -- the verb --------------------------------------------------------------------------------------------------


class Started:
    """`advex explore` as a process; link: that it printed."""

    def __init__(self, folder: Path, *arguments: str, code: str = WITHOUT_DATABASE, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "explore", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=folder, env={**os.environ, **environment},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.link = self.process.stdout.readline().strip()

    def end(self, number: int = signal.SIGTERM) -> str:
        """End it; returns its stderr."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=30)[1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts `advex explore`, and ends it."""
    running: list[Started] = []

    def begin(*arguments: str, **environment: str) -> Started:
        running.append(Started(tmp_path, *arguments, **environment))
        return running[-1]

    yield begin
    for each in running:
        if each.process.poll() is None:
            each.end()


def test_it_opens_the_browser_and_needs_no_database(run: Path, start: Callable[..., Started], tmp_path: Path) -> None:
    """A browser that writes down what it is started with: Python's `webbrowser` is told of it by $BROWSER."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o700)
    begun = start("--model", str(run), "--data", "digits", BROWSER=str(browser), DISPLAY=":9")
    assert begun.link.startswith("http://127.0.0.1:")
    deadline = time.monotonic() + 30
    while not (tmp_path / "opened").exists() or not (tmp_path / "opened").read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with urllib.request.urlopen(begun.link) as answer:  # it serves by now
        assert answer.status == 200
    said = begun.end()
    opened = (tmp_path / "opened").read_text().strip()
    assert opened.partition("#")[0] == begun.link.partition("#")[0]
    assert opened != begun.link  # its command line can be read by others: see `Links`
    assert "Traceback" not in said
    assert begun.process.returncode == 128 + signal.SIGTERM


def test_no_browser_is_started_where_it_would_take_the_terminal(run: Path, start: Any, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\ntouch {tmp_path}/opened\n")
    browser.chmod(0o700)
    for arguments, display in (((), ""), (("--no-browser",), ":9")):
        start("--model", str(run), "--data", "digits", *arguments, BROWSER=str(browser), DISPLAY=display,
              WAYLAND_DISPLAY="").end()  # fmt: skip
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("a.png", "--data", "digits"), "either picture files or --data"),
        (("--model", "no-such-run", "--data", "digits"), "no-such-run"),
        (("--port", "{taken}", "--data", "digits"), "Try --port 0"),
        (("nowhere.png",), "the file does not exist"),
    ],
)
def test_what_cannot_be_is_said_before_there_is_a_link(
    start: Callable[..., Started], arguments: tuple[str, ...], sentence: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        begun = start(*(each.format(taken=port) for each in arguments), "--no-browser")
        said = begun.process.communicate(timeout=60)[1]
    assert begun.link == ""
    assert sentence in said
    assert "Traceback" not in said
    assert begun.process.returncode == 2


# -- in a browser ----------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_first_picture_is_explained_at_once_by_every_model(
    start: Callable[..., Started], browser: Any, run: Path, tmp_path: Path, scheme: Any, width: int
) -> None:
    from .conftest import OwnersPage

    second = tmp_path / "second"
    shutil.copytree(run, second)
    begun = start("--model", f"{run},{second}", "--data", "digits", "--no-browser")
    page = OwnersPage(browser, begun.link, viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab = page.tab
    tab.wait_for_selector("#thumbnails img")
    page.says("Confidence in")
    assert tab.is_checked("#thumbnails input >> nth=0")
    assert tab.locator("#explainer option").all_inner_texts()[0] == "Input × gradient"
    page.until("document.querySelectorAll('.card img').length === 2")
    # The second model is a copy of the first: what is said of it is the same.
    assert tab.inner_text(".card .says") == tab.inner_text("#sentences").partition(" An 8-bit")[0]
    assert tab.inner_text(".card button") == "second"
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert page.serious() == []
    tab.click(".card button")
    page.until("document.getElementById('model').selectedOptions[0].textContent === 'second'")
    page.says("Confidence in")
    tab.click("#save")
    tab.wait_for_selector("#kept a")
    ((_, entry),) = read_explored(tmp_path / "explored")
    assert entry.model == "second"
    assert page.said == []
    page.context.close()
