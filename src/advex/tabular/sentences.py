"""What a counterfactual says, as data and as an English sentence."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from advex.drawing.numbers import date_text, percentages

_PLAIN = re.compile(r"[\w.+-]+")  # words that need no quotation marks
_MOST_NAMED = 12  # columns, in a sentence


@dataclass(frozen=True, kw_only=True)
class Change:
    """One column's values before and after, as they would be typed. unit: of a number.

    share: how much of the answer's new probability is this change's doing, see `search.shares`; None if not known.
    """

    feature: str
    before: float | str
    after: float | str
    unit: str = ""
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """A changed row that gets the answer `target`.

    row: the whole of it, column -> value. before, after: probabilities of all classes for the row as it is and for
    the changed one, typed in again. size: L1 norm of the change, numbers in units of their scale and categories 2.
    """

    target: int
    target_name: str
    changes: tuple[Change, ...]
    row: Mapping[str, float | str]
    before: tuple[float, ...]
    after: tuple[float, ...]
    size: float

    @property
    def sentence(self) -> str:
        """The change and what it does to the probability of the answer."""
        first, *others = (
            (change.feature, shown(change.after, change.unit), shown(change.before, change.unit))
            for change in self.changes
        )
        phrases = [f"{first[0]} been {first[1]} instead of {first[2]}"]
        phrases += [f"{name} {after} instead of {before}" for name, after, before in others]
        before, after = percentages(self.before[self.target], self.after[self.target])
        name = shown(self.target_name)
        return f"The answer would have been {name} had {listed(phrases)}: {name} {before} -> {after}."

    def plain(self) -> dict[str, Any]:
        """JSON values, with the sentence."""
        return {**dataclasses.asdict(self), "row": dict(self.row), "sentence": self.sentence}


@dataclass(frozen=True, kw_only=True)
class Counterfactuals:
    """The counterfactuals of a row for a class, or why there are none.

    says: the class that the classifier answers; probabilities: of all classes. alternatives: the counterfactuals, the
    simplest first; none where the row has the class already. wanted: how many were looked for. searched, held: names
    of the columns that might be changed, and of those that might not. at_most: columns that were changed together.
    """

    target: int
    target_name: str
    says: int
    says_name: str
    probabilities: tuple[float, ...]
    alternatives: tuple[Counterfactual, ...]
    wanted: int
    searched: tuple[str, ...]
    held: tuple[str, ...]
    at_most: int

    @property
    def sentences(self) -> tuple[str, ...]:
        """A sentence for each counterfactual, or one that says why there is none."""
        if self.says == self.target:
            share, _ = percentages(self.probabilities[self.target], 0.0)
            return (f"The answer is {shown(self.target_name)} already ({share}).",)
        if not self.alternatives:
            return (self._nothing,)
        sentences = tuple(counterfactual.sentence for counterfactual in self.alternatives)
        if len(sentences) == self.wanted:
            return sentences
        return (*sentences, "No further alternative was found.")

    @property
    def _nothing(self) -> str:
        start = f"No change was found with which the answer would have been {shown(self.target_name)}"
        if not self.searched:
            return f"{start}: no column may change."
        held = f" ({_named(self.held)} may not change)" if self.held else ""
        together = "" if len(self.searched) == 1 or self.at_most == 1 else f", up to {self.at_most} at a time"
        together = ", one at a time" if self.at_most == 1 < len(self.searched) else together
        return f"{start}: tried {_named(self.searched)}{together}{held}."

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def shown(value: float | str, unit: str = "") -> str:
    """A value as a sentence shows it, and as it may be typed in again; days as dates.

    >>> shown(45000.0, "USD"), shown(0.1), shown(-1234567.25), shown("own house"), shown("own")
    ('45,000 USD', '0.1', '-1,234,567.25', '"own house"', 'own')
    >>> shown(11356.0, "days since 1970-01-01")
    '2001-02-03'
    """
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else '"' + value.replace('"', "'") + '"'
    return date_text(value, unit) or number_text(value) + (f" {unit}" if unit else "")


def number_text(value: float) -> str:
    """All digits of a number, with commas between thousands.

    >>> number_text(1e-7), number_text(2.0**40), number_text(0.30)
    ('0.0000001', '1,099,511,627,776', '0.3')
    """
    return f"{value:,.0f}" if float(value).is_integer() else f"{Decimal(repr(float(value))):,f}"


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence, joined.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _named(names: Sequence[str]) -> str:
    """Names of columns; of many, the first and how many more."""
    more = len(names) - _MOST_NAMED
    return listed(names if more <= 1 else [*names[:_MOST_NAMED], f"{more} more"])
