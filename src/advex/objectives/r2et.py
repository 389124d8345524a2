"""The largest elements of a saliency map stay ahead of the others: ranking thickness, for which nothing is searched."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advex import processes
from advex.classifier import input_gradient
from advex.distances import per_pixel
from advex.networks import second_derivatives
from advex.objectives.step import Parts, State, Step, objective
from advex.options import Above0, AtLeast0, Count


@objective("r2et", cites="chen2024 (R2ET)", examples=("k=3,strength=0.5,curvature=0", "k=5,probe=0.01"))
class R2ET:
    """Wide gaps around the k-th largest saliency of an example, and a gradient that changes little nearby.

    With g the gradient of an example's cross-entropy by its d elements, and h_1 >= h_2 >= ... the sizes of g by pixel
    (over channels summed), let

        T = sum_{i<k} (h_i - h_k) + sum_{k<j<=2k} (h_k - h_j)
        C = ||g(x + probe sign g) - g(x)||_2 / (d probe)

    and mean T, mean C and mean L be the means over the batch, L the cross-entropy. What is added is

        - strength (mean L + 1) mean T / |mean T|  +  curvature (mean L + 1) mean C / |mean C|,

    in which mean L and both denominators are constants: the derivatives are those of the logarithms. Without that, the
    widest gaps would be those of a network that is wrong. All of it is as in the authors' code (its modes `tx` and
    `est_norm`, adapted) but that C there is the norm over the whole batch, with a probe of 1e-3 / 3072 that float32
    hardly resolves, and that their networks have softplus activations. The formula of the paper's text, which may take
    other pairs, was not at hand to compare.

    k: pixels, or elements of rows; of inputs with fewer than 2k, half of theirs. curvature: 0 saves two passes. probe:
    a length in data space, of each element. Computed eagerly and in full precision, in the mode of training. Where the
    batch has weights, each example's T, C and L have its own.
    """

    k: Count = 100
    strength: AtLeast0 = 0.1
    curvature: AtLeast0 = 0.1
    probe: Above0 = 1e-3

    def start(self) -> State:
        return {}

    def __call__(self, step: Step, state: State) -> tuple[Tensor, Parts, State]:
        x = step.x.detach()
        with step.classifier.accelerated(), second_derivatives.cheap(step.classifier.network):
            g = _gradient(step, x)
            loss = -_scaled(step, self.strength, self._thickness(g))
            if self.curvature:
                change = _gradient(step, x + self.probe * g.detach().sign()) - g
                sizes = torch.linalg.vector_norm(change.flatten(1), dim=1) / (self.probe * x[0].numel())
                loss = loss + _scaled(step, self.curvature, sizes)
        return loss, {"r2et": loss.detach()}, state

    def _thickness(self, g: Tensor) -> Tensor:
        """The gaps to the k-th largest: [n]."""
        h = per_pixel(g.abs(), "sum_abs").flatten(1).sort(dim=1, descending=True).values
        k = max(1, min(self.k, h.shape[1] // 2))
        kth = h[:, k - 1 : k]
        return (h[:, :k] - kth).sum(dim=1) + (kth - h[:, k : 2 * k]).sum(dim=1)


def _gradient(step: Step, x: Tensor) -> Tensor:
    """Of each row's cross-entropy by x, differentiable."""
    return input_gradient(
        lambda x: cross_entropy(step.glance(x), step.y, reduction="none"), x, create_graph=True
    )[0]  # fmt: skip


def _scaled(step: Step, strength: float, sizes: Tensor) -> Tensor:
    """The mean of sizes [n], of which the size is strength times (mean cross-entropy + 1): of all processes' rows."""
    sizes = sizes if step.batch.weight is None else step.batch.weight * sizes
    totals = [sizes.detach().sum().item(), step.cross_entropy.detach().sum().item(), float(len(sizes))]
    total, loss, count = processes.sums(totals)
    return sizes.mean() * (strength * (loss / count + 1) / abs(total / count) if total else 0.0)
