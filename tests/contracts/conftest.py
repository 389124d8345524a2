"""Every registered search, as it is and in the examples it gives, is handed to each test that asks for a `spec`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex import registry
from advex.classifier import Classifier
from advex.reach import is_activation

SHAPE = (3, 2, 2)


def forms_of(kind: str, name: str) -> list[str]:
    """Spec strings of a registered thing: as it is, and in its examples."""
    return [name, *(f"{name}:{example}" for example in registry.entries(kind)[name].examples)]


def fact(spec: str, name: str) -> Any:
    """What a search says of itself: see `attacks.attack.attack`."""
    return getattr(registry.entries("attack")[spec.partition(":")[0]].make, name)


def searches() -> list[str]:
    """Spec strings of all searches under contract."""
    return [spec for name in registry.entries("attack") for spec in forms_of("attack", name)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "spec" in metafunc.fixturenames:
        brings_its_own = "clf" not in metafunc.fixturenames
        metafunc.parametrize(
            "spec", [spec for spec in searches() if not (brings_its_own and fact(spec, "exact_for") == "linear")]
        )
    if "smallest_spec" in metafunc.fixturenames:
        metafunc.parametrize("smallest_spec", [spec for spec in searches() if fact(spec, "promises") == "smallest"])


def shortened(search: Any, steps: int = 12) -> Any:
    """The same search with a budget that suits a test of laws."""
    budget: dict[str, Any] = {
        field.name: min(getattr(search, field.name), steps)
        for field in dataclasses.fields(search)
        if field.name in ("steps", "gradients", "queries")
    }
    if hasattr(search, "searches"):  # of a suite: that of each
        budget = {"searches": f"apgd:steps={steps},minimal:gradients={steps},square:queries={steps}"}
    return dataclasses.replace(search, **budget)


def hearable(make: Callable[..., Classifier]) -> Callable[..., Classifier]:
    """The same maker of toys, with an activation that changes nothing where the network has none."""

    def made(*args: Any, **options: Any) -> Classifier:
        classifier, same = make(*args, **options), nn.LeakyReLU(1.0)
        network: Any = classifier.network
        if any(map(is_activation, network.modules())):
            return classifier
        if isinstance(network, nn.Sequential):
            network.append(same)
        else:
            classifier.network = nn.Sequential(same, network)
        return classifier.eval()

    return made


@pytest.fixture
def toys(toys: SimpleNamespace, request: pytest.FixtureRequest) -> SimpleNamespace:
    """The makers of toys; where the search of `spec` hears layers, each has something to hear."""
    spec = request.getfixturevalue("spec") if "spec" in request.fixturenames else ""
    if not hasattr(registry.build("attack", spec) if spec else None, "layers"):
        return toys
    return SimpleNamespace(**{name: hearable(make) for name, make in vars(toys).items()})


@pytest.fixture
def search(spec: str) -> Callable[..., Any]:
    """The search of `spec`, with at most 12 steps."""
    return shortened(registry.build("attack", spec))


@pytest.fixture
def forms() -> Callable[[str], list[Any]]:
    """All forms of the search of a name that are under contract, with at most 12 steps; last, as it is built."""
    return lambda name: [
        *(shortened(registry.build("attack", spec)) for spec in forms_of("attack", name)),
        registry.make("attack", name),
    ]


@pytest.fixture
def smallest_search(smallest_spec: str) -> Callable[..., Any]:
    """The search of `smallest_spec`, with all its gradients."""
    return registry.build("attack", smallest_spec)


@pytest.fixture
def network_for(toys: SimpleNamespace) -> Callable[[str], Classifier]:
    """By the spec of a search: a small curved network in float64, or a linear one where it takes no other."""

    def make(spec: str = "") -> Classifier:
        if not spec or fact(spec, "exact_for") != "linear":
            return toys.mlp(SHAPE)
        weight = 8 * torch.linspace(-1, 1, 36, dtype=torch.float64).mul(7).cos().reshape(3, 12)
        return toys.affine(weight, -weight.sum(dim=1) / 2)

    return make


@pytest.fixture
def clf(network_for: Callable[[str], Classifier], request: pytest.FixtureRequest) -> Classifier:
    """The network that the search of `spec` is for."""
    return network_for(request.getfixturevalue("spec") if "spec" in request.fixturenames else "")


@pytest.fixture
def x() -> Tensor:
    """Six inputs, some elements at the walls of the box."""
    values = torch.rand(6, *SHAPE, dtype=torch.float64) * 1.4 - 0.2
    return values.clamp(0, 1)


@pytest.fixture
def y(clf: Classifier, x: Tensor) -> Tensor:
    """The network's own decisions, two of them replaced by another class: already misclassified."""
    with torch.no_grad():
        decided = clf(x).argmax(dim=1)
    decided[[2, 5]] = (decided[[2, 5]] + 1) % 3
    return decided
