"""An outside oracle: foolbox's attacks on the same network must not be stronger than ours."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from advex.attacks import PGD, Minimal
from advex.goals import Misclassify

N = 100


@pytest.fixture(scope="module")
def oracle(digits: SimpleNamespace) -> SimpleNamespace:
    """foolbox, its view of the digits network, and images that the network classifies rightly."""
    with warnings.catch_warnings():
        # foolbox 3.3.4 imports a name that SciPy has moved.
        warnings.filterwarnings("ignore", message="Please import `gaussian_filter`", category=DeprecationWarning)
        foolbox: Any = pytest.importorskip("foolbox")
    right = digits.classifier(digits.x).argmax(dim=1) == digits.y
    x, y = digits.x[right][:N], digits.y[right][:N]
    assert len(x) == N
    model = foolbox.PyTorchModel(digits.classifier, bounds=(0, 1), device="cpu")
    return SimpleNamespace(foolbox=foolbox, model=model, classifier=digits.classifier, x=x, y=y)


@pytest.mark.parametrize(
    ("norm", "attack", "radii"),
    [("linf", "LinfPGD", (0.03, 0.08, 0.15)), ("l2", "L2PGD", (0.3, 0.6, 1.0))],
)
def test_pgd_is_as_strong_as_foolboxs(
    oracle: SimpleNamespace, norm: str, attack: str, radii: tuple[float, ...]
) -> None:
    between = 0
    for radius in radii:
        torch.manual_seed(0)
        theirs = getattr(oracle.foolbox.attacks, attack)(steps=40)
        _, _, success = theirs(oracle.model, oracle.x, oracle.y, epsilons=radius)
        found = PGD(norm=norm, radius=radius, steps=40)(oracle.classifier, oracle.x, Misclassify(oracle.y))
        # One image of a hundred may fall to the luck of the random start.
        assert found.reached.sum() >= success.sum() - 1, radius
        between += int(5 < success.sum() < N - 5)
    assert between >= 2, "radii at which nearly all or no images fall compare nothing"


def test_our_smallest_changes_are_no_larger_than_those_of_ddn(oracle: SimpleNamespace) -> None:
    theirs = oracle.foolbox.attacks.DDNAttack(steps=100)
    _, changed, success = theirs(oracle.model, oracle.x, oracle.y, epsilons=None)
    assert success.all()
    their_size = (changed - oracle.x).flatten(1).norm(dim=1)
    found = Minimal(gradients=100)(oracle.classifier, oracle.x, Misclassify(oracle.y))
    assert found.reached.all()
    our_size = found.delta.flatten(1).norm(dim=1)
    assert our_size.mean() <= 1.02 * their_size.mean()
    # Nor do we win by another measure of size: what we call a success is one for foolbox too.
    assert (oracle.model(found.adversarial).argmax(dim=1) != oracle.y).all()
