"""The fewest changed elements: exact on linear networks, beside every choice of elements on small ones."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from advex.attacks import SigmaZero
from advex.classifier import Classifier
from advex.data import open_dataset
from advex.evaluation import Settings, evaluate
from advex.geometry import L0
from advex.goals import Misclassify
from advex.record import read_rows
from advex.report import write_report

D = 200


def problem(toys: SimpleNamespace, n: int = 24) -> tuple[Classifier, Tensor, Tensor, Tensor]:
    """(classifier, x, y, helps): two classes, many elements at a wall; by how much each brings the margin down."""
    rng = torch.Generator().manual_seed(3)
    w = torch.randn(D, generator=rng, dtype=torch.float64)
    x = torch.rand(n, D, generator=rng, dtype=torch.float64)
    x = torch.where(x < 0.3, 0.0, torch.where(x > 0.7, 1.0, x))
    bias = 0.1 * w.abs().sum() - 0.5 * w.sum()
    classifier = toys.affine(torch.stack([w, -w]) / 2, torch.stack([bias, -bias]) / 2)
    margin = x @ w + bias
    towards = margin.sign()[:, None] * w
    return classifier, x, (margin < 0).long(), torch.where(towards > 0, towards * x, -towards * (1 - x))


def fewest(helps: Tensor, margin: Tensor) -> Tensor:
    """As few elements, those first that help most, as bring the margin below zero."""
    return 1 + (helps.sort(dim=1, descending=True).values.cumsum(dim=1) <= margin[:, None]).sum(dim=1)


@pytest.mark.parametrize("gradients", [1, 2, 5, 20])
def test_a_linear_network_s_fewest_elements_are_those_that_help_most(toys: SimpleNamespace, gradients: int) -> None:
    classifier, x, y, helps = problem(toys)
    exact = fewest(helps, classifier(x).detach().diff(dim=1)[:, 0].abs())
    assert exact.unique().numel() > 4
    result = SigmaZero(gradients=gradients)(classifier, x, Misclassify(y))
    assert torch.equal(result.size, exact.double())
    assert torch.equal(result.size, (result.delta != 0).sum(dim=1).double())
    assert (result.gradients <= gradients).all()


def test_the_mask_is_kept_to(toys: SimpleNamespace) -> None:
    classifier, x, y, helps = problem(toys)
    mask = torch.arange(D) % 3 != 0
    exact = fewest(helps * mask, classifier(x).detach().diff(dim=1)[:, 0].abs())
    result = SigmaZero(gradients=10)(classifier, x, Misclassify(y), mask=mask)
    able = (helps * mask).sum(dim=1) > classifier(x).detach().diff(dim=1)[:, 0].abs()
    assert torch.equal(result.reached, able)
    assert torch.equal(result.size[able], exact[able].double())
    assert not result.delta[:, ~mask].any()


def test_beside_every_choice_of_elements_of_a_curved_network() -> None:
    """Ten elements, three classes: the optimum by trying every set of elements at every corner of the box."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 3)).double()
        x = 0.2 + 0.6 * torch.rand(40, 10, dtype=torch.float64)
    classifier = Classifier(network, box=(0, 1)).eval()
    y = classifier(x).argmax(dim=1)
    bound = torch.full((len(x),), torch.inf)
    for size in (1, 2, 3):
        for chosen in itertools.combinations(range(10), size):
            for corner in itertools.product((0.0, 1.0), repeat=size):
                changed = x.clone()
                changed[:, chosen] = torch.tensor(corner, dtype=torch.float64)
                moved = classifier(changed).argmax(dim=1) != y
                bound = torch.where(moved & bound.isinf(), size, bound)
    result = SigmaZero()(classifier, x, Misclassify(y))
    known = bound.isfinite()
    assert known.sum() > 10
    assert result.reached[known].all()
    assert (result.size[known] == bound[known]).double().mean() >= 0.8
    assert (result.size - bound)[known].max() <= 1


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_the_logits_alters_nothing(scale: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        inner = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 4)).double()
        x = torch.rand(16, 20, dtype=torch.float64)
    scaled = nn.Linear(4, 4, bias=False).double()
    with torch.no_grad():
        scaled.weight.copy_(scale * torch.eye(4))
    plain, loud = (Classifier(each, box=(0, 1)).eval() for each in (inner, nn.Sequential(inner, scaled)))
    y = plain(x).argmax(dim=1)
    sizes = [SigmaZero(gradients=30)(each, x, Misclassify(y)).size for each in (plain, loud)]
    assert torch.equal(*sizes)


def test_an_evaluation_s_area_is_in_elements(tmp_path: Path) -> None:
    data = open_dataset("digits", split="test").sample(12, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Classifier("linear:features=64,classes=10").eval().requires_grad_(False)
    asked = Settings(attack="sigma_zero:gradients=10", btr=None, explanations=0, pictures=(), recheck=12)
    record = evaluate([("line", "", classifier)], data, tmp_path / "out", asked)
    sizes = torch.tensor([row["attack_size"] for row in read_rows(tmp_path / "out", "examples")])
    assert record.norms == {"attack": L0.name}
    assert torch.equal(sizes, sizes.round())
    assert "attack_ara:l0" in record.models[0].scores
    assert "L0 is the number of elements that change at all" in write_report(tmp_path / "out").read_text("utf-8")
