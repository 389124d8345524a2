"""Laws of every registered explainer."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex import explainers, registry
from advex.classifier import Classifier
from advex.errors import InputError
from advex.types import Explanation, concatenate, take

# Their default without data, for speed; tests/test_background.py has the warning and what data change.
pytestmark = pytest.mark.filterwarnings("ignore:The background is a single row")


EXPLAINERS = registry.entries("explainer")
SHAPE = (3, 2, 2)
MOST = {"samples": 150, "masks": 150, "steps": 100}  # as many as are enough for inputs of twelve elements


def at_most(explain: Any, most: dict[str, int]) -> Any:
    """The explainer, no more laborious than that."""
    many = {option: value for option, value in most.items() if getattr(explain, option, 0) > value}
    return dataclasses.replace(explain, **many)


def made(name: str, example: str = "") -> Any:
    """The explainer, no more laborious than `MOST`."""
    return at_most(registry.build("explainer", f"{name}:{example}"), MOST)


def every(wanted: Callable[[Any], bool] = lambda explain: True) -> pytest.MarkDecorator:
    """All explainers of which `wanted` holds, in all forms of their examples."""
    specs = [(name, example) for name, entry in EXPLAINERS.items() for example in ("", *entry.examples)]
    forms = {f"{name}-{example}".rstrip("-"): made(name, example) for name, example in specs}
    forms = {name: explain for name, explain in forms.items() if wanted(explain)}
    return pytest.mark.parametrize("explain", list(forms.values()), ids=list(forms))


EVERY = every()


def with_places(network: nn.Module, explain: Any) -> Classifier:
    """The same function, after a layer that changes nothing but has channels and places.

    Where the explainer hears activations, there is one that changes nothing either.
    """
    first = nn.Conv2d(3, 3, 1, bias=False).double()
    with torch.no_grad():
        first.weight.copy_(torch.eye(3)[:, :, None, None])
    same = nn.LeakyReLU(1.0) if hasattr(explain, "layers") else nn.Identity()
    return Classifier(nn.Sequential(OrderedDict(conv=first, same=same, rest=network))).eval()


@pytest.fixture
def clf(request: pytest.FixtureRequest) -> Classifier:
    """A small random network with curved decisions and a layer that has places."""
    torch.manual_seed(0)
    explain = getattr(request.node, "callspec", None) and request.node.callspec.params.get("explain")
    pooled = getattr(explain, "looks_at", "") == "pool"
    layers = {"conv": nn.Conv2d(3, 8, 2, padding=1), "relu": nn.ReLU()}
    layers |= {"pool": nn.AdaptiveAvgPool2d(1)} if pooled else {}
    layers |= {"flat": nn.Flatten(), "head": nn.Linear(8 if pooled else 72, 3)}
    with torch.no_grad():
        layers["head"].weight.mul_(8)  # pyright: ignore[reportArgumentType]
    return Classifier(nn.Sequential(OrderedDict(layers)).double(), mean=0.5, std=0.3).eval()


@pytest.fixture
def x() -> Tensor:
    return (torch.rand(5, *SHAPE, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)


TARGET = torch.tensor([0, 1, 2, 0, 1])


def same(first: Explanation, second: Explanation) -> None:
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, Tensor) and a.is_floating_point():
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-9), field.name  # float64, some thirty steps
        else:
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, field.name


@EVERY
def test_a_map_is_like_its_input(explain: Any, clf: Classifier, x: Tensor) -> None:
    explanation = explain(clf, x, TARGET)
    assert explanation.map.shape == x.shape
    assert torch.isfinite(explanation.map).all()
    assert torch.equal(explanation.target, TARGET)
    same(registry.build("explainer", explanation.method)(clf, x, TARGET), explanation)
    assert explanation.completeness is None or explanation.completeness.shape == (5,)
    if explanation.picture is not None:
        assert ((explanation.picture >= 0) & (explanation.picture <= 1)).all()
        assert torch.allclose(explanation.before, clf.predict(x))
        assert torch.allclose(explanation.after, clf.predict(explanation.picture))
        assert torch.allclose(explanation.rmse, (explanation.picture - x).square().mean(dim=(1, 2, 3)).sqrt())


@pytest.mark.filterwarnings("ignore:.*misses the change")  # points are few
@EVERY
def test_a_row_alone_is_the_row_in_the_batch(explain: Any, clf: Classifier, x: Tensor) -> None:
    explain = at_most(explain, {"samples": 30, "masks": 30, "steps": 20, "gradients": 20})
    together = explain(clf, x, TARGET, seed=3)
    same(concatenate([explain(clf, x[i : i + 1], TARGET[i : i + 1], seed=3) for i in range(5)]), together)
    order = torch.tensor([3, 1, 4, 0, 2])
    same(explain(clf, x[order], TARGET[order], seed=3), take(together, order))
    same(explain(clf, x, TARGET, seed=3), together)
    for size in (1, 2, 7, "auto"):
        same(explain(clf, x, TARGET, seed=3, max_batch=size), together)
    for wrong in (0, "all"):
        with pytest.raises(InputError, match="max_batch"):
            explain(clf, x, TARGET, max_batch=wrong)


@EVERY
@pytest.mark.parametrize("n", [0, 1])
def test_none_and_one(explain: Any, clf: Classifier, x: Tensor, n: int) -> None:
    explanation = explain(clf, x[:n], TARGET[:n])
    assert len(explanation) == n
    assert explanation.map.shape == (n, *SHAPE)


@every(lambda explain: explain.shows not in ("regions", "control"))
def test_what_the_classifier_ignores_is_not_in_the_map(explain: Any, toys: SimpleNamespace, x: Tensor) -> None:
    weight = torch.randn(3, 12, dtype=torch.float64)
    weight[:, [1, 7]] = 0
    explanation = explain(with_places(toys.affine(weight, torch.zeros(3)).network, explain), x, TARGET)
    assert explanation.map.flatten(1)[:, [1, 7]].abs().max() < 1e-6  # 0, or the rounding of captum's float32 regression
    assert explanation.map.flatten(1)[:, [0, 2]].any()


@every(lambda explain: explain.shows not in ("regions", "control") and explain.looks_at == "input")
def test_a_linear_classifier_is_explained_by_its_weights(explain: Any, toys: SimpleNamespace) -> None:
    """Two classes, far from the walls: the map is the weight vector, or weight times input, up to sign."""
    w = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = 0.45 + 0.1 * torch.rand(5, *SHAPE, dtype=torch.float64)
    explanation = explain(toys.affine(torch.stack([w, -w]), torch.zeros(2)), x, TARGET.clamp_max(1)).map.flatten(1)
    likeness = [
        torch.cosine_similarity(explanation, truth, dim=1).abs() for truth in (w.expand(5, -1), w * x.flatten(1))
    ]
    assert torch.stack(likeness).amax(dim=0).min() > 0.99


@every(lambda explain: explain.looks_at == "layer" and explain.layer == "auto")
def test_maps_of_layers_refuse_what_has_none(explain: Any, toys: SimpleNamespace, x: Tensor) -> None:
    flat = toys.affine(torch.randn(3, 12), torch.zeros(3))
    with pytest.raises(InputError, match="no layer with a spatial output"):
        explain(flat, x, TARGET)
    with pytest.raises(InputError, match="needs pictures"):
        explain(flat, x.flatten(1), TARGET)


@EVERY
def test_only_the_mask_is_explained(explain: Any, clf: Classifier, x: Tensor) -> None:
    mask = torch.rand(SHAPE) < 0.6
    explanation = explain(clf, x, TARGET, mask=mask)
    assert not explanation.map[:, ~mask].any()
    assert explanation.map.any()


@EVERY
def test_targets_that_do_not_fit_are_named(explain: Any, clf: Classifier, x: Tensor) -> None:
    for wrong in (TARGET[:3], TARGET[:, None], TARGET + 5):
        with pytest.raises(InputError):
            explain(clf, x, wrong)


@every(lambda explain: explain.looks_at != "pool")
def test_a_saturated_or_dead_classifier_is_no_error(explain: Any, toys: SimpleNamespace, x: Tensor) -> None:
    w = torch.ones(12, dtype=torch.float64) * 500
    for classifier in (
        toys.affine(torch.stack([w, -w]), torch.tensor([-2000.0, 2000.0])),
        toys.deaf([3.0, -1.0], attached=False),
        toys.deaf([3.0, -1.0], attached=True),
    ):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            explanation = explain(with_places(classifier.network, explain), x, TARGET.clamp_max(1))
        assert torch.isfinite(explanation.map).all()
        assert explanation.flat.all() == ("no gradient reached" in "".join(str(each.message) for each in seen))


class Failing(nn.Module):
    """A network with everything that a map might change, which fails at its k-th call."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k, self.calls = k, 0
        self.conv = nn.Conv2d(3, 4, 1)
        pool = nn.AdaptiveAvgPool2d(1)
        self.body = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), pool, nn.Flatten())
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls >= self.k:
            raise KeyError("out of luck")
        return self.head(self.body(self.conv(x)))


def traces(network: nn.Module) -> list[Any]:
    """What a user would find changed: modes, flags, gradients, hooks, values, the global generator."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [(module.training, *(len(getattr(module, kind)) for kind in hooks)) for module in network.modules()]
    parameters = [(each.requires_grad, each.grad, type(each)) for each in network.parameters()]
    values = [value.tolist() for value in network.state_dict().values()]
    return [modules, parameters, values, torch.get_rng_state().tolist(), [str(each) for each in network.modules()]]


@EVERY
@pytest.mark.parametrize("k", [1, 2, 4, float("inf")])
def test_nothing_of_the_model_is_changed_also_when_it_fails(explain: Any, x: Tensor, k: float) -> None:
    network = Failing(float("inf")).double().train()
    network.conv.bias.requires_grad_(False)  # pyright: ignore[reportOptionalMemberAccess]
    before = traces(network)
    network.k = k
    try:
        explain(Classifier(network), x, TARGET, max_batch=3)
        assert network.calls < k
    except InputError:
        assert network.calls >= k
    assert traces(network) == before


@EVERY
def test_what_can_be_differentiated_says_so_in_its_signature(explain: Any) -> None:
    assert ("create_graph" in inspect.signature(explain).parameters) == explain.differentiable


@every(lambda explain: explain.differentiable)
def test_a_map_may_keep_its_graph(explain: Any, clf: Classifier, x: Tensor) -> None:
    plain = explain(clf, x, TARGET)
    assert not plain.map.requires_grad
    kept = explain(clf, x.clone().requires_grad_(), TARGET, create_graph=True)
    assert torch.allclose(kept.map, plain.map, rtol=1e-9, atol=1e-12)  # float64
    assert kept.completeness is None or not kept.completeness.requires_grad
    kept.map.square().sum().backward()
    assert all(parameter.grad is not None for parameter in clf.parameters() if parameter.ndim > 1)
    with torch.no_grad():
        assert explain(clf, x, TARGET, create_graph=True).map.requires_grad


@pytest.mark.parametrize("rho", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_adversarial_explanations_lie_on_the_sphere_and_move_the_class(
    clf: Classifier, x: Tensor, rho: float, dtype: torch.dtype
) -> None:
    clf, x = clf.to(dtype), x.to(dtype)
    for make, sign in ((explainers.Toward, 1), (explainers.Away, -1)):
        explanation = make(rho=rho)(clf, x, TARGET)
        assert explanation.rmse is not None
        assert explanation.picture is not None
        assert explanation.before is not None
        assert explanation.after is not None
        assert explanation.rmse.tolist() == pytest.approx([rho] * 5, abs=1e-5)
        assert ((explanation.picture >= 0) & (explanation.picture <= 1)).all()
        moved = (explanation.after - explanation.before).gather(1, TARGET[:, None])
        assert (moved * sign > 0).all()


def test_a_farther_explanation_moves_the_class_farther(clf: Classifier, x: Tensor) -> None:
    explanation = [explainers.Toward(rho=rho)(clf, x, TARGET) for rho in (0.02, 0.1, 0.25)]
    confidences = [each.after.gather(1, TARGET[:, None]) for each in explanation if each.after is not None]
    assert len(confidences) == 3
    assert (confidences[0] < confidences[1]).all()
    assert (confidences[1] < confidences[2]).all()


def test_every_class_of_every_example(clf: Classifier, x: Tensor) -> None:
    repeated, target = explainers.every_class(x, 3)
    assert target.tolist() == [0, 1, 2] * 5
    assert torch.equal(repeated[::3], x)
    assert torch.equal(repeated[3:6], x[1].expand(3, *SHAPE))


def test_which_class_is_asked_about(clf: Classifier, x: Tensor) -> None:
    ranked = clf.predict(x).argsort(dim=1, descending=True)
    assert torch.equal(explainers.targets(clf, x, "predicted"), ranked[:, 0])
    assert torch.equal(explainers.targets(clf, x, "runner_up"), ranked[:, 1])
    assert explainers.targets(clf, x, 2).tolist() == [2] * 5
    assert torch.equal(explainers.targets(clf, x, TARGET), TARGET)
    assert torch.equal(explainers.targets(clf, x, "true", TARGET), TARGET)
    with pytest.raises(InputError, match="no labels"):
        explainers.targets(clf, x, "true")
    with pytest.raises(InputError, match="'predicted', 'runner_up', a class number"):
        explainers.targets(clf, x, "best")


def test_a_sweep_is_every_distance_by_itself(clf: Classifier, x: Tensor) -> None:
    rhos = (0.02, "8/255", 0.1)
    swept = explainers.sweep(explainers.Toward(steps=5), rhos, clf, x, TARGET, seed=1)
    sizes = []
    for explanation, rho in zip(swept, rhos, strict=True):
        same(explanation, explainers.Toward(rho=rho, steps=5)(clf, x, TARGET, seed=1))
        assert explanation.rmse is not None
        sizes.append(explanation.rmse.mean().item())
    assert sizes == pytest.approx([0.02, 8 / 255, 0.1], abs=1e-4)


def test_the_runner_up_of_a_saturated_network_is_second() -> None:
    """In float32 all confidences but one are 0."""
    network = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.diag(torch.tensor([200.0, 10.0, 50.0, 80.0])))
    assert explainers.targets(Classifier(network), torch.ones(2, 4), "runner_up").tolist() == [3, 3]


def test_targets_may_be_named(clf: Classifier, x: Tensor) -> None:
    ranked = clf.predict(x).argsort(dim=1, descending=True)
    assert explainers.targets(clf, x, "predicted").equal(ranked[:, 0])
    assert explainers.targets(clf, x, "runner_up").equal(ranked[:, 1])
    assert explainers.targets(clf, x, 2).tolist() == [2] * len(x)
    with pytest.raises(InputError, match="runner_up"):
        explainers.targets(clf, x, "nearest")
    every, classes = explainers.every_class(x, 3)
    assert every[4].equal(x[1])
    assert classes.tolist() == [0, 1, 2] * len(x)
