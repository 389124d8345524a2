"""Maps once more, slowly, in their papers' symbols; and beside captum's where the definitions coincide."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from advex.classifier import Classifier
from advex.explainers import (
    ExpectedGradients,
    GradCAM,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
)
from advex.explainers.expected_gradients import draws
from advex.randomness import normal

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # captum's own imports warn
    from captum import attr

SHAPE = (2, 6, 6)
TARGET = torch.tensor([0, 3, 1, 2])
FLOATS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}


def convolutional(dtype: torch.dtype = torch.float64) -> Classifier:
    torch.manual_seed(0)
    network: Any = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(5, 7, 2), nn.Tanh(), nn.Flatten(), nn.Linear(28, 4),
    )  # fmt: skip
    network[1].running_mean.normal_(std=0.1)
    network[7].weight.data.mul_(5)
    return Classifier(network.to(dtype), mean=0.4, std=0.3).eval()


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(4, *SHAPE, dtype=torch.float64).to(dtype)


def dF(classifier: Classifier, x: Tensor, c: int) -> Tensor:
    """The gradient of the logit of class c at one input."""
    x = x.detach().clone().requires_grad_(True)
    classifier.logits(x[None])[0, c].backward()
    assert x.grad is not None
    return x.grad


# -- the papers' formulas, element by element ----------------------------------------------------------------


def test_integrated_gradients_is_a_sum_along_the_path() -> None:
    """Chalasani et al., Eq. 13, by m midpoints: IG_i(x, u) = (x_i - u_i) 1/m sum_k d_i F(u + (k - 1/2)/m (x - u))."""
    classifier, x, m = convolutional(), inputs(), 12
    u = torch.rand(*SHAPE, dtype=torch.float64)
    told = IntegratedGradients(steps=m, baseline=u)(classifier, x, TARGET, max_batch=5)
    for i, c in enumerate(TARGET.tolist()):
        mean = sum(dF(classifier, u + (k - 0.5) / m * (x[i] - u), c) for k in range(1, m + 1)) / m
        assert torch.allclose(told.map[i], (x[i] - u) * mean, atol=1e-12)  # float64, sums of a dozen


def test_the_published_rule_leaves_out_both_ends() -> None:
    """Chalasani et al.'s code: alpha = .01, ..., 1 of which the last gradient is dropped, and the mean of the 99."""
    classifier, x = convolutional(), inputs()[:1]
    told = IntegratedGradients(rule="published")(classifier, x, TARGET[:1])
    gradients = [dF(classifier, (i + 1) / 100 * x[0], 0) for i in range(100)][:-1]
    assert torch.allclose(told.map[0], x[0] * torch.stack(gradients).mean(dim=0), atol=1e-12)
    left = IntegratedGradients(rule="left", steps=20)(classifier, x, TARGET[:1])
    mean = torch.stack([dF(classifier, i / 20 * x[0], 0) for i in range(20)]).mean(dim=0)
    assert torch.allclose(left.map[0], x[0] * mean, atol=1e-12)


@pytest.mark.parametrize("of", ["probability", "loss"])
def test_lemma_4_1(of: Any) -> None:
    """Chalasani et al., Lemma 4.1: for F(x) = A(<w, x>), IG = [F(x) - F(u)] (x - u) * w / <x - u, w>.

    With logits (0, <w, x>), the probability of class 1 has A = sigma, and its loss A(z) = log(1 + exp(-z)).
    Where <x - u, w> = 0 the limit is A'(<w, u>) (x - u) * w.
    """
    A = {"probability": torch.sigmoid, "loss": lambda z: torch.nn.functional.softplus(-z)}[of]
    d = 7
    for draw in range(50):
        w, x, u = (2 * torch.rand(3, d, dtype=torch.float64) - 1).unbind()
        if draw % 10 == 0:
            u = x - (w.flip(0) * torch.tensor([1, 1, 1, 0, -1, -1, -1])) * 0.3  # <x - u, w> = 0
        layer = nn.Linear(d, 2, bias=False).double()
        layer.weight.data = torch.stack([torch.zeros(d, dtype=torch.float64), w])
        classifier = Classifier(layer, box=(-1, 1))
        told = IntegratedGradients(steps=20, rule="gauss_legendre", baseline=u, of=of)
        found = told(classifier, x[None], torch.tensor([1]))
        z, z_u = (x @ w).requires_grad_(), u @ w
        (slope,) = torch.autograd.grad(A(z), z)
        moved = (z - z_u).item()
        factor = slope.item() if abs(moved) < 1e-9 else ((A(z) - A(z_u)) / moved).item()
        # Gauss-Legendre with 20 points: far below 1e-9 for these functions, whose poles are at distance pi.
        assert torch.allclose(found.map[0], factor * (x - u) * w, atol=1e-9)
        assert abs(found.completeness.item()) < 1e-9  # pyright: ignore


def test_expected_gradients_is_a_mean_over_draws() -> None:
    """Erion et al., Eq. 4: E over u, alpha of (x_i - u_i) d_i F(u + alpha (x - u)), the draws given."""
    classifier, x, S = convolutional(), inputs(), 9
    background = torch.rand(4, *SHAPE, dtype=torch.float64)
    told = ExpectedGradients(samples=S, baseline=background)(classifier, x, TARGET, seed=5, max_batch=4)
    alpha, row = draws(x, 5, S, 4)
    for i, c in enumerate(TARGET.tolist()):
        mean = torch.zeros(SHAPE, dtype=torch.float64)
        for s in range(S):
            u = background[row[i, s]]
            mean += (x[i] - u) * dF(classifier, u + alpha[i, s] * (x[i] - u), c) / S
        assert torch.allclose(told.map[i], mean, atol=1e-12)


def test_smooth_grad_is_a_mean_over_noise() -> None:
    """Smilkov et al., Sec. 2.1: 1/n sum of M_c(x + N(0, sigma^2)); their squares and magnitudes likewise."""
    classifier, x, n = convolutional(), inputs(), 6
    noise = torch.stack([normal(x, 3, f"smooth_grad:{k}") for k in range(n)], dim=1)
    for take, fold in (("signed", torch.positive), ("magnitude", torch.abs), ("square", torch.square)):
        explain = SmoothGrad(sigma=0.2, samples=n, take=take)  # pyright: ignore[reportArgumentType]
        told = explain(classifier, x, TARGET, seed=3, max_batch=5)
        for i, c in enumerate(TARGET.tolist()):
            maps = [fold(dF(classifier, x[i] + 0.2 * noise[i, k], c)) for k in range(n)]
            assert torch.allclose(told.map[i], sum(maps) / n, atol=1e-12)  # pyright: ignore[reportArgumentType]


def test_grad_cam_weights_channels_by_their_mean_gradient() -> None:
    """Selvaraju et al., Eq. 1-2: alpha_k = 1/Z sum_ij dy/dA^k_ij; L = ReLU(sum_k alpha_k A^k)."""
    classifier, x = convolutional(), inputs()
    told = GradCAM(layer="4")(classifier, x, TARGET)
    body, head = classifier.network[:5], classifier.network[5:]  # pyright: ignore
    for i, c in enumerate(TARGET.tolist()):
        A = body((x[i : i + 1] - 0.4) / 0.3).detach().requires_grad_(True)
        head(A)[0, c].backward()
        _, K, H, W = A.shape
        L = torch.zeros(H, W, dtype=torch.float64)
        for k in range(K):
            L += sum(A.grad[0, k, a, b] for a in range(H) for b in range(W)) / (H * W) * A[0, k].detach()  # pyright: ignore
        shown = interpolate(L.relu()[None, None], size=(6, 6), mode="bilinear", align_corners=False)
        assert torch.allclose(told.map[i], shown[0].expand(2, 6, 6), atol=1e-12)


# -- captum ---------------------------------------------------------------------------------------------------


def agree(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs.detach()).abs().max() < TOLERANCE[ours.dtype]
    assert ours.abs().max() > 1e-3


@FLOATS
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_gradients_agree_with_captum(dtype: torch.dtype) -> None:
    classifier, x = convolutional(dtype), inputs(dtype)
    agree(Gradient()(classifier, x, TARGET).map, attr.Saliency(classifier).attribute(x, target=TARGET, abs=False))
    theirs = attr.InputXGradient(classifier).attribute(x, target=TARGET)
    agree(InputXGradient()(classifier, x, TARGET).map, theirs)


@FLOATS
@pytest.mark.parametrize(
    ("rule", "method", "steps"),
    [
        ("midpoint", "riemann_middle", 64),
        ("left", "riemann_left", 64),
        ("right", "riemann_right", 64),
        ("trapezoid", "riemann_trapezoid", 65),
        ("gauss_legendre", "gausslegendre", 50),
    ],
)
def test_integrated_gradients_agree_with_captum(rule: Any, method: str, steps: int, dtype: torch.dtype) -> None:
    """64 steps: captum rounds its weights and points to float32, which represents 1/128 exactly."""
    classifier, x = convolutional(dtype), inputs(dtype)
    u = torch.rand(4, *SHAPE, dtype=torch.float64).to(dtype)
    ours = IntegratedGradients(steps=steps, rule=rule, baseline=u)(classifier, x, TARGET)
    theirs, delta = attr.IntegratedGradients(classifier).attribute(
        x, u, target=TARGET, n_steps=steps, method=method, return_convergence_delta=True
    )
    if rule == "trapezoid":  # captum divides by the points, not by the intervals: its weights sum to 64/65
        theirs = theirs / (64 * np.float64(np.float32(1 / 65)))
    if rule == "gauss_legendre" and dtype == torch.float64:
        assert (ours.map - theirs).abs().max() < 1e-6  # its weights are float32
        return
    agree(ours.map, theirs)
    if rule != "trapezoid":
        assert ours.completeness is not None
        assert torch.allclose(ours.completeness, delta.to(dtype), atol=10 * TOLERANCE[dtype])  # sums of 72


@FLOATS
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.filterwarnings("ignore:.*maps are doubtful")  # few samples, or none that counts: their point
def test_expected_gradients_agree_with_captums_gradient_shap(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """captum given our draws."""
    classifier, x, S = convolutional(dtype), inputs(dtype), 8
    background = torch.rand(3, *SHAPE, dtype=torch.float64).to(dtype)
    alpha, row = draws(x, 0, S, 3)
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: alpha.flatten().double().numpy())
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: row.flatten().numpy())
    theirs = attr.GradientShap(classifier).attribute(x, background, n_samples=S, target=TARGET)
    agree(ExpectedGradients(samples=S, baseline=background)(classifier, x, TARGET).map, theirs)


@FLOATS
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize(("take", "kind"), [("signed", "smoothgrad"), ("square", "smoothgrad_sq")])
def test_smooth_grad_agrees_with_captums_noise_tunnel(
    dtype: torch.dtype, take: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """captum given our noise."""
    classifier, x, n = convolutional(dtype), inputs(dtype), 5
    noise = torch.stack([normal(x, 0, f"smooth_grad:{k}") for k in range(n)], dim=1).flatten(0, 1)
    monkeypatch.setattr(torch, "normal", lambda mean, deviation: 0.15 * noise)
    tunnel = attr.NoiseTunnel(attr.Saliency(classifier.logits))
    theirs: Any = tunnel.attribute(x, nt_type=kind, nt_samples=n, stdevs=0.15, target=TARGET, abs=False)
    agree(SmoothGrad(samples=n, take=take)(classifier, x, TARGET).map, theirs)


@FLOATS
def test_grad_cam_agrees_with_captum(dtype: torch.dtype) -> None:
    classifier, x = convolutional(dtype), inputs(dtype)
    for name, module in (("4", classifier.network[4]), ("auto", classifier.network[5])):  # pyright: ignore
        maps: Any = attr.LayerGradCam(classifier, module).attribute(x, target=TARGET, relu_attributions=True)
        theirs = interpolate(maps, size=SHAPE[1:], mode="bilinear", align_corners=False)
        agree(GradCAM(layer=name)(classifier, x, TARGET).map, theirs.expand_as(x))


@pytest.mark.filterwarnings("ignore:.*maps are doubtful")  # few samples, or none that counts: their point
def test_expected_gradients_are_right_in_expectation() -> None:
    """Over many seeds, the mean over background rows of Integrated Gradients, within 4 standard errors."""
    classifier, x = convolutional(), inputs()[:1]
    background = torch.rand(3, *SHAPE, dtype=torch.float64)
    explain = ExpectedGradients(samples=4, baseline=background)
    maps = torch.cat([explain(classifier, x, TARGET[:1], seed=seed).map for seed in range(300)])
    each = [IntegratedGradients(steps=400, baseline=u)(classifier, x, TARGET[:1]).map for u in background]
    z = (maps.mean(dim=0) - sum(each)[0] / 3) / (maps.std(dim=0) / math.sqrt(300))  # pyright: ignore
    assert z.abs().max() < 4  # 72 elements; 4 sigma is passed once in 200 such tests
