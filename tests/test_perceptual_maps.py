"""The perceptual explainer: its map from the change that the search found, step by step and by hand."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from advex import attacks, explainers, registry
from advex.attacks import Perceptual as Search
from advex.classifier import Classifier
from advex.errors import InputError, SpecError
from advex.explainers import Perceptual
from advex.goals import Misclassify

STD = [0.3, 0.2, 0.25]
OPTIONS: dict[str, Any] = {"perceptual": 10.0, "gradients": 15}


def network(any_size: bool) -> Classifier:
    """With two ReLUs, float64; it takes pictures of any size, or of 8 x 6 alone."""
    torch.manual_seed(3)
    places = nn.AdaptiveAvgPool2d((2, 2)) if any_size else nn.AvgPool2d((4, 3))
    layers = {"conv": nn.Conv2d(3, 8, 3, padding=1), "relu": nn.ReLU(), "pool": places, "flat": nn.Flatten(),
              "hidden": nn.Linear(32, 16), "last": nn.ReLU(), "head": nn.Linear(16, 3)}  # fmt: skip
    with torch.no_grad():
        layers["head"].weight.mul_(20)  # pyright: ignore
    return Classifier(nn.Sequential(OrderedDict(layers)).double(), mean=[0.5, 0.4, 0.6], std=STD).eval()


@pytest.fixture
def problem() -> tuple[Classifier, Tensor, Tensor]:
    classifier = network(any_size=True)
    x = torch.rand(4, 3, 8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return classifier, x, classifier.predict(x).argmax(dim=1)


def squares(delta: Tensor) -> Tensor:
    """The mean over channels of ((x' - x) / std)^2: [n, height, width]."""
    return sum((delta[:, c] / STD[c]) ** 2 for c in range(3)) / 3  # pyright: ignore


def unit(values: Tensor) -> Tensor:
    """Each picture's values from 0 to 1."""
    return torch.stack([(row - row.min()) / (row.max() - row.min()) for row in values])


def blurred(values: Tensor, sigma: float) -> Tensor:
    """By the definition: weights exp(-r^2 / 2 sigma^2) out to 3 sigma on either axis, borders repeated."""
    reach = int(3 * sigma + 0.5)
    weights = [math.exp(-(r**2) / (2 * sigma**2)) for r in range(-reach, reach + 1)]
    result = torch.zeros_like(values)
    height, width = values.shape[1:]
    for row in range(height):
        for column in range(width):
            for a, down in zip(weights, range(-reach, reach + 1), strict=True):
                for b, right in zip(weights, range(-reach, reach + 1), strict=True):
                    at = min(max(row + down, 0), height - 1), min(max(column + right, 0), width - 1)
                    result[:, row, column] += a * b / sum(weights) ** 2 * values[:, at[0], at[1]]
    return result


def shown(explanation: Any) -> Tensor:
    """The map [n, height, width], which is the same in all channels."""
    assert torch.equal(explanation.map, explanation.map[:, :1].expand_as(explanation.map))
    return explanation.map[:, 0]


def test_the_map_is_the_mean_square_of_the_normalised_change(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = problem
    change = Search(**OPTIONS)(classifier, x, Misclassify(y))
    explanation = Perceptual(**OPTIONS)(classifier, x, y)
    assert explanation.picture is not None
    assert torch.allclose(explanation.picture, change.adversarial)
    assert torch.allclose(shown(explanation), unit(squares(change.delta)))
    assert torch.allclose(explanation.rmse, change.delta.square().mean(dim=(1, 2, 3)).sqrt())  # pyright: ignore
    assert explanation.before is not None
    assert explanation.after is not None
    assert torch.equal(explanation.before.argmax(dim=1), y)
    assert torch.equal(explanation.after.argmax(dim=1) != y, change.reached)
    assert explanation.weight is None
    assert explanation.method_of(0) == explanation.method


def test_the_published_map_takes_the_root_and_its_picture_is_still_one(
    problem: tuple[Classifier, Tensor, Tensor],
) -> None:
    """P6. The authors' change leaves the box; the picture does not, and `after` is of the picture."""
    classifier, x, y = problem
    x = (x > 0.5).double()
    y = classifier.predict(x).argmax(dim=1)
    change = Search(**OPTIONS, published=True)(classifier, x, Misclassify(y))
    assert change.adversarial.max() > 1
    explanation = Perceptual(**OPTIONS, published=True)(classifier, x, y)
    assert torch.allclose(shown(explanation), unit(squares(change.delta).sqrt()))
    assert torch.allclose(explanation.picture, change.adversarial.clamp(0, 1))  # pyright: ignore
    assert torch.allclose(explanation.after, classifier.predict(change.adversarial.clamp(0, 1)))  # pyright: ignore


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_the_blur_comes_after_the_map_is_normalised(problem: tuple[Classifier, Tensor, Tensor], sigma: float) -> None:
    classifier, x, y = problem
    plain = shown(Perceptual(**OPTIONS)(classifier, x, y))
    assert torch.allclose(shown(Perceptual(**OPTIONS, sigma=sigma)(classifier, x, y)), blurred(plain, sigma))


def test_guided_is_times_the_gradient(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = problem
    at = x.clone().requires_grad_()
    classifier(at).gather(1, y[:, None]).sum().backward()
    assert at.grad is not None
    plain = shown(Perceptual(**OPTIONS, sigma=1.0)(classifier, x, y))
    guided = shown(Perceptual(**OPTIONS, sigma=1.0, guided=True)(classifier, x, y))
    seen = at.grad * classifier.std.reshape(-1, 1, 1)  # by what the network sees, as the change is measured
    assert torch.allclose(guided, plain * unit(seen.abs().amax(dim=1)))


def test_an_enlarged_picture_is_explained_and_the_map_made_smaller(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = problem
    large = interpolate(x, size=(12, 9), mode="bilinear", antialias=True).clamp(0, 1)
    mask = torch.zeros(8, 6, dtype=torch.bool)
    mask[2:7, 1:5] = True
    change = Search(**OPTIONS)(classifier, large, Misclassify(y))
    explanation = Perceptual(**OPTIONS, resize=1.5)(classifier, x, y)
    small = interpolate(squares(change.delta)[:, None], size=(8, 6), mode="bilinear", antialias=True)[:, 0]
    assert torch.allclose(shown(explanation), unit(small))
    assert explanation.picture is not None
    assert explanation.picture.shape == x.shape
    assert torch.allclose(explanation.after, classifier.predict(explanation.picture))  # pyright: ignore
    assert not torch.allclose(explanation.map, Perceptual(**OPTIONS)(classifier, x, y).map, atol=1e-3)
    part = Perceptual(**OPTIONS, resize=1.5)(classifier, x, y, mask=mask)
    assert not part.map[..., ~mask].any()
    assert part.map.any()


def test_a_network_of_one_size_refuses_another(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    _, x, y = problem
    classifier = network(any_size=False)
    assert Perceptual(**OPTIONS)(classifier, x, y).map.any()
    with pytest.raises(InputError, match="resize=1.5 needs a network that takes pictures of 8x6 and 12x9"):
        Perceptual(**OPTIONS, resize=1.5)(classifier, x, y)
    assert not any(module._forward_hooks for module in classifier.modules())


def test_rows_without_places_have_maps_of_elements() -> None:
    torch.manual_seed(0)
    classifier = Classifier("mlp:features=5,classes=3,widths=8,activation=relu", std=0.5).double().eval()
    x = torch.rand(4, 5, dtype=torch.float64)
    y = classifier.predict(x).argmax(dim=1)
    change = Search(**OPTIONS)(classifier, x, Misclassify(y))
    assert torch.allclose(Perceptual(**OPTIONS)(classifier, x, y).map, unit(change.delta**2))
    for option in ("sigma=1.0", "resize=2.0"):
        with pytest.raises(InputError, match="sigma and resize need pictures"):
            explainers.build(f"perceptual:{option}")(classifier, x, y)


def test_the_weight_that_was_chosen_is_kept_for_each_row(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = problem
    explanation = Perceptual(gradients=10)(classifier, x, y)
    change = attacks.build("perceptual:gradients=10")(classifier, x, Misclassify(y))
    assert explanation.weight is not None
    assert change.weight is not None
    assert torch.equal(explanation.weight, change.weight)
    for row in range(4):
        again = explainers.build(explanation.method_of(row))
        assert isinstance(again, Perceptual)
        assert again.perceptual == change.weight[row]
        assert torch.allclose(again(classifier, x[row : row + 1], y[row : row + 1]).map[0], explanation.map[row])


def test_without_the_perceptual_term_the_change_is_smaller(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    """The ablation: Eq. 4 asks for the smallest picture change alone."""
    classifier, x, y = problem
    without, held = (Perceptual(perceptual=each, gradients=40)(classifier, x, y) for each in (0, 10.0))
    lost = (without.after.argmax(dim=1) != y) & (held.after.argmax(dim=1) != y)  # pyright: ignore
    assert lost.any()
    assert (without.rmse[lost] < held.rmse[lost]).all()  # pyright: ignore


@pytest.mark.parametrize("options", [{"sigma": -1.0}, {"resize": 0.0}, {"target": 1.0}, {"perceptual": -1}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"Perceptual's {next(iter(options))}"):
        registry.make("explainer", "perceptual", **options)
