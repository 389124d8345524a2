"""The worst change of a linear network, without a search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult
from advex.classifier import Classifier
from advex.errors import InputError
from advex.geometry import LINF, Norm, as_radius, per_row
from advex.goals import Goal
from advex.options import RadiusOption


@attack("closed_form", cites="chalasani2020 Eq. 7", exact_for="linear")
class ClosedForm(Search):
    """The lowest loss within an LINF distance, exactly: delta* = -y sgn(w) epsilon. Only for one linear layer.

    With a row w_j of weights per class, the margin y_t - y_j is lowest at delta_j = epsilon sgn(w_j - w_t); with two
    classes this is -y sgn(w) epsilon for w = w_1 - w_0, and the worst case of every goal. Of more classes each delta_j
    is tried and the one with the lowest loss kept: the exact worst case of the margin (`Misclassify(y)`), and a lower
    bound for goals that weigh several classes. Normalisation changes no sign, and inside the box the worst change is
    delta* cut to it.

    radius: epsilon, as a share of the box's width. clip: cut to the box; False leaves it, as the authors' code does,
    whose one-hot inputs are then neither 0 nor 1.

    Raises InputError for any other network, and for goals that name no class.
    """

    radius: RadiusOption = "8/255"
    clip: bool = True
    norm: ClassVar[Norm] = LINF

    @torch.no_grad()
    def find(self, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, seed: int) -> SearchResult:
        weight = linear_layer(classifier).weight  # [classes, elements of one input]
        named, away = _named(goal, len(weight))
        delta, best = torch.zeros_like(x), x.new_full((len(x),), torch.inf)
        reached = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for other in range(len(weight)):
            way = (
                away
                * as_radius(self.radius)
                * classifier.width
                * (weight[other] - weight[named]).sign().reshape(x.shape)
            )
            way = way if mask is None else way * mask
            way = classifier.box.confine(x, way) if self.clip else way
            aim = goal(classifier, x + way)
            better = (aim.reached & ~reached) | ((aim.reached == reached) & (aim.rank < best))
            delta = torch.where(per_row(better, x), way, delta)
            best, reached = torch.where(better, aim.rank, best), torch.where(better, aim.reached, reached)
        return SearchResult(
            delta=delta,
            size=torch.where(reached, classifier.norm(LINF).size(delta), torch.inf),
            gradients=torch.zeros_like(named),
            queries=torch.full_like(named, len(weight)),
            flat=~delta.flatten(1).any(dim=1),
        )


def _named(goal: Goal, classes: int) -> tuple[Tensor, int]:
    """The class [n] that the goal is about, and 1 where it is to be left, -1 where it is to be reached."""
    for name, away in (("y", 1), ("c", -1)):
        named = getattr(goal, name, None)
        if isinstance(named, Tensor):
            if named.numel() and not 0 <= int(named.min()) <= int(named.max()) < classes:
                raise InputError(
                    f"The goal needs one class index per input, int64 in [0, {classes}), for {len(named)} inputs."
                )
            return named, away
    raise InputError(f"closed_form needs a goal that names a class, such as Misclassify(y); {goal!r} names none.")


def linear_layer(classifier: Classifier) -> nn.Linear:
    """The one layer of a network that is linear as a whole, whatever its input.

    Raises InputError for all others. Only layers in a row are looked through: what a module of one's own does with
    its layers cannot be seen.
    """
    layers = [layer for layer in _in_a_row(classifier.network) if not isinstance(layer, nn.Flatten | nn.Identity)]
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear):
        kinds = " and ".join(sorted({type(layer).__name__ for layer in layers})) or "none"
        raise InputError(
            "closed_form works only for networks with a single linear layer, such as "
            "'linear:features=57,classes=2' or nn.Sequential(nn.Flatten(), nn.Linear(57, 2)); this one has "
            f"{kinds}. Use pgd instead."
        )
    return layers[0]


def _in_a_row(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that a network applies one after the other, as far as that is certain."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for layer in module:
            yield from _in_a_row(layer)
    else:
        yield module
