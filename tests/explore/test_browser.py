"""The explore page in a real browser, beside an annotator; and how its process ends with the server."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advex.annotation import EXPLORED as FOLDER
from advex.annotation.store import Store
from advex.explore.requests import UPLOAD_BYTES
from advex.record.explored import read_explored

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 800}


def test_from_a_picture_to_the_report(begin: Callable[..., Any], served: SimpleNamespace) -> None:
    page = begin()
    tab = page.tab
    assert tab.locator("#thumbnails img").count() == 24
    tab.click("#on")
    page.until("document.querySelectorAll('#thumbnails img').length === 16 && document.getElementById('on').disabled")
    tab.select_option("#label", label=tab.locator("#label option").nth(1).inner_text())
    page.until("[...document.querySelectorAll('#thumbnails img')].every(image => image.alt.startsWith('0, no. '))")
    tab.locator("#thumbnails input").first.check(force=True)
    page.says("Confidence in")  # towards the runner-up, to begin with
    assert tab.input_value("#target") != "0"
    tab.select_option("#target", "8")
    page.says("Confidence in 8")
    tab.evaluate("rho.value = 0.3; rho.dispatchEvent(new Event('input'))")
    assert "The network now says 8" in page.says("now says 8")
    assert tab.inner_text("#size") == "0.300"
    for which in ("input", "changed", "difference", "map_input", "map_changed"):
        image = tab.locator(f".view.{which} img")
        assert image.evaluate("image => image.naturalWidth") == 8
        assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
        assert image.get_attribute("alt")
    assert tab.inner_text(".view.changed .lines") == "says 8, >99\u202f% · RMSE 0.3000"
    assert tab.inner_text("#shares tr:first-child th").startswith("8")
    tab.select_option("#explainer", "integrated_gradients:steps=16")
    page.until("document.querySelector('#explanation').getAttribute('aria-busy') === 'false'")
    tab.click("#least")
    assert "This is enough" in page.says("This is enough")
    assert 0 < float(tab.inner_text("#size")) < 0.3
    assert tab.get_attribute("#least", "aria-pressed") == "true"
    tab.click("#save")
    tab.wait_for_selector("#kept a")
    (folder, entry), *_ = read_explored(served.store.folder / FOLDER)
    assert folder.name in tab.inner_text("#kept")
    assert entry.explainer.startswith("integrated_gradients:steps=16")
    assert tab.is_disabled("#save")
    with page.context.expect_page() as opened:
        tab.click("#kept a")
    report = opened.value
    report.wait_for_selector("article")
    assert "This is enough" in report.locator("article").first.inner_text()
    assert report.locator("article").first.locator("img").count() == 5
    assert report.locator("article img").first.evaluate("image => image.naturalWidth") == 8
    assert page.said == []
    hosts = {url.split("/")[2] for url in page.requested if not url.startswith(("blob:", "data:"))}
    assert hosts == {served.server.address.rpartition("/")[2]}


def test_the_newest_of_many_moves_is_shown(begin: Callable[..., Any]) -> None:
    page = begin()
    tab = page.tab
    tab.locator("#thumbnails input").nth(2).check(force=True)
    tab.focus("#rho")
    for _ in range(30):
        tab.keyboard.press("ArrowRight")
        tab.wait_for_timeout(20)
    tab.keyboard.press("Home")
    page.says("Nothing is changed")
    assert tab.inner_text("#size") == "0.000"
    assert tab.inner_text("#trouble") == ""
    assert [line for line in page.said if "409" not in line] == []


def test_an_answer_that_arrives_after_the_next_question_is_not_shown(begin: Callable[..., Any]) -> None:
    """The first answer's last picture arrives between the second choice and its question."""
    page = begin()
    tab = page.tab
    page.says("Confidence in")
    shown = """(third) => new Promise((resolve) => {
      const radios = document.querySelectorAll("#thumbnails input");
      const busy = document.getElementById("explanation");
      const seen = [];
      new MutationObserver(() => seen.push([document.getElementById("name").textContent, busy.ariaBusy]))
        .observe(busy, { attributes: true, attributeFilter: ["aria-busy"] });
      const decode = Image.prototype.decode;
      let arrived = 0;
      Image.prototype.decode = async function () {
        await decode.call(this);
        arrived += 1;
        if (arrived === 5) radios[2].click(); // the last picture of the first answer
      };
      const done = () => document.getElementById("name").textContent === third && busy.ariaBusy === "false";
      new MutationObserver(() => done() && resolve(seen)).observe(busy, { attributes: true });
      radios[1].click();
    })"""
    third = tab.locator("#thumbnails img").nth(2).get_attribute("alt")
    seen = tab.evaluate(shown, third)
    assert [name for name, busy in seen if busy == "false"] == [third]


def test_by_keyboard_alone_with_a_screen_reader(begin: Callable[..., Any]) -> None:
    page = begin()
    tab = page.tab
    reached = []
    tab.keyboard.press("Tab")
    for _ in range(20):
        reached.append(tab.evaluate("document.activeElement.name || document.activeElement.id"))
        ring = tab.evaluate(
            "(() => { const at = document.activeElement; const of = at.closest('label') ?? at.closest('.drop') ?? at;"
            " return getComputedStyle(of).outlineStyle })()"
        )
        assert ring == "solid", reached
        if reached[-1] == "explainer":
            break
        tab.keyboard.press("Tab")
    expected = ["label", "number", "on", "picture", "file", "model", "target", "rho", "least", "explainer"]
    assert [name for name in reached if name in expected] == expected  # the pictures are one stop
    tab.focus("#thumbnails input")
    tab.keyboard.press("ArrowRight")
    page.says("Confidence in")
    assert tab.evaluate("document.activeElement.value") == "1"
    tree = tab.locator("#main").aria_snapshot()
    for named in ("Picture", "Model", "Towards the class", "Size of the change, RMSE", "As little as is needed", "Map",
                  "Choose a file", "Save to the report", "Original: says", "Changed: says", "target"):  # fmt: skip
        assert named in tree, named
    assert tab.get_attribute("#sentences", "aria-live") == "polite"


def test_files_are_chosen_dropped_and_refused(begin: Callable[..., Any], tmp_path: Path) -> None:
    page = begin()
    tab = page.tab
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    file = tmp_path / '"><img src=x onerror=alert(1)>.png'
    Image.fromarray(pixels).save(file)
    tab.set_input_files("#file", str(file))
    page.until("document.getElementById('note').textContent.includes('scaled to cover 8x8')", 60)
    page.says("Confidence in")
    assert tab.inner_text("#name") == file.name
    assert tab.is_checked("#own input")
    stream = io.BytesIO()
    Image.fromarray(pixels[::-1].copy()).save(stream, "JPEG")
    drop = """bytes => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], "a.jpg"));
      for (const kind of ["dragover", "drop"])
        document.getElementById("drop").dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true }));
    }"""
    tab.evaluate(drop, list(stream.getvalue()))
    page.until("document.querySelectorAll('#own img').length === 2")
    page.says("Confidence in")
    tab.evaluate(drop, list(b"no picture"))
    page.until("document.getElementById('trouble').textContent.includes('cannot be read as a picture')")
    large = tmp_path / "large.png"
    large.write_bytes(bytes(UPLOAD_BYTES + 1))
    tab.set_input_files("#file", str(large))
    page.until("document.getElementById('trouble').textContent.includes('at most 10 MB are allowed')")
    assert tab.locator("#own img").count() == 2
    assert tab.get_attribute("#explanation", "aria-busy") == "false"


def test_an_annotator_answers_while_a_model_computes(
    begin: Callable[..., Any], served: SimpleNamespace, browser: Any
) -> None:
    page = begin()
    tab = page.tab
    context = browser.new_context(viewport=DESKTOP)
    anna = context.new_page()
    anna.goto(served.server.links["anna"])
    tab.locator("#thumbnails input").first.check(force=True)
    for number in range(6):
        tab.evaluate(f"rho.value = {0.05 + 0.01 * number}; rho.dispatchEvent(new Event('input'))")
        anna.wait_for_selector("#question:not([hidden])")
        anna.keyboard.press("1")
    deadline = time.monotonic() + 30
    while len(served.store.votes()) < 6:
        assert time.monotonic() < deadline
        anna.wait_for_timeout(50)
    page.says("Confidence in")
    assert anna.goto(f"{served.server.address}/explore").status == 403
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["phone", "desktop"])
def test_accessible_and_no_wider_than_the_screen(begin: Callable[..., Any], scheme: Any, size: str) -> None:
    options = {"viewport": PHONE if size == "phone" else DESKTOP, "color_scheme": scheme, "has_touch": size == "phone"}
    page = begin(**options)
    tab = page.tab
    problems = page.serious()
    tab.locator("#thumbnails input").nth(1).check(force=True)
    page.says("Confidence in")
    tab.click("#save")
    tab.wait_for_selector("#kept a")
    problems += page.serious()
    assert tab.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
    if size == "phone":  # the slider stays beside the pictures
        tab.evaluate("document.querySelector('.views').scrollIntoView()")
        box = tab.evaluate("(({ top, bottom }) => [top, bottom])(rho.getBoundingClientRect())")
        assert 0 < box[0] < box[1] <= PHONE["height"]
    tab.goto(tab.evaluate("document.querySelector('#kept a').href"))
    tab.wait_for_selector("article")
    assert problems == []
    assert page.said == []


# -- the process and its server --------------------------------------------------------------------------------


def computing(server: int) -> list[int]:
    """The processes that a server started to compute."""
    processes = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == server and b"spawn_main" in command:
            processes.append(int(path.name))
    return processes


def test_an_upload_that_is_too_large_gets_its_sentence(served: SimpleNamespace, enter: Callable[..., Any]) -> None:
    owner = enter(served.server, "owner")
    body = owner.upload("/api/explore/pictures", bytes(3 * UPLOAD_BYTES))
    assert owner.response.status == 413
    assert f"{UPLOAD_BYTES:,}" in json.loads(body)["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_process_ends_with_its_server(
    lite: Store, make: SimpleNamespace, run: Path, serve: Callable[..., Any], number: signal.Signals
) -> None:
    make.fill(lite, 2)
    server = serve(lite.folder, "--model", str(run), "--data", "digits", "--max-samples", "10")
    (child,) = computing(server.process.pid)
    assert os.getpriority(os.PRIO_PROCESS, child) > os.getpriority(os.PRIO_PROCESS, server.process.pid)
    os.kill(server.process.pid, number)
    server.process.wait(30)
    server.process.stdout.close()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "Traceback" not in server.said()


def test_what_cannot_be_opened_is_said_before_anybody_gets_a_link(
    lite: Store, make: SimpleNamespace, serve: Callable[..., Any]
) -> None:
    make.fill(lite, 2)
    server = serve(lite.folder, "--model", "no-such-run", "--data", "digits")
    assert server.process.wait(60) == 2
    server.process.stdout.close()
    assert server.links == {}
    assert "no-such-run" in server.said()
    assert "Traceback" not in server.said()
