"""What all maps share: the output they explain, gradients in passes of bounded size, the finished `Explanation`."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from advex.attacks.search import in_slices
from advex.classifier import Classifier, input_gradient, out_of_memory
from advex.errors import InputError, SpecError, did_you_mean
from advex.registry import describe
from advex.types import Explanation

# Which output of the class is explained: its logit, its softmax confidence, or the cross-entropy against it.
Of = Literal["logit", "probability", "loss"]

# Rows of a pass of the network where the user names none, for colour pictures of 32 x 32; of other inputs as many
# as have that many elements, and on a GPU more. Larger passes are slower on a CPU: their activations leave the cache.
ROWS = 48
FEWEST_ROWS = 8
ON_GPU = 16


def output(classifier: Classifier, x: Tensor, target: Tensor, of: Of) -> Tensor:
    """The explained number of each row, [n], for x [n, *shape] and classes target [n]. Checks no box: see `logits`."""
    return chosen_output(classifier.logits(x), target, of)


def every_output(logits: Tensor, of: Of) -> Tensor:
    """The number that `of` names for every class: [n, classes] from logits [n, classes]."""
    if of == "logit":
        return logits
    return logits.softmax(dim=1) if of == "probability" else -logits.log_softmax(dim=1)


def chosen_output(logits: Tensor, target: Tensor, of: Of) -> Tensor:
    """The number that `of` names for each row's own class: [n]. Raises InputError where there is no such class."""
    if logits.ndim != 2 or len(logits) != len(target):
        raise InputError(f"The network must return logits [{len(target)}, classes], not {tuple(logits.shape)}.")
    try:
        return every_output(logits, of).gather(1, target[:, None])[:, 0]
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise InputError(f"A target is a class in [0, {logits.shape[1]}): {error}") from None


def check_of(of: str) -> None:
    """Raise SpecError unless `of` names an output: for explainers' `__post_init__`."""
    if of not in get_args(Of):
        raise SpecError(f"There is no output of='{of}' to explain: {did_you_mean(str(of), get_args(Of))}")


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What an explainer's formula yields, before the mask.

    map: like x. completeness: [n], see `Explanation`. chosen: options whose value was found on the way, by name.
    """

    map: Tensor
    completeness: Tensor | None = None
    chosen: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AttributionRequest:
    """Which output of a classifier is explained, where, and in passes of what size.

    x: [n, *shape], n >= 1, checked. target: [n] int64. create_graph: gradients stay differentiable, in the
    parameters and in x. max_batch: rows of a pass; "auto" starts with all and halves when memory runs out;
    None: as many as suit the machine (`ROWS`).
    """

    classifier: Classifier
    x: Tensor
    target: Tensor
    of: Of = "logit"
    create_graph: bool = False
    max_batch: int | str | None = None

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
            total.index_add_(0, i, fold(gradient) * factor)

        self.passes(run, n * count)
        return total, outputs.reshape(n, count)

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


def explained(
    explainer: Any,
    attribute: Callable[[AttributionRequest], Attribution],
    classifier: Classifier,
    x: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    max_batch: int | str | None = None,
    create_graph: bool = False,
) -> Explanation:
    """Ask for a map in evaluation mode, with nothing of the user's model changed afterwards, and record how.

    explainer: the registered dataclass; `explainer.of`, where it has one, is the output explained. mask: bool,
    broadcastable to x, True where elements may count; the map is 0 elsewhere (its completeness error is that
    of the whole map). Without create_graph no graph is kept, and no parameter takes part in derivatives.
    Raises InputError for inputs that the classifier refuses, and for targets and masks that do not fit.
    """
    if not isinstance(target, Tensor) or target.shape != (len(x),) or target.is_floating_point():
        found = f"{target.dtype} {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
        raise InputError(f"The target needs one class number per example, int64 [{len(x)}], not {found}.")
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    with classifier.frozen(), torch.set_grad_enabled(create_graph):
        classifier.check(x)
        kept = None if mask is None else _like(mask, x)
        for parameter in trained:  # `frozen` puts the flags back
            parameter.requires_grad_(create_graph)
        question = AttributionRequest(
            classifier=classifier,
            x=x if create_graph else x.detach(),
            target=target.to(device=x.device, dtype=torch.int64),
            of=getattr(explainer, "of", "logit"),
            create_graph=create_graph,
            max_batch=max_batch,
        )
        found = _asked(attribute, question) if len(x) else Attribution(map=torch.zeros_like(x))
        values = found.map if kept is None else torch.where(kept, found.map, 0.0)
    return Explanation(
        map=values, target=question.target, method=record(explainer, **found.chosen), completeness=found.completeness
    )


def _asked(attribute: Callable[[AttributionRequest], Attribution], question: AttributionRequest) -> Attribution:
    """What the formula yields; what the network cannot take is told in the classifier's own sentence."""
    try:
        if question.target.amin() < 0:
            raise InputError(f"A target is a class in [0, classes); found {int(question.target.amin())}.")
        return attribute(question)
    except (IndexError, RuntimeError) as error:
        if not (isinstance(error, RuntimeError) and out_of_memory(error)):
            with torch.no_grad():
                question.classifier(question.x[:1])
        raise


def _like(mask: Tensor, x: Tensor) -> Tensor:
    try:
        return mask.to(device=x.device, dtype=torch.bool).expand(x.shape)
    except RuntimeError:
        shapes = f"{tuple(mask.shape)} does not broadcast to inputs {tuple(x.shape)}"
        raise InputError(f"A mask of shape {shapes}.") from None


def record(explainer: Any, **chosen: Any) -> str:
    """The explainer's spec string with automatic choices filled in; a tensor is told by its shape and a digest."""
    told = copy.copy(explainer)
    for name, value in {**vars(explainer), **chosen}.items():
        if isinstance(value, Tensor):
            digest = hashlib.blake2b(value.detach().cpu().contiguous().numpy().tobytes(), digest_size=4).hexdigest()
            value = f"tensor-{'x'.join(map(str, value.shape))}-{digest}"
        object.__setattr__(told, name, value)
    return describe(told)
