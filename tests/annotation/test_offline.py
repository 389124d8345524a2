"""Without a connection, in a real browser: what is kept there, for whom, and when it is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from advex.annotation import people
from advex.annotation.store import Store

pytestmark = pytest.mark.browser

# What the browser keeps beside answers: paths by the name of the cache.
KEPT = """(async () => {
  const kept = {};
  for (const name of await caches.keys())
    kept[name] = (await (await caches.open(name)).keys()).map((request) => new URL(request.url).pathname);
  return kept;
})()"""
READY = """(async () => {
  await navigator.serviceWorker.ready;
  const shell = (await caches.keys()).find((name) => name.startsWith("advex-shell-"));
  return Boolean(shell && (await caches.match("/")) && navigator.serviceWorker.controller);
})()"""
WITHOUT = "delete Navigator.prototype.serviceWorker; delete window.caches; delete Crypto.prototype.randomUUID;"
FULL = """const set = Storage.prototype.setItem;
Storage.prototype.setItem = function (key, value) {
  if (/-[0-9]{16}-/.test(key)) throw new DOMException("full", "QuotaExceededError");
  set.call(this, key, value);
};"""


def pictures(page: Any) -> list[str]:
    """Keys of the images that are kept, of whomever."""
    kept = page.tab.evaluate(KEPT)
    return [path.rpartition("/")[2] for name, paths in kept.items() if "pictures" in name for path in paths]


def shelved(page: Any, number: int) -> None:
    """Until the page and so many images are kept."""
    page.until(READY)
    page.until(
        f"({KEPT}).then((kept) => Object.values(kept).flat().filter((p) => p.includes('kept')).length == {number})"
    )


def given(store: Store) -> list[str]:
    """Standing answers, in order."""
    return [vote.answer for vote in store.votes()]


def test_opened_again_without_a_server_it_goes_on_and_sends_later(
    begin: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    store, server, (page,) = begin("anna", images=40)
    page.press("1")
    page.saved()
    shelved(page, 19)
    server.kill()
    page.press("2")
    page.press("3")
    page.saved("offline")
    page.tab.reload()
    page.wait()
    assert page.count() == "3 of 40"
    page.press("3")
    page.tab.keyboard.press("u")
    page.press("1")
    tab = page.context.new_page()  # the browser throws the tab away, and opens it once more
    page.tab.close()
    page.tab = tab
    page.tab.goto(server.address)
    page.wait()
    assert page.count() == "4 of 40"
    page.press("3")
    assert [event["kind"] for event in page.waiting()] == ["answer"] * 3 + ["undo"] + ["answer"] * 2
    assert given(store) == ["unchanged"]
    serve(store.folder, port=server.port)
    page.saved()
    assert given(store) == ["unchanged", "unsure", "changed", "unchanged", "changed"]
    assert len({vote.image for vote in store.votes()}) == 5
    page.until("document.getElementById('count').textContent.startsWith('5 of 40')")


def test_what_is_answered_is_kept_no_longer(begin: Callable[..., Any]) -> None:
    _, _, (page,) = begin("anna", images=6)
    shelved(page, 6)
    for _ in range(2):
        page.press("1")
    page.saved()
    shelved(page, 4)
    page.tab.keyboard.press("u")  # asked again, so kept again
    page.saved()
    shelved(page, 5)


@pytest.mark.parametrize("how", ["revoked", "left"])
def test_nothing_is_kept_after_the_session(begin: Callable[..., Any], how: str) -> None:
    store, server, (page,) = begin("anna", images=12)
    shelved(page, 12)
    page.tab.on("dialog", lambda dialog: dialog.accept())
    if how == "revoked":
        people.revoke(store.database, "anna")
        page.press("2")
        page.tab.wait_for_selector("text=Your session is over")
        assert not page.tab.is_visible("#question")
        assert len(page.waiting()) == 1
    else:
        page.tab.click("#leave")
        page.tab.wait_for_selector("text=This page is for people who were invited")
    page.until(f'({KEPT}).then((kept) => !/kept|"\\/"/.test(JSON.stringify(kept)))')
    page.tab.goto(server.address)
    page.tab.wait_for_selector("text=Please open your personal link")
    server.kill()
    with pytest.raises(Exception, match="ERR_"):
        page.tab.goto(server.address)


def test_a_revoked_session_finds_no_page_of_before(begin: Callable[..., Any]) -> None:
    store, server, (page,) = begin("anna", images=12)
    shelved(page, 12)
    people.revoke(store.database, "anna")
    page.tab.reload()
    page.tab.wait_for_selector("text=This page is for people who were invited")
    assert pictures(page) == []


def test_people_who_share_a_browser_do_not_share_pictures(begin: Callable[..., Any]) -> None:
    store, server, (page,) = begin("anna", images=12)
    shelved(page, 12)
    hers = pictures(page)
    page.press("1")
    page.saved()
    other = page.context.new_page()
    other.goto(f"{server.address}/enter#{people.invite(store.database, 'ben')}")
    other.wait_for_selector("#question:not([hidden])")
    page.tab.wait_for_selector("text=Your session is over")  # this window would ask for his pictures otherwise
    page.tab = other
    shelved(page, 12)
    assert sorted(pictures(page)) == sorted(hers)  # the same images, handed out to him; by one name alone:
    assert sum("pictures" in name and bool(paths) for name, paths in page.tab.evaluate(KEPT).items()) == 1
    page.tab.goto(server.links["owner"])
    page.tab.wait_for_selector("#live")
    page.tab.reload()
    page.tab.wait_for_selector("#live")
    kept = page.tab.evaluate(KEPT)
    assert pictures(page) == []
    paths = {path for paths in kept.values() for path in paths}
    assert paths
    assert all(path.startswith("/static/") and "owner" not in path for path in paths)


def test_an_earlier_version_is_thrown_away(begin: Callable[..., Any]) -> None:
    _, _, (page,) = begin("anna", images=6)
    shelved(page, 6)
    page.tab.evaluate("caches.open('advex-shell-old').then((old) => old.put('/static/view.js', new Response('')))")
    # By another name it is another worker, as with another version of the server. One whose installation fails is tried
    # again when the page is opened again, as here.
    opened = "navigator.serviceWorker.register('/worker.js?later').catch(() => undefined)"
    # Names alone are looked at: opening a cache that has just been thrown away would make it anew.
    page.until(f"{opened}.then(() => caches.keys()).then((names) => !names.includes('advex-shell-old'))")
    assert len([name for name in page.tab.evaluate(KEPT) if "shell" in name]) == 1


def test_where_browsers_offer_less_all_works_but_opening_again(begin: Callable[..., Any]) -> None:
    """As by plain http from another machine."""
    store, server, (page,) = begin("anna", images=12, options={"script": WITHOUT})
    page.loaded(24)
    page.context.set_offline(True)
    page.press("1")
    page.press("2")
    page.saved("offline")
    page.context.set_offline(False)
    page.saved()
    assert given(store) == ["unchanged", "unsure"]
    people.revoke(store.database, "anna")
    page.tab.keyboard.press("3")  # unless a look for more pictures, once the line was back, ended the session already
    page.tab.wait_for_selector("text=Your session is over")
    assert page.said == [] or all("Failed to load" in line for line in page.said)


def test_a_browser_that_keeps_nothing_takes_no_answer(begin: Callable[..., Any]) -> None:
    store, _, (page,) = begin("anna", images=6, options={"script": FULL})
    label = page.label()
    page.press("1")
    assert "the answer was not accepted" in page.tab.inner_text("#trouble")
    assert page.label() == label
    assert page.count() == "0 of 6"
    assert given(store) == []


def test_two_windows_of_one_person_ask_nothing_twice(begin: Callable[..., Any]) -> None:
    store, server, (page,) = begin("anna", images=8)
    page.loaded(16)
    other = page.context.new_page()
    other.goto(server.address)
    other.wait_for_selector("#question:not([hidden])")
    for number in range(8):
        window = (page.tab, other)[number % 2]
        window.wait_for_selector("#question:not([hidden])")
        window.keyboard.press("1")
        page.until(f"document.getElementById('count').textContent.startsWith('{number + 1} of 8')")
        other.wait_for_selector(f"#count:has-text('{number + 1} of 8')", state="attached")
    for window in (page.tab, other):
        window.wait_for_selector("text=All done")
        assert window.inner_text("#trouble") == ""
    page.saved()
    assert len(given(store)) == 8


def test_one_at_the_owners_link_is_no_annotator_any_more(begin: Callable[..., Any]) -> None:
    _, server, (page,) = begin("anna", images=30)
    page.loaded(40)
    owner = page.context.new_page()
    owner.goto(server.links["owner"])
    owner.wait_for_selector("#live")
    page.tab.wait_for_selector("text=Your session is over")
    assert not page.tab.is_visible("#question")
