"""Whether a map changes when the network's weights do: copies of the network whose layers are initialised again.

A map that is the same for a network that has learned nothing does not show what the network has learned. The copies are
the same for all examples: the draws follow from the seed and the layer's name. The network itself is not touched.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from advex import randomness
from advex.classifier import Classifier
from advex.distances import Spearman
from advex.distances.channels import Channels
from advex.errors import InputError, SpecError
from advex.measures.case import Better, Case, Measured, Need, Of, Value, measure
from advex.measures.pixels import merged
from advex.measures.structural_similarity import structural_similarity
from advex.options import AtLeast0, Count, with_options

RANDOM_CONSTANT = "the map of a randomised network is the same everywhere, or not finite"
Similarity = Literal["spearman", "ssim"]


@with_options
class _Randomised:
    """What both measures share. noisy: points near each input whose maps are averaged, 0 for the input alone."""

    noisy: int = 0
    noise: AtLeast0 = 0.1
    channels: Channels = "max_abs"

    of: ClassVar[Of] = "randomised"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explainer"})
    scale_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.noisy < 0:
            raise SpecError(f"noisy is a number of points near each input, or 0 for the input alone, not {self.noisy}.")

    def check(self, case: Case) -> None:
        """Raise InputError for a network that cannot be initialised again."""
        layers(case.classifier)

    def own(self, case: Case) -> tuple[Tensor, dict[str, Tensor]]:
        """The network's own maps, and what is undefined: see `merged`."""
        maps = case.explanation.map if not self.noisy else self._explained(case, case.classifier)
        return merged(maps, self.channels)

    def of_copy(self, case: Case, names: tuple[str, ...], seed: int) -> Tensor:
        """The maps of a copy in which the layers of these names are random; made once for all measures."""
        key = ("randomised", names, seed, self.noisy, self.noise)
        return case.shared(key, lambda: self._explained(case, randomised(case.classifier, names, seed)))

    def _explained(self, case: Case, classifier: Classifier) -> Tensor:
        if not self.noisy:
            return case.explain(case.x, classifier)
        return sum(case.explain(x, classifier) for x in self._near(case)) / self.noisy  # pyright: ignore

    def _near(self, case: Case) -> Iterator[Tensor]:
        for k in range(self.noisy):
            noise = randomness.normal(case.x, randomness.draw(case.seed, k), "randomised")
            yield case.x + case.classifier.box.confine(case.x, self.noise * case.classifier.width * noise)


@measure(
    "randomised",
    cites="adebayo2018; hedstrom2024 (MPRT, sMPRT)",
    examples=("order=independent,start=bottom,similarity=ssim", "noisy=2,noise=0.05,channels=sum"),
)
class Randomised(_Randomised):
    """How like the network's own map that of a copy with random layers is: 1 for a map that never looks at the weights.

    first, middle, last: after the first step, half way, and at the end; mean: of all steps. order: each step makes one
    layer more random (cascading) or another one alone (independent). start: with the layer nearest to the answer (top)
    or to the input (bottom). similarity: rank correlation (spearman) or SSIM of the maps (see `merged`). noisy: points
    near each input whose maps are averaged first; 0 for the input alone. noise: their standard deviation, a share of the
    box's width. channels: how those of a pixel become one value.
    """

    order: Literal["cascading", "independent"] = "cascading"
    start: Literal["top", "bottom"] = "top"
    similarity: Similarity = "spearman"

    values: ClassVar[Mapping[str, Value]] = {
        "first": Value(title="Likeness, one layer random", better="low"),
        "middle": Value(title="Likeness, half way", better="low"),
        "last": Value(title="Likeness, last step", better="low"),
        "mean": Value(title="Likeness, mean of all steps", better="low"),
    }

    def check(self, case: Case) -> None:
        """Raise InputError for a network that cannot be initialised again, SpecError for SSIM of maps without places."""
        super().check(case)
        if self.similarity == "ssim" and case.x.ndim != 4:
            raise SpecError("SSIM compares places in pictures, and rows have none: take similarity=spearman.")

    def __call__(self, case: Case) -> Measured:
        self.check(case)
        before, undefined = self.own(case)
        alike = []
        for names in self.steps(case.classifier):
            after, _ = merged(self.of_copy(case, names, case.seed), self.channels)
            alike.append(likeness(before, after, self.similarity))
        steps = torch.stack(alike, dim=1)
        places = {"first": 0, "middle": (steps.shape[1] - 1) // 2, "last": -1}
        values = {name: steps[:, place] for name, place in places.items()} | {"mean": steps.mean(dim=1)}
        return Measured(value=values, undefined=undefined, partly={RANDOM_CONSTANT: steps.isnan().any(dim=1)})

    def steps(self, classifier: Classifier) -> list[tuple[str, ...]]:
        """The names of the modules that are random in each step."""
        ordered = layers(classifier)[:: -1 if self.start == "top" else 1]
        return ordered if self.order == "independent" else list(accumulate(ordered, lambda a, b: a + b))


@measure("entropy_rise", cites="hedstrom2024 (eMPRT)", examples=("bins=8,noisy=2",))
class EntropyRise(_Randomised):
    """How much more disordered the map of a wholly random copy is: (H' - H) / H; how like both are is shown beside it.

    H: entropy of the histogram of a map's values between its least and its largest. similarity: rank correlation of both
    maps: a map that hardly depends on the weights can rise all the same, and one of few values can fall. bins: of the
    histogram. noisy, noise, channels: see `randomised`.
    """

    bins: Count = 100

    values: ClassVar[Mapping[str, Value]] = {
        "": Value(title="Rise of entropy, all layers random", better="high"),
        "similarity": Value(title="Likeness, all layers random", better="low"),
    }

    def __call__(self, case: Case) -> Measured:
        before, undefined = self.own(case)
        names = sum(layers(case.classifier)[::-1], ())
        after, flaws = merged(self.of_copy(case, names, case.seed), self.channels)
        entropies = self.entropy(before), self.entropy(after)
        bad = {RANDOM_CONSTANT: torch.stack([*flaws.values()]).any(dim=0)}
        own = torch.stack([*undefined.values()]).any(dim=0)
        return Measured(
            value={"": entropies[1] / entropies[0] - 1, "similarity": likeness(before, after, "spearman")},
            undefined=undefined | {reason: rows & ~own for reason, rows in bad.items()},
        )

    def entropy(self, values: Tensor) -> Tensor:
        """In nats, of the histogram of each map: [n]."""
        flat = values.flatten(1)
        low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
        place = ((flat - low) / (high - low) * self.bins).nan_to_num().long().clamp(0, self.bins - 1)
        counts = flat.new_zeros(len(flat), self.bins).scatter_add_(1, place, torch.ones_like(flat))
        return torch.special.entr(counts / flat.shape[1]).sum(dim=1)


def likeness(first: Tensor, second: Tensor, similarity: Similarity) -> Tensor:
    """Of maps [n, ...] of one value per pixel: [n]; NaN where one is the same everywhere."""
    if similarity == "ssim":
        return structural_similarity(first, second)
    first, second = (maps.flatten(1) for maps in (first, second))
    shifted = (maps - maps.amin(dim=1, keepdim=True) for maps in (first, second))  # the same order, and no signs
    constant = (second == second[:, :1]).all(dim=1)
    return torch.where(constant, math.nan, 1 - Spearman(channels="none")(*shifted))


def layers(classifier: Classifier) -> list[tuple[str, ...]]:
    """The names of the modules with weights, layer by layer from the input on, as the network has registered them.

    A layer begins with each module that has a weight of two axes or more. Modules of vectors alone, such as
    normalisations, belong to the layer before them; at the beginning, to the first. Raises InputError for a network
    without weights, and names the modules whose weights cannot be drawn again.
    """
    owners = {name: module for name, module in classifier.named_modules() if _own(module) or _counts(module)}
    if unable := [name for name, module in owners.items() if _own(module) and not _resets(module)]:
        raise InputError(
            f"Weights of {', '.join(unable)} cannot be initialised again: the module has no reset_parameters(). Give it "
            "one, or leave out the measures of randomised networks."
        )
    made: list[tuple[str, ...]] = []
    for name, module in owners.items():
        begins = any(parameter.ndim > 1 for parameter in _own(module))
        last_begins = bool(made) and any(p.ndim > 1 for each in made[-1] for p in _own(owners[each]))
        if made and not (begins and last_begins):
            made[-1] = (*made[-1], name)
        else:
            made.append((name,))
    if not any(_own(module) for module in owners.values()):
        raise InputError(
            "The network has no weights that could be made random: leave out measures of randomised networks."
        )
    return made


def randomised(classifier: Classifier, names: tuple[str, ...], seed: int) -> Classifier:
    """A copy whose modules of these names have new weights, drawn as each module draws its own, and fresh statistics.

    The global random state is as before. Raises InputError where the network cannot be copied, or a module keeps its
    weights when they are drawn again.
    """
    try:
        made = copy.deepcopy(classifier)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"The network cannot be copied, and so not be made random: {error}") from error
    for name in names:
        _draw(made.get_submodule(name), name, seed)
    return made


@torch.no_grad()
def _draw(module: nn.Module, name: str, seed: int) -> None:
    fresh = copy.deepcopy(module).to("cpu", torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(randomness.uniform_for(torch.tensor([seed]), seed, name, 1).double() * 2**24))
        if _own(module):
            fresh.reset_parameters()  # pyright: ignore[reportCallIssue]
        if _counts(module):
            fresh.reset_running_stats()  # pyright: ignore[reportCallIssue]
    for key, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        drawn = getattr(fresh, key)
        if isinstance(value, nn.Parameter) and value.ndim > 1 and torch.equal(drawn.to(value), value):
            raise InputError(f"reset_parameters() of {name} leaves its {key} as it is, so it cannot be made random.")
        value.copy_(drawn)


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _resets(module: nn.Module) -> bool:
    return isinstance(getattr(module, "reset_parameters", None), Callable)


def _counts(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None and hasattr(module, "reset_running_stats")
