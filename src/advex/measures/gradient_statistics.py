"""How fast outputs may change with the input, and how well that predicts how far a search moved them.

Woods et al. 2019, Sec. III-B, take the locally linear estimate (their Eq. 8)

    E|dy_i| <~ N E|dx_j| E|dy_i/dx_j|,    N input elements,

as a guide to which derivatives to aim for. If both means are of the same row, the right side is the most that a
change of equal size in all elements does to a linear output (Hoelder's inequality, L-inf against L1). A change of a
given RMSE can do more: then the root mean square of the derivatives takes the place of their mean (Cauchy-Schwarz),
and a change along the gradient comes near that bound, beyond Eq. 8. Neither bounds a network that is not linear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advex import attacks
from advex.classifier import Classifier, input_gradient
from advex.errors import InputError
from advex.goals import Misclassify
from advex.measures.case import Case, Measured, Need, Of, SearchOption, Value, measure
from advex.measures.intervals import mean_score
from advex.randomness import generators
from advex.types import Perturbation, Score


@dataclass(frozen=True, kw_only=True)
class InputGradients:
    """|dy_c/dx_j| of logits with respect to inputs in data space, over the input elements j, on the CPU.

    classes: [n, k] int64, the classes c. mean, rms, largest: [n, k] float64, over j. elements: N.
    """

    classes: Tensor
    mean: Tensor
    rms: Tensor
    largest: Tensor
    elements: int

    def __len__(self) -> int:
        return len(self.classes)

    def score(self, of: Literal["mean", "rms", "largest"] = "mean") -> Score:
        """The mean over images, each counting the mean over its classes, with a bootstrap interval over images.

        For "largest" that is the paper's mean over images of the maximum over inputs.
        """
        return mean_score(f"{of} |dy/dx|", getattr(self, of).mean(dim=1), better="neither", failures=0)


def input_gradients(
    classifier: Classifier, x: Tensor, classes: Tensor | None = None, *, max_batch: int = 256
) -> InputGradients:
    """Mean, root mean square and maximum of |dy_c/dx_j| for each image and class.

    x: [n, *shape] in the box. classes: [n, k] int64, those to ask about (`drawn_classes`), or None: all.
    max_batch: gradients at a time. A gradient that is not finite gives NaN; scores leave out the image.
    Raises InputError for inputs that the classifier refuses and classes that it has not.
    """
    with classifier.frozen():
        classifier.check(x)
        with torch.no_grad():
            known = classifier(x[:1]).shape[1]
        if classes is None:
            classes = torch.arange(known, device=x.device).expand(len(x), known)
        if classes.ndim != 2 or len(classes) != len(x) or classes.shape[1] < 1 or classes.is_floating_point():
            raise InputError(f"Class indices must be integers [{len(x)}, k], not {tuple(classes.shape)}.")
        if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < known:
            raise InputError(f"Classes must lie in [0, {known}), not {int(classes.min())} to {int(classes.max())}.")
        outputs = classes.to(x.device).flatten()
        image = torch.arange(len(x), device=x.device).repeat_interleave(classes.shape[1])
        parts = [
            _sizes(classifier, x[rows], own)
            for rows, own in zip(image.split(max_batch), outputs.split(max_batch), strict=True)
        ]
    sizes = torch.cat(parts).cpu().reshape(*classes.shape, 3)
    mean, rms, largest = (sizes[:, :, i] for i in range(3))
    return InputGradients(classes=classes.cpu(), mean=mean, rms=rms, largest=largest, elements=math.prod(x.shape[1:]))


def _sizes(classifier: Classifier, x: Tensor, classes: Tensor) -> Tensor:
    """Mean, root mean square and maximum of the gradient of one logit each: [n, 3]."""

    def logit(changed: Tensor) -> Tensor:
        return classifier.logits(changed).gather(1, classes[:, None])[:, 0]

    gradient, _ = input_gradient(logit, x)
    size = gradient.detach().flatten(1).double().abs()
    if not len(size):
        return size.new_zeros(0, 3)
    sizes = torch.stack([size.mean(dim=1), size.square().mean(dim=1).sqrt(), size.amax(dim=1)], dim=1)
    return torch.where(torch.isfinite(sizes), sizes, math.nan)


def drawn_classes(x: Tensor, classes: int, count: int, *, seed: int = 0) -> Tensor:
    """`count` different classes for each row of x, drawn by its seed and bytes: [n, count] int64.

    Raises InputError unless 1 <= count <= classes.
    """
    if not 1 <= count <= classes:
        raise InputError(f"Between 1 and {classes} classes can be drawn, not {count}.")
    draws = [torch.randperm(classes, generator=rng)[:count] for rng in generators(x, seed, "drawn classes")]
    return torch.stack(draws) if draws else torch.empty(0, count, dtype=torch.int64)


def linear_change(gradients: InputGradients, size: Tensor | float, norm: Literal["linf", "rmse"]) -> Tensor:
    """The largest |dy_c| that a change of this size can make where the network is linear: [n, k].

    size: [n] or one, the change's largest element ("linf") or its root mean square ("rmse").
    "linf" with the mean of |dx_j| for the size is Eq. 8, which holds for changes that are as large everywhere.
    """
    if norm not in ("linf", "rmse"):
        raise InputError(f"The linear estimate supports only the norms linf and rmse, not {norm!r}.")
    slope = gradients.mean if norm == "linf" else gradients.rms
    return gradients.elements * torch.as_tensor(size, dtype=torch.float64).cpu().reshape(-1, 1) * slope


@dataclass(frozen=True, kw_only=True)
class OutputChange:
    """How far a search moved the logits of the label and of the new decision, and Eq. 8's estimate, per example.

    measured: [n], |dy_label| + |dy_new|. eq8: [n], Eq. 8 for the same two outputs. bound: [n], the most that a
    change of the same RMSE does to two linear outputs. mean_change: [n], mean |dx_j|. mean_gradient: [n], mean
    |dy_c/dx_j| over inputs and the two classes. All NaN where the search failed or had nothing to do.
    """

    measured: Tensor
    eq8: Tensor
    bound: Tensor
    mean_change: Tensor
    mean_gradient: Tensor
    elements: int
    failures: int

    def ratio(self) -> Score:
        """Measured change by Eq. 8's estimate. Above 1 the outputs moved more than Eq. 8 says: see the module."""
        values = self.measured / self.eq8
        values = torch.where(torch.isfinite(values), values, math.nan)  # a gradient of 0 says nothing
        return mean_score("measured change / Eq. 8", values, better="neither", failures=self.failures)

    def published(self) -> tuple[float, float]:
        """(Eq. 8, measured) as the paper has it: 2 N times the harmonic mean of the changes times the mean gradient.

        For its ResNet-18 on ImageNet these are 50.7 and 26.1. NaN where no example counts.
        """
        counts = ~self.measured.isnan()
        harmonic = 1 / (1 / self.mean_change[counts]).mean().item() if counts.any() else math.nan
        gradient = self.mean_gradient[counts].mean().item()
        return eq8(self.elements, harmonic, gradient, outputs=2), self.measured[counts].mean().item()


def eq8(elements: int, change: float, gradient: float, *, outputs: int = 1) -> float:
    """N E|dx_j| E|dy_i/dx_j|, for the sum over several outputs.

    >>> round(eq8(150_528, 0.0033, 0.051, outputs=2), 1)
    50.7
    """
    return elements * change * gradient * outputs


def output_change(classifier: Classifier, changed: Perturbation, y: Tensor, *, max_batch: int = 256) -> OutputChange:
    """Eq. 8's estimate against the change that a search made. changed: the decision, away from y [n].

    The gradients are those at the clean input. Rows whose search failed, and those that needed no change, do not
    count. Raises InputError unless rows match.
    """
    if y.shape != (len(changed),):
        raise InputError(f"Expected one label per example, [{len(changed)}], not {tuple(y.shape)}.")
    before, after = (_logits(classifier, x, max_batch) for x in (changed.clean, changed.adversarial))
    label = y.to(changed.clean.device)
    new = after.scatter(1, label[:, None], -math.inf).argmax(dim=1)
    pair = torch.stack([label, new], dim=1)
    gradients = input_gradients(classifier, changed.clean, pair, max_batch=max_batch)
    delta = changed.delta.detach().flatten(1).double().cpu()
    moved = changed.reached.cpu() & (delta != 0).any(dim=1)
    mean_change = delta.abs().mean(dim=1)

    def counted(values: Tensor) -> Tensor:
        return torch.where(moved, values, math.nan)

    return OutputChange(
        measured=counted((after - before).gather(1, pair).double().abs().sum(dim=1).cpu()),
        eq8=counted(linear_change(gradients, mean_change, "linf").sum(dim=1)),
        bound=counted(linear_change(gradients, delta.square().mean(dim=1).sqrt(), "rmse").sum(dim=1)),
        mean_change=counted(mean_change),
        mean_gradient=counted(gradients.mean.mean(dim=1)),
        elements=gradients.elements,
        failures=int((~changed.reached).sum()),
    )


@measure("input_gradients", cites="woods2019 Sec. III-B")
class GradientSize:
    """How fast the explained class's logit may change with the input: |dy_c/dx_j| over the input elements j."""

    of: ClassVar[Of] = "stable"
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    values: ClassVar[Mapping[str, Value]] = {
        "mean": Value(title="Input gradient, mean", better="neither"),
        "rms": Value(title="Input gradient, root mean square", better="neither"),
        "largest": Value(title="Input gradient, largest", better="neither"),
    }

    def __call__(self, case: Case) -> Measured:
        sizes = input_gradients(case.classifier, case.x, case.explanation.target[:, None])
        values = {name: getattr(sizes, name)[:, 0] for name in self.values}
        return Measured(value=values, undefined={"the gradient is not finite": values["mean"].isnan()})


@measure("output_change", cites="woods2019 Eq. 8", examples=("search=(pgd:radius=0.3,steps=10)",))
class LinearEstimate:
    """How far an attack moved the logits of the label and of the new decision, compared with the estimate of Eq. 8.

    search: spec of an attack, which changes the decision away from the label.
    """

    search: SearchOption = "minimal"

    of: ClassVar[Of] = "stable"
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    values: ClassVar[Mapping[str, Value]] = {
        "measured": Value(title="Output change, measured", better="neither", unit="logits"),
        "eq8": Value(title="Output change, by Eq. 8", better="neither", unit="logits"),
        "ratio": Value(title="Output change, measured / Eq. 8", better="neither"),
    }

    def __call__(self, case: Case) -> Measured:
        search = attacks.as_search(self.search)
        changed = search(case.classifier, case.x, Misclassify(case.y), seed=case.seed, max_batch=case.max_batch)
        change = output_change(case.classifier, changed, case.y)
        values = {"measured": change.measured, "eq8": change.eq8, "ratio": change.ratio().values}
        return Measured(
            value=values,
            undefined={
                "the search did not reach its goal": ~changed.reached,
                "no change was needed": changed.reached & (changed.delta == 0).flatten(1).all(dim=1),
                "the gradient is zero or not finite": values["ratio"].isnan(),
            },
        )


@torch.no_grad()
def _logits(classifier: Classifier, x: Tensor, max_batch: int) -> Tensor:
    # Not by `forward`: published protocols leave the box.
    with classifier.frozen():
        return torch.cat([classifier.logits(part) for part in x.detach().split(max_batch)])
