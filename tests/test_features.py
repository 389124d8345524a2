"""Columns of tables: encoding and back, valid rows, the box, and searches that end at valid rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import advex
from advex import artifacts, registry
from advex.classifier import Classifier
from advex.errors import ArtifactError, DataError, InputError
from advex.explainers import Toward
from advex.features import Feature, FeatureSpec
from advex.geometry import Box
from advex.goals import Misclassify

INCOME = Feature(name="income", low=0.0, high=100_000.0, scale=15_000.0)
AGE = Feature(name="age", low=17.0, high=90.0, step=1.0, change="up", center=38.6, scale=13.6)
DEBT = Feature(name="debt", low=0.0, high=10.0, step=0.1, change="down", scale=2.0)
SEX = Feature(name="sex", kind="category", values=("female", "male"), change="never")
BORN = Feature(name="born", low=1900.0, high=2020.0, step=1.0, change="never", center=1980.0, scale=15.0)
SCHOOL = Feature(name="school", kind="category", values=("low", "middle", "high"), change="up")
CITY = Feature(name="city", kind="category", values=("a", "b", "c"))
SPEC = FeatureSpec(features=(INCOME, AGE, DEBT, SEX, BORN, SCHOOL, CITY), target="accepted")


def valid(n: int, seed: int = 0) -> Tensor:
    """[n, d] random valid rows."""
    drawn = torch.rand(n, SPEC.width, generator=torch.Generator().manual_seed(seed))
    box = SPEC.box()
    return SPEC.nearest(box.lower + drawn * (box.upper - box.lower))


def anywhere(n: int, seed: int = 1) -> Tensor:
    """[n, d] far inside and outside the box."""
    return 3 * torch.randn(n, SPEC.width, generator=torch.Generator().manual_seed(seed))


# -- rows and tensors ----------------------------------------------------------------------------------------


def test_a_row_is_encoded_element_by_element() -> None:
    row = {"income": "45,000", "age": 30, "debt": 0.3, "sex": "male", "born": 1995, "school": " low ", "city": "c"}
    x = SPEC.encode([row])
    expected = [3.0, (30 - 38.6) / 13.6, 0.15, 0, 1, 1.0, 1, 0, 0, 0, 0, 1]
    assert torch.equal(x[0], torch.tensor(expected, dtype=torch.float64).float())
    assert SPEC.names[3:6] == ("sex=female", "sex=male", "born")
    assert SPEC.slices[3] == slice(3, 5)
    assert SPEC.decode(x) == [{**row, "income": 45000.0, "school": "low"}]


@given(
    typed=st.lists(st.from_regex(r"[1-9][0-9]{0,5}", fullmatch=True), min_size=1, max_size=5),
    exponent=st.integers(-6, 6),
    scale=st.floats(1e-3, 1e4),
)
def test_six_digits_come_back_as_they_were_typed(typed: list[str], exponent: int, scale: float) -> None:
    values = [float(f"{text}e{exponent}") for text in typed]
    spec = FeatureSpec(features=(Feature(name="a", low=0.0, high=1e12, scale=scale),))
    x = spec.encode([{"a": value} for value in values])
    assert [row["a"] for row in spec.decode(x)] == values
    assert torch.equal(spec.encode(spec.decode(x)), x)


@pytest.mark.parametrize("value", [45000.0, 0.1, 3.14159])
def test_numbers_of_all_sizes_share_a_column(value: float) -> None:
    assert SPEC.decode(SPEC.encode([{**SPEC.decode(valid(1))[0], "income": value}]))[0]["income"] == value


@given(
    low=st.integers(-1000, 1000),
    k=st.integers(0, 1000),
    decimals=st.integers(0, 3),
    center=st.floats(-1000, 1000),
    scale=st.floats(1e-2, 1e4),
)
def test_steps_come_back_exactly(low: int, k: int, decimals: int, center: float, scale: float) -> None:
    step = float(f"1e-{decimals}")
    feature = Feature(name="a", low=low, high=low + 1000, step=step, center=center, scale=scale)
    spec = FeatureSpec(features=(feature,))
    value = round(low + k * step, decimals)
    assert spec.decode(spec.encode([{"a": value}])) == [{"a": value}]


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_what_is_decoded_is_encoded_as_the_very_same_input(seed: int) -> None:
    x = SPEC.nearest(anywhere(3, seed))
    assert torch.equal(SPEC.encode(SPEC.decode(x)), x)
    assert torch.equal(SPEC.nearest(x), x)
    assert torch.equal(SPEC.nearest(x.double()), x.double())  # a float64 model sees the same rows


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"income": ""}, "Row 1: 'income' is missing"),
        ({"city": None}, "'city' is missing"),
        ({"city": "d"}, "an unknown category"),
        ({"income": "much"}, "not a number"),
        ({"income": 1e9}, "outside its range of 0 to 100000"),
        ({"age": 30.5}, "whole steps of 1"),
        ({"age": float("nan")}, "'age' is missing"),
    ],
)
def test_rows_that_cannot_be_encoded_are_named(change: dict[str, Any], said: str) -> None:
    row = SPEC.decode(valid(1))[0]
    with pytest.raises(DataError, match=said):
        SPEC.encode([row, {**row, **change}])


def test_the_nearest_row_is_valid_and_nearest() -> None:
    spec = FeatureSpec(features=(DEBT, CITY))
    x = torch.tensor([[0.16, 0.2, 0.9, 0.3], [-5.0, 0.1, 0.0, 0.0], [9.0, 0.0, 0.0, 0.1]])
    expected = torch.tensor([[0.15, 0, 1, 0], [0.0, 1, 0, 0], [5.0, 0, 0, 1]])
    assert torch.equal(spec.nearest(x), expected)


def test_from_a_clean_row_only_what_may_change_does() -> None:
    clean, x = valid(200), anywhere(200)
    result = SPEC.nearest(x, clean)
    never = [3, 4, 5]
    assert torch.equal(result[:, never], clean[:, never])
    assert bool((result[:, 1] >= clean[:, 1]).all())
    assert bool((result[:, 2] <= clean[:, 2]).all())
    assert bool((result[:, 6:9].argmax(1) >= clean[:, 6:9].argmax(1)).all())
    assert bool((result[:, 6:9].argmax(1) > clean[:, 6:9].argmax(1)).any())
    assert torch.equal(SPEC.nearest(result), result)
    assert torch.equal(torch.cat([SPEC.nearest(x[i : i + 1], clean[i : i + 1]) for i in range(20)]), result[:20])


def test_inward_never_goes_farther() -> None:
    clean, x = valid(200), anywhere(200) / 3
    x = clean + (x - clean) * torch.rand(200, 1, generator=torch.Generator().manual_seed(2))
    result = SPEC.inward(x, clean)
    assert torch.equal(SPEC.nearest(result), result)
    assert bool(((result - clean).abs() <= (x - clean).abs() * (1 + 1e-4)).all())  # a step of float32's rounding
    assert bool((result != clean).any())


def test_a_mask_of_a_part_of_a_group_covers_none_of_it() -> None:
    mask = torch.ones(SPEC.width, dtype=torch.bool)
    mask[[0, 7]] = False
    expected = mask.clone()
    expected[[6, 8]] = False
    assert torch.equal(SPEC.whole(mask), expected)
    assert torch.equal(SPEC.whole(mask.expand(4, -1)), expected.expand(4, -1))


# -- what a spec is ------------------------------------------------------------------------------------------


def test_a_spec_survives_json_exactly() -> None:
    assert FeatureSpec.from_plain(SPEC.plain()) == SPEC


@pytest.mark.parametrize(
    "broken",
    [
        [],
        {"target": "a"},
        {"target": 1, "features": []},
        {"target": "a", "features": [{}]},
        {"target": "a", "features": [{"name": "b", "low": "0", "high": 1}]},
        {"target": "a", "features": [{"name": "b", "low": 0, "high": 1, "run": "code"}]},
        {"target": "a", "features": [{"name": "b", "kind": "category", "values": [1, 2]}]},
        {"target": "a", "features": [{"name": "a", "low": 0, "high": 1}]},
    ],
)
def test_nonsense_is_no_spec(broken: Any) -> None:
    with pytest.raises(DataError):
        FeatureSpec.from_plain(broken)


@pytest.mark.parametrize(
    "options",
    [
        {"low": 0.0},
        {"low": 1.0, "high": 1.0},
        {"low": 0.0, "high": 1.0, "scale": 0.0},
        {"low": 0.0, "high": float("inf")},
        {"low": 0.0, "high": 1e9, "step": 1.0},
        {"low": 0.0, "high": 1.0, "values": ("a",)},
        {"kind": "category", "values": ("a",)},
        {"kind": "category", "values": ("a", "b"), "step": 1.0},
        {"low": 0.0, "high": 1.0, "change": "sideways"},
        {"low": 0.0, "high": 1.0, "kind": "text"},
    ],
)
def test_impossible_columns_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="Column 'a'"):
        Feature(name="a", **options)


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="Two columns are called 'age'"):
        FeatureSpec(features=(AGE, INCOME, AGE))


# -- the box -------------------------------------------------------------------------------------------------


def test_elements_that_cannot_rise_or_fall_do_not() -> None:
    rises, falls = torch.tensor([True, False, False, True]), torch.tensor([False, True, False, True])
    box = Box(torch.zeros(4), torch.ones(4), rises, falls)
    x = torch.full((2, 4), 0.5)
    away = torch.tensor([[-0.2] * 4, [0.9] * 4])
    assert torch.equal(box.confine(x, away), torch.tensor([[0, -0.2, 0, -0.2], [0.5, 0, 0, 0.5]]))
    still = torch.zeros(2, 4)
    assert torch.equal(box.free(x, still, away), torch.tensor([[0, -0.2, 0, -0.2], [0.9, 0, 0, 0.9]]))
    moved = torch.tensor([[0.1, -0.1, 0, 0]] * 2)  # what has moved may come back
    assert torch.equal(box.free(x, moved, away), torch.tensor([[-0.2, -0.2, 0, -0.2], [0.9, 0.9, 0, 0.9]]))
    assert torch.equal(box.farthest(x), torch.tensor([[0.5, -0.5, 0, 0.5]] * 2))


# -- a classifier of rows ------------------------------------------------------------------------------------


@pytest.fixture
def clf(request: pytest.FixtureRequest) -> Classifier:
    """A small curved network; where the search under test is for linear ones, a linear one."""
    linear = getattr(request.node, "callspec", None) and request.node.callspec.params.get("spec") == "closed_form"
    curved = nn.Sequential(nn.Linear(SPEC.width, 8), nn.Tanh(), nn.Linear(8, 2))
    return Classifier(nn.Linear(SPEC.width, 2) if linear else curved, features=SPEC).eval()


def decided(clf: Classifier, x: Tensor) -> Tensor:
    with torch.no_grad():
        return clf(x).argmax(dim=1)


ALL = registry.entries("attack")
SEARCHES = [
    *(name for name, entry in ALL.items() if not getattr(entry.make, "only_pictures", False)),
    "pgd:norm=l2,radius=2",
    "pgd:norm=linf,radius=1.5,restarts=2",
]


@pytest.mark.parametrize("spec", SEARCHES)
def test_every_search_ends_at_valid_rows(clf: Classifier, spec: str) -> None:
    x = valid(24)
    result = registry.build("attack", spec)(clf, x, Misclassify(decided(clf, x)))
    rows = SPEC.nearest(result.adversarial)
    # x + (row - x) is the row up to float32's rounding of the sum.
    assert torch.allclose(rows, result.adversarial, atol=1e-5)
    assert torch.equal(SPEC.encode(SPEC.decode(result.adversarial)), rows)
    assert not result.delta[:, [3, 4, 5]].any()
    assert bool((result.delta[:, 1] >= 0).all())
    assert bool((result.delta[:, 2] <= 0).all())
    changed = decided(clf, result.adversarial) != decided(clf, x)
    assert torch.equal(result.reached, changed)
    size = torch.isfinite(result.size)
    assert torch.equal(size, result.reached)


@pytest.mark.parametrize("spec", ["minimal", "counterfactual", "pgd:norm=linf,radius=3"])
def test_searches_do_find_valid_rows(clf: Classifier, spec: str) -> None:
    x = valid(24)
    result = registry.build("attack", spec)(clf, x, Misclassify(decided(clf, x)))
    assert int(result.reached.sum()) >= 6


@pytest.mark.parametrize("spec", SEARCHES)
def test_rows_do_not_depend_on_their_batch(clf: Classifier, spec: str) -> None:
    clf, x = clf.double(), valid(6).double()  # so that the order of sums does not matter
    search, y = registry.build("attack", spec), decided(clf, x)
    if hasattr(search, "steps"):
        search = dataclasses.replace(search, steps=min(search.steps, 10))
    whole = search(clf, x, Misclassify(y), seed=3)
    for i in (0, 4):
        alone = search(clf, x[i : i + 1], Misclassify(y[i : i + 1]), seed=3)
        assert torch.allclose(alone.delta[0], whole.delta[i], atol=1e-5)
        assert bool(alone.reached[0]) == bool(whole.reached[i])


def test_pgd_stays_within_its_radius(clf: Classifier) -> None:
    x = valid(24)
    result = registry.build("attack", "pgd:norm=linf,radius=0.1")(clf, x, Misclassify(decided(clf, x)))
    assert float(result.delta.abs().max()) <= 0.1 * (1 + 1e-5)
    assert not result.delta[:, 6:].any()  # another category is a change of 1


def test_a_masked_column_is_left_alone(clf: Classifier) -> None:
    x = valid(24)
    mask = torch.ones(SPEC.width, dtype=torch.bool)
    mask[[0, 11]] = False  # income, and one of the three cities: the city then cannot change
    result = registry.build("attack", "minimal")(clf, x, Misclassify(decided(clf, x)), mask=mask)
    assert not result.delta[:, [0, 9, 10, 11]].any()


def test_an_explanation_shows_a_valid_row(clf: Classifier) -> None:
    x = valid(4)
    explanation = Toward(rho=1.0)(clf, x, 1 - decided(clf, x))
    assert explanation.picture is not None
    assert torch.allclose(SPEC.nearest(explanation.picture), explanation.picture, atol=1e-5)


def test_a_box_beside_features_is_refused() -> None:
    with pytest.raises(InputError, match="omit box"):
        Classifier(nn.Linear(SPEC.width, 2), features=SPEC, box=(0.0, 1.0))


def test_features_are_saved_exactly(tmp_path: Path) -> None:
    made = Classifier(f"linear:features={SPEC.width},classes=2", features=SPEC, class_names=("no", "yes")).eval()
    again = advex.load(artifacts.save(made, tmp_path / "model"))
    assert again.features == SPEC
    assert torch.equal(again.lower, made.lower)
    assert torch.equal(again.upper, made.upper)
    assert again.rises is not None
    assert made.box.rises is not None
    assert torch.equal(again.rises, made.box.rises)
    assert torch.equal(again(valid(5)), made(valid(5)))


def test_an_artifact_of_before_there_were_features_opens(tmp_path: Path) -> None:
    folder = artifacts.save(Classifier("linear:features=4,classes=2"), tmp_path / "model")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"features": null,\n', ""))
    assert '"features"' not in config.read_text()
    assert advex.load(folder).features is None


def test_a_hostile_feature_spec_is_refused(tmp_path: Path) -> None:
    folder = artifacts.save(Classifier("linear:features=4,classes=2"), tmp_path / "model")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"features": null', '"features": {"target": "t", "features": [1]}'))
    with pytest.raises(ArtifactError, match="needs a 'name'"):
        advex.load(folder)
