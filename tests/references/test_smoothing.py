"""Randomised smoothing (Cohen, Rosenfeld and Kolter 2019, Sec. 3.2.2) once more, slowly, in the paper's symbols."""

from __future__ import annotations

import math
from statistics import NormalDist
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.measures.certified import Certify
from advex.randomness import generators

ABSTAIN = -1


def sample_under_noise(f: Classifier, x: Tensor, num: int, sigma: float, seed: int, stream: str) -> list[int]:
    """counts[c]: how often f(x + epsilon) = c, epsilon ~ N(0, sigma^2 I), one draw after the other."""
    (rng,) = generators(x[None], seed, stream)
    epsilon = sigma * torch.randn((num, *x.shape), generator=rng, dtype=x.dtype)
    counts = [0, 0, 0]
    for e in epsilon:
        y = f.logits((x + e)[None])[0].tolist()
        counts[y.index(max(y))] += 1
    return counts


def lower_conf_bound(k: int, n: int, confidence: float) -> float:
    """The p at which k or more of n have a probability of 1 - confidence, by bisection on the binomial sum."""
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        at_least_k = math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
        low, high = (p, high) if at_least_k < 1 - confidence else (low, p)
    return low


def certify(
    f: Classifier, sigma: float, x: Tensor, n0: int, n: int, alpha: float, seed: int
) -> tuple[int, float, int, int]:
    """The paper's CERTIFY: (class or ABSTAIN, radius), and what it saw on the way: c_A and its count."""
    counts0 = sample_under_noise(f, x, n0, sigma, seed, "smoothing: selection")
    c_a = counts0.index(max(counts0))
    counts = sample_under_noise(f, x, n, sigma, seed, "smoothing: estimation")
    p_a = lower_conf_bound(counts[c_a], n, 1 - alpha)
    if p_a > 1 / 2:
        return c_a, sigma * NormalDist().inv_cdf(p_a), c_a, counts[c_a]
    return ABSTAIN, 0.0, c_a, counts[c_a]


@pytest.mark.parametrize(("sigma", "alpha", "seed"), [(0.25, 0.001, 0), (0.25, 0.05, 3), (0.4, 0.05, 0)])
def test_certify_is_the_papers(toys: SimpleNamespace, sigma: float, alpha: float, seed: int) -> None:
    f: Classifier = toys.mlp()
    x = torch.rand(12, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    n0, n = 20, 90
    slow = [certify(f, sigma, image, n0, n, alpha, seed) for image in x]
    g = torch.tensor([c for c, _, _, _ in slow])
    found = Certify(sigma=sigma, selection=n0, samples=n, alpha=alpha, batch_size=7)(f, x, g.clamp_min(0), seed=seed)
    assert found.prediction.tolist() == g.tolist()
    assert found.candidate.tolist() == [c_a for _, _, c_a, _ in slow]
    assert found.hits.tolist() == [count for _, _, _, count in slow]
    # Bisection ends 2^-60 from the bound, the sum of up to 90 terms is exact to some 1e-15, and Phi^-1 has a slope of
    # at most 100 here.
    assert found.radius_l2.tolist() == pytest.approx([radius for _, radius, _, _ in slow], abs=1e-11)
    assert found.rmse.tolist() == pytest.approx([radius / math.sqrt(12) for _, radius, _, _ in slow], abs=1e-11)
    if sigma == 0.4:
        assert 1 <= found.abstained.sum() <= 11  # both outcomes occur
