"""Options say their range by their type, and what is wrong with a value in a sentence."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest

from advex.errors import SpecError
from advex.geometry import L2, LINF
from advex.options import Above0, AtLeast0, Count, NormOption, Number, RadiusOption, Share, ShareBelow1, with_options


@with_options
class Thing:
    """With an option of each kind."""

    count: Count = 3
    number: Number = 0.5
    at_least: AtLeast0 = 0.0
    above: Above0 | None = None
    share: Share = 1.0
    below: ShareBelow1 = 0.0
    norm: NormOption = "linf"
    radius: RadiusOption = "8/255"
    colour: Literal["red", "blue"] = "red"
    switch: bool = False

    def __post_init__(self) -> None:
        if self.count == 13:
            raise SpecError("Thirteen is too many.")


def test_values_are_kept_or_converted() -> None:
    thing = Thing(norm="2", number=2, share=1)
    assert (thing.norm, thing.radius, repr(thing.number), repr(thing.share)) == (L2, 8 / 255, "2", "1")
    assert Thing().norm is LINF
    assert hash(thing) == hash(dataclasses.replace(thing))
    assert dataclasses.replace(thing, count=4) != thing
    with pytest.raises(dataclasses.FrozenInstanceError):
        thing.count = 5  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "Thing's count .*1, not 0"),
        ({"count": True}, "Thing's count .*True"),
        ({"count": 2.0}, "Thing's count .*2.0"),
        ({"number": float("nan")}, "Thing's number .*finite.*nan"),
        ({"number": "many"}, "Thing's number .*'many'"),
        ({"at_least": -1}, "Thing's at_least .*0, not -1"),
        ({"above": 0}, "Thing's above .*0, not 0"),
        ({"share": 1.1}, "Thing's share .*1, not 1.1"),
        ({"below": 1}, "Thing's below .*1, not 1"),
        ({"norm": "l3"}, "Thing's norm: There is no norm 'l3'"),
        ({"radius": -1}, "Thing's radius: .*-1"),
        ({"colour": "bleu"}, "Thing's colour .*'red' or 'blue', not 'bleu'.*'blue'"),
        ({"switch": 2}, "Thing's switch .*2"),
        ({"cuont": 2}, "no option 'cuont': did you mean 'count'"),
        ({"count": 13}, r"^Thirteen is too many\.$"),
    ],
    ids=str,
)
def test_values_that_cannot_be_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Thing(**options)


def test_options_are_given_by_name() -> None:
    with pytest.raises(SpecError, match="by name: count, number"):
        Thing(3)  # pyright: ignore[reportCallIssue]
