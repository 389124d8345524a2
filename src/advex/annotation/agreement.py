"""How well people agree: percent agreement, Cohen's and Fleiss' kappa, Krippendorff's alpha, for nominal answers.

Everything starts from n_uc, how many gave image u the answer c, and m_u = sum_c n_uc. Images with m_u < 2 say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from advex.annotation import ANSWERS
from advex.annotation.store import Vote

Counts = np.ndarray  # [images, answers] int: n_uc
_TAIL = 0.025  # of the resamples, below and above an interval of 95 %


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A statistic and its 95 % bootstrap interval over images; NaN where it is not defined.

    There is no interval where resamples cannot tell one: none of them differs, or in more than 2.5 % of them all
    answers are the same, so that no kappa is defined.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well some answers agree. images: with two answers or more; answers: all that were given.

    answered: how many of each of `ANSWERS`. cohen: mean over the pairs of people that share images.
    """

    images: int
    answers: int
    answered: dict[str, int]
    percent: Interval
    cohen: Interval
    fleiss: Interval
    alpha: Interval


def counts(votes: Sequence[Vote]) -> tuple[list[int], Counts]:
    """The numbers of the images that have answers, and n_uc [images, answers]."""
    images = sorted({vote.image for vote in votes})
    row = {image: number for number, image in enumerate(images)}
    table = np.zeros((len(images), len(ANSWERS)), dtype=np.int64)
    for vote in votes:
        table[row[vote.image], ANSWERS.index(vote.answer)] += 1
    return images, table


def percent_agreement(n: Counts) -> float:
    """Mean over images of the share of pairs of answers that are equal."""
    return float(_percent(n, np.ones((1, len(n))))[0])


def fleiss_kappa(n: Counts) -> float:
    """Fleiss 1971: (P - P_e) / (1 - P_e), P as `percent_agreement`, P_e = sum_c p_c^2.

    p_c is the mean over images of n_uc / m_u, which is Fleiss' where every image has as many answers.
    """
    return float(_fleiss(n, np.ones((1, len(n))))[0])


def krippendorff_alpha(n: Counts) -> float:
    """Krippendorff's alpha for nominal data, 1 - D_o / D_e, from the matrix of coincidences; answers may be missing."""
    return float(_alpha(n, np.ones((1, len(n))))[0])


def agreement(votes: Sequence[Vote], *, draws: int = 1000, seed: int = 0) -> Agreement:
    """All four statistics with bootstrap intervals: images are drawn with replacement, `draws` times."""
    images, n = counts(votes)
    shared = n.sum(axis=1) >= 2
    weights = _weights(int(shared.sum()), draws, seed)
    used = n[shared]
    kept = {image: number for number, image in enumerate(np.array(images)[shared].tolist())}
    return Agreement(
        images=len(used),
        answers=len(votes),
        answered=dict(zip(ANSWERS, n.sum(axis=0).tolist(), strict=True)),
        percent=_interval(_percent(used, weights)),
        cohen=_interval(_mean_cohen(votes, kept, weights)),
        fleiss=_interval(_fleiss(used, weights)),
        alpha=_interval(_alpha(used, weights)),
    )


def by_class(votes: Sequence[Vote], *, draws: int = 1000, seed: int = 0) -> dict[str, Agreement]:
    """`agreement` for the images of each class, in the order of the names."""
    labels = sorted({vote.label for vote in votes})
    return {
        label: agreement([vote for vote in votes if vote.label == label], draws=draws, seed=seed) for label in labels
    }


def disputed(votes: Sequence[Vote]) -> list[tuple[int, dict[str, int]]]:
    """Images whose answers differ, the most divided first, each with the number of each answer."""
    images, n = counts(votes)
    divided = [
        (float(_percent(row[None], np.ones((1, 1)))[0]), image, row)
        for image, row in zip(images, n, strict=True)
        if (row > 0).sum() > 1
    ]
    ranked = sorted(divided, key=lambda each: (each[0], each[1]))
    return [(image, dict(zip(ANSWERS, row.tolist(), strict=True))) for _, image, row in ranked]


# -- for many weightings of the images at once: weights [draws, images], the first of them all ones ----------------


def _weights(images: int, draws: int, seed: int) -> np.ndarray:
    if images == 0:
        return np.ones((1, 0))
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=draws)
    return np.concatenate([np.ones((1, images)), drawn])


def _usable(n: Counts, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n and weights of the images with two answers or more, and their m_u."""
    keep = n.sum(axis=1) >= 2
    return n[keep].astype(float), weights[:, keep], n[keep].sum(axis=1).astype(float)


def _percent(n: Counts, weights: np.ndarray) -> np.ndarray:
    n, weights, m = _usable(n, weights)
    share = (n * (n - 1)).sum(axis=1) / (m * (m - 1))
    return _ratio(weights @ share, weights.sum(axis=1))


def _fleiss(n: Counts, weights: np.ndarray) -> np.ndarray:
    observed = _percent(n, weights)
    n, weights, m = _usable(n, weights)
    p = _ratio(weights @ (n / m[:, None]), weights.sum(axis=1, keepdims=True))
    return _beyond_chance(observed, (p**2).sum(axis=1))


def _alpha(n: Counts, weights: np.ndarray) -> np.ndarray:
    n, weights, m = _usable(n, weights)
    # Coincidences: o_ck = sum_u n_uc (n_uk - [c = k]) / (m_u - 1); of equal ones, and all by answer.
    same = weights @ ((n * (n - 1)).sum(axis=1) / (m - 1))
    n_c = weights @ n
    total = n_c.sum(axis=1)
    observed = 1 - _ratio(same, total)
    expected = 1 - _ratio((n_c * (n_c - 1)).sum(axis=1), total * (total - 1))
    return 1 - _ratio(observed, expected)


def _cohen(pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Cohen 1960: (p_o - p_e) / (1 - p_e) of two people on the same images. pairs: [2, images] codes of answers.

    What scikit-learn's `cohen_kappa_score` gives for each weighting, all of them at once: it takes 3 ms for each.
    """
    total = weights.sum(axis=1)
    first, second = (weights @ np.eye(len(ANSWERS))[row] for row in pairs)  # [draws, answers]
    observed = _ratio(weights @ (pairs[0] == pairs[1]), total)
    return _beyond_chance(observed, _ratio((first * second).sum(axis=1), total**2))


def _mean_cohen(votes: Sequence[Vote], row: dict[int, int], weights: np.ndarray) -> np.ndarray:
    """Mean of Cohen's kappa over pairs of people; pairs without one (all the same answer) do not count."""
    given: dict[str, dict[int, int]] = {}
    for vote in votes:
        if vote.image in row:
            given.setdefault(vote.person, {})[row[vote.image]] = ANSWERS.index(vote.answer)
    kappas = []
    for pair in combinations(sorted(given), 2):
        both = sorted(given[pair[0]].keys() & given[pair[1]].keys())
        if both:
            codes = np.array([[given[person][image] for image in both] for person in pair])
            kappas.append(_cohen(codes, weights[:, both]))
    if not kappas:
        return np.full(len(weights), np.nan)
    table = np.stack(kappas)
    defined = np.isfinite(table)
    return _ratio(np.where(defined, table, 0).sum(axis=0), defined.sum(axis=0))


def _beyond_chance(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return _ratio(observed - expected, 1 - expected)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below; NaN where below is zero up to rounding, since no statistic is defined then."""
    below = np.broadcast_to(below, above.shape).astype(float)
    defined = below > 1e-12
    return np.where(defined, above / np.where(defined, below, 1), np.nan)


def _interval(values: np.ndarray) -> Interval:
    """values: [1 + draws], the statistic itself first."""
    drawn = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or len(drawn) < (1 - _TAIL) * len(values[1:]) or not len(drawn) or not np.ptp(drawn):
        return Interval(value=float(values[0]), low=float("nan"), high=float("nan"))
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL])
    return Interval(value=float(values[0]), low=float(low), high=float(high))
