"""How concise an explanation is: whether a few input elements carry the map, or many.

All three measures look at the absolute values of a whole map, channels and all, as one list (Chalasani et al. 2020
take the 3,072 numbers of a CIFAR-10 map), and none of them changes when the map is multiplied by a number.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from advex.errors import InputError
from advex.measures.case import Better, Case, Need, Of, measure
from advex.measures.intervals import mean_score
from advex.types import Score


def gini(maps: Tensor) -> Tensor:
    """Gini index of each map: 0 where all elements count the same, 1 - 1/d where one of d counts alone.

    With |a|_(1) <= ... <= |a|_(d) (Hurley and Rickard 2009),

        G(a) = 1 - 2 sum_k |a|_(k) / ||a||_1 (d - k + 1/2) / d = sum_k (2k - d - 1) |a|_(k) / (d ||a||_1).

    A map of zeros has 0: all its elements are the same. One that is not finite has NaN. Differentiable (among equal
    elements and at 0 it has corners: there a subgradient), so that it may be trained on.
    The code behind the published figures adds 1e-7 to each element first, which makes the index depend on scale.

    maps: [n, *shape]. Returns [n]. Raises InputError for anything else.
    """
    shares = _shares(maps)
    d = shares.shape[1]
    weights = torch.arange(1 - d, d, 2, device=shares.device).to(shares) / d  # (2k - d - 1) / d
    return (shares.sort(dim=1).values * weights).sum(dim=1)


@measure("gini", cites="hurley2009; chalasani2020 Sec. 6")
class Gini:
    """Gini index of the map: 0 if all elements count the same, 1 - 1/d if only one of d counts."""

    title: ClassVar[str] = "Gini index"
    better: ClassVar[Better] = "high"
    of: ClassVar[Of] = "shape"
    needs: ClassVar[frozenset[Need]] = frozenset()
    scale_free: ClassVar[bool] = True
    example: ClassVar[tuple[tuple[float, ...], ...]] = ((0, 0, -5, 1), (1, 2, 2, 1))

    def __call__(self, case: Case) -> Tensor:
        return gini(case.maps)


def entropy(maps: Tensor) -> Tensor:
    """Entropy of each map in nats: 0 where one element counts alone, log d where all d count the same.

        H(a) = - sum_i p_i log p_i,    p = |a| / ||a||_1.

    A map of zeros has NaN: there is no p, and either end of the scale would claim something about it.

    maps: [n, *shape]. Returns [n]. Raises InputError for anything else.
    """
    p = _shares(maps)
    # log 1 in place of log 0: nothing is added, and the derivative stays finite.
    nats = -(p * torch.where(p > 0, p, 1.0).log()).sum(dim=1)
    return torch.where((p == 0).all(dim=1), math.nan, nats)


@measure("entropy", cites="shannon1948")
class Entropy:
    """Entropy of the map's absolute values: 0 if only one element counts, log d if all count the same."""

    title: ClassVar[str] = "Entropy"
    better: ClassVar[Better] = "low"
    unit: ClassVar[str] = "nats"
    of: ClassVar[Of] = "shape"
    needs: ClassVar[frozenset[Need]] = frozenset()
    scale_free: ClassVar[bool] = True
    example: ClassVar[tuple[tuple[float, ...], ...]] = ((0, 0, -5, 1), (1, 2, 2, 1))

    def __call__(self, case: Case) -> Tensor:
        return entropy(case.maps)


def effective_features(maps: Tensor) -> Tensor:
    """The number of equally strong elements that would be as concise as the map: exp(H), from 1 to d.

    The effective number of order 1 (Hill 1973), the one among them that counts elements by their share alone and
    favours neither strong nor weak ones (Jost 2006). NaN for a map of zeros.

    maps: [n, *shape]. Returns [n]. Raises InputError for anything else.
    """
    return entropy(maps).exp()


@measure("effective", cites="hill1973 (order 1); jost2006")
class Effective:
    """The number of equally strong elements that would be as concise as the map."""

    title: ClassVar[str] = "Effective number of elements"
    better: ClassVar[Better] = "low"
    of: ClassVar[Of] = "shape"
    needs: ClassVar[frozenset[Need]] = frozenset()
    scale_free: ClassVar[bool] = True
    example: ClassVar[tuple[tuple[float, ...], ...]] = ((0, 0, -5, 1), (1, 2, 2, 1))

    def __call__(self, case: Case) -> Tensor:
        return effective_features(case.maps)


def gini_gain(maps: Tensor, natural: Tensor) -> Tensor:
    """Gini index of a model's map less that of a naturally trained model's map of the same example: [n].

        dG^a[A](x; eps) = G^a[A](x; eps) - G^n[A](x).

    maps, natural: [n, *shape], row i of both for the same example. Raises InputError unless they match.
    """
    if maps.shape != natural.shape:
        shapes = f"{tuple(maps.shape)} against {tuple(natural.shape)}"
        raise InputError(f"The gain compares maps of the same examples, but got {shapes}.")
    return gini(maps) - gini(natural)


def compare_ginis(model: Tensor, natural: Tensor, *, seed: int = 0) -> Score:
    """Mean gain in conciseness over a naturally trained model, dG, with a paired bootstrap interval over examples.

    model, natural: [n], what `gini` gave for the two models' maps, row i of both for the same example. Examples of
    which one map is not finite are left out and counted in `failures`. Raises InputError unless they match.
    """
    if model.ndim != 1 or model.shape != natural.shape:
        shapes = f"{tuple(model.shape)} against {tuple(natural.shape)}"
        raise InputError(f"A paired comparison needs one Gini index per example of both models, but got {shapes}.")
    return mean_score("dG", model.detach().cpu().double() - natural.detach().cpu().double(), better="high", seed=seed)


def _shares(maps: Tensor) -> Tensor:
    """|a| / ||a||_1 of each map, flattened: [n, d], zeros for a map of zeros, NaN for one that is not finite."""
    if maps.ndim < 2 or not maps.is_floating_point():
        raise InputError(f"Maps must be floating point tensors [n, *shape], not {maps.dtype} {tuple(maps.shape)}.")
    if not math.prod(maps.shape[1:]):
        raise InputError(f"A map needs at least one element; these have the shape {tuple(maps.shape[1:])}.")
    size = maps.flatten(1).abs()
    size = size.float() if size.element_size() < 4 else size
    # The largest goes first: sums of 1e38 overflow and shares of 1e-38 vanish. Nothing here depends on scale, so
    # that the divisor may count as a constant in derivatives.
    largest = size.detach().amax(dim=1, keepdim=True)
    scaled = size / torch.where(largest == 0, 1.0, largest)
    total = scaled.sum(dim=1, keepdim=True)
    return scaled / torch.where(total == 0, 1.0, total)
