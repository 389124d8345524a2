"""Annotators that are no people: they ask a network, and make as many errors as they are told to.

What they can show is that the way from pictures by answers to training works, and what answers of that quality are
worth. They cannot show what people see.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from advex.data.annotated.answers import ANSWERS, CHANGED, UNCHANGED, UNSURE


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """Says what the judge says, but for a share `error` of its answers: those are drawn from the other two.

    number: from 1. sure: how far ahead of the next a class must be to be certain, in confidence.
    """

    number: int
    sure: float
    error: float
    seed: int

    @property
    def name(self) -> str:
        """What it is called wherever it answers."""
        return simulated_name(self.number)

    def __call__(self, ahead: float, picture: str) -> str:
        """Its answer about a picture, which depends on nothing but the two, itself and the seed.

        ahead: the judge's confidence in the original class less that in the likeliest other, in [-1, 1].
        """
        honest = judged(ahead, self.sure)
        # A string is seeded by its hash: the same on every machine.
        draws = random.Random(f"{self.seed}|{self.name}|{picture}")
        return draws.choice([each for each in ANSWERS if each != honest]) if draws.random() < self.error else honest


def simulated_name(number: int) -> str:
    """The name of an annotator, by its number from 1."""
    return f"simulated {number}"


def judged(ahead: float, sure: float) -> str:
    """What the judge says of a picture.

    >>> [judged(ahead, 0.1) for ahead in (0.4, 0.1, 0.05, -0.1)]
    ['unchanged', 'unchanged', 'unsure', 'changed']
    """
    return UNCHANGED if ahead >= sure else CHANGED if ahead <= -sure else UNSURE


def spans(judged: Sequence[int], shared: int, images: int) -> list[range]:
    """Which of so many images each annotator judges: each begins with the last `shared` images of the one before.

    >>> spans((730, 2107), 106, images=5000), spans((730, 2107), 106, images=1000)
    ([range(0, 730), range(624, 2731)], [range(0, 730), range(624, 1000)])
    """
    ranges: list[range] = []
    for count in judged:
        start = max(ranges[-1].stop - shared, 0) if ranges else 0
        ranges.append(range(start, min(start + count, images)))
    return ranges


def wanted(judged: Sequence[int], shared: int) -> int:
    """How many different images annotators judge who judge so many each and share so many with the one before."""
    return sum(judged) - shared * (len(judged) - 1)
