"""The search for counterfactuals: known smallest changes, all changes tried by brute force, and what it never does."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from advex.attacks.counterfactual import FewFeatures
from advex.classifier import Classifier
from advex.features import Feature, FeatureSpec
from advex.geometry import L1
from advex.goals import Become, Misclassify

INCOME = Feature(name="income", low=0, high=200_000, center=30_000, scale=12_000)
AGE = Feature(name="age", low=18, high=90, step=1, center=40, scale=10, change="up")
HOUSING = Feature(name="housing", kind="category", values=("rent", "own", "free"))
SEX = Feature(name="sex", kind="category", values=("female", "male"), change="never")
LOANS = FeatureSpec(features=(INCOME, AGE, HOUSING, SEX), target="answer")
ROW = {"income": 30_000, "age": 34, "housing": "rent", "sex": "female"}
ONE = torch.ones(1, dtype=torch.int64)


def logistic(spec: FeatureSpec, weight: list[float], bias: float) -> Classifier:
    """Refused (0) or accepted (1): the log-odds of acceptance are weight @ x + bias, of the encoded row."""
    layer = nn.Linear(spec.width, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0] * spec.width, weight]))
        layer.bias.copy_(torch.tensor([0.0, bias]))
    return Classifier(layer, features=spec, class_names=("refused", "accepted")).eval()


def encoded(spec: FeatureSpec, *rows: dict[str, object]) -> Tensor:
    return spec.encode(rows).double()


@pytest.mark.parametrize("odds", [-0.3, -1.27, -3.0])
def test_the_smallest_change_of_one_number_is_known(odds: float) -> None:
    """Log-odds rise by 1 per 12,000 of income: -odds * 12,000 more, up to the next hundred, changes the answer."""
    classifier = logistic(LOANS, [1.0, 0, 0, 0, 0, 0, 0], odds)
    found = FewFeatures()(classifier, encoded(LOANS, ROW), Become(ONE))
    expected = math.floor((30_000 - 12_000 * odds) / 100 + 1) * 100  # beyond the boundary, not on it
    assert found.reached.all()
    (row,) = LOANS.decode(found.adversarial)
    assert row == {**ROW, "income": pytest.approx(expected, abs=0.01)}  # single precision of the encoded row
    assert found.size.item() == pytest.approx((expected - 30_000) / 12_000, abs=1e-6)
    assert found.gradients.tolist() == [0]


@pytest.mark.parametrize(
    ("weight", "bias", "changed"),
    [
        ([0, 1.0, 0, 0, 0, 0, 0], 0.05, {"age": 40}),  # -0.6 + 0.05 at 34, and 0.1 a year
        ([0, -1.0, 0, 0, 0, 0, 0], -0.7, None),  # only a younger applicant would be accepted
        ([0, 0, 0, 1.0, 2.0, 0, 0], -0.5, {"housing": "own"}),  # both others suffice: the first of equally small ones
        ([0, 0, 0, 1.0, 2.0, 0, 0], -1.5, {"housing": "free"}),
        ([0, 0, 0, 0, 0, 0, 9.0], -0.5, None),  # only another sex would do, and that is held fast
        ([0, 0.5, 0, 1.0, 0, 0, 0], -3.22, {"age": 85, "housing": "own"}),  # -3.52 + 1 + 0.05 a year; age alone: 90
        ([0, 0.5, 0, 1.0, 0, 0, 0], -4.2, None),
    ],
)
def test_columns_move_only_as_they_may(weight: list[float], bias: float, changed: dict[str, object] | None) -> None:
    found = FewFeatures()(logistic(LOANS, weight, bias), encoded(LOANS, ROW), Become(ONE))
    assert found.reached.tolist() == [changed is not None]
    assert LOANS.decode(found.adversarial) == [{**ROW, **(changed or {})}]
    assert torch.isinf(found.size).tolist() == [changed is None]


def test_fewer_columns_come_before_smaller_changes() -> None:
    """A larger change of one column is preferred to a smaller one of two; with one allowed, two are not found."""
    weight, bias = [0.1, 0.5, 0, 1.0, 0, 0, 0], -1.0  # the odds are -1.3
    one = FewFeatures()(logistic(LOANS, weight, bias), encoded(LOANS, ROW), Become(ONE))
    assert LOANS.decode(one.adversarial) == [{**ROW, "age": 61}]
    assert one.size.item() == pytest.approx(2.7)  # an own home and 7 years more: 2 + 0.7 of about the same
    two = logistic(LOANS, weight, -4.0)
    assert FewFeatures()(two, encoded(LOANS, ROW), Become(ONE)).reached.all()
    assert not FewFeatures(features=1)(two, encoded(LOANS, ROW), Become(ONE)).reached.any()


def test_what_is_there_already_is_left_alone() -> None:
    classifier = logistic(LOANS, [0.0] * 7, 1.5)
    found = FewFeatures()(classifier, encoded(LOANS, ROW), Become(ONE))
    assert found.reached.all()
    assert found.size.tolist() == [0]
    assert not found.delta.any()


def test_a_column_is_in_the_mask_whole_or_not_at_all() -> None:
    classifier = logistic(LOANS, [0, 0, 0, 2.0, 2.0, 0, 0], -1.0)
    mask = torch.ones(7, dtype=torch.bool)
    mask[3] = False  # `own` alone: the group can then not be changed
    assert not FewFeatures()(classifier, encoded(LOANS, ROW), Become(ONE), mask=mask).reached.any()


def test_a_goal_that_hears_nothing_is_told() -> None:
    found = FewFeatures()(logistic(LOANS, [0.0] * 7, -1.0), encoded(LOANS, ROW), Become(ONE))
    assert found.flat.tolist() == [True]
    found = FewFeatures()(logistic(LOANS, [0.01, *[0.0] * 6], -1.0), encoded(LOANS, ROW), Become(ONE))
    assert found.flat.tolist() == [False]
    assert not found.reached.any()


def test_of_other_inputs_the_cheapest_element_is_moved(toys: SimpleNamespace) -> None:
    """Without columns: of a linear classifier the element with the largest weight, by margin / weight."""
    w = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64)
    classifier = toys.affine(torch.stack([-w / 2, w / 2]), torch.tensor([0.2, -0.2]).double())
    x = torch.full((1, 3), 0.5, dtype=torch.float64)  # w x - 0.4 = -0.65
    found = FewFeatures()(classifier, x, Misclassify(torch.zeros(1, dtype=torch.int64)))
    # 2^-20 of the way to the wall is the finest step, 0.1 % of which is added where rounding takes the goal away.
    assert found.delta.flatten().tolist() == pytest.approx([0, -0.325, 0], abs=1e-6)
    assert found.size.item() >= 0.325


# -- against all changes there are ---------------------------------------------------------------------------


SMALL = FeatureSpec(
    features=(
        Feature(name="a", low=0, high=4, step=1, scale=2.0),
        Feature(name="b", low=-1, high=1, step=0.5, change="up"),
        Feature(name="c", kind="category", values=("x", "y", "z")),
        Feature(name="d", low=0, high=3, step=1, change="down"),
        Feature(name="e", kind="category", values=("p", "q", "r"), change="up"),
        Feature(name="f", kind="category", values=("s", "t"), change="never"),
    )
)


def all_rows() -> list[dict[str, object]]:
    """Every valid row of `SMALL`."""
    values = [
        f.values
        or [f.range[0] + k * (f.step or 1) for k in range(round((f.range[1] - f.range[0]) / (f.step or 1)) + 1)]
        for f in SMALL.features
    ]
    return [dict(zip("abcdef", row, strict=True)) for row in itertools.product(*values)]


ALL = all_rows()
ENCODED = SMALL.encode(ALL).double()


def allowed(start: int) -> Tensor:
    """[all] bool: the rows that a row may be changed into."""
    old = ALL[start]

    def may(new: dict[str, object]) -> bool:
        def order(name: str) -> bool:  # of the values p, q, r letters are in order
            return new[name] >= old[name]  # pyright: ignore

        return order("b") and not (order("d") and new["d"] != old["d"]) and order("e") and new["f"] == old["f"]

    return torch.tensor([may(row) for row in ALL])


def changed_columns(start: int) -> Tensor:
    """[all] how many columns differ from those of a row."""
    return torch.tensor([sum(row[name] != ALL[start][name] for name in row) for row in ALL])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("curved", [False, True], ids=["linear", "curved"])
def test_nothing_simpler_is_overlooked(seed: int, curved: bool) -> None:
    """All of 1,800 rows tried: the same number of columns, and of a linear network the same smallest change."""
    rng = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(SMALL.width, 12), nn.Tanh(), nn.Linear(12, 2)] if curved else [nn.Linear(SMALL.width, 2)]
    network = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
        # Such that few rows are of class 1, and one column is seldom enough.
        margins = network(ENCODED)[:, 1] - network(ENCODED)[:, 0]
        network[-1].bias[0] += margins.quantile(0.97)  # pyright: ignore
        there = network(ENCODED).argmax(dim=1) == 1
    starts = torch.randperm(len(ALL), generator=rng)[:12]
    classifier = Classifier(network, features=SMALL).eval()
    found = FewFeatures(features=5)(classifier, ENCODED[starts], Become(torch.ones(12, dtype=torch.int64)))
    excess = []
    for row, start in enumerate(starts.tolist()):
        possible = allowed(start) & there
        assert bool(found.reached[row]) == bool(possible.any())
        if not possible.any():
            continue
        arrived = int((found.adversarial[row] == ENCODED).all(dim=1).nonzero())
        assert possible[arrived]
        count = changed_columns(start)
        assert count[arrived] == count[possible].min()
        simplest = possible & (count == count[arrived])
        excess.append(float(found.size[row] - L1.size(ENCODED - ENCODED[start])[simplest].min()))
    assert min(excess, default=0) >= -1e-6
    assert max(excess, default=0) <= (1e-6 if not curved else 1.5)
