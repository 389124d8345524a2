"""What an explainer's formula is given, and what it yields: gradients and logits in passes of bounded size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from advex.attacks.attack import in_slices
from advex.classifier import Classifier, input_gradient
from advex.explainers.outputs import Of, output
from advex.types import take

# Rows of a pass of the network where the user names none, for colour pictures of 32 x 32; of other inputs as many
# as have that many elements, and on a GPU more. Larger passes are slower on a CPU: their activations leave the cache.
ROWS = 48
FEWEST_ROWS = 8
ON_GPU = 16


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What an explainer's formula yields, before the mask.

    map: like x. picture: like x, the changed input, where the map is a change. completeness, flat: [n], see
    `Explanation`; flat may be left out where all derivatives are taken by `AttributionRequest.gradients`.
    warned: it has been said that the map misses its sum. chosen: options whose value was found on the way, by name.
    weight: [n], see `Explanation`. incomplete: [n], see `Explanation`, where another explainer has found it out.
    """

    map: Tensor
    picture: Tensor | None = None
    completeness: Tensor | None = None
    flat: Tensor | None = None
    warned: bool = False
    chosen: dict[str, Any] = field(default_factory=dict)
    weight: Tensor | None = None
    incomplete: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class AttributionRequest:
    """Which output of a classifier is explained, where, and in passes of what size.

    x: [n, *shape], n >= 1, checked. target: [n] int64. seed: of everything random. mask: like x, bool, where elements
    may count (the finished map is 0 elsewhere), or None. create_graph: gradients stay differentiable, in the
    parameters and in x. max_batch: rows of a pass; "auto" starts with all and halves when memory runs out;
    None: as many as suit the machine (`ROWS`). slopes: of each pass of `gradients`, its examples and how steep it was.
    """

    classifier: Classifier
    x: Tensor
    target: Tensor
    of: Of = "logit"
    seed: int = 0
    mask: Tensor | None = None
    create_graph: bool = False
    max_batch: int | str | None = None
    slopes: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False)

    def gradients(
        self,
        points: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | float]],
        count: int = 1,
        fold: Callable[[Tensor], Tensor] = lambda gradient: gradient,
    ) -> tuple[Tensor, Tensor]:
        """sum_k factor(i, k) * fold(d output_i / dx at point(i, k)) for each example i, and the outputs [n, count].

        points: (i, k), both [rows] int64 -> (points [rows, *shape], factor that broadcasts against them). The
        n * count points exist pass by pass only, and their gradients as a running sum: like x.
        """
        n = len(self.x)
        total, outputs = torch.zeros_like(self.x), self.x.new_zeros(n * count)

        def run(rows: slice) -> None:
            row = torch.arange(rows.start, min(rows.stop, n * count), device=self.x.device)
            i, k = row // count, row % count
            at, factor = points(i, k)
            gradient, values = input_gradient(
                lambda at: output(self.classifier, at, self.target[i], self.of), at, create_graph=self.create_graph
            )
            outputs[row] = values.detach()
            self.slopes.append((i, gradient.detach().flatten(1).abs().amax(dim=1)))
            total.index_add_(0, i, fold(gradient) * factor)

        self.passes(run, n * count)
        return total, outputs.reshape(n, count)

    def blind(self, rows: Tensor) -> Tensor:
        """[n] bool: those of `rows` [n] bool in which the plain gradient of the output is zero or not finite."""
        if not rows.any():
            return rows
        some = replace(take(self, rows), slopes=[])
        some.gradients(lambda i, k: (some.x[i], 1.0))
        return rows.masked_scatter(rows, some.flat)

    @property
    def flat(self) -> Tensor:
        """[n] bool: the gradients taken of the example were all zero, or one was not finite."""
        slope = self.x.new_zeros(len(self.x))
        for i, steepness in self.slopes:
            slope.index_add_(0, i, steepness)
        return (~(slope > 0) | ~slope.isfinite()) if self.slopes else torch.zeros_like(slope, dtype=torch.bool)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Logits [m, classes] at any x [m, *shape], without derivatives, in passes of the same size."""
        parts: list[Tensor] = []
        self.passes(lambda rows: parts.append(self.classifier.logits(x[rows])), len(x))
        return torch.cat(parts)

    def passes(self, run: Callable[[slice], None], n: int) -> None:
        """Call run(rows) over n rows, `max_batch` at a time. It may be called again where memory ran out."""
        for _ in in_slices(run, n, rows_of_a_pass(self.x) if self.max_batch is None else self.max_batch):
            pass


def rows_of_a_pass(x: Tensor) -> int:
    """How many rows like those of x [n, *shape] go through the network at once: see `ROWS`."""
    scale = ON_GPU if x.is_cuda else 1
    return max(FEWEST_ROWS, scale * ROWS * 3 * 32 * 32 // max(1, math.prod(x.shape[1:])))
