"""Explainers through captum: captum's own numbers where it is right, and said aloud or mended where it is not."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softmax

from advex import registry
from advex.classifier import Classifier
from advex.errors import AdvexWarning, InputError, SpecError
from advex.explainers.captum_maps import Deconvolution, DeepLift, DeepLiftShap, GuidedBackprop, GuidedGradCAM
from advex.explainers.captum_perturbations import FeatureAblation, KernelShap, Lime, Occlusion
from advex.networks import HalfHuberReLU
from advex.randomness import generators

# Their default without data, for speed; tests/test_background.py has the warning and what data change.
pytestmark = pytest.mark.filterwarnings("ignore:The background is a single row")


ALL = (
    *(DeepLift(), DeepLiftShap(), GuidedBackprop(), Deconvolution(), GuidedGradCAM()),
    *(Occlusion(window=2), Lime(samples=30, alpha=1e-4), KernelShap(samples=30, patch=3), FeatureAblation(patch=2)),
)
EVERY = pytest.mark.parametrize("explain", ALL, ids=lambda explain: type(explain).__name__)
TARGET = torch.tensor([0, 1, 2, 0])


def cnn() -> Classifier:
    """Two convolutions, ReLU modules of their own, and a normalisation. Takes [n, 2, 7, 6]."""
    network = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2, stride=1), nn.Conv2d(4, 6, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(12, 3)),
    )
    return Classifier(network.double(), mean=[0.3, 0.6], std=[0.2, 0.4]).eval()


def pictures() -> Tensor:
    return torch.rand(4, 2, 7, 6, dtype=torch.float64)


class Passes(nn.Module):
    """A network of three layers and two ReLU modules, put together by a function."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.act, self.act2 = nn.ReLU(), nn.ReLU()
        self.passes = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.passes(self, x)


def passes(forward: Callable[[Any, Tensor], Tensor]) -> Classifier:
    """With a first layer steep enough for activations to change sides between two inputs."""
    network = Passes(forward).double()
    network.a.weight.data *= 5
    return Classifier(network).eval()


def rows() -> tuple[Tensor, Tensor]:
    """Four inputs of six elements, and baselines for them."""
    return torch.rand(4, 6, dtype=torch.float64), torch.rand(4, 6, dtype=torch.float64)


def change(classifier: Classifier, x: Tensor, u: Tensor, target: Tensor = TARGET) -> Tensor:
    """F(x) - F(u) of the target's logit."""
    with torch.no_grad():
        return (classifier(x) - classifier(u)).gather(1, target[:, None])[:, 0]


def by_captum(method: str, classifier: Classifier, x: Tensor, **options: Any) -> Tensor:
    """The same question put to captum directly."""
    from captum import attr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(attr, method)(classifier).attribute(x.clone(), **options).detach()


# -- captum's numbers ----------------------------------------------------------------------------------------


def test_maps_by_other_derivatives_are_captums() -> None:
    classifier, x = cnn(), pictures()
    background = torch.rand(5, 2, 7, 6, dtype=torch.float64)
    for ours, theirs in (
        (DeepLift(baseline=0.25), by_captum("DeepLift", classifier, x, baselines=0.25, target=TARGET)),
        (
            DeepLift(baseline=background[:4]),
            by_captum("DeepLift", classifier, x, baselines=background[:4], target=TARGET),
        ),
        (
            DeepLiftShap(baseline=background),
            by_captum("DeepLiftShap", classifier, x, baselines=background, target=TARGET),
        ),
        (GuidedBackprop(), by_captum("GuidedBackprop", classifier, x, target=TARGET)),
        (Deconvolution(), by_captum("Deconvolution", classifier, x, target=TARGET)),
    ):
        told = ours(classifier, x, TARGET)
        assert torch.allclose(told.map, theirs, rtol=0, atol=1e-12), type(ours)  # float64, the same operations
        assert torch.allclose(ours(classifier, x, TARGET, max_batch=3).map, theirs, rtol=0, atol=1e-12), type(ours)


@pytest.mark.parametrize("layer", ["0", "3", "auto"])
def test_guided_grad_cam_is_captums_and_names_its_layer(layer: str) -> None:
    from captum.attr import GuidedGradCam

    classifier, x = cnn(), pictures()
    told = GuidedGradCAM(layer=layer)(classifier, x, TARGET)
    name = registry.build("explainer", told.method).layer
    # of the layers whose output has places, the last is the second ReLU
    assert name.removeprefix("network.") == {"auto": "4"}.get(layer, layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captum = GuidedGradCam(classifier, classifier.network[int(name[-1])])  # pyright: ignore
        theirs = captum.attribute(x.clone(), target=TARGET, interpolate_mode="bilinear").detach()
    assert theirs.any()
    assert torch.allclose(told.map, theirs, rtol=0, atol=1e-12)


def test_maps_by_hiding_are_captums() -> None:
    classifier, x = cnn(), pictures()
    squares = (torch.arange(7)[:, None] // 3 * 2 + torch.arange(6) // 3).expand(1, 2, 7, 6)
    sizes = squares.flatten().bincount()[squares]
    ablated = by_captum("FeatureAblation", classifier, x, baselines=0.5, target=TARGET, feature_mask=squares)
    windows = {"sliding_window_shapes": (2, 3, 3), "strides": (2, 2, 2)}
    occluded = by_captum("Occlusion", classifier, x, baselines=0.5, target=TARGET, **windows)
    for max_batch in (None, 3, 1000):
        told = FeatureAblation(patch=3, baseline=0.5)(classifier, x, TARGET, max_batch=max_batch)
        assert torch.allclose(told.map * sizes, ablated, rtol=0, atol=1e-12)
        told = Occlusion(window=3, baseline=0.5)(classifier, x, TARGET, max_batch=max_batch)
        assert torch.allclose(told.map, occluded.double(), rtol=0, atol=1e-6)  # captum sums windows in float32
        assert "window=3,stride=2" in told.method


@pytest.mark.parametrize("name", ["lime", "kernel_shap"])
def test_fitted_maps_are_captums_for_the_examples_own_seed(name: str) -> None:
    classifier, (x, u) = passes(lambda net, x: net.c(net.act(net.a(x)))), rows()
    told = registry.make("explainer", name, samples=40, baseline=u)(classifier, x, TARGET, seed=5)
    method = {"lime": "Lime", "kernel_shap": "KernelShap"}[name]
    for i, own in enumerate(generators(x, 5, name)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(own.initial_seed())
            theirs = by_captum(method, classifier, x[[i]], baselines=u[[i]], target=TARGET[[i]], n_samples=40)
        # the samples pass the network one by one there; captum fits in float32
        assert torch.allclose(told.map[i], theirs[0].double(), rtol=0, atol=1e-6)


@EVERY
@pytest.mark.parametrize("of", ["logit", "probability", "loss"])
@pytest.mark.filterwarnings("ignore:DeepLift has no rule for the function (log)?softmax")
def test_any_output_may_be_explained(explain: Any, of: str) -> None:
    """With a classifier whose logits are that output, the logit's map."""

    class Chosen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = classifier.logits(x)
            return {"logit": logits, "probability": logits.softmax(dim=1), "loss": -logits.log_softmax(dim=1)}[of] - 1

    classifier, x = cnn(), pictures()
    told = dataclasses.replace(explain, of=of)(classifier, x, TARGET)
    outer = Classifier(Chosen())
    outer.network.inner = classifier  # pyright: ignore
    same = explain(outer.double(), x, TARGET)
    assert told.map.any()
    assert torch.allclose(told.map, same.map, rtol=0, atol=2e-6)  # captum fits linear models in float32


# -- known answers -------------------------------------------------------------------------------------------


def test_what_adds_up_is_exact_on_a_linear_classifier() -> None:
    weight, bias = torch.randn(3, 6, dtype=torch.float64), torch.randn(3)
    layer = nn.Linear(6, 3).double()
    layer.weight.data, layer.bias.data = weight, bias.double()
    classifier, (x, u) = Classifier(layer), rows()
    truth = weight[TARGET] * (x - u)
    for explain in (DeepLift(baseline=u), FeatureAblation(baseline=u), Occlusion(baseline=u), KernelShap(baseline=u)):
        told = explain(classifier, x, TARGET)
        # the fit is in float32, and weighs its two exact rows a million times
        assert torch.allclose(told.map, truth, rtol=0, atol=2e-5 if isinstance(explain, KernelShap) else 1e-12)
        if told.completeness is not None:
            assert torch.allclose(told.completeness, told.map.sum(dim=1) - change(classifier, x, u), atol=1e-12)
            assert told.completeness.abs().max() < 1e-4
    background = torch.rand(7, 6, dtype=torch.float64)
    told = DeepLiftShap(baseline=background)(classifier, x, TARGET, max_batch=5)
    assert torch.allclose(told.map, weight[TARGET] * (x - background.mean(dim=0)), rtol=0, atol=1e-12)
    assert torch.allclose(GuidedBackprop()(classifier, x, TARGET).map, weight[TARGET])  # nothing to guide


@pytest.mark.parametrize("kind", [nn.ReLU, nn.Tanh, nn.SiLU, nn.GELU, nn.ReLU6, HalfHuberReLU, nn.Hardtanh])
def test_deep_lift_follows_the_rescale_rule(kind: Callable[[], nn.Module]) -> None:
    """m_i = sum_j w2_j (f(z_j) - f(z0_j)) / (z_j - z0_j) w1_ji, for activations that captum does not know as well."""
    act = kind()
    first, second = nn.Linear(6, 8).double(), nn.Linear(8, 3).double()
    classifier, (x, u) = Classifier(nn.Sequential(first, act, second)), rows()
    told = DeepLift(baseline=u)(classifier, x, TARGET)
    with torch.no_grad():
        z, z0 = first(x), first(u)
        slope = (act(z) - act(z0)) / (z - z0)
        m = torch.einsum("nj,nj,ji->ni", second.weight[TARGET], slope, first.weight)
    assert torch.allclose(told.map, m * (x - u), rtol=0, atol=1e-9)  # slopes divide by differences of z
    assert told.completeness is not None
    assert told.completeness.abs().max() < 1e-12


SHAPLEY_SEEDS = 20


def test_kernel_shap_draws_around_the_shapley_values() -> None:
    """Three features, by brute force. Each seed's error is one of sampling; the mean of 20 lies within 4 sigma."""
    classifier, (x, u) = passes(lambda net, x: net.c(torch.tanh(4 * net.a(x)))), rows()
    x, u = x[:1].clone(), u[:1].clone()
    u[:, 3:] = x[:, 3:]  # the other three do not change
    told = torch.cat([KernelShap(baseline=u)(classifier, x, TARGET[:1], seed=s).map for s in range(SHAPLEY_SEEDS)])

    def value(coalition: set[int]) -> float:
        at = u.clone()
        at[:, list(coalition)] = x[:, list(coalition)]
        return classifier(at)[0, TARGET[0]].item()

    for i in range(3):
        others = [j for j in range(3) if j != i]
        truth = sum(
            math.factorial(len(some)) * math.factorial(2 - len(some)) / 6 * (value({*some, i}) - value(set(some)))
            for size in range(3)
            for some in itertools.combinations(others, size)
        )
        sigma = told[:, i].std().item() / math.sqrt(SHAPLEY_SEEDS)
        assert told[:, i].mean().item() == pytest.approx(truth, abs=4 * sigma + 1e-5)  # 1e-5: fitted in float32
        assert sigma < 0.05 * abs(change(classifier, x, u, TARGET[:1]).item())
    assert told[:, 3:].abs().max() < 0.05 * told.abs().max()


def test_a_single_feature_has_the_whole_change() -> None:
    classifier, x = cnn(), pictures()
    told = KernelShap(patch=7)(classifier, x, TARGET)
    assert torch.allclose(told.map.flatten(1).sum(dim=1), change(classifier, x, torch.zeros_like(x)))
    assert told.completeness is not None
    assert told.completeness.abs().max() < 1e-12


def test_lime_without_a_penalty_finds_a_linear_function() -> None:
    classifier, (x, u) = passes(lambda net, x: net.c(net.a(x))), rows()
    weight = classifier.network.c.weight @ classifier.network.a.weight  # pyright: ignore
    told = Lime(alpha=0.0, baseline=u, samples=60)(classifier, x, TARGET)
    assert torch.allclose(told.map, weight[TARGET] * (x - u), rtol=0, atol=1e-5)  # fitted in float32
    sparse = Lime(alpha=0.02, baseline=u, samples=60)(classifier, x, TARGET).map
    assert (sparse == 0).sum() > 0
    assert (sparse.abs() <= told.map.abs() + 1e-5).sum() >= 20  # shrunk: nearly all of the 24


# -- what captum does not see --------------------------------------------------------------------------------

MENDED = {
    "a shortcut around an activation": lambda net, x: net.c((lambda h: net.b(net.act(h)) + h)(net.a(x))),
    "two activations of one tensor": lambda net, x: net.c((lambda h: net.act(h) - net.act2(-h))(net.a(x))),
    "an activation straight after another": lambda net, x: net.c(net.act(net.tanh(net.a(x)))),
    "a ReLU straight before a max pool": lambda net, x: net.c(net.pool(net.act(net.a(x)[:, None]))[:, 0]),
    "a max pool straight before a ReLU": lambda net, x: net.c(net.act(net.pool(net.a(x)[:, None]))[:, 0]),
}


@pytest.mark.parametrize("name", MENDED)
def test_rules_do_not_overwrite_each_other(name: str) -> None:
    classifier, (x, u) = passes(MENDED[name]), rows()
    classifier.network.tanh = nn.Tanh()  # pyright: ignore
    if "pool" in name:
        classifier.network.pool, classifier.network.c = nn.MaxPool1d(2), nn.Linear(4, 3).double()  # pyright: ignore
    told = DeepLift(baseline=u)(classifier, x, TARGET)
    assert told.completeness is not None
    assert told.completeness.abs().max() < 1e-12
    theirs = by_captum("DeepLift", classifier, x, baselines=u, target=TARGET)
    error = (theirs.sum(dim=1) - change(classifier, x, u)).abs().max()
    assert error > 1e-3  # the reason why inputs are copied


def test_guided_backpropagation_leaves_shortcuts_alone() -> None:
    classifier, (x, _) = passes(MENDED["a shortcut around an activation"]), rows()
    net: Any = classifier.network
    told = GuidedBackprop()(classifier, x, TARGET).map
    with torch.no_grad():
        top = net.c.weight[TARGET]
        through = (top @ net.b.weight * (net.a(x) > 0)).clamp_min(0)
        assert torch.allclose(told, (top + through) @ net.a.weight)


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def swish(net: Any, x: Tensor) -> Tensor:
    return net.c(net.own(net.a(x)))


UNSEEN = {
    "the function relu": lambda net, x: net.c(relu(net.b(relu(net.a(x))))),
    "the function clampmin": lambda net, x: net.c(net.a(x).clamp_min(0)),
    "the function softmax": lambda net, x: net.c(softmax(net.a(x), dim=1)),
    "the function mul": lambda net, x: net.c(net.a(x) * net.b(net.a(x))),
    "Swish 'own'": swish,
}


def test_max_pools_whose_windows_overlap_share_out_the_whole_change() -> None:
    """By the rescale rule a maximum's change up and down goes to where it was, once for each of its windows."""
    torch.manual_seed(0)
    for pool in (nn.MaxPool2d(3, 1), nn.MaxPool2d(3, 2, padding=1), nn.MaxPool2d(2, 1, dilation=2), nn.MaxPool2d(2)):
        layers = nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), nn.LazyLinear(3)
        x, u = torch.rand(2, 4, 1, 8, 8, dtype=torch.float64)
        network = nn.Sequential(*layers).double()
        network(x)
        explanation = DeepLift(baseline=u)(Classifier(network), x, torch.tensor([0, 1, 2, 0]))
        assert explanation.completeness is not None
        assert explanation.completeness.abs().max() < 1e-9
    weight = torch.tensor([[1.0, -2.0, 4.0]]).double()  # of the windows (a, b), (b, c), (c, d)
    head = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(torch.cat([weight, 0 * weight]))
    network = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.MaxPool1d(2, 1), nn.Flatten(), head)
    x, u = torch.tensor([[0.2, 0.9, 0.1, 0.3]]).double(), torch.tensor([[0.4, 0.0, 0.7, 0.6]]).double()
    values = DeepLift(baseline=u)(Classifier(network), x, torch.tensor([0])).map
    # Windows: .4 -> .9 up at b; .7 -> .9 up at b; .7 -> .3 down from c of the reference.
    assert torch.allclose(values, torch.tensor([[0.0, 1 * 0.5 - 2 * 0.2, -4 * 0.4, 0.0]]).double())


@pytest.mark.parametrize("name", UNSEEN)
def test_deep_lift_tells_what_escapes_its_rules_and_by_how_much(name: str) -> None:
    classifier, (x, u) = passes(UNSEEN[name]), rows()
    classifier.network.own = Swish()  # pyright: ignore
    with pytest.warns(AdvexWarning, match=f"DeepLift has no rule for {name}:.*misses the change") as heard:
        told = DeepLift(baseline=u)(classifier, x, TARGET)
    assert len(heard) == 1
    assert heard[0].filename == __file__
    wrong = told.map.sum(dim=1) - change(classifier, x, u)
    assert wrong.abs().max() > 1e-3  # the map is not what it says it is
    assert told.completeness is not None
    assert torch.allclose(told.completeness, wrong, rtol=0, atol=1e-12)


def test_deep_lift_notices_an_error_whose_cause_it_does_not_see() -> None:
    """Autograd takes (x > 0) for a constant."""
    classifier, (x, u) = passes(lambda net, x: net.c((lambda h: h * (h > 0))(net.a(x)))), rows()
    with pytest.warns(AdvexWarning, match="^DeepLift's map misses the change"):
        told = DeepLift(baseline=u)(classifier, x, TARGET)
    assert told.completeness is not None
    assert told.completeness.abs().max() > 1e-3


def test_deep_lift_refuses_a_module_that_is_called_twice() -> None:
    classifier, (x, _) = passes(lambda net, x: net.c(net.act(net.b(net.act(net.a(x)))))), rows()
    for explain in (DeepLift(), DeepLiftShap()):
        with pytest.raises(InputError, match="ReLU 'act' 2 times"):
            explain(classifier, x, TARGET)


def test_a_module_with_two_names_is_not_called_twice() -> None:
    classifier, (x, u) = passes(lambda net, x: net.c(net.act(net.a(x)))), rows()
    classifier.network.body = nn.Sequential(classifier.network.act)  # pyright: ignore
    told = DeepLift(baseline=u)(classifier, x, TARGET)
    assert told.completeness is not None
    assert told.completeness.abs().max() < 1e-12


@pytest.mark.parametrize("explain", [GuidedBackprop(), Deconvolution()], ids=repr)
def test_guided_maps_need_relu_modules(explain: Any) -> None:
    x, _ = rows()
    with pytest.raises(InputError, match="none and calls .*function relu"):
        explain(passes(lambda net, x: net.c(relu(net.a(x)))), x, TARGET)
    with pytest.warns(AdvexWarning, match="no rule .*function relu") as heard:
        explain(passes(lambda net, x: net.c(relu(net.b(net.act(net.a(x)))))), x, TARGET)
    assert heard[0].filename == __file__
    twice = passes(lambda net, x: net.c(net.act(net.b(net.act(net.a(x))))))
    once = passes(lambda net, x: net.c(net.act2(net.b(net.act(net.a(x))))))
    once.load_state_dict(twice.state_dict())
    assert torch.equal(explain(twice, x, TARGET).map, explain(once, x, TARGET).map)


# -- features, options, records ------------------------------------------------------------------------------


def test_features_are_elements_where_there_are_few_and_squares_where_there_are_many() -> None:
    def features(shape: tuple[int, ...], patch: int = 0) -> Tensor:
        weight = torch.rand(2, math.prod(shape)) + 0.1
        layer = nn.Linear(weight.shape[1], 2)
        layer.weight.data = weight
        classifier = Classifier(nn.Sequential(nn.Flatten(), layer))
        told = FeatureAblation(patch=patch)(classifier, torch.rand(1, *shape) + 0.0, torch.tensor([0]))
        return told.map[0].unique(return_counts=True)[1]

    assert features((40,)).tolist() == [1] * 40
    assert features((3, 4, 5)).tolist() == [1] * 60
    assert features((8, 8)).tolist() == [1] * 64
    assert sorted(features((3, 10, 12)).tolist()) == [12] * 30  # 2 x 2 pixels of 3 channels
    assert sorted(features((1, 16, 16), patch=8).tolist()) == [64] * 4
    assert features((3, 2, 2), patch=1).tolist() == [3] * 4


def test_a_one_hot_group_is_one_feature() -> None:
    from advex.features import Feature, FeatureSpec

    spec = FeatureSpec(
        features=(
            Feature(name="age", low=0.0, high=1.0),
            Feature(name="colour", kind="category", values=("red", "green", "blue")),
        )
    )
    layer = nn.Linear(4, 2).double()
    classifier = Classifier(layer, features=spec)
    x = torch.tensor([[0.5, 0, 1, 0], [0.2, 1, 0, 0]], dtype=torch.float64)
    truth = layer.weight.detach()[0] * x
    grouped = torch.cat([truth[:, :1], truth[:, 1:].sum(dim=1, keepdim=True).expand(-1, 3) / 3], dim=1)
    for explain in (FeatureAblation(), Occlusion(), KernelShap(samples=20), Lime(alpha=0.0, samples=20)):
        told = explain(classifier, x, torch.zeros(2, dtype=torch.int64))
        assert torch.allclose(told.map, grouped, rtol=0, atol=1e-5), explain  # two are fitted in float32


@EVERY
def test_a_record_builds_the_same_map(explain: Any) -> None:
    classifier, x = cnn(), pictures()
    told = explain(classifier, x, TARGET)
    again = registry.build("explainer", told.method)(classifier, x, TARGET)
    assert torch.equal(told.map, again.map)
    assert told.method == again.method
    assert "patch=0" not in told.method
    assert "window=0" not in told.method


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (DeepLift, {"baseline": "mean"}),
        (DeepLiftShap, {"of": "label"}),
        (GuidedBackprop, {"of": ""}),
        (Occlusion, {"window": -1}),
        (Occlusion, {"window": 2, "stride": 3}),
        (Lime, {"samples": 1}),
        (Lime, {"alpha": -0.1}),
        (Lime, {"width": 0.0}),
        (KernelShap, {"patch": -2}),
        (KernelShap, {"baseline": math.nan}),
    ],
)
def test_options_that_cannot_be_are_refused(make: Any, options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        make(**options)


# -- laws ----------------------------------------------------------------------------------------------------


@EVERY
def test_no_pass_is_larger_than_asked(explain: Any) -> None:
    classifier, x = cnn(), pictures()
    sizes: list[int] = []
    classifier.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    usual = explain(classifier, x, TARGET).map
    sizes.clear()
    small = explain(classifier, x, TARGET, max_batch=3).map
    assert max(sizes) <= 3
    assert torch.allclose(small, usual, rtol=0, atol=1e-6)  # captum fits linear models in float32
    with pytest.raises(InputError, match="max_batch"):
        explain(classifier, x, TARGET, max_batch=0)


@pytest.mark.parametrize("explain", [Lime(samples=20), KernelShap(samples=20)], ids=lambda each: type(each).__name__)
def test_draws_follow_from_seed_and_example_alone(explain: Any) -> None:
    classifier, x = cnn(), pictures()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # pyright: ignore
    first = explain(classifier, x, TARGET, seed=2).map
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # pyright: ignore
    assert random.getstate() == states[2]
    torch.manual_seed(77)
    assert torch.equal(explain(classifier, x[[2, 0]], TARGET[[2, 0]], seed=2).map, first[[2, 0]])
    assert not torch.allclose(explain(classifier, x, TARGET, seed=3).map, first)


@pytest.mark.parametrize("explain", ALL[:5], ids=lambda explain: type(explain).__name__)
@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_nothing_stays_on_the_network_when_it_breaks(explain: Any, calls: int) -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls -= 1
            if calls < 0:
                raise OSError("broken")
            return x

    classifier, x = cnn(), pictures()
    classifier.network.insert(5, Breaks())  # pyright: ignore
    before = {name: {**vars(module)} for name, module in classifier.named_modules()}
    hooks = {name: {key: len(value) for key, value in held.items() if "hooks" in key} for name, held in before.items()}
    if calls < (3 if isinstance(explain, GuidedGradCAM) else 2):
        with pytest.raises(OSError, match="broken"):
            explain(classifier, x, TARGET)
    for name, module in classifier.named_modules():
        assert vars(module).keys() == before[name].keys(), name
        assert {key: len(value) for key, value in vars(module).items() if "hooks" in key} == hooks[name], name
    assert not x.requires_grad


def test_captum_is_imported_only_when_a_map_is_asked_for() -> None:
    """Its import takes seconds and brings matplotlib.pyplot."""
    code = (
        "import sys, advex; from advex import registry; registry.entries('explainer');"
        "registry.make('explainer', 'lime'); assert not {'captum', 'matplotlib'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
