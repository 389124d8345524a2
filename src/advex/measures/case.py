"""What a measure of explanations is asked about, and what one is. A measure is one file in this folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from advex import registry
from advex.classifier import Classifier
from advex.data.evidence import Evidence
from advex.types import Explainer, Explanation

Better = Literal["high", "low", "neither"]
Of = Literal["placed", "faithful", "stable", "shape", "randomised"]
Need = Literal["evidence", "model", "explainer"]


@dataclass(frozen=True, kw_only=True)
class Value:
    """What one figure of a measure is called, which direction is good, and its unit ("" where it has none)."""

    title: str
    better: Better
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The values of one measure. value: [n], or several by name; NaN where undefined.

    undefined: reason -> [n] bool, for the rows whose values are NaN for that reason. A NaN without a reason is counted
    as "not defined for this map".
    """

    value: Tensor | Mapping[str, Tensor]
    undefined: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A classifier, inputs, and one explainer's answer about them: all that a measure may look at.

    x: [n, *shape], y: [n] labels. explanation.target is the class asked about. evidence: where the thing lies, of data
    that say so; else None.
    """

    classifier: Classifier
    x: Tensor
    y: Tensor
    explainer: Explainer
    explanation: Explanation
    evidence: Evidence | None = None
    seed: int = 0
    max_batch: int | str | None = None

    @cached_property
    def confidences(self) -> Tensor:
        """[n, classes] at x, asked once for all measures."""
        return self.classifier.predict(self.x)

    @cached_property
    def maps(self) -> Tensor:
        """[n, d] float64, the explanation's maps as one list each."""
        return self.explanation.map.detach().flatten(1).to(torch.float64)

    def explain(self, x: Tensor, classifier: Classifier | None = None) -> Tensor:
        """The same explainer's maps elsewhere, or of another classifier (a randomised one, say): like x."""
        ask = self.classifier if classifier is None else classifier
        return self.explainer(ask, x, self.explanation.target, seed=self.seed, max_batch=self.max_batch).map.detach()

    def confidence(self, x: Tensor) -> Tensor:
        """[n] of the explained class at x."""
        return self.classifier.predict(x).gather(1, self.explanation.target[:, None])[:, 0]


class Measure(Protocol):
    """A registered frozen dataclass whose call gives [n] values, NaN where undefined; row i depends on example i alone.

    title, better, unit: of its one figure; a measure of several has `values` (name -> Value) instead, and returns its
    values by those names. of: what it judges. needs: what it asks of the case beyond the map.
    """

    of: ClassVar[Of]
    needs: ClassVar[frozenset[Need]]

    def __call__(self, case: Case) -> Tensor | Mapping[str, Tensor] | Measured: ...


def build(spec: str) -> Measure:
    """The measure a spec string names, e.g. `"gini"`. Raises SpecError."""
    return registry.build("measure", spec)


def values_of(measure: Measure) -> Mapping[str, Value]:
    """What a measure's figures are, by name; a measure of one figure has the one name ""."""
    if hasattr(measure, "values"):
        return measure.values  # pyright: ignore
    return {"": Value(title=measure.title, better=measure.better, unit=getattr(measure, "unit", ""))}  # pyright: ignore
