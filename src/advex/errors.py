"""What can go wrong at a user's hands. Each message says what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from unicodedata import category

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


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """End of a sentence that helps after a misspelt name: the nearest known one, or all of them.

    >>> did_you_mean("pdg", ["pgd", "minimal"])
    "did you mean 'pgd'? Known: minimal, pgd."
    """
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}Known: {', '.join(names)}."


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
