"""The largest elements of a saliency map stay ahead of the others: ranking thickness, for which nothing is searched."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advex.classifier import input_gradient
from advex.distances import per_pixel
from advex.networks import second_derivatives
from advex.objectives.step import Parts, State, Step, objective
from advex.options import Above0, AtLeast0, Count


@objective("r2et", cites="chen2024 (R2ET)", examples=("k=3,strength=0.5,curvature=0", "k=5,probe=0.01"))
class R2ET:
    """Wide gaps about the k-th largest saliency of an example, and a gradient that changes little beside the example.

    With g the gradient of an example's cross-entropy by its d elements, and h_1 >= h_2 >= ... the sizes of g by pixel
    (over channels summed), what is added is the mean over the batch of

        - strength (sum_{i<k} (h_i - h_k) + sum_{k<j<=2k} (h_k - h_j))
        + curvature ||g(x + probe sign g) - g(x)||_2 / (d probe).

    The two sums are those of the authors' code (its modes `tx` and `est_norm`). There both strengths are scaled anew at
    each step by (cross-entropy + 1) / size of the term, the norm is that of the whole batch, the probe is 1e-3 / 3072,
    which float32 can hardly resolve, and the networks have softplus activations. The formula of the paper's text, which
    may take other pairs, was not at hand to compare.

    k: pixels, or elements of rows; of inputs with fewer than 2k, half of theirs. curvature: 0 saves a pass. probe: a
    length in data space, of each element. Computed eagerly and in full precision, in the mode of training. Where the
    batch has weights, each example's part has its own.
    """

    k: Count = 100
    strength: AtLeast0 = 1.0
    curvature: AtLeast0 = 1.0
    probe: Above0 = 1e-3

    def start(self) -> State:
        return {}

    def __call__(self, step: Step, state: State) -> tuple[Tensor, Parts, State]:
        x = step.x.detach()
        with step.classifier.accelerated(), second_derivatives.cheap(step.classifier.network):
            g = _gradient(step, x)
            sizes = -self.strength * self._thickness(g)
            if self.curvature:
                change = _gradient(step, x + self.probe * g.detach().sign()) - g
                bent = torch.linalg.vector_norm(change.flatten(1), dim=1) / (self.probe * x[0].numel())
                sizes = sizes + self.curvature * bent
        if step.batch.weight is not None:
            sizes = step.batch.weight * sizes
        loss = sizes.mean()
        return loss, {"r2et": loss.item()}, state

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
