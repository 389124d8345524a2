"""What can go wrong at a user's hands. Each message says what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable
from unicodedata import category

__all__ = [
    "AdvexError",
    "AdvexWarning",
    "ArtifactError",
    "DataError",
    "InputError",
    "SpecError",
    "did_you_mean",
    "install_extra",
    "quoted",
    "visible",
    "why_impossible",
]

_FEW, _SOME = 16, 6  # names: so many are all listed, and of more the first
# Pydantic's words -> ours, in this order.
_WORDS = {
    r"^Value error, ": "",
    r"^Input should be\b": "it must be",
    r"^Field required": "it is missing",
    r"^Extra inputs are not permitted": "there is no such setting",
    r"greater than or equal to": "at least",
    r"less than or equal to": "at most",
    r"greater than": "above",
    r"less than": "below",
    r"a valid integer.*": "a whole number",
    r"a valid number.*": "a number",
    r"a valid boolean.*": "true or false",
    r"a valid string": "a text",
    r"a valid (?:list|tuple|array)": "a list",
    r"a valid dictionary.*": "a mapping of names to values",
}
_HARMLESS = frozenset("\n\t\u200c\u200d").union(map(chr, range(0xE0020, 0xE0080)))


class AdvexError(ValueError):
    """Base of every error that a user can cause and a user can mend. absent: what was named does not exist."""

    def __init__(self, sentence: str = "", *, absent: bool = False) -> None:
        super().__init__(sentence)
        self.absent = absent


class InputError(AdvexError):
    """Tensors that do not fit the classifier: wrong shape, outside the box, not finite."""


class SpecError(AdvexError):
    """A spec string, recipe or option that names nothing known or holds an impossible value."""


class DataError(AdvexError):
    """A data set that cannot be read as one."""


class ArtifactError(AdvexError):
    """A saved model, checkpoint or record folder that is damaged, foreign or hostile."""


class AdvexWarning(UserWarning):
    """Something that makes a result less trustworthy than it looks."""


def did_you_mean(wrong: str, known: Iterable[str], every: str = "") -> str:
    """End of a sentence that helps after a misspelt name: the nearest known ones, and all where they are few.

    every: a command that lists all.

    >>> did_you_mean("pdg", ["pgd", "minimal"])
    "did you mean 'pgd'? Known: minimal, pgd."
    >>> did_you_mean("x", ["pgd", "minimal"])
    'choose from minimal, pgd.'
    """
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1 if len(names) <= _FEW else 3, cutoff=0.5)
    hint = "did you mean " + " or ".join(f"'{each}'" for each in near) + "?" if near else ""
    listed = ", ".join(names if len(names) <= _FEW else names[:_SOME])
    if len(names) <= _FEW:
        return f"{hint} Known: {listed}." if near else f"choose from {listed}." if names else "none are known."
    rest = f"{every} lists all {len(names)}." if every else ""
    if near:
        return f"{hint} {rest}".rstrip()
    return f"choose from {listed} and {len(names) - _SOME} others." + (f" {rest}" if every else "")


def why_impossible(reason: str) -> str:
    """What pydantic says of a value, in our words: the end of a sentence.

    >>> why_impossible("Input should be greater than or equal to 1")
    'it must be at least 1'
    >>> why_impossible("Input should be a valid integer, unable to parse string as an integer")
    'it must be a whole number'
    """
    return functools.reduce(lambda text, words: re.sub(*words, text), _WORDS.items(), reason)


def install_extra(name: str) -> str:
    """End of a sentence about something that an extra of advex brings: how to install it.

    >>> install_extra("hub")
    "in a clone of advex, run pip install -e '.[hub]'."
    """
    return f"in a clone of advex, run pip install -e '.[{name}]'."


def quoted(text: str, most: int = 80) -> str:
    """A text from a file in quotes, for a sentence: at most so many characters, and no control characters.

    >>> quoted("a" * 100, 10), quoted("bell" + chr(7))
    ("'aaaaaaa...'", "'bell?'")
    """
    cut = text if len(text) <= most else text[: most - 3] + "..."
    return f"'{visible(cut, one_line=True)}'"


def visible(text: object, *, one_line: bool = False) -> str:
    """A text for a terminal: no name in it can move the cursor, colour what follows, or turn it round.

    Lines and tabs stay unless it shall be `one_line`; so do the joiners and tags of which letters and emoji are made.

    >>> visible("a" + chr(27) + "[31mb"), visible("c" + chr(10) + "d", one_line=True)
    ('a?[31mb', 'c d')
    """
    whole = re.sub(r"\s*[\t-\r]\s*", " ", str(text)) if one_line else str(text)
    return "".join(c if c.isprintable() or c in _HARMLESS or category(c) == "Zs" else "?" for c in whole)
