"""Names, spec strings and values as typed by a user."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advex import registry
from advex.attacks import PGD
from advex.errors import AdvexError, DataError, SpecError, did_you_mean
from advex.registry import build, describe, entries, make, parse, parse_value, register, write, write_value

EVERYTHING = [pytest.param(kind, name, id=f"{kind} {name}") for kind in registry.ROOMS for name in entries(kind)]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """A registry that forgets what a test adds."""
    copy = dict(registry._entries)
    monkeypatch.setattr(registry, "_entries", copy)
    return copy


def python(script: str, *folders: Path) -> str:
    """What a fresh process prints that has the folders on its path."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout


# -- what is registered ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_everything_can_be_listed(kind: str, name: str) -> None:
    entry = entries(kind)[name]
    assert (entry.kind, entry.name) == (kind, name.lower())
    assert entry.summary
    assert entry.path.exists()
    if entry.listing is None:  # what code says of itself; files have their own words
        assert entry.summary.endswith("."), "the first line of the docstring is a sentence"
        assert len(entry.summary) <= 120
    for option in entry.options():
        assert option in (entry.make.__doc__ or ""), f"the docstring of '{name}' does not explain '{option}'"


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_everything_listed_is_built_from_its_name_and_from_its_own_description(kind: str, name: str) -> None:
    try:
        thing = build(kind, name)
    except DataError as error:
        thing, needs = None, str(error)
    if thing is None:  # what is read from the user's own files asks for them
        assert "ADVEX_DATA" in needs
        return
    assert type(thing) is type(build(kind, f"  {name} "))
    if entries(kind)[name].make is type(thing) and dataclasses.is_dataclass(thing):
        assert not isinstance(thing, type)
        assert dataclasses.replace(thing) == thing == build(kind, describe(thing))
        with pytest.raises(dataclasses.FrozenInstanceError):
            thing.anything = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_the_names_a_user_knows_are_known() -> None:
    assert {"algorithm1", "l2min", "minimal", "pgd", "at_distance"} <= set(entries("attack"))
    assert {
        "misclassify",
        "below_chance",
        "become",
        "confident",
        "scramble",
        "unstable",
        "mass_centre",
        "suppress",
        "toward_map",
    } <= set(entries("goal"))
    assert {"linear", "mlp", "small_cnn", "preact_resnet"} <= set(entries("network"))
    assert {"relative_l2", "cosine", "spearman", "top_k", "kendall", "lens_recall"} <= set(entries("distance"))
    assert {"l1", "l2", "linf", "rmse"} <= set(entries("norm"))
    assert {"digits-robust", "cifar10-ordinary"} <= set(entries("recipe"))
    assert {"woods2019", "chalasani2020"} <= set(entries("paper"))


def test_what_is_listed_does_not_depend_on_what_was_imported_before() -> None:
    show = "print(json.dumps({kind: [repr(entry) for entry in registry.entries(kind).values()] for kind in KINDS}))"
    plainly = f"import json\nfrom advex import registry\nKINDS = list(registry.ROOMS)\n{show}"
    otherwise = f"""
import advex, importlib, json, pkgutil
from advex import registry

@registry.register("goal", "of_a_script")
class Mine: "Nobody else's."

for module in pkgutil.walk_packages(advex.__path__, "advex."):
    if not module.name.endswith("__main__") and "migrations" not in module.name:
        importlib.import_module(module.name)
KINDS = list(registry.ROOMS)[::-1]
{show}
"""
    first, second = (json.loads(re.sub(r" at 0x\w+", "", python(script))) for script in (plainly, otherwise))
    assert first == second
    assert all(first[kind] for kind in ("attack", "goal", "distance", "norm", "dataset", "recipe", "paper"))


def test_a_script_builds_what_it_registers_itself_without_listing_it(shelf: dict[Any, Any]) -> None:
    @register("attack", "mine")
    def mine(size: int = 3) -> int:
        return size

    assert "mine" not in entries("attack")
    assert build("attack", "mine:size=5") == 5
    register("attack", "pgd")(mine)
    with pytest.raises(SpecError, match=r"Two attacks are called 'pgd': advex\.attacks\.pgd\.PGD and .*mine"):
        build("attack", "pgd")
    assert entries("attack")["pgd"].make is PGD


def test_a_file_in_one_of_a_kinds_rooms_is_discovered(tmp_path: Path) -> None:
    """A new attack is one new file, and a kind may have several rooms."""
    room = tmp_path / "advex_room_for_tests"
    room.mkdir()
    (room / "__init__.py").write_text("")
    (room / "fresh.py").write_text(
        "from advex.registry import register\n\n\n"
        "@register('attack', 'fresh')\ndef fresh(size: int = 3):\n    return size\n"
    )
    script = (
        "from advex import registry\n"
        "registry.ROOMS['attack'] += ('advex_room_for_tests',)\n"
        "print(registry.build('attack', 'fresh:size=5'), *registry.entries('attack'))\n"
    )
    assert python(script, tmp_path).split() == ["5", *sorted([*entries("attack"), "fresh"])]


def test_a_thing_of_ours_outside_its_kinds_rooms_is_refused(shelf: dict[Any, Any]) -> None:
    with pytest.raises(SpecError, match=r"advex\.measures\.odd .*'odd'.*advex\.goals"):
        register("goal", "odd", module="advex.measures.odd")(lambda: None)
    with pytest.raises(SpecError, match="'gaol'.*'goal'"):
        register("gaol", "odd")


def test_recipes_are_built_with_changes() -> None:
    plain, changed = build("recipe", "digits-robust"), build("recipe", "digits-robust:epochs=3,network=(mlp:widths=8)")
    assert (changed.epochs, changed.network) == (3, "mlp:widths=8")
    assert plain.model_dump(exclude={"epochs", "network"}) == changed.model_dump(exclude={"epochs", "network"})
    with pytest.raises(SpecError, match="'epoch'.*'epochs'"):
        build("recipe", "digits-robust:epoch=3")


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
        ("attack", "pgd:steps=1.5", r"steps must be int, not 1.5"),
        ("attack", "pgd:steps=many", r"steps must be int, not 'many'"),
        ("attack", "pgd:norm=l7", r"no norm 'l7'"),
        ("attack", "pgd:radius=-1", r"A radius must be a number"),
        ("attack", "pgd:steps={a: 1}", r"must be a number, a word, true, false or null"),
        ("attack", "pgd:steps=[1", r"not valid YAML"),
        ("attack", "pgd:steps=!!python/object/apply:os.system [ls]", r"not valid YAML"),
        ("attack", "pgd:steps=(3", r"brackets in .* do not match"),
        ("attack", "pgd:steps=3)", r"brackets in .* do not match"),
        ("attack", "l2min:on_failure=cry", r"on_failure must be 'last' or 'clean', not 'cry'"),
        ("goal", "misclassify:y=1", r"goal 'misclassify' has no option 'y': choose from temperature"),
        ("goal", "below_chance:y=1", r"has no option 'y': it has none"),
        ("goal", "become:target=runnerup", r"target must be int or 'predicted' or 'runner_up' or 'true'"),
        ("goal", "become:target=1.5", r"target must be int or"),
        ("goal", "confident:margin=1", r"in \[0, 1\), not 1"),
        ("goal", "scramble:explainer=lime", r"Lime gives maps without derivatives"),
        ("goal", "scramble:distance=(top_k:k=0)", r"at least 1, not 0"),
        ("goal", "scramble:explainer=gradeint", r"no explainer 'gradeint': did you mean 'gradient'"),
        ("goal", "unstable:points=0", r"points must be at least 1, not 0"),
        ("distance", "top-k", r"no distance 'top-k': did you mean 'top_k'"),
        ("norm", "l7", r"no norm 'l7'"),
        ("recipe", "digits-robst", r"no recipe 'digits-robst': did you mean 'digits-robust'"),
        ("paper", "woods2020", r"no paper 'woods2020': did you mean 'woods2019'"),
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
    with pytest.raises(SpecError, match="A spec must be a string such as"):
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

    with pytest.raises(SpecError, match=r"'picky' .*\{'size': 2\.0\}: too large"):
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
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


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


def _balanced(word: str) -> bool:
    depths = [word[:end].count("(") - word[:end].count(")") for end in range(len(word) + 1)]
    return min(depths) == depths[-1] == 0


@given(words=st.lists(st.text("ab,:()=-017. '", max_size=8).filter(_balanced), max_size=3))
def test_a_word_is_read_as_it_was_written(words: list[str]) -> None:
    options = {f"option{number}": word for number, word in enumerate(words)}
    name, read = parse(write("name", options))
    # Numbers written as digits are read as numbers: where a word is wanted, `make` takes them for words.
    assert (name, {key: str(value) for key, value in read.items()}) == ("name", options)


@pytest.mark.parametrize("value", [None, True, False, 3, -2, 0.1, 1e-7, (16, 32), "l2", "a,b", "null", "", "1-2"])
def test_a_value_is_read_as_it_was_written(value: Any) -> None:
    (read,) = parse(f"name:option={write_value(value)}")[1].values()
    assert read == value
    assert type(read) is type(value)


def test_what_holds_another_thing_is_described_with_it() -> None:
    spec = "scramble:explainer=(integrated_gradients:steps=3,rule=left),distance=(top_k:k=10)"
    goal = build("goal", spec)
    text = describe(goal)
    assert parse(text)[1]["distance"] == "top_k:channels=sum_abs,k=10"
    assert build("explainer", parse(text)[1]["explainer"]) == build("explainer", parse(spec)[1]["explainer"])
    assert build("goal", text) == goal


def test_what_is_not_registered_is_described_by_its_repr() -> None:
    assert describe(math.pi) == repr(math.pi)


# -- errors ------------------------------------------------------------------------------------------------


def test_suggestions_are_near_or_absent() -> None:
    assert did_you_mean("pdg", ["pgd", "minimal"]) == "did you mean 'pgd'? Known: minimal, pgd."
    many = [f"name{number}" for number in range(40)]
    assert did_you_mean("name5x", many, "advex list x") == (
        "did you mean 'name5' or 'name35' or 'name25'? advex list x lists all 40."
    )
    assert len(did_you_mean("zzz", many)) < 100
    assert did_you_mean("zzz", ["pgd", "minimal"]) == "choose from minimal, pgd."
    assert did_you_mean("zzz", []) == "none are known."
