"""Certified radii against classifiers whose smoothed form is known exactly, and the laws that they keep."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor, nn

import advex
from advex.attacks import Minimal
from advex.classifier import Classifier
from advex.errors import InputError, SpecError
from advex.goals import Misclassify
from advex.measures import accuracy_robustness_area, certified, smoothing, wilson
from advex.measures.certified import Certificate, Certify, bracket, certified_accuracy, certified_area
from advex.measures.smoothing import clopper_pearson, l2_radius
from advex.types import concatenate, take

NORMAL = torch.tensor([3.0, -1.0, 2.0, 0.5], dtype=torch.float64)


def plane(toys: SimpleNamespace) -> Classifier:
    """Class 0 where NORMAL x > 2, in the unit box."""
    return toys.affine(torch.stack([NORMAL, torch.zeros(4, dtype=torch.float64)]), torch.tensor([-2.0, 0.0]))


def from_plane(x: Tensor) -> tuple[Tensor, Tensor]:
    """(distance to the plane [n], class [n])."""
    signed = (x @ NORMAL - 2) / NORMAL.norm()
    return signed.abs(), (signed < 0).long()


def rows(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def equal(a: Certificate, b: Certificate) -> bool:
    names = [field.name for field in dataclasses.fields(a)]
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    return all(torch.equal(p, q) if isinstance(p, Tensor) else p == q for p, q in pairs)


# -- the bound ----------------------------------------------------------------------------------------------


@settings(max_examples=25)  # scipy's is slow
@given(st.integers(0, 300), st.integers(0, 300), st.floats(1e-6, 0.4))
def test_clopper_pearson_agrees_with_scipy(successes: int, more: int, alpha: float) -> None:
    n = successes + more
    if n == 0:
        assert clopper_pearson(0, 0, alpha) == 0
        return
    # scipy's interval is two-sided: its lower end at 1 - 2 alpha is the one-sided one at 1 - alpha.
    expected = stats.binomtest(successes, n).proportion_ci(confidence_level=1 - 2 * alpha, method="exact").low
    assert clopper_pearson(successes, n, alpha) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [1, 10, 10_000])
@pytest.mark.parametrize("alpha", [0.001, 0.2])
def test_clopper_pearson_by_hand(n: int, alpha: float) -> None:
    assert clopper_pearson(0, n, alpha) == 0
    assert clopper_pearson(n, n, alpha) == pytest.approx(alpha ** (1 / n), rel=1e-12)  # p^n = alpha
    assert clopper_pearson(1, n, alpha) == pytest.approx(1 - (1 - alpha) ** (1 / n), rel=1e-9)  # (1 - p)^n = 1 - alpha


def test_the_published_maximum() -> None:
    # Cohen et al., Sec. 4: with n = 100,000 and alpha = 0.001, no radius above about 3.8 sigma.
    assert Certify(sigma=1, samples=100_000).largest == pytest.approx(3.81, abs=0.005)
    assert [l2_radius(lower, 1.0) for lower in (0.0, 0.3, 0.5)] == [0, 0, 0]
    assert l2_radius(float(stats.norm.cdf(1.5)), 2.0) == pytest.approx(3.0)


# -- classifiers whose smoothed form is known ---------------------------------------------------------------


def test_linear_radii_exceed_the_truth_as_rarely_as_computed(toys: SimpleNamespace) -> None:
    """A smoothed half-space is the half-space: the true radius is the distance to the plane, and few exceed it."""
    alpha, sigma, samples, selection = 0.1, 0.3, 100, 20
    x = rows(1200)
    distance, y = from_plane(x)
    result = Certify(sigma=sigma, selection=selection, samples=samples, alpha=alpha)(plane(toys), x, y)
    p = stats.norm.cdf(distance / sigma)
    claims = [l2_radius(clopper_pearson(k, samples, alpha), sigma) for k in range(samples + 1)]
    first_above = [next((k for k in range(samples + 1) if claims[k] > d), samples + 1) for d in distance.tolist()]
    too_many = stats.binom.sf([k - 1 for k in first_above], samples, p)
    assert too_many.max() <= alpha
    # The class was chosen by other draws; a tie goes to class 0.
    chosen = stats.binom.sf(selection // 2, selection, p) + (y == 0).numpy() * stats.binom.pmf(
        selection // 2, selection, p
    )
    expected, deviation = (too_many * chosen).sum(), math.sqrt((too_many * chosen * (1 - too_many * chosen)).sum())
    exceed = int((result.radius_l2 > distance).sum())
    assert abs(exceed - expected) < 5 * deviation
    assert expected > 50  # enough that a bound of alpha / 2 would be seen


def test_linear_radii_rise_to_the_distance(toys: SimpleNamespace) -> None:
    x = torch.tensor([[0.9, 0.2, 0.3, 0.5]], dtype=torch.float64)
    distance, y = from_plane(x)
    result = [Certify(sigma=0.25, samples=10**k)(plane(toys), x, y).radius_l2.item() for k in (2, 3, 4, 5)]
    assert result == sorted(result)
    assert result[-1] < distance.item()
    # The bound lies 3.1 standard deviations of the count lower, itself 5 off at most; the normal density turns
    # probabilities into distances.
    p = stats.norm.cdf(distance.item() / 0.25)
    slack = 8.1 * math.sqrt(p * (1 - p) / 10**5) / stats.norm.pdf(distance.item() / 0.25) * 0.25
    assert slack < 0.1 * distance.item()
    assert result[-1] > distance.item() - slack


def test_noise_is_not_cut_to_the_box(toys: SimpleNamespace) -> None:
    """At the box's corner, where cutting would halve the noise's reach."""
    corner = torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    distance, y = from_plane(corner)
    sigma, samples = 0.8, 4000
    result = Certify(sigma=sigma, samples=samples)(plane(toys), corner, y)
    p = stats.norm.cdf(distance.item() / sigma)
    assert abs(result.hits.item() - samples * p) < 5 * math.sqrt(samples * p * (1 - p))
    noise = torch.randn(100_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cut = (from_plane((corner + sigma * noise).clamp(0, 1))[1] == y).double().mean().item()
    assert abs(cut - p) > 10 * math.sqrt(p * (1 - p) / samples)


def test_sphere_radii_stay_below_the_true_distance(toys: SimpleNamespace) -> None:
    """|x + e|^2 / sigma^2 is noncentral chi-square: the smoothed ball is known, and a little smaller."""
    radius, sigma, samples, d = 2.0, 0.4, 2000, 3

    def inside(centre: float) -> float:
        return float(stats.ncx2.cdf((radius / sigma) ** 2, d, (centre / sigma) ** 2))

    root: Any = optimize.brentq(lambda centre: inside(centre) - 0.5, 0.1, 3.0)
    smoothed = float(root)
    assert smoothed < radius
    direction = nn.functional.normalize(torch.randn(40, d, dtype=torch.float64), dim=1)
    centre = torch.linspace(0.05, 2.9, 40, dtype=torch.float64)
    x = direction * centre[:, None]
    outside = (centre > smoothed).long()
    result = Certify(sigma=sigma, samples=samples, alpha=1e-4)(toys.spheres(radius), x, outside)
    for i, c in enumerate(centre.tolist()):
        p = inside(c) if not outside[i] else 1 - inside(c)
        if result.candidate[i] == outside[i]:
            assert abs(result.hits[i].item() - samples * p) < 5 * math.sqrt(samples * p * (1 - p)) + 1
        assert result.radius_l2[i] <= abs(c - smoothed)
        assert outside[i] or result.radius_l2[i] < radius - c
    assert 25 < result.correct.sum() < 40  # the nearest to the sphere abstain
    assert result.radius_l2.max() > 0.9 * sigma


def test_a_constant_classifier_is_certain_of_its_answer_alone(toys: SimpleNamespace) -> None:
    certify = Certify(sigma=0.5, samples=50)
    result = certify(toys.deaf([0.0, 2.0, 1.0], attached=False), rows(3), torch.tensor([1, 0, 2]))
    assert result.prediction.tolist() == [1, 1, 1]
    assert result.correct.tolist() == [True, False, False]
    assert result.hits.tolist() == [50, 50, 50]
    assert result.radius_l2.tolist() == [certify.largest, 0, 0]
    assert result.rmse.tolist() == [certify.largest / 2, 0, 0]
    assert certify.largest == pytest.approx(0.5 * stats.norm.ppf(0.001 ** (1 / 50)))


def test_on_the_boundary_it_abstains(toys: SimpleNamespace) -> None:
    x = rows(20)
    x = x - ((x @ NORMAL - 2) / NORMAL.square().sum())[:, None] * NORMAL  # onto the plane
    x = x[((x >= 0) & (x <= 1)).all(dim=1)]
    assert len(x) >= 5
    for label in (0, 1):
        result = Certify(sigma=0.1, samples=500)(plane(toys), x, torch.full((len(x),), label))
        assert result.abstained.all()
        assert result.prediction.unique().tolist() == [-1]
        assert not result.correct.any()
        assert not result.radius_l2.any()
        assert certified_accuracy(result).value == 0


class Broken(nn.Module):
    """Answers NaN right of x0 = 0.5, else class 1."""

    def forward(self, x: Tensor) -> Tensor:
        nothing = torch.where(x[:, :1] > 0.5, math.nan, 0.0)
        return torch.cat([nothing, 2 + nothing], dim=1)


def test_nan_is_a_vote_for_nobody() -> None:
    classifier = Classifier(Broken()).double().eval()
    x = torch.tensor([[0.3, 0.5], [0.5, 0.5], [1.0, 0.5]], dtype=torch.float64)
    sigma, samples = 0.1, 2000
    result = Certify(sigma=sigma, samples=samples)(classifier, x, torch.tensor([1, 1, 1]))
    p = stats.norm.cdf(2.0)
    assert abs(result.hits[0].item() - samples * p) < 5 * math.sqrt(samples * p * (1 - p))
    assert 0 < result.radius_l2[0] < 0.2
    assert result.prediction.tolist() == [1, -1, -1]
    assert (result.candidate[2].item(), result.hits[2].item()) == (-1, 0)
    assert result.radius_l2[1:].tolist() == [0, 0]


# -- laws ---------------------------------------------------------------------------------------------------


def problem(toys: SimpleNamespace) -> tuple[Classifier, Tensor, Tensor]:
    classifier = toys.mlp()
    x = torch.rand(9, 3, 2, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return classifier, x, classifier.predict(x).argmax(dim=1)


def test_rows_know_nothing_of_each_other(toys: SimpleNamespace) -> None:
    classifier, x, y = problem(toys)
    certify = Certify(sigma=0.2, selection=20, samples=300)
    whole = certify(classifier, x, y, seed=5)
    order = torch.tensor([8, 2, 5, 0, 1, 7, 3, 6, 4])
    assert equal(certify(classifier, x[order], y[order], seed=5), take(whole, order))
    for size in (1, 4):
        parts = [certify(classifier, *part, seed=5) for part in zip(x.split(size), y.split(size), strict=True)]
        assert equal(concatenate(parts), whole)
    for batch_size in (1, 7, 299, 5000):
        assert equal(dataclasses.replace(certify, batch_size=batch_size)(classifier, x, y, seed=5), whole)
    assert equal(certify(classifier, x, y, seed=5), whole)
    assert not torch.equal(certify(classifier, x, y, seed=6).hits, whole.hits)
    other = certify(classifier, x, (y + 1) % 3, seed=5)
    assert torch.equal(other.hits, whole.hits)  # the label decides what counts, not what is drawn
    assert not other.correct[whole.correct].any()


def test_noise_that_does_not_fit_at_once_is_drawn_in_blocks(
    toys: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, x, y = problem(toys)
    monkeypatch.setattr(smoothing, "_HELD", 12 * 70)  # 70 copies, so 300 = 4 * 70 + 20
    certify = Certify(sigma=0.2, selection=20, samples=300, batch_size=64)
    result = certify(classifier, x, y)
    assert equal(dataclasses.replace(certify, batch_size=9)(classifier, x, y), result)
    counts = smoothing.votes(classifier, x[:1], 0.2, 300, 0, "smoothing: estimation", 64)
    assert counts.sum() == 300
    assert result.hits[0] == counts[result.candidate[0]]
    # The blocks are fresh: noise used four times over would leave multiples of 4, but for the last 20.
    monkeypatch.setattr(smoothing, "_HELD", 12)
    single = torch.cat(list(smoothing._noisy(x[:1], 1.0, 50, 0, "s"))) - x[:1]
    assert len(single.flatten().unique()) == 600


def test_choosing_and_counting_use_different_noise(toys: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[tuple[str, int]] = []

    def spy(classifier: Classifier, row: Tensor, sigma: float, draws: int, seed: int, stream: str, _: int) -> Tensor:
        streams.append((stream, draws))
        return torch.tensor([draws, 0, 0])

    monkeypatch.setattr(certified, "votes", spy)
    classifier, x, y = problem(toys)
    Certify(selection=30, samples=70)(classifier, x[:1], y[:1])
    assert [draws for _, draws in streams] == [30, 70]
    assert streams[0][0] != streams[1][0]


def test_no_rows_no_certificates(toys: SimpleNamespace) -> None:
    classifier, x, y = problem(toys)
    result = Certify(samples=10)(classifier, x[:0], y[:0])
    assert len(result) == 0
    assert {getattr(result, name).shape for name in ("prediction", "correct", "rmse", "hits")} == {(0,)}
    assert result.overclaimed() == 0
    assert math.isnan(certified_accuracy(result).value)
    assert math.isnan(certified_area(result, 0.1).value)


def test_nothing_of_the_model_changes() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3)).double()
    classifier = Classifier(network)
    x, y = rows(4), torch.tensor([0, 1, 2, 0])
    reference = Certify(sigma=0.3, samples=200)(Classifier(network).eval(), x, y)
    network.train()
    network[0].requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    assert equal(Certify(sigma=0.3, samples=200)(classifier.train(), x, y), reference)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in classifier.modules())
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True, True, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_is_told_after_each_row(toys: SimpleNamespace) -> None:
    classifier, x, y = problem(toys)
    events: list[tuple[int, int]] = []
    Certify(samples=10)(classifier, x[:3], y[:3], progress=lambda *event: events.append(event))
    assert events == [(1, 3), (2, 3), (3, 3)]


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"sigma": 0},
        {"sigma": -1},
        {"sigma": math.nan},
        {"sigma": "x"},
        {"samples": 0},
        {"selection": 0},
        {"batch_size": 0},
        {"alpha": 0},
        {"alpha": 0.5},
        {"alpha": math.nan},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(options)) if "sigma" not in options else "sigma|radius"):
        Certify(**options)


def test_impossible_rows_are_refused(toys: SimpleNamespace) -> None:
    classifier, x, y = problem(toys)
    certify = Certify(samples=10)
    with pytest.raises(InputError, match=r"in \[0, 3\)"):
        certify(classifier, x, y + 3)
    with pytest.raises(InputError, match=r"in \[0, 3\)"):
        certify(classifier, x, y - 3)
    with pytest.raises(InputError, match="integers"):
        certify(classifier, x, y[:4])
    with pytest.raises(InputError, match="integers"):
        certify(classifier, x, y.double())
    with pytest.raises(InputError, match="box"):
        certify(classifier, x + 2, y)


def test_sigma_may_be_a_fraction() -> None:
    fraction: Any = "64/256"
    assert Certify(sigma=fraction, samples=500) == Certify(sigma=0.25, samples=500)


# -- accuracy, area, bracket --------------------------------------------------------------------------------


def certificate(radii: list[float], alpha: float = 0.001) -> Certificate:
    """Of right answers with these RMSE; 0 is an abstention."""
    rmse = torch.tensor(radii, dtype=torch.float64)
    held = rmse > 0
    return Certificate(
        prediction=torch.where(held, 1, -1),
        correct=held,
        radius_l2=rmse * 2,
        rmse=rmse,
        candidate=torch.ones(len(rmse), dtype=torch.int64),
        hits=torch.zeros(len(rmse), dtype=torch.int64),
        lower=torch.zeros(len(rmse), dtype=torch.float64),
        sigma=0.25,
        samples=100,
        alpha=alpha,
    )


def test_certified_accuracy_counts_what_holds_beyond_a_radius() -> None:
    some = certificate([0.0, 0.1, 0.2, 0.2, 0.3])
    for rmse, count in ((0.0, 4), (0.1, 3), (0.15, 3), (0.2, 1), (0.3, 0)):
        score = certified_accuracy(some, rmse)
        assert score.value == pytest.approx(count / 5)
        assert (score.low, score.high) == wilson(count, 5)


def test_the_area_is_that_of_the_radii() -> None:
    some = certificate([0.0, 0.1, 0.25, 0.2, 0.3])
    area = certified_area(some, 0.1, seed=3)
    plain = accuracy_robustness_area(some.rmse, 0.1, seed=3)
    assert (area.value, area.low, area.high) == (plain.value, plain.low, plain.high)
    assert area.name == "certified ara"
    assert area.failures == 0


@settings(max_examples=20)  # each tries up to 20 subsets, each with a bootstrap
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6), st.integers(0, 8), st.floats(0, 1))
def test_overclaimed_rows_cost_the_most_that_they_can(radii: list[float], wrong: int, chance: float) -> None:
    result = certified_area(certificate(radii), chance, overclaimed=wrong).value
    rmse = torch.tensor(radii, dtype=torch.float64)
    areas = []
    for chosen in itertools.combinations(range(len(radii)), min(wrong, len(radii))):
        left = rmse.clone()
        left[list(chosen)] = 0
        areas.append(accuracy_robustness_area(left, chance).value)
    assert result == pytest.approx(min(areas), abs=1e-12)
    assert torch.equal(certificate(radii).rmse, rmse)


@pytest.mark.parametrize(("n", "alpha"), [(1, 0.001), (500, 0.001), (10_000, 0.001), (40, 0.2)])
def test_overclaimed_is_the_binomial_quantile(n: int, alpha: float) -> None:
    some = certificate([0.1] * n, alpha)
    assert some.overclaimed() == stats.binom.ppf(0.975, n, alpha)
    assert some.overclaimed(0.5) == stats.binom.ppf(0.5, n, alpha)
    with pytest.raises(InputError, match="overclaimed"):
        certified_area(some, 0.1, overclaimed=-1)


def test_a_linear_model_lies_in_its_bracket(toys: SimpleNamespace) -> None:
    """Its smoothed form is itself, so the attack cannot undercut what is certified."""
    x = rows(60)
    distance, y = from_plane(x)
    y[:4] = 1 - y[:4]  # answered wrong
    result = Minimal(gradients=40)(plane(toys), x, Misclassify(y))
    certificate = Certify(sigma=0.15, samples=3000)(plane(toys), x, y)
    pair = bracket(certificate, result.rmse, 0.5)
    assert 0.5 * pair.attacked.value < pair.certified.value < pair.attacked.value
    assert pair.gap.value == pytest.approx(pair.attacked.value - pair.certified.value)
    assert 0 < pair.gap.low < pair.gap.value < pair.gap.high
    assert not pair.crossed.any()
    assert not certificate.radius_l2[:4].any()
    assert "0 crossed" in str(pair)
    assert bracket(certificate, torch.full((60,), 1e-6), 0.5).crossed.sum() == (certificate.rmse > 1e-6).sum()
    with pytest.raises(InputError, match="same examples"):
        bracket(certificate, result.rmse[1:], 0.5)


# -- docs/certified.md --------------------------------------------------------------------------------------


def test_the_pages_python_runs(digits: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[1] / "docs" / "certified.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.setattr(advex, "load", lambda _: digits.classifier)
    names: dict[str, Any] = {"x": digits.x[:5], "y": digits.y[:5]}
    for block in blocks:
        exec(block.replace("1000, 5", "10, 5"), names)  # noqa: S102  (the project's own page)
    assert names["certificate"].samples == 10_000
    assert names["certificate"].correct.sum() >= 3
    assert names["change"].ratio().n >= 3
