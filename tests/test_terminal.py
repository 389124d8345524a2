"""Names in files are strangers' texts: on a terminal none of them moves the cursor, colours or turns what follows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from unicodedata import category

import pytest

from advex import progress
from advex.cli import terminal
from advex.errors import AdvexWarning, quoted, visible

EVIL = "a\x1b[2J\x1b]0;title\x07b\rc\x9b31md\x7f\u202egnp.exe\u2066\u2028\ud800\x00"
GOOD = "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627 \U0001f469\u200d\U0001f52c 1\u202f000\u00a0% Zürich 猫"


def warned() -> None:
    with terminal._warnings_in_one_line():
        warnings.simplefilter("always")
        warnings.warn(EVIL, AdvexWarning, stacklevel=1)


def progressed() -> None:
    with progress.Terminal().progress(EVIL) as bar:
        bar(1, 2, EVIL)
        bar(2, 2, EVIL, what=f"again {EVIL}")


@pytest.mark.parametrize("kind", ["plain", "terminal"])
@pytest.mark.parametrize(
    "say",
    [
        lambda: terminal.emit(EVIL),
        lambda: terminal.emit_json({EVIL: EVIL}),
        lambda: terminal.table([EVIL, "b"], [[EVIL, "[red]x"]], title=EVIL),
        lambda: terminal.warn(EVIL),
        warned,
        lambda: progress.Terminal().note(EVIL),
        progressed,
        lambda: pytest.raises(SystemExit, terminal.fail, EVIL),
    ],
)
def test_no_control_character_of_a_name_reaches_the_terminal(
    say: Callable[[], object], kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal's own colours aside: of these the sequences end with m, K, h or l, or move whole lines."""
    if kind == "terminal":
        monkeypatch.setattr(progress, "plain", lambda stream: False)
        monkeypatch.setattr(terminal, "plain", lambda stream: False)
    say()
    said = "".join(capsys.readouterr())
    assert "a" in said
    assert "\x1b[2J" not in said
    for text in ("title\x07", "\x1b]", "\x9b", "\x7f", "\u202e", "\u2066", "\u2028", "\ud800", "\x00", "b\rc"):
        assert text not in said
    if kind == "plain":
        assert {each for each in said if category(each) in ("Cc", "Cf", "Zl", "Zp")} <= {"\n"}


def test_letters_and_spaces_of_all_scripts_stay(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.emit(GOOD)
    progress.Terminal().note(GOOD)
    assert capsys.readouterr() == (f"{GOOD}\n", f"{GOOD}\n")
    assert visible("a\tb\nc") == "a\tb\nc"
    assert quoted(GOOD) == f"'{GOOD}'"


def test_a_doubt_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever a model is asked in a command, the same doubt about it arises."""
    with terminal._warnings_in_one_line():
        warnings.simplefilter("always")
        for text in ("odd", "even", "odd"):
            warnings.warn(text, AdvexWarning, stacklevel=1)
    assert capsys.readouterr().err.splitlines() == ["warning: odd", "warning: even"]
