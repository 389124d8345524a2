"""Randomised smoothing (Cohen, Rosenfeld and Kolter 2019): how a classifier decides under Gaussian noise.

The smoothed classifier g answers the class that the network f answers most often around x:

    g(x) = argmax_c P(f(x + e) = c),    e ~ N(0, sigma^2 I).

Where the most frequent class has a probability of at least p > 1/2, g answers it within an L2 distance of
sigma * Phi^-1(p), whatever the network is (their Theorem 1 with 1 - p for the second class).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy import special
from torch import Tensor

from advex.classifier import Classifier
from advex.randomness import generators

_HELD = 1 << 24  # numbers of noise held at a time: 64 MB


def clopper_pearson(successes: int, n: int, alpha: float) -> float:
    """The lower end of the exact one-sided interval of a share: it is above the true share in at most alpha of cases.

    Clopper and Pearson 1934: the share at which `successes` or more of n have a probability of alpha. 0 for none.

    >>> round(clopper_pearson(10_000, 10_000, 0.001), 5), clopper_pearson(0, 10, 0.001)
    (0.99931, 0.0)
    """
    return float(special.betaincinv(successes, n - successes + 1, alpha)) if successes else 0.0


def l2_radius(lower: float, sigma: float) -> float:
    """sigma * Phi^-1(lower), or 0 where `lower` does not exceed 1/2: nothing is certified then."""
    return sigma * float(special.ndtri(lower)) if lower > 0.5 else 0.0


@torch.no_grad()
def votes(
    classifier: Classifier, row: Tensor, sigma: float, draws: int, seed: int, stream: str, batch_size: int
) -> Tensor:
    """How often each class is the answer to a noisy copy of one input: [classes] int64.

    row: [1, *shape]. batch_size: copies asked about at a time. The noise depends on (seed, stream, the
    row's bytes) and, since it is drawn where the classifier is, on the kind of device; not on batch_size.

    The copies are not cut to the box. The theorem is about f on all of space, so f may cut its inputs itself,
    but then it is another f: networks that are trained for smoothing see uncut noise, and cutting takes some of it
    away. An answer of NaN is a vote for no class. The classifier must be frozen and the row checked.
    """
    counts: Tensor | int = 0
    for copies in _noisy(row, sigma, draws, seed, stream):
        for part in copies.split(batch_size):
            logits = classifier.logits(part)
            answer = torch.where(logits.isnan().any(dim=1), -1, logits.argmax(dim=1))
            counts = counts + (answer[:, None] == torch.arange(logits.shape[1], device=row.device)).sum(dim=0)
    assert isinstance(counts, Tensor)
    return counts


def _noisy(row: Tensor, sigma: float, draws: int, seed: int, stream: str) -> Iterator[Tensor]:
    """`draws` noisy copies of row [1, *shape], in blocks whose size depends on the shape alone."""
    (host,) = generators(row, seed, stream)
    generator = torch.Generator(row.device).manual_seed(host.initial_seed())
    dtype = torch.promote_types(row.dtype, torch.float32)
    block = max(_HELD // max(row.numel(), 1), 1)
    for start in range(0, draws, block):
        shape = (min(block, draws - start), *row.shape[1:])
        noise = torch.randn(shape, generator=generator, dtype=dtype, device=row.device)
        yield noise.mul_(sigma).add_(row).to(row.dtype)
