"""What a measure of explanations is asked about, and what a measure is. A measure is one file in this folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, dataclass_transform

import torch
from pydantic import PlainValidator
from torch import Tensor

from advex import registry
from advex.attacks import Search, as_search
from advex.classifier import Classifier
from advex.data.evidence import Evidence
from advex.distances import Distance, as_distance
from advex.errors import InputError
from advex.inputs import check_wrapped
from advex.options import with_options
from advex.types import Better as Better
from advex.types import Explainer, Explanation

Of = Literal["placed", "faithful", "stable", "shape", "randomised"]
Need = Literal["evidence", "model", "explainer"]
T = TypeVar("T")
Made = TypeVar("Made", bound=type)

# Options that are given as a spec string, which is checked, or as the thing itself.
SearchOption = Annotated[Search | str, PlainValidator(lambda value: as_search(value) and value)]
DistanceOption = Annotated[Distance | str, PlainValidator(lambda value: as_distance(value) and value)]

NO_EVIDENCE = "the data do not locate the labelled object"
UNDEFINED = "not defined for this map"
ZERO, EQUAL = "the map is zero", "all elements of the map are equal in size"
CONSTANT, NO_GRADIENT = "the map at the input is constant", "no gradient reached the input"
CONSTANT_MAPS = frozenset({ZERO, EQUAL, CONSTANT, NO_GRADIENT})


@dataclass(frozen=True, kw_only=True)
class Value:
    """What one figure of a measure is called, which direction is good, and its unit ("" where it has none).

    rate: it is a share of hits, 1 each (of ties a part), so that its interval is Wilson's.
    baseline: it is what something that looks at no map has, which the measure's first value should exceed: its name.
    """

    title: str
    better: Better
    unit: str = ""
    rate: bool = False
    baseline: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The values of one measure. value: [n], or several by name; NaN where undefined.

    undefined: reason -> [n] bool, the rows that have no value for that reason. A measure may name rows here whose value
    it computed all the same; `apply` makes them NaN, and gives a reason to those NaN that have none.
    partly: reason -> [n] bool, rows of which some values are NaN for that reason and the others stand.
    moved: (inputs, maps there), both like x: where each row has its value, for a report to show. Of measures that say
    `moves = True`. wanted: like x, the maps towards which they were moved. trace: what was seen on the way: step -> [n]
    values, or maps [n, *places]. Of measures that say `traces = True`. parts: [n, k], of measures that `settle`, what
    they need of each row; NaN of rows without evidence.
    """

    value: Tensor | Mapping[str, Tensor]
    undefined: Mapping[str, Tensor] = field(default_factory=dict)
    partly: Mapping[str, Tensor] = field(default_factory=dict)
    moved: tuple[Tensor, Tensor] | None = None
    wanted: Tensor | None = None
    parts: Tensor | None = None
    trace: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def values(self) -> Mapping[str, Tensor]:
        """The values by name; the one value of a measure of one figure has the name ""."""
        return {"": self.value} if isinstance(self.value, Tensor) else self.value


@dataclass(frozen=True, kw_only=True)
class Case:
    """A classifier, inputs, and one explainer's maps of them: all that a measure may look at.

    x: [n, *shape], y: [n] labels. explanation.target: [n], the class explained. evidence: where the labelled thing
    lies, of data that say so; else None. max_batch: inputs at a time, as explainers and searches take it.
    """

    classifier: Classifier
    x: Tensor
    y: Tensor
    explainer: Explainer
    explanation: Explanation
    evidence: Evidence | None = None
    seed: int = 0
    max_batch: int | str | None = None
    _shared: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_wrapped(self.classifier, "A measure")

    def __len__(self) -> int:
        return len(self.x)

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What several measures need of this case and what is dear: made once for each key."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    @cached_property
    def confidences(self) -> Tensor:
        """[n, classes] at x, computed once for all measures."""
        return self.classifier.predict(self.x)

    @cached_property
    def maps(self) -> Tensor:
        """[n, d] float64: the explanation's maps, each as one list of numbers."""
        return self.explanation.map.detach().flatten(1).to(torch.float64)

    @cached_property
    def located(self) -> Tensor:
        """[n] bool: the data say where in the picture the labelled thing lies."""
        known = torch.zeros(len(self), dtype=torch.bool) if self.evidence is None else self.evidence.located
        return known.to(self.x.device)

    @cached_property
    def evidence_mask(self) -> Tensor:
        """[n, height, width] bool: the pixels of the labelled thing by its outline, else its boxes; none if unknown."""
        masks = torch.zeros(len(self), *self.x.shape[-2:], dtype=torch.bool)
        for i, mask in enumerate(masks if self.evidence is not None else ()):
            mask |= self.evidence.mask(i, mask.shape)  # pyright: ignore
        return masks.to(self.x.device)

    @cached_property
    def covered(self) -> Tensor:
        """[n] float64: the share of the picture that the labelled thing fills, as the data say, else of its mask."""
        share = None if self.evidence is None else self.evidence.share
        filled = self.evidence_mask.flatten(1).double().mean(dim=1) if share is None else share.double()
        return filled.to(self.x.device)

    def explain(self, x: Tensor, classifier: Classifier | None = None) -> Tensor:
        """The same explainer's maps elsewhere, or of another classifier (a randomised one, say): like x."""
        model = self.classifier if classifier is None else classifier
        return self.explainer(model, x, self.explanation.target, seed=self.seed, max_batch=self.max_batch).map.detach()

    def confidence(self, x: Tensor) -> Tensor:
        """[n] of the explained class at x."""
        return self.classifier.predict(x).gather(1, self.explanation.target[:, None])[:, 0]


class Measure(Protocol):
    """A frozen dataclass whose call gives [n] values, NaN where undefined; row i depends on example i alone.

    Facts beside the formula, as class attributes. title, better, unit, rate: of its one figure (see `Value`); a measure
    of several figures has `values` (name -> Value) instead, and returns its values by those names. of: what it judges.
    needs: what it uses of the case beyond the map; without evidence a measure that needs it is undefined, and is not
    called.
    Facts that are optional and tested where they are given: scale_free, whether a map times a number has the same
    values; example, a map (its elements) that is better and one that is worse; moves and traces, whether it gives
    `moved` and `trace`.
    check(case), a method that raises for a model or inputs that it cannot be asked about, is called before all work.
    A measure whose values hang on all examples together (a threshold that is chosen on some and judged on others) has
    `settle(parts) -> Measured`: its call settles the parts [n, k] of the case alone, an evaluation those of all
    examples. Of such a measure row i of the parts, rather than of the values, depends on example i alone.
    Where what hangs on all examples is to be part of the intervals, it has `resampled(parts, counts)` as well: the
    mean of each value, [b] by name, over examples of which each was drawn so many times, counts [b, n], and on which
    all is chosen and weighed anew. Where a row's value hangs on the other rows' maps, `paired(first, second)` gives
    what it adds to the difference of two explainers' figures, [n] by name, of their parts: 0 where they are equal.
    """

    of: ClassVar[Of]
    needs: ClassVar[frozenset[Need]]

    def __call__(self, case: Case) -> Tensor | Mapping[str, Tensor] | Measured: ...


@dataclass_transform(frozen_default=True, kw_only_default=True)
def measure(name: str, *, cites: str = "", examples: Sequence[str] = ()) -> Callable[[Made], Made]:
    """Class decorator: register a `Measure` by name. The class has its options as fields (see `options`).

    examples: see `registry.register`.
    """
    return lambda made: registry.register("measure", name, cites=cites, examples=examples)(with_options(made))


def apply(measure: Measure, case: Case) -> Measured:
    """What a measure says of a case: float64 on the CPU, and exactly one reason for each row with an undefined value.

    Raises InputError for a measure that does not return a value per example under each of its names.
    """
    lacking = ~case.located.cpu() if "evidence" in measure.needs else torch.zeros(len(case), dtype=torch.bool)
    if lacking.any() and lacking.all():
        nothing = torch.full((len(case),), math.nan, dtype=torch.float64)
        return Measured(value=dict.fromkeys(values_of(measure), nothing), undefined={NO_EVIDENCE: lacking})
    answer = measure(case)
    given = answer if isinstance(answer, Measured) else Measured(value=answer)
    shapes = {name: tuple(value.shape) for name, value in given.values.items()}
    if shapes != dict.fromkeys(values_of(measure), (len(case),)):
        names, kind = list(values_of(measure)), type(measure).__name__
        raise InputError(f"{kind} must return [{len(case)}] under each of the names {names}, but returned {shapes}.")
    reasons = {NO_EVIDENCE: lacking} | {reason: rows.cpu() for reason, rows in given.undefined.items()}
    refused = torch.stack(list(reasons.values())).any(dim=0)
    values = {
        name: value.detach().cpu().double().masked_fill(refused, math.nan) for name, value in given.values.items()
    }
    left = torch.stack([value.isnan() for value in values.values()]).any(dim=0)
    undefined, reasons = {}, reasons | {reason: rows.cpu() for reason, rows in given.partly.items()}
    for reason, rows in (reasons | _flaws(case.maps.cpu()) if left.any() else {}).items():
        if (rows & left).any():
            undefined[reason] = rows & left
        left = left & ~rows
    parts = None if given.parts is None else given.parts.detach().cpu().double()
    trace = {step: each.detach().cpu().double() for step, each in given.trace.items()}
    moved, wanted = given.moved, given.wanted
    return Measured(value=values, undefined=undefined, moved=moved, wanted=wanted, parts=parts, trace=trace)


def _flaws(maps: Tensor) -> dict[str, Tensor]:
    """What may keep a map [d] of maps [n, d] from being judged: reason -> [n] bool; the last holds for all."""
    size = maps.abs()
    return {
        "the map is not finite": ~torch.isfinite(maps).all(dim=1),
        ZERO: (size == 0).all(dim=1),
        EQUAL: (size == size[:, :1]).all(dim=1),
        UNDEFINED: torch.ones(len(maps), dtype=torch.bool),
    }


def build(spec: str) -> Measure:
    """The measure a spec string names, e.g. `"gini"`. Raises SpecError."""
    return registry.build("measure", spec)


def values_of(measure: Measure) -> Mapping[str, Value]:
    """What the figures of a measure are, by name; the figure of a measure of one has the name ""."""
    if hasattr(measure, "values"):
        return measure.values  # pyright: ignore
    facts = {"unit": getattr(measure, "unit", ""), "rate": getattr(measure, "rate", False)}
    return {"": Value(title=measure.title, better=measure.better, **facts)}  # pyright: ignore


def nothing(measure: Any, case: Case, reason: str) -> Measured:
    """No row has a value of a measure of several figures, for one reason."""
    value = dict.fromkeys(measure.values, torch.full((len(case),), math.nan))
    return Measured(value=value, undefined={reason: torch.ones(len(case), dtype=torch.bool)})
