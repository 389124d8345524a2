"""What no attack can undercut: certified radii by randomised smoothing, and how they stand to what attacks found.

A certificate is about the smoothed classifier (see `smoothing`), an attack on a network about the network.
Each radius is too large with probability `alpha` at most, over the noise that was drawn; `Certificate.overclaimed`
counts such radii. The intervals of scores are over the images that were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field
from scipy import special
from torch import Tensor

from advex.classifier import Classifier
from advex.errors import InputError
from advex.geometry import as_radius
from advex.measures.intervals import share_score
from advex.measures.robustness import accuracy_robustness_area, compare_areas
from advex.measures.smoothing import clopper_pearson, l2_radius, votes
from advex.options import Count, with_options
from advex.types import Score

ABSTAINED = -1


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What is certain of each example, on the CPU. The radius counts right answers: wrong and abstained ones have 0.

    prediction: [n] int64, the smoothed classifier's answer, -1 where it abstains: no class is sure of a majority.
    correct: [n] bool, the prediction is the label.
    radius_l2: [n] float64, within which the prediction stays the label; 0 where it is not.
    rmse: [n] float64, the same as root mean square: radius_l2 / sqrt(number of elements).
    candidate: [n] int64, the class that the first draws chose (-1: none). hits: [n] int64, how many of
    `samples` further draws answered it. lower: [n] float64, the bound on its probability that follows.
    sigma, samples, alpha: as in `Certify`.
    """

    prediction: Tensor
    correct: Tensor
    radius_l2: Tensor
    rmse: Tensor
    candidate: Tensor
    hits: Tensor
    lower: Tensor
    sigma: float
    samples: int
    alpha: float

    def __len__(self) -> int:
        return len(self.prediction)

    @property
    def abstained(self) -> Tensor:
        """[n] bool: nothing was certain."""
        return self.prediction == ABSTAINED

    def overclaimed(self, certainty: float = 0.975) -> int:
        """How many of the radii may be too large, at most, with this certainty over the noise.

        Each is with probability alpha at most, independently of the others: a quantile of Binomial(n, alpha). Rows
        of the same bytes share their noise; they must be few.
        """
        wrong = 0
        while special.bdtr(wrong, len(self), self.alpha) < certainty:
            wrong += 1
        return wrong

    def __str__(self) -> str:
        return (
            f"{int(self.correct.sum())} of {len(self)} certified right, {int(self.abstained.sum())} abstained; each "
            f"radius holds with probability {1 - self.alpha:g} over the noise (sigma {self.sigma:g})"
        )


@with_options
class Certify:
    """Certified L2 radii by randomised smoothing.

    sigma: standard deviation of the noise, in data space. selection: draws that choose a class. samples: further draws
    that bound its probability. alpha: the risk that a row's statement is wrong. batch_size: noisy copies at a time;
    it changes speed and memory, not results.

    With k = samples no radius above sigma * Phi^-1(alpha^(1/k)) can be certified: 3.2 sigma by default.
    """

    sigma: Annotated[float, BeforeValidator(as_radius), Field(gt=0)] = 0.25
    selection: Count = 100
    samples: Count = 10_000
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    batch_size: Count = 256

    @property
    def largest(self) -> float:
        """The L2 radius when every draw agrees: no certificate is larger."""
        return l2_radius(clopper_pearson(self.samples, self.samples, self.alpha), self.sigma)

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        y: Tensor,
        *,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Certificate:
        """Certify each row. x: [n, *shape] in the box; y: [n] int64 labels.

        Row i depends on (seed, x[i], y[i]) alone, so long work can be cut anywhere: certify slices and put
        them together with `types.concatenate`. progress: called with (rows done, rows in all) after each.
        Raises InputError for inputs that the classifier refuses and labels that do not fit.
        """
        classifier.check(x)
        if y.shape != (len(x),) or y.is_floating_point():
            raise InputError(f"Labels must be integers, one per input: [{len(x)}], not {y.dtype} {tuple(y.shape)}.")
        rows: list[tuple[int, int]] = []
        with torch.no_grad(), classifier.frozen():
            if len(x):
                _check_labels(y, classifier(x[:1]).shape[1])
            for row in x.detach().split(1):
                if len(row):  # splitting nothing gives one empty part
                    rows.append(self._count(classifier, row, seed))
                    if progress is not None:
                        progress(len(rows), len(x))
        return self._certificate(rows, y.cpu(), classifier.width * math.sqrt(max(math.prod(x.shape[1:]), 1)))

    def _count(self, classifier: Classifier, row: Tensor, seed: int) -> tuple[int, int]:
        """The class chosen, and how often fresh draws answered it."""
        first = votes(classifier, row, self.sigma, self.selection, seed, "smoothing: selection", self.batch_size)
        if not first.any():  # every answer was NaN
            return ABSTAINED, 0
        candidate = int(first.argmax())
        then = votes(classifier, row, self.sigma, self.samples, seed, "smoothing: estimation", self.batch_size)
        return candidate, int(then[candidate])

    def _certificate(self, rows: list[tuple[int, int]], y: Tensor, corner: float) -> Certificate:
        candidate, hits = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).unbind(dim=1)
        bounds = [clopper_pearson(k, self.samples, self.alpha) for k in hits.tolist()]
        lower = torch.tensor(bounds, dtype=torch.float64)
        prediction = torch.where(lower > 0.5, candidate, ABSTAINED)
        correct = prediction == y
        radii = torch.tensor([l2_radius(bound, self.sigma) for bound in bounds], dtype=torch.float64)
        radius = torch.where(correct, radii, 0.0)
        return Certificate(
            prediction=prediction,
            correct=correct,
            radius_l2=radius,
            rmse=radius / corner,
            candidate=candidate,
            hits=hits,
            lower=lower,
            sigma=self.sigma,
            samples=self.samples,
            alpha=self.alpha,
        )


def _check_labels(y: Tensor, classes: int) -> None:
    if int(y.min()) < 0 or int(y.max()) >= classes:
        span = f"[{int(y.min())}, {int(y.max())}]"
        raise InputError(f"Labels must lie in [0, {classes}), the classifier's classes, not in {span}.")


def certified_accuracy(certificate: Certificate, rmse: float = 0.0) -> Score:
    """Share of examples whose answer is right and stays so within a root mean square change of `rmse`.

    The interval is Wilson's, over images. The curve over all radii is `accuracy_curve(certificate.rmse)`.
    """
    return share_score("certified accuracy", certificate.rmse > rmse)


def certified_area(certificate: Certificate, chance: float, *, overclaimed: int = 0, seed: int = 0) -> Score:
    """The accuracy-robustness area that is certain: that of the certified radii, in RMSE.

    The interval is over images, with the radii as they are. overclaimed: take so many of the largest radii for 0.
    With `certificate.overclaimed()` that is the least that can be true of these images, whichever rows the noise
    flattered (with that certainty).
    chance: share of the largest class. Raises InputError as `accuracy_robustness_area` does.
    """
    if overclaimed < 0:
        raise InputError(f"overclaimed must be a number of examples of at least 0, not {overclaimed}.")
    rmse = certificate.rmse.clone()
    rmse[rmse.argsort(descending=True)[:overclaimed]] = 0.0
    return replace(accuracy_robustness_area(rmse, chance, seed=seed), name="certified ara")


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """A model between what is certified and what an attack reached, on the same images.

    certified, attacked: areas with their intervals. gap: attacked minus certified, paired.
    crossed: [n] bool, the attack's change is smaller than the certified radius. For one and the same
    classifier that happens at a rate of alpha at most. For a network and its smoothed form it shows where they differ.
    """

    certified: Score
    attacked: Score
    gap: Score
    crossed: Tensor

    def __str__(self) -> str:
        return f"[{self.certified.value:.4g}, {self.attacked.value:.4g}], {int(self.crossed.sum())} crossed"


def bracket(certificate: Certificate, attacked: Tensor, chance: float, *, seed: int = 0) -> Bracket:
    """The areas [certified, attacked] of one model. attacked: [n], the RMSE that a search found for each example.

    They bound one thing only if the attack was on the smoothed classifier. Raises InputError unless rows match.
    """
    rmse = attacked.detach().cpu().double()
    gap = compare_areas(rmse, certificate.rmse, chance, seed=seed)  # checks both
    return Bracket(
        certified=certified_area(certificate, chance, seed=seed),
        attacked=accuracy_robustness_area(rmse, chance, seed=seed),
        gap=replace(gap, name="attacked ara - certified ara", better="low"),
        crossed=rmse < certificate.rmse,
    )
