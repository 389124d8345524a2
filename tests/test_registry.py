"""Names, spec strings and values as typed by a user."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advex import registry
from advex.attacks import PGD
from advex.errors import AdvexError, SpecError, did_you_mean
from advex.registry import build, describe, entries, make, parse, parse_value, register

FILLED = [kind for kind in registry.ROOMS if kind not in ("measure", "dataset") and entries(kind)]
EVERYTHING = [pytest.param(kind, name, id=f"{kind} {name}") for kind in FILLED for name in entries(kind)]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """A registry that forgets what a test adds."""
    copy = dict(registry._entries)
    monkeypatch.setattr(registry, "_entries", copy)
    return copy


# -- what is registered ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_everything_can_be_listed(kind: str, name: str) -> None:
    entry = entries(kind)[name]
    assert entry.name == name == name.lower()
    assert entry.summary.endswith("."), "the first line of the docstring is a sentence"
    assert len(entry.summary) <= 120
    text = entry.make.__doc__ or ""
    for option in entry.options():
        assert option in text, f"the docstring of '{name}' does not explain '{option}'"


@pytest.mark.parametrize(("kind", "name"), [each for each in EVERYTHING if each.values[0] != "goal"])
def test_everything_is_built_without_options_and_from_its_own_description(kind: str, name: str) -> None:
    thing = build(kind, name)
    assert type(thing) is type(build(kind, f"  {name} "))
    if dataclasses.is_dataclass(thing):
        assert dataclasses.replace(thing) == thing == build(kind, describe(thing))
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, dataclasses.fields(thing)[0].name, 1)


def test_the_names_a_user_knows_are_there() -> None:
    assert {"algorithm1", "l2min", "minimal", "pgd", "at_distance"} <= set(entries("attack"))
    assert {"misclassify", "below_chance", "become", "confident"} <= set(entries("goal"))
    assert {"linear", "mlp", "small_cnn", "preact_resnet"} <= set(entries("network"))


def test_a_file_in_a_room_is_found_by_itself(tmp_path: Path) -> None:
    """A new attack is one new file: nothing else has to be told."""
    room = tmp_path / "advex_room_for_tests"
    room.mkdir()
    (room / "__init__.py").write_text("")
    (room / "fresh.py").write_text(
        "from advex.registry import register\n\n\n"
        "@register('attack', 'fresh')\ndef fresh(size: int = 3):\n    return size\n"
    )
    script = (
        "from advex import registry\n"
        "registry.ROOMS['attack'] = 'advex_room_for_tests'\n"
        "print(registry.build('attack', 'fresh:size=5'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "5\n"


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "spec", "sentence"),
    [
        ("attack", "pdg", r"no attack 'pdg': did you mean 'pgd'\? Known: .*algorithm1.*pgd"),
        ("attack", "", r"no attack ''"),
        ("attack", "PGD", r"no attack 'PGD'"),
        ("attack", "pgd:stpes=3", r"attack 'pgd' has no option 'stpes': did you mean 'steps'\?"),
        ("attack", "pgd:steps", r"'steps' is not of the form option=value"),
        ("attack", "pgd:steps=3,steps=4", r"option 'steps' is given twice"),
        ("attack", "pgd:=3", r"'=3' is not of the form"),
        ("attack", "pgd:steps=0", r"steps must be at least 1, not 0"),
        ("attack", "pgd:steps=1.5", r"takes steps as int, not 1.5"),
        ("attack", "pgd:steps=many", r"takes steps as int, not 'many'"),
        ("attack", "pgd:norm=l7", r"no norm 'l7'"),
        ("attack", "pgd:radius=-1", r"A radius is a number"),
        ("attack", "pgd:steps={a: 1}", r"must be a number, a word, true, false or null"),
        ("attack", "pgd:steps=[1", r"not YAML"),
        ("attack", "pgd:steps=!!python/object/apply:os.system [ls]", r"not YAML"),
        ("attack", "pgd:steps=(3", r"brackets in .* do not match"),
        ("attack", "pgd:steps=3)", r"brackets in .* do not match"),
        ("attack", "l2min:on_failure=cry", r"on_failure must be 'last' or 'clean', not 'cry'"),
        ("goal", "misclassify", r"'misclassify' needs y, e\.g\. 'misclassify:y=\.\.\.'"),
        ("network", "mlp:widths=0", r"widths must be a whole number from 1"),
        ("objective", "adversarial:attack=pdg", r"no attack 'pdg'"),
        ("objective", "adversarial:attack=(pgd:stpes=1,norm=l2)", r"no option 'stpes'"),
        ("atack", "pgd", r"no kind 'atack': did you mean 'attack'\?"),
    ],
)
def test_mistakes_are_answered_with_the_nearest_right_thing(kind: str, spec: str, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        build(kind, spec)


@pytest.mark.parametrize("spec", [None, 3, ["pgd"], b"pgd"])
def test_a_spec_is_a_string(spec: Any) -> None:
    with pytest.raises(SpecError, match="A spec is a string such as"):
        build("attack", spec)


@settings(max_examples=25)
@given(st.text(max_size=60))
def test_no_text_escapes_as_another_error(text: str) -> None:
    for spec in (text, f"pgd:{text}", f"pgd:steps={text}", f"pgd:norm={text}", f"pgd:radius={text}"):
        try:
            build("attack", spec)
        except AdvexError:
            continue


def test_two_things_of_one_name_are_refused(shelf: dict[Any, Any]) -> None:
    @register("attack", "only_once")
    def first() -> None: ...

    register("attack", "only_once")(first)  # the same thing again is fine: a module that is imported twice
    with pytest.raises(SpecError, match="Two attacks are called 'only_once'"):

        @register("attack", "only_once")
        def second() -> None: ...

    register("goal", "only_once")(first)  # another kind is another name


def test_what_a_constructor_refuses_becomes_a_spec_error(shelf: dict[Any, Any]) -> None:
    @register("attack", "picky")
    def picky(size: float = 1.0) -> float:
        if size > 1:
            raise ValueError("too large")
        return size

    with pytest.raises(SpecError, match=r"'picky' cannot be made with \{'size': 2.0\}: too large"):
        make("attack", "picky", size=2.0)
    assert make("attack", "picky", size=1) == 1  # a whole number is a number


# -- values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-3", -3), ("0.1", 0.1), ("1e-4", 1e-4), ("1E4", 1e4), ("+2e+3", 2e3), ("1.5e-3", 1.5e-3),
        ("true", True), ("false", False), ("null", None), ("l2", "l2"), ("8/255", "8/255"), ("3x3", "3x3"),
        ("4x4s3", "4x4s3"), ("16-32-64", (16, 32, 64)), ("16", 16), ("e5", "e5"), ("", None), ("'7'", "7"),
    ],
)  # fmt: skip
def test_values_as_typed(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_specs_as_typed() -> None:
    assert parse("pgd") == ("pgd", {})
    assert parse(" pgd: ") == ("pgd", {})
    assert parse("pgd: norm = linf , radius=8/255,") == ("pgd", {"norm": "linf", "radius": "8/255"})
    assert parse("mlp:widths=16-32,classes=3") == ("mlp", {"widths": (16, 32), "classes": 3})
    nested = "adversarial:attack=(pgd:norm=l2,radius=1),share=1.0"
    assert parse(nested) == ("adversarial", {"attack": "pgd:norm=l2,radius=1", "share": 1.0})


@given(
    norm=st.sampled_from(["l1", "l2", "linf", "rmse"]),
    radius=st.floats(0, 1e3),
    steps=st.integers(1, 10**6),
    step=st.none() | st.floats(0, 10),
    random_start=st.booleans(),
)
def test_a_description_says_everything(
    norm: str, radius: float, steps: int, step: float | None, random_start: bool
) -> None:
    search = PGD(norm=norm, radius=radius, steps=steps, step=step, random_start=random_start)
    assert build("attack", describe(search)) == search


def test_what_is_not_registered_is_described_by_its_repr() -> None:
    assert describe(math.pi) == repr(math.pi)


# -- errors ------------------------------------------------------------------------------------------------


def test_suggestions_are_near_or_absent() -> None:
    assert did_you_mean("pdg", ["pgd", "minimal"]) == "did you mean 'pgd'? Known: minimal, pgd."
    assert did_you_mean("zzz", ["pgd", "minimal"]) == "Known: minimal, pgd."
    assert did_you_mean("zzz", []) == "Known: ."
