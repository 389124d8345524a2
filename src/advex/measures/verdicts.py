"""Whether measures of explanations know the truth: dose and response where the evidence is planted.

A measure is asked about maps that are known to be right to some part. Each puts a share q of the area of one patch on
the patch that tells the class, and the rest on one that means nothing: all have one shape, one size and one sparsity,
and differ in truth alone. A measure that knows the truth rises with q; one of shape cannot. First it is made sure that
the network does use the patch, since otherwise a right measure would "fail".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advex import artifacts, registry
from advex.classifier import Classifier
from advex.data.evidence import Evidence
from advex.data.published.planted import PATCH, Planted, drawn
from advex.errors import AdvexError
from advex.measures.case import Case, Measure, apply, values_of
from advex.types import Explanation

NETWORK = "builtin:planted"
AMPLITUDES = (0.16, 0.05)  # of the patches: easily seen, and hardly
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)
ABOUT_TRUTH = ("placed", "faithful")  # what a measure is `of` that claims to know
_TAU, _P, _RIGHT = 0.5, 0.001, 0.9
_ABOVE, _REMOVED, _ALONE = 0.1, 0.02, 0.98


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one figure of a measure knows, by amplitude.

    tau: mean of Kendall's tau-b with the dose. p: of a one-sided signed-rank test that the taus are above 0. right: the
    share of pictures in which the map on the evidence is better than that on the other patch. resolution: what of the
    whole response the first quarter of misplaced area costs. n: pictures.
    """

    tau: tuple[float, ...]
    p: tuple[float, ...]
    right: tuple[float, ...]
    resolution: tuple[float, ...]
    n: tuple[int, ...]

    @property
    def validated(self) -> bool:
        """It rises with the truth: tau at least 0.5 (p < 0.001), right in 90 % of the pictures, at each amplitude."""
        values = zip(self.tau, self.p, self.right, strict=True)
        return all(tau >= _TAU and p < _P and right >= _RIGHT for tau, p, right in values)


@cache
def known() -> dict[str, Verdict]:
    """The verdicts of advex's own measures that come with it (`advex doctor --measures` finds them again)."""
    plain = json.loads((Path(__file__).parent / "verdicts.json").read_text(encoding="utf-8"))
    return {name: Verdict(**{key: tuple(value) for key, value in each.items()}) for name, each in plain.items()}


def standing(spec: str) -> str:
    """What is known of a measure's worth, in words: validated, not validated, or not about truth.

    spec: of the measure; one with other options than its defaults is not validated. One of several figures is validated
    if all that have a good direction are. Raises SpecError for a spec that names no measure.
    """
    measure, name = registry.build("measure", spec), spec.partition(":")[0]
    if measure.of not in ABOUT_TRUTH:
        return "not about truth"
    figures = [
        f"{name}_{figure}".rstrip("_") for figure, value in values_of(measure).items() if value.better != "neither"
    ]
    judged = measure == registry.build("measure", name)
    return (
        "validated" if judged and all(key in known() and known()[key].validated for key in figures) else "not validated"
    )


def verdicts(measures: Mapping[str, Measure], *, n: int = 100, seed: int = 0) -> dict[str, Verdict]:
    """What each figure of some measures knows: name -> verdict; a figure of several is named MEASURE_FIGURE.

    Of measures of place and of faithfulness; others are left out, since they do not claim to know. n: pictures of each
    amplitude. Raises AdvexError where the network does not use the planted patch as its evidence.
    """
    classifier = artifacts.load(NETWORK)
    responses: dict[str, list[np.ndarray]] = {}
    for number, amplitude in enumerate(AMPLITUDES):
        made = drawn(
            n, classes=4, side=32, amplitude=amplitude, mark=False, informative=True, seed=(seed, 100 + number)
        )
        check_evidence(classifier, made, strong=amplitude == max(AMPLITUDES))
        for name, values in _responses(classifier, made, measures, seed):
            responses.setdefault(name, []).append(values)
    return {name: _verdict(values) for name, values in responses.items()}


def check_evidence(classifier: Classifier, made: Planted, *, strong: bool) -> None:
    """Raise AdvexError unless the planted patch is what the network answers by.

    Its class must have at least 10 % more confidence than chance, without the patch at most 2 % more, and with the
    patch alone, where it is easily seen, at least 98 % of the whole.
    """
    x, y = _inputs(made), torch.from_numpy(made.labels)
    patch = _masks(made, 0)[:, None]
    whole, without, alone = (
        float(classifier.predict(each).gather(1, y[:, None]).mean())
        for each in (x, torch.where(patch, 0.5, x), torch.where(patch, x, 0.5))
    )
    chance = 1 / classifier.predict(x[:1]).shape[1]
    if whole < chance + _ABOVE or without > chance + _REMOVED or (strong and alone < _ALONE * whole):
        raise AdvexError(
            "The network does not rely on the planted patch, so measures cannot be judged on it: the mean "
            f"confidence in its class is {whole:.3f}, {without:.3f} without the patch (chance {chance:.3f}), "
            f"and {alone:.3f} with the patch alone."
        )


def _inputs(made: Planted) -> Tensor:
    return torch.from_numpy(made.pictures).float() / 255


def _masks(made: Planted, patch: int, rows: slice = slice(None)) -> Tensor:
    """[n, height, width] bool: some rows of one of each picture's patches."""
    masks = np.zeros((len(made.labels), *made.pictures.shape[2:]), dtype=bool)
    for mask, (row, column) in zip(masks, made.patches[:, patch], strict=True):
        mask[row : row + PATCH, column : column + PATCH][rows] = True
    return torch.from_numpy(masks)


def _responses(
    classifier: Classifier, made: Planted, measures: Mapping[str, Measure], seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Each figure's values [n, doses], turned so that high is good."""
    x, y = _inputs(made), torch.from_numpy(made.labels)
    evidence = Evidence(
        boxes=tuple(
            torch.tensor([[column, row, column + PATCH - 1, row + PATCH - 1]])
            for row, column in made.patches[:, 0].tolist()
        )
    )
    cases = []
    for dose in DOSES:
        share = round(dose * PATCH)
        on = _masks(made, 0, slice(share)) | _masks(made, 1, slice(share, None))
        values = on[:, None].to(x).expand(x.shape)
        given: Any = Explanation(map=values, target=y, method="planted")
        cases.append(
            Case(classifier=classifier, x=x, y=y, explainer=_given, explanation=given, evidence=evidence, seed=seed)
        )
    for name, measure in measures.items():
        if measure.of not in ABOUT_TRUTH or "explainer" in measure.needs:
            continue
        measured = [apply(measure, case).values for case in cases]
        for figure, value in values_of(measure).items():
            if value.better != "neither":
                values = torch.stack([each[figure] for each in measured], dim=1).numpy()
                yield f"{name}_{figure}".rstrip("_"), values if value.better == "high" else -values


def _given(*args: Any, **options: Any) -> Explanation:
    raise AdvexError("These maps were passed in: there is no explainer to run.")


def _verdict(responses: Iterable[np.ndarray]) -> Verdict:
    """responses: of each amplitude, values [n, doses]."""
    tau, p, right, resolution, n = zip(*map(_figures, responses), strict=True)
    return Verdict(tau=tau, p=p, right=right, resolution=resolution, n=n)


def _figures(values: np.ndarray) -> tuple[float, float, float, float, int]:
    from scipy import stats  # heavy: only here

    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        return 0.0, 1.0, 0.0, 0.0, 0
    answers: list[Any] = [stats.kendalltau(DOSES, row) for row in values]
    taus = np.nan_to_num([answer.statistic for answer in answers])  # of equal values: no response
    test: Any = stats.wilcoxon(taus, alternative="greater") if taus.any() else None
    p = 1.0 if test is None else float(test.pvalue)
    means = values.mean(axis=0)
    whole = means[-1] - means[0]
    resolution = float((means[-1] - means[-2]) / whole) if whole else 0.0
    return float(taus.mean()), p, float((values[:, -1] > values[:, 0]).mean()), resolution, len(values)
