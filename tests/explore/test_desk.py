"""The process that computes: the newest request wins, what is given up stops, and what dies is started again."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from advex.errors import SpecError
from advex.explore.desk import Desk
from advex.explore.requests import ExploreRequest, Refusal

SECONDS = 60


def request(path: Path, explainer: str = "gradient") -> ExploreRequest:
    """A request that the test answers: see `slow_study`."""
    return ExploreRequest(model=0, picture=0, target=0, rho=0.1, explainer=explainer, name=str(path))


def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def refusal(future: Any) -> Refusal:
    """Why there was no answer."""
    error = future.exception(SECONDS)
    assert isinstance(error, Refusal)
    return error


@pytest.fixture
def desk(slow_study: SimpleNamespace) -> Iterator[Desk]:
    with_slow = Desk(slow_study.load)
    with_slow.open()
    yield with_slow
    with_slow.close()


def test_the_newest_request_of_a_page_wins(desk: Desk, tmp_path: Path) -> None:
    first = desk.ask("page", request(tmp_path / "first"))
    until((tmp_path / "first.began").exists)
    second = desk.ask("page", request(tmp_path / "second"))
    assert refusal(first).kind == "superseded"  # at once, whatever the process does
    third = desk.ask("page", request(tmp_path / "third"))
    assert refusal(second).kind == "superseded"
    (tmp_path / "third.go").touch()
    assert third.result(SECONDS).summary == {"name": "third"}
    assert (tmp_path / "first.stopped").exists()
    assert not (tmp_path / "second.began").exists()


def test_pages_take_turns_and_do_not_disturb_each_other(desk: Desk, tmp_path: Path) -> None:
    futures = {page: desk.ask(page, request(tmp_path / page)) for page in ("a", "b", "c")}
    until((tmp_path / "a.began").exists)
    newer = desk.ask("b", request(tmp_path / "newer"))
    assert refusal(futures["b"]).kind == "superseded"
    for name in ("a", "newer", "c"):
        (tmp_path / f"{name}.go").touch()
    assert futures["a"].result(SECONDS).summary == {"name": "a"}
    assert futures["c"].result(SECONDS).summary == {"name": "c"}
    assert newer.result(SECONDS).summary == {"name": "newer"}


def test_too_many_pages_are_refused(desk: Desk, tmp_path: Path) -> None:
    waiting = [desk.ask(f"page {number}", request(tmp_path / "one")) for number in range(9)]
    assert refusal(desk.ask("another", request(tmp_path / "one"))).kind == "busy"
    (tmp_path / "one.go").touch()
    assert [each.result(SECONDS).summary for each in waiting] == [{"name": "one"}] * 9


def test_a_page_that_is_closed_stops_its_request_and_no_newer_one(desk: Desk, tmp_path: Path) -> None:
    first = desk.ask("page", request(tmp_path / "first"))
    until((tmp_path / "first.began").exists)
    second = desk.ask("page", request(tmp_path / "second"))
    desk.drop("page", first)  # told late, as a browser may
    (tmp_path / "second.go").touch()
    assert second.result(SECONDS).summary == {"name": "second"}
    running = desk.ask("page", request(tmp_path / "running"))
    until((tmp_path / "running.began").exists)
    waiting = desk.ask("other", request(tmp_path / "waiting"))
    desk.drop("other", waiting)
    desk.drop("page", running)
    assert [refusal(each).kind for each in (waiting, running)] == ["superseded"] * 2
    until((tmp_path / "running.stopped").exists)
    assert not (tmp_path / "waiting.began").exists()


def test_quick_things_do_not_wait_for_a_computation(desk: Desk, tmp_path: Path) -> None:
    running = desk.ask("page", request(tmp_path / "one"))
    until((tmp_path / "one.began").exists)
    assert desk.quick("double", 21).result(SECONDS) == 42
    assert not running.done()


def test_what_cannot_be_asked_or_goes_wrong_is_a_sentence(desk: Desk, tmp_path: Path) -> None:
    wrong = refusal(desk.ask("page", request(tmp_path / "one", "refused")))
    assert (wrong.kind, wrong.sentence) == ("wrong", "This cannot be asked.")
    broken = refusal(desk.quick("fail"))
    assert broken.kind == "broken"
    assert "as foreseen" in broken.sentence
    assert desk.quick("double", 1).result(SECONDS) == 2  # and it goes on


def test_a_process_that_died_is_said_and_started_again(desk: Desk, tmp_path: Path) -> None:
    before = desk.quick("pid").result(SECONDS)
    running = desk.ask("page", request(tmp_path / "one"))
    until((tmp_path / "one.began").exists)
    waiting = desk.ask("other", request(tmp_path / "two"))
    (tmp_path / "two.go").touch()
    os.kill(before, signal.SIGKILL)
    lost = refusal(running)
    assert lost.kind == "broken"
    assert "being restarted" in lost.sentence
    assert waiting.result(SECONDS).summary == {"name": "two"}  # by the new one
    assert desk.quick("pid").result(SECONDS) != before
    assert refusal(desk.quick("die")).kind == "broken"
    assert desk.quick("double", 3).result(SECONDS) == 6


def test_a_computation_that_does_not_stop_ends_with_its_process(slow_study: SimpleNamespace, tmp_path: Path) -> None:
    with contextlib.closing(Desk(slow_study.load, patience=0.2)) as desk:
        desk.open()
        before = desk.quick("pid").result(SECONDS)
        hung = desk.ask("page", request(tmp_path / "hung", "deaf"))
        until((tmp_path / "hung.began").exists)
        time.sleep(0.5)
        assert not hung.done()  # a computation may take its time, as long as somebody waits for it
        newer = desk.ask("page", request(tmp_path / "newer"))
        (tmp_path / "newer.go").touch()
        assert refusal(hung).kind == "superseded"
        assert newer.result(SECONDS).summary == {"name": "newer"}
        assert desk.quick("pid").result(SECONDS) != before
        stuck = refusal(desk.quick("sleep", SECONDS))  # nothing that is quick takes so long
        assert stuck.kind == "broken"
        assert desk.quick("double", 2).result(SECONDS) == 4


def test_the_server_never_waits(desk: Desk, tmp_path: Path) -> None:
    """Not for a computation, and not for a process that is stopped."""
    process = desk.quick("pid").result(SECONDS)
    os.kill(process, signal.SIGSTOP)
    began = time.monotonic()
    futures = [desk.ask(f"page {number % 3}", request(tmp_path / str(number))) for number in range(30)]
    futures += [desk.quick("double", number) for number in range(30)]
    desk.drop("page 0", futures[27])
    assert time.monotonic() - began < 1
    os.kill(process, signal.SIGCONT)
    for name in ("28", "29"):
        (tmp_path / f"{name}.go").touch()
    assert [futures[number].result(SECONDS).summary["name"] for number in (28, 29)] == ["28", "29"]
    assert futures[-1].result(SECONDS) == 58


def test_what_cannot_be_opened_is_told_at_once(slow_study: SimpleNamespace) -> None:
    desk = Desk(slow_study.fail)
    with pytest.raises(SpecError, match="no such run"):
        desk.open()
    assert refusal(desk.quick("double", 1)).sentence == "There is no such run."
    desk.close()


def test_what_can_no_longer_be_opened_is_not_tried_in_circles(slow_study: SimpleNamespace, tmp_path: Path) -> None:
    desk = Desk(functools.partial(slow_study.once, tmp_path / "opened"))
    desk.open()
    assert refusal(desk.quick("die")).kind == "broken"
    assert "gone" in refusal(desk.ask("page", request(tmp_path / "one"))).sentence
    (tmp_path / "opened").unlink()
    assert desk.quick("double", 2).result(SECONDS) == 4
    desk.close()


def test_closing_ends_the_process_whatever_it_does(slow_study: SimpleNamespace, tmp_path: Path) -> None:
    desk = Desk(slow_study.load)
    desk.open()
    running = desk.ask("page", request(tmp_path / "one"))
    waiting = desk.ask("other", request(tmp_path / "two"))
    until((tmp_path / "one.began").exists)
    process = desk.quick("pid").result(SECONDS)
    desk.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert [refusal(each).kind for each in (running, waiting)] == ["broken"] * 2
    assert refusal(desk.quick("double", 1)).kind == "busy"
    assert refusal(desk.ask("page", request(tmp_path / "three"))).kind == "busy"
