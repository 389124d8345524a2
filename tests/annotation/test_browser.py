"""The pages in a real browser, as people use them."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from advex.annotation import people
from advex.annotation.store import NewImage, Store

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 800}


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
        page.press(key)
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
    page.press("3")
    page.press("1")
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
        page.press("2")
    page.tab.wait_for_selector("text=All done", timeout=2500)  # before it asks again by itself
    page.saved()
    assert len(given(store)) == 20
    page.tab.keyboard.press("u")  # also the very last
    page.wait()
    assert page.said == []
    assert {url.partition("/")[2].split("/")[1] for url in page.requested if not url.startswith("blob:")} == {
        server.address.rpartition("/")[2]
    }


def test_answers_of_before_can_be_taken_back_one_after_the_other(begin: Callable[..., Any]) -> None:
    store, _, (page,) = begin("anna", images=12)
    for key in ("1", "2", "3"):
        page.wait()
        page.press(key)
    page.saved()
    page.tab.reload()
    page.wait()
    for left in (2, 1, 0):
        page.tab.wait_for_selector("#undo[aria-disabled=false]")  # its picture is loaded ahead, too
        page.tab.keyboard.press("u")
        assert page.count() == f"{left} of 12"
        page.saved()
        assert given(store) == ["unchanged", "unsure", "changed"][:left]
    page.tab.keyboard.press("u")
    page.saved()
    assert page.count() == "0 of 12"


def test_what_is_counted_late_overtakes_nothing(begin: Callable[..., Any]) -> None:
    """The server's count is as old as its request: what was answered meanwhile is on top of it."""
    store, _, (page,) = begin("anna", images=20)
    page.loaded(40)
    held: list[Any] = []
    page.tab.route("**/api/progress", lambda route: held.append(route))  # noqa: PLW0108  (playwright wants a function)
    for key in ("1", "2", "u", "u"):  # nothing is left to take back: the page asks what came before
        page.press(key)
    while not held:
        page.tab.wait_for_timeout(20)
    old = held[0].fetch()
    page.press("3")
    held[0].fulfill(response=old)
    page.tab.unroute("**/api/progress")
    page.saved()
    assert page.count() == "1 of 20"
    assert given(store) == ["changed"]


def test_pace_and_what_is_left_are_told(begin: Callable[..., Any]) -> None:
    _, _, (page,) = begin("anna", images=6)
    texts = page.tab.evaluate(
        "(times) => import('/static/pace.js').then(({ Pace }) => times.map(([each, left]) => {"
        " const pace = new Pace(); for (const time of each) pace.add(time); return pace.text(left) }))",
        [
            [[9000, 9000], 188],  # too few to go by
            [[9000, 9000, 9000], 188],
            [[1500, 1500, 1500, 3_600_000], 20],  # an hour's break is none of it
            [[4000, 4000, 4000], 0],
            [[100_000] * 25, 1000],
            [[60_000] * 5 + [2000] * 20, 60],  # as it goes now
        ],
    )
    assert texts == [
        "", " · 9.0 s each · about 28 min left", " · 1.5 s each · less than a minute left", " · 4.0 s each",
        " · 100 s each · about 28 h left", " · 2.0 s each · about 2 min left",
    ]  # fmt: skip
    for key in ("1", "2", "3"):
        page.press(key)
        page.wait()
    shown = page.tab.inner_text("#count")
    assert shown.startswith("3 of 6 · ")
    assert shown.endswith(" left")


def picture(size: tuple[int, int], mode: str) -> bytes:
    """A PNG of this size in pixels: dots of a dark and a light grey."""
    file = io.BytesIO()
    made = Image.new(mode, size, 90 if mode == "L" else (90, 120, 90))
    made.putpixel((0, 0), 200 if mode == "L" else (200, 90, 90))
    made.save(file, "PNG")
    return file.getvalue()


ODD = [((1, 1), "RGB"), ((600, 300), "RGB"), ((28, 28), "L"), ((2048, 2048), "RGB"), ((3, 900), "L")]
NAMES = ["\u05d7\u05ea\u05d5\u05dc", "\U0001f408\u200d\u2b1b", "a" * 200, "very long" * 30, "\u0642\u0637\u0629 (3)"]


@pytest.mark.parametrize(
    "options",
    [
        {"viewport": PHONE, "has_touch": True, "is_mobile": True, "forced_colors": "active"},
        {"viewport": DESKTOP, "reduced_motion": "reduce"},
        {"viewport": {"width": 640, "height": 400}},  # a desktop at 200 %
    ],
    ids=["phone", "desktop", "zoomed"],
)
def test_odd_pictures_and_names_fit(
    lite: Store, make: SimpleNamespace, serve: Callable[..., Any], look: Callable[..., Any], options: dict[str, Any]
) -> None:
    lite.create_project("\u05e4\u05e8\u05d5\u05d9\u05e7\u05d8 " * 12, votes=1, seed=1, alone=False, about={})
    for (size, mode), name in zip(ODD, NAMES, strict=True):
        files = [make.keep(lite.folder, picture(size, mode)) for _ in range(2)]
        lite.add_images([NewImage(label=name, original=files[0], changed=files[1], source_id=name)])
    page = look(serve(lite.folder, "--annotator", "anna").links["anna"], **options)
    seen = []
    for _ in ODD:
        page.wait()
        seen.append(page.label())
        page.tab.click("#show-difference")
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
        shown = page.tab.evaluate("document.getElementById('changed').getBoundingClientRect().height")
        assert shown > 20 or page.tab.evaluate("document.getElementById('changed').naturalHeight") == 900
        page.tab.click("#show-difference")
        problems = page.serious()
        assert problems == []
        page.tab.click("[data-answer=unsure]")
    page.tab.wait_for_selector("text=All done")
    assert sorted(seen) == sorted(NAMES)
    assert page.said == []


def test_nothing_to_judge_is_said(lite: Store, serve: Callable[..., Any], look: Callable[..., Any]) -> None:
    lite.create_project("empty", votes=1, seed=1, alone=False, about={})
    page = look(serve(lite.folder, "--annotator", "anna").links["anna"])
    page.tab.wait_for_selector("h1:has-text('Nothing to judge')")
    assert not page.tab.is_visible(".zoom")
    assert page.said == []


def test_pictures_are_shown_pixel_by_pixel(begin: Callable[..., Any]) -> None:
    _, _, (page,) = begin("anna")
    for name in ("original", "changed"):
        shown = page.tab.evaluate(
            "id => { const image = document.getElementById(id); const box = image.getBoundingClientRect();"
            " return [getComputedStyle(image).imageRendering, image.naturalWidth, box.width, box.height] }",
            name,
        )
        assert shown[0] == "pixelated"
        assert shown[1] == 8
        assert shown[2] == shown[3]
        assert shown[2] % 8 == 0
        assert shown[2] >= 160


def test_the_next_pictures_are_loaded_before_they_are_needed(begin: Callable[..., Any]) -> None:
    _, _, (page,) = begin("anna")
    page.loaded(20)
    page.context.set_offline(True)
    for _ in range(5):
        page.press("1")
        shown = "document.getElementById('changed')"
        assert page.tab.evaluate(f"{shown}.complete && {shown}.naturalWidth") == 8


def test_offline_and_back_also_when_the_page_is_closed_in_between(begin: Callable[..., Any]) -> None:
    store, server, (page,) = begin("anna", images=12)
    page.loaded(20)
    page.press("1")
    page.saved()
    page.context.set_offline(True)
    for key in ("2", "3", "3", "u", "1"):
        page.press(key)
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
    page.loaded(30)
    page.context.set_offline(True)
    while page.tab.is_visible("#question"):
        page.tab.keyboard.press("3")
    page.until("document.getElementById('notice').textContent === 'No connection'")
    number = len(page.waiting())
    assert number >= 8
    page.context.set_offline(False)
    page.wait()
    page.saved()
    assert given(store) == ["changed"] * number


def test_the_server_may_die_and_come_back(begin: Callable[..., Any], serve: Callable[..., Any]) -> None:
    store, server, (page,) = begin("anna")
    page.loaded(40)
    page.press("1")
    page.saved()
    server.kill()
    page.press("2")
    page.saved("offline")
    serve(store.folder, port=server.port)
    page.saved()
    assert given(store) == ["unchanged", "unsure"]


def test_a_revoked_link_keeps_what_waits_until_the_next(begin: Callable[..., Any]) -> None:
    store, server, (page,) = begin("anna")
    page.loaded(40)  # a picture that is refused would end the session before the answer is given
    people.revoke(store.database, "anna")
    page.press("3")
    page.saved("signed out")
    assert "personal link" in page.tab.inner_text("#notice")
    assert "One answer waits" in page.tab.inner_text("#more")
    assert not page.tab.is_visible("#question")  # what was handed out is shown no longer
    assert len(page.waiting()) == 1
    page.tab.goto(f"{server.address}/enter#wrong")
    page.tab.wait_for_selector("text=not valid")
    page.tab.goto("about:blank")
    page.tab.goto(f"{server.address}/enter#{people.invite(store.database, 'anna')}")
    page.wait()
    page.saved()
    assert given(store) == ["changed"]


def test_two_annotators_at_once_know_nothing_of_each_other(begin: Callable[..., Any], look: Callable[..., Any]) -> None:
    store, server, (anna, ben) = begin("anna", "ben", images=10)
    for number in range(10):
        for page, key in ((anna, "1"), (ben, "1" if number < 7 else "3")):
            page.wait()
            page.press(key)
    anna.saved()
    ben.saved()
    votes = store.votes()
    orders = [[vote.image for vote in votes if vote.person == name] for name in ("anna", "ben")]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    owner = look(server.links["owner"])
    owner.tab.wait_for_selector("text=Agreement")
    assert "70.0 %" in owner.tab.inner_text("#live")
    assert owner.tab.locator(".disputed li").count() == 3
    anna.tab.wait_for_selector("text=All done")
    anna.tab.keyboard.press("u")
    anna.wait()
    owner.until("document.getElementById('live').innerText.includes('19')")  # live
    assert owner.said == []


def test_the_changed_picture_alone_first(begin: Callable[..., Any]) -> None:
    _, _, (page,) = begin("anna", alone=True)
    for _ in range(2):
        assert page.tab.is_visible("#changed")
        assert not page.tab.is_visible("#original")
        page.tab.keyboard.press("o")
        assert page.tab.is_visible("#original")
        page.press("2")
        page.wait()


def test_names_are_text_whatever_they_hold(
    lite: Store, make: SimpleNamespace, serve: Callable[..., Any], look: Callable[..., Any]
) -> None:
    evil = ["<script>document.title='x'</script>", '"><img src=x onerror="document.title=`x`">', "{{7*7}}", "a" * 300]
    make.fill(lite, 8, labels=tuple(evil))
    name = '<svg onload="document.title=`x`">'
    server = serve(lite.folder, "--annotator", name)
    page = look(server.links[name]).wait()
    seen = []
    for _ in range(8):
        page.wait()
        seen.append(page.label())
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= DESKTOP["width"]
        page.press("1")
    page.saved()
    assert sorted(set(seen)) == sorted(evil)
    owner = look(server.links["owner"])
    owner.tab.wait_for_selector("#live")
    for each in (page, owner):
        assert each.tab.title() != "x"
        assert each.said == []
    assert name in owner.tab.inner_text("#live")


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
    assert page.tab.text_content("#heard") == f"Not sure. Next 2 of 30: still a {page.label()}?"
    assert label
    assert page.tab.evaluate("document.activeElement.dataset.answer") == "unsure"  # the focus stays
    page.saved()
    assert given(store) == ["unsure"]
    page.tab.focus("#keys")
    page.tab.keyboard.press("Enter")  # single keys are off, as for those who speak to their computer
    page.press("1")
    page.saved()
    assert given(store) == ["unsure"]
    page.tab.keyboard.press("Enter")
    page.press("1")
    page.saved()
    assert given(store) == ["unsure", "unchanged"]
    tree = page.tab.locator("#main").aria_snapshot()
    for named in ("Original picture", "Changed picture", 'button "Yes"', 'button "Not sure"', 'button "No"'):
        assert named in tree


def test_the_focus_is_never_lost(begin: Callable[..., Any]) -> None:
    _, _, (page,) = begin("anna", images=2)
    page.tab.focus("[data-answer=changed]")
    focused = "document.activeElement.dataset.answer ?? document.activeElement.id"
    for _ in range(2):
        page.wait()
        page.tab.keyboard.press("Enter")
    page.tab.wait_for_selector("text=All done")
    assert page.tab.evaluate(focused) == "message"
    page.tab.keyboard.press("u")
    assert page.tab.evaluate(focused) == "changed"
    page.tab.focus("#undo")
    page.tab.keyboard.press("Enter")
    assert page.count() == "0 of 2"
    assert page.tab.evaluate(focused) == "undo"
    assert page.tab.get_attribute("#undo", "aria-disabled") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["phone", "desktop"])
def test_accessible_and_no_wider_than_the_screen(
    begin: Callable[..., Any], look: Callable[..., Any], scheme: Any, size: str
) -> None:
    store, server, (first,) = begin("anna", images=6)
    for key in ("1", "3"):
        first.wait()
        first.press(key)
    first.saved()
    options = {"viewport": PHONE if size == "phone" else DESKTOP, "color_scheme": scheme, "has_touch": size == "phone"}
    link = f"{server.address}/enter#{people.invite(store.database, 'ben')}"
    page = look(link, **options).wait()
    page.tab.click("#show-difference")
    problems = page.serious()
    for answer in ("changed", "unsure", "unchanged"):
        page.tab.tap(f"[data-answer={answer}]") if size == "phone" else page.tab.click(f"[data-answer={answer}]")
        page.wait()
    page.saved()
    box = page.tab.evaluate("document.querySelector('.answers').getBoundingClientRect().bottom")
    assert box <= options["viewport"]["height"]  # without scrolling
    owner = look(server.links["owner"], **options)
    owner.tab.wait_for_selector("#live")
    closed = look(server.address, **options)
    for each in (page, owner, closed):
        problems += each.serious()
        assert each.tab.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
    assert problems == []


# -- instructions ----------------------------------------------------------------------------------------------


def test_instructions_come_first_and_one_picture_for_practice(
    lite: Store, make: SimpleNamespace, serve: Callable[..., Any], look: Callable[..., Any]
) -> None:
    make.fill(lite, 3)
    (lite.folder / "instructions.md").write_text(
        "# What to look at\n- the **shape**\n- not <script>alert(1)</script>\n"
    )
    server = serve(lite.folder, "--annotator", "anna")
    page = look(server.links["anna"], viewport={"width": 390, "height": 844})
    tab = page.tab
    tab.wait_for_selector("#instructions[open]")
    assert tab.inner_text("#instructions h2") == "What to look at"
    assert tab.inner_text("#instructions li >> nth=1") == "not <script>alert(1)</script>"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.serious() == []
    tab.keyboard.press("1")  # nothing is answered before it was read
    tab.click("#begin")
    tab.wait_for_selector("#practice:not([hidden])")
    assert tab.inner_text("#question-title") == f"Is this still a {page.label()}?"
    same = "document.getElementById('original').src === document.getElementById('changed').src"
    assert tab.evaluate(same)
    tab.keyboard.press("3")
    page.until("document.getElementById('trouble').textContent.includes('both pictures are the same')")
    tab.keyboard.press("1")
    tab.wait_for_selector("#practice", state="hidden")
    assert not tab.evaluate(same)
    assert page.count() == "0 of 3"
    tab.keyboard.press("2")
    page.saved()
    assert [vote.answer for vote in lite.votes()] == ["unsure"]
    tab.reload()
    page.wait()
    assert not tab.is_visible("#practice")
    assert not tab.is_visible("#instructions")
    tab.click("#read")
    assert tab.is_visible("#instructions")
    assert page.said == []


def test_a_project_without_instructions_asks_at_once(
    lite: Store, make: SimpleNamespace, serve: Callable[..., Any], look: Callable[..., Any]
) -> None:
    make.fill(lite, 2, labels=("an apple", "orange"))
    page = look(serve(lite.folder, "--annotator", "anna").links["anna"]).wait()
    titles = {"an apple": "Is this still an apple?", "orange": "Is this still an orange?"}
    assert page.tab.inner_text("#question-title") == titles[page.label()]
    assert not page.tab.is_visible("#practice")
