"""A map led towards another one: where it can be had it is had, and nothing is claimed where it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from advex import registry
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.explainers import Gradient
from advex.measures import Case, apply, build


class Bowl(nn.Module):
    """Logits 40 + |x|^2 / 2 and 0: the gradient of the first is x."""

    def forward(self, x: Tensor) -> Tensor:
        value = 40 + x.square().flatten(1).sum(dim=1) / 2
        return torch.stack([value, torch.zeros_like(value)], dim=1)


def case_of(x: Tensor, network: nn.Module | None = None) -> Case:
    classifier = Classifier(network or Bowl(), box=(-2.0, 2.0)).double().eval()
    target = torch.zeros(len(x), dtype=torch.int64)
    explanation = Gradient()(classifier, x, target)
    return Case(classifier=classifier, x=x, y=target, explainer=Gradient(), explanation=explanation)


def pictures() -> Tensor:
    return 0.5 + torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


SEARCH = "search=(pgd:norm=linf,radius={},steps=60,step={})"


@pytest.mark.parametrize("wanted", ["centre", "edge"])
def test_where_the_map_is_the_input_it_comes_to_what_is_wanted(wanted: str) -> None:
    """In a ball that holds the wanted map the distance falls to nothing; in a small one it falls by less."""
    x = pictures()
    measure = build(f"manipulated:wanted={wanted},{SEARCH.format(0.4, 0.01)}")
    values = apply(measure, case_of(x)).values
    assert (values[""] < 0.02).all()
    assert (values["before"] > 0.05).all()
    assert torch.allclose(values["moved"], values["before"], atol=0.15)
    near = apply(build(f"manipulated:wanted={wanted},{SEARCH.format(0.02, 0.001)}"), case_of(x)).values
    assert ((near[""] > values[""]) & (near[""] < near["before"])).all()


def test_the_moved_input_is_where_it_says() -> None:
    case = case_of(pictures())
    measured = apply(build(f"manipulated:{SEARCH.format(0.05, 0.004)}"), case)
    assert measured.moved is not None
    x, maps = measured.moved
    assert torch.allclose(maps, case.explain(x))
    assert measured.wanted is not None
    assert torch.equal(measured.wanted, registry.make("explainer", "centre")(case.classifier, case.x, case.y).map)
    assert ((x - case.x).abs() <= 0.05 * 4 + 1e-9).all()
    assert (case.classifier.predict(x).argmax(dim=1) == 0).all()


def test_what_cannot_be_followed_has_no_value() -> None:
    class Functional(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            value = torch.relu(x - 0.1).flatten(1).sum(dim=1)
            return torch.stack([value, torch.zeros_like(value)], dim=1)

    measured = apply(build("manipulated:search=(pgd:steps=2)"), case_of(pictures(), Functional()))
    (reason,) = measured.undefined
    assert "as a function" in reason or "constant" in reason
    assert measured.values[""].isnan().all()
    with pytest.raises(SpecError):
        build("manipulated:wanted=nowhere")
