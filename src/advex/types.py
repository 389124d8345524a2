"""The nouns: frozen dataclasses of tensors, the example axis first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

__all__ = [
    "FLAT",
    "INCOMPLETE",
    "MISSES",
    "Batch",
    "Better",
    "Explainer",
    "Explanation",
    "Perturbation",
    "Rows",
    "Score",
    "concatenate",
    "take",
]

Rows = TypeVar("Rows")
Better = Literal["high", "low", "neither"]  # which direction of a figure is good


@dataclass(frozen=True, kw_only=True, repr=False)
class Batch:
    """Examples and their labels.

    x: [n, *shape] float in data space. y: [n] int64. index: [n] int64, their numbers in the data set.
    weight: [n] float, what the cross-entropy of each is multiplied by; None: all count the same. whole: of how many
    examples these are one process's share; None: unknown.
    """

    x: Tensor
    y: Tensor
    index: Tensor | None = None
    weight: Tensor | None = None
    whole: int | None = None

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Batch({_inputs(self.x)})"


@dataclass(frozen=True, kw_only=True, repr=False)
class Perturbation:
    """What a search found, one row per example.

    clean, delta: [n, *shape] in data space; `clean + delta` is the changed input.
    reached: [n] bool, the goal holds at the changed input, judged again by `attacks.verify`.
    size: [n] in the search's norm, `inf` where the goal was not reached.
    rmse: [n] root mean square of delta, `inf` where the goal was not reached. Both are shares of the box's width (1 is
    black to white); of tables, whose columns have ranges of their own, in the columns' units.
    gradients: [n] int64, how often the search took the goal's loss with its gradient at the example.
    queries: [n] int64, how often it took the goal's loss or verdict there without a gradient: steps without gradients,
    bisections, the last look. What other rows of the batch cost is not counted, nor the last verdict of `verify`.
    flat: [n] bool, the goal's gradient vanished somewhere on the way, of a goal without an end everywhere: the search
    was blind there. False where it needs no gradients.
    weight: [n], of the perceptual term, where the search has one (`attacks.Perceptual`); else None.
    """

    clean: Tensor
    delta: Tensor
    reached: Tensor
    size: Tensor
    rmse: Tensor
    gradients: Tensor
    queries: Tensor
    flat: Tensor
    weight: Tensor | None = None

    @property
    def adversarial(self) -> Tensor:
        """[n, *shape] the changed input."""
        return self.clean + self.delta

    def __len__(self) -> int:
        return len(self.reached)

    def __repr__(self) -> str:
        reached = self.size[self.reached]
        size = f", median size {reached.double().quantile(0.5):.3g}" if len(reached) else ""
        return f"Perturbation({_inputs(self.clean)}: {len(reached)} reached{size})"


# What is said wherever a doubtful explanation is shown.
FLAT = "no gradient reached the input, so this is not an explanation"
INCOMPLETE = "the map misses the change of output that it should add up to by more than a tenth"
MISSES = 0.1


@dataclass(frozen=True, kw_only=True, repr=False)
class Explanation:
    """An answer to "why this class?", one row per example.

    map: like x, what was changed or how much each input element counts (signed).
    target: [n] the class explained. method: the explainer's record.
    picture: like x, the explanation as a valid input, where it is one.
    before, after: [n, classes] softmax confidences at x and at the picture.
    rmse: [n] root mean square of `picture - x`, as a share of the box's width.
    completeness: [n] sum of the map less the change of output that it is meant to add up to, where the
    method promises that the two are equal (a numerical error, then, and a measure of it).
    flat: [n] bool, derivatives are used, and none of them reached the input, or one was not finite: the map says
    nothing (a changed picture is then the input itself).
    incomplete: [n] bool, `completeness` is large beside that change: see `INCOMPLETE`.
    weight: [n], of the perceptual term, where the method chose it for each row (`perceptual=auto`); else None.
    """

    map: Tensor
    target: Tensor
    method: str
    picture: Tensor | None = None
    before: Tensor | None = None
    after: Tensor | None = None
    rmse: Tensor | None = None
    completeness: Tensor | None = None
    flat: Tensor | None = None
    incomplete: Tensor | None = None
    weight: Tensor | None = None

    def method_of(self, row: int) -> str:
        """The record of one row: `method`, with what was chosen for this row."""
        chosen = None if self.weight is None else f"perceptual={self.weight[row]:g}"
        return self.method if chosen is None else self.method.replace("perceptual=auto", chosen)

    def __len__(self) -> int:
        return len(self.target)

    def __repr__(self) -> str:
        classes = [f"class {target}" for target in self.target.tolist()[:1]]
        if classes and self.before is not None and self.after is not None:
            before, after = (100 * float(each[0, self.target[0]]) for each in (self.before, self.after))
            classes = [f"{classes[0]} {before:.0f} % -> {after:.0f} %"]
        more = ["..."] if len(self) > 1 else []
        return f"Explanation({self.method.partition(':')[0]}, {_inputs(self.map)}: {', '.join([*classes, *more])})"

    def doubts(self) -> dict[str, Tensor]:
        """Reasons not to trust the map, in words, and the rows [n] bool of which each is true."""
        rows = {FLAT: self.flat, INCOMPLETE: self.incomplete}
        return {words: which for words, which in rows.items() if which is not None and bool(which.any())}


class Explainer(Protocol):
    """(classifier, x, target) -> Explanation; target: [n] int64, the class that is explained."""

    def __call__(
        self,
        classifier: Any,
        x: Tensor,
        target: Tensor,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
    ) -> Explanation: ...


@dataclass(frozen=True, kw_only=True)
class Score:
    """A measured value with its 95 % interval.

    values: [n] one per example, NaN where undefined. value: the summary. low, high: the interval.
    n: examples that counted. better: which direction is good. failures: examples that a search
    could not settle (counted here, never scored zero).
    """

    name: str
    values: Tensor
    value: float
    low: float
    high: float
    n: int
    better: Better
    failures: int = 0

    def summary(self) -> dict[str, float | int]:
        """Plain numbers, for JSON and tables."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "failures": self.failures}

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n={self.n})"


def _inputs(x: Tensor) -> str:
    """How many, and of which shape.

    >>> _inputs(torch.zeros(4, 3, 32, 32))
    '4 inputs 3x32x32'
    """
    return f"{len(x)} input{'s' * (len(x) != 1)} {'x'.join(map(str, x.shape[1:]))}"


def take(rows: Rows, index: Tensor | slice) -> Rows:
    """The chosen rows of a dataclass of tensors (fields without rows are kept as they are).

    >>> take(Batch(x=torch.eye(3), y=torch.arange(3)), torch.tensor([2])).y
    tensor([2])
    """
    chosen = {
        field.name: value[index]
        for field in dataclasses.fields(rows)  # pyright: ignore[reportArgumentType]
        if isinstance(value := getattr(rows, field.name), Tensor) and value.ndim
    }
    return dataclasses.replace(rows, **chosen)  # pyright: ignore[reportArgumentType]


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Rows of several dataclasses of one kind, end to end. The inverse of `take` over slices."""
    first = parts[0]
    joined: dict[str, Any] = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(first)  # pyright: ignore[reportArgumentType]
        if isinstance(getattr(first, field.name), Tensor)
    }
    return dataclasses.replace(first, **joined)  # pyright: ignore[reportArgumentType]
