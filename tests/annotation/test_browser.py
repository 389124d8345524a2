"""The pages in a real browser, as people use them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from advex.annotation import people
from advex.annotation.store import Store

pytestmark = pytest.mark.browser

AXE = Path(__file__).parent / "axe" / "axe.min.js"
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 800}


class Page:
    """A browser of one annotator, with all that it said and asked for."""

    def __init__(self, browser: Any, link: str, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": DESKTOP, **options})
        self.tab = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(link)

    def wait(self) -> Page:
        """Until a question is shown."""
        self.tab.wait_for_selector("#question:not([hidden])")
        return self

    def label(self) -> str:
        return self.tab.inner_text("#label")

    def count(self) -> str:
        return self.tab.inner_text("#count").partition(" ·")[0]

    def until(self, condition: str, seconds: float = 30) -> None:
        """Until a script says so. (Playwright's own waiting evaluates text in the page: our policy forbids that.)"""
        deadline = time.monotonic() + seconds
        while not self.tab.evaluate(condition):
            assert time.monotonic() < deadline, condition
            self.tab.wait_for_timeout(50)

    def saved(self, text: str = "all kept") -> None:
        """Until the page says so; where all is kept, nothing waits."""
        self.until(f"document.getElementById('saved').textContent.includes({text!r})")
        if text == "all kept":
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
        found = self.tab.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{each['id']}: {node['html']}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]


@pytest.fixture
def begin(
    lite: Store, make: SimpleNamespace, serve: Callable[..., Any], browser: Any
) -> Iterator[Callable[..., tuple[Store, Any, list[Page]]]]:
    """Starts a project, a server, and a browser for each name."""
    opened: list[Page] = []

    def start(*names: str, images: int = 30, **settings: Any) -> tuple[Store, Any, list[Page]]:
        make.fill(lite, images, **settings)
        server = serve(lite.folder, *[part for name in names for part in ("--annotator", name)])
        opened.extend(Page(browser, server.links[name]).wait() for name in names)
        return lite, server, list(opened)

    yield start
    for page in opened:
        page.context.close()


def given(store: Store) -> list[str]:
    """Standing answers, in order."""
    return [vote.answer for vote in store.votes()]


def test_every_key_and_every_button(begin: Callable[..., Any]) -> None:
    store, server, (page,) = begin("anna", images=20)
    assert page.tab.url == f"{server.address}/"  # the token is gone from the address bar ...
    assert page.tab.evaluate("history.length") <= 2
    assert page.tab.evaluate("document.cookie") == ""  # ... and scripts cannot read the cookie
    keys = ["1", "2", "3", "ArrowLeft", "ArrowDown", "ArrowRight", "Numpad1", "Numpad2", "Numpad3"]
    for key in keys:
        page.tab.keyboard.press(key)
        page.wait()
    for answer in ("unchanged", "unsure", "changed"):
        page.tab.click(f"[data-answer={answer}]")
    page.saved()
    assert given(store) == ["unchanged", "unsure", "changed"] * 4
    assert page.count() == "12 of 20"
    before = page.label()
    page.tab.keyboard.press("u")
    page.tab.click("#undo")
    page.saved()
    assert given(store) == (["unchanged", "unsure", "changed"] * 4)[:10]
    assert page.count() == "10 of 20"
    page.tab.keyboard.press("3")
    page.tab.keyboard.press("1")
    page.saved()
    assert given(store)[10:] == ["changed", "unchanged"]
    assert page.label() == before  # the same order as before
    for wrong in ("4", "0", "x", "Control+1", "Alt+2", "ArrowUp"):
        page.tab.keyboard.press(wrong)
    page.saved()
    assert len(given(store)) == 12
    page.tab.keyboard.press("d")
    assert page.tab.is_visible("#difference")
    page.tab.keyboard.press("d")
    assert not page.tab.is_visible("#difference")
    scale = page.tab.inner_text("#scale")
    page.tab.keyboard.press("+")
    assert page.tab.inner_text("#scale") != scale
    page.tab.keyboard.press("-")
    assert page.tab.inner_text("#scale") == scale
    for _ in range(8):
        page.wait()
        page.tab.keyboard.press("2")
    page.tab.wait_for_selector("text=All done")
    page.saved()
    assert len(given(store)) == 20
    page.tab.keyboard.press("u")  # also the very last
    page.wait()
    assert page.said == []
    assert {url.partition("/")[2].split("/")[1] for url in page.asked if not url.startswith("blob:")} == {
        server.address.rpartition("/")[2]
    }


def test_pictures_are_shown_pixel_by_pixel(begin: Callable[..., Any]) -> None:
    _, _, (page,) = begin("anna")
    for name in ("original", "changed"):
        found = page.tab.evaluate(
            "id => { const image = document.getElementById(id); const box = image.getBoundingClientRect();"
            " return [getComputedStyle(image).imageRendering, image.naturalWidth, box.width, box.height] }",
            name,
        )
        assert found[0] == "pixelated"
        assert found[1] == 8
        assert found[2] == found[3]
        assert found[2] % 8 == 0
        assert found[2] >= 160


def test_the_next_pictures_are_loaded_before_they_are_needed(begin: Callable[..., Any]) -> None:
    _, _, (page,) = begin("anna")
    page.loaded(20)
    page.context.set_offline(True)
    for _ in range(5):
        page.tab.keyboard.press("1")
        shown = "document.getElementById('changed')"
        assert page.tab.evaluate(f"{shown}.complete && {shown}.naturalWidth") == 8


def test_offline_and_back_also_when_the_page_is_closed_in_between(begin: Callable[..., Any]) -> None:
    store, server, (page,) = begin("anna", images=12)
    page.loaded(20)
    page.tab.keyboard.press("1")
    page.saved()
    page.context.set_offline(True)
    for key in ("2", "3", "3", "u", "1"):
        page.tab.keyboard.press(key)
    page.saved("offline")
    assert [event["kind"] for event in page.waiting()] == ["answer", "answer", "answer", "undo", "answer"]
    assert given(store) == ["unchanged"]
    tab = page.context.new_page()
    page.tab.close()  # what waits is kept by the browser
    page.context.set_offline(False)
    page.tab = tab
    page.tab.goto(server.address)
    page.wait()
    page.saved()
    assert given(store) == ["unchanged", "unsure", "changed", "unchanged"]
    page.until("document.getElementById('count').textContent.startsWith('4 of 12')")


def test_no_connection_at_all_is_said_and_overcome(begin: Callable[..., Any]) -> None:
    store, _, (page,) = begin("anna", images=60)
    page.context.set_offline(True)
    while page.tab.is_visible("#question"):
        page.tab.keyboard.press("3")
    assert page.tab.inner_text("#told") in ("No connection", "Loading")
    page.until("document.getElementById('told').textContent === 'No connection'", 20)
    number = len(page.waiting())
    assert number >= 8
    page.context.set_offline(False)
    page.wait()
    page.saved()
    assert given(store) == ["changed"] * number


def test_the_server_may_die_and_come_back(begin: Callable[..., Any], serve: Callable[..., Any]) -> None:
    store, server, (page,) = begin("anna")
    page.tab.keyboard.press("1")
    page.saved()
    server.kill()
    page.tab.keyboard.press("2")
    page.saved("waiting")
    serve(store.folder, port=server.port)
    page.saved()
    assert given(store) == ["unchanged", "unsure"]


def test_a_revoked_link_keeps_what_waits_until_the_next(begin: Callable[..., Any]) -> None:
    store, server, (page,) = begin("anna")
    people.revoke(store.database, "anna")
    page.tab.keyboard.press("3")
    page.saved("signed out")
    assert "personal link" in page.tab.inner_text("#trouble")
    assert len(page.waiting()) == 1
    page.tab.goto(f"{server.address}/enter#wrong")
    page.tab.wait_for_selector("text=not valid")
    page.tab.goto("about:blank")
    page.tab.goto(f"{server.address}/enter#{people.invite(store.database, 'anna')}")
    page.wait()
    page.saved()
    assert given(store) == ["changed"]


def test_two_annotators_at_once_know_nothing_of_each_other(begin: Callable[..., Any], browser: Any) -> None:
    store, server, (anna, ben) = begin("anna", "ben", images=10)
    for number in range(10):
        for page, key in ((anna, "1"), (ben, "1" if number < 7 else "3")):
            page.wait()
            page.tab.keyboard.press(key)
    anna.saved()
    ben.saved()
    votes = store.votes()
    orders = [[vote.image for vote in votes if vote.person == name] for name in ("anna", "ben")]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    owner = Page(browser, server.links["owner"])
    owner.tab.wait_for_selector("text=Agreement")
    assert "70.0 %" in owner.tab.inner_text("#live")
    assert owner.tab.locator(".disputed li").count() == 3
    anna.tab.wait_for_selector("text=All done")
    anna.tab.keyboard.press("u")
    anna.wait()
    owner.until("document.getElementById('live').innerText.includes('19')")  # live
    assert owner.said == []
    owner.context.close()


def test_the_changed_picture_alone_first(begin: Callable[..., Any]) -> None:
    _, _, (page,) = begin("anna", alone=True)
    for _ in range(2):
        assert page.tab.is_visible("#changed")
        assert not page.tab.is_visible("#original")
        page.tab.keyboard.press("o")
        assert page.tab.is_visible("#original")
        page.tab.keyboard.press("2")
        page.wait()


def test_names_are_text_whatever_they_hold(
    lite: Store, make: SimpleNamespace, serve: Callable[..., Any], browser: Any
) -> None:
    evil = ["<script>document.title='x'</script>", '"><img src=x onerror="document.title=`x`">', "{{7*7}}", "a" * 300]
    make.fill(lite, 8, labels=tuple(evil))
    name = '<svg onload="document.title=`x`">'
    server = serve(lite.folder, "--annotator", name)
    page = Page(browser, server.links[name]).wait()
    seen = []
    for _ in range(8):
        page.wait()
        seen.append(page.label())
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= DESKTOP["width"]
        page.tab.keyboard.press("1")
    page.saved()
    assert sorted(set(seen)) == sorted(evil)
    owner = Page(browser, server.links["owner"])
    owner.tab.wait_for_selector("#live")
    for each in (page, owner):
        assert each.tab.title() != "x"
        assert each.said == []
    assert name in owner.tab.inner_text("#live")
    for each in (page, owner):
        each.context.close()


def test_by_keyboard_alone_with_a_screen_reader(begin: Callable[..., Any]) -> None:
    """Every control is reached by Tab, shows that it has the focus, has a name, and what happens is said."""
    store, _, (page,) = begin("anna")
    reached = []
    for _ in range(12):
        page.tab.keyboard.press("Tab")
        reached.append(page.tab.evaluate("document.activeElement.dataset.answer ?? document.activeElement.id"))
        ring = page.tab.evaluate(
            "(() => { const at = document.activeElement; const of = at.closest('label') ?? at;"
            " return getComputedStyle(of).outlineStyle })()"
        )
        assert ring == "solid", reached
        if reached[-1] == "larger":
            break
    for name in ("unchanged", "unsure", "changed", "show-difference", "smaller", "larger"):
        assert name in reached
    page.tab.focus("[data-answer=unsure]")
    label = page.label()
    page.tab.keyboard.press("Enter")
    page.wait()
    heard = page.tab.inner_text("#heard")
    assert heard == f"unsure. Next: still {page.label()}?"
    assert label
    assert page.tab.evaluate("document.activeElement.dataset.answer") == "unsure"  # the focus stays
    page.saved()
    assert given(store) == ["unsure"]
    tree = page.tab.locator("#main").aria_snapshot()
    for named in ("Original picture", "Changed picture", "Unchanged", "Unsure", "No longer the class"):
        assert named in tree


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["phone", "desktop"])
def test_accessible_and_no_wider_than_the_screen(
    begin: Callable[..., Any], browser: Any, scheme: Any, size: str
) -> None:
    store, server, (first,) = begin("anna", images=6)
    for key in ("1", "3"):
        first.wait()
        first.tab.keyboard.press(key)
    first.saved()
    options = {"viewport": PHONE if size == "phone" else DESKTOP, "color_scheme": scheme, "has_touch": size == "phone"}
    link = f"{server.address}/enter#{people.invite(store.database, 'ben')}"
    page = Page(browser, link, **options).wait()
    page.tab.click("#show-difference")
    found = page.serious()
    for answer in ("changed", "unsure", "unchanged"):
        page.tab.tap(f"[data-answer={answer}]") if size == "phone" else page.tab.click(f"[data-answer={answer}]")
        page.wait()
    page.saved()
    box = page.tab.evaluate("document.querySelector('.answers').getBoundingClientRect().bottom")
    assert box <= options["viewport"]["height"]  # without scrolling
    owner = Page(browser, server.links["owner"], **options)
    owner.tab.wait_for_selector("#live")
    closed = Page(browser, server.address, **options)
    for each in (page, owner, closed):
        found += each.serious()
        assert each.tab.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
    assert found == []
    for each in (page, owner, closed):
        each.context.close()
