"""Whether a map changes when the network's weights do: copies of the network whose layers are initialised again.

A map that is the same for a network that has learned nothing does not show what the network has learned. The copies are
the same for all examples: the draws follow from the seed and the layer's name. The network itself is not touched.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from advex import randomness
from advex.classifier import Classifier
from advex.distances import Spearman
from advex.distances.channels import Channels
from advex.errors import InputError, SpecError
from advex.measures.case import Case, Measured, Need, Of, Value, measure
from advex.measures.pixels import merged
from advex.measures.structural_similarity import structural_similarity
from advex.options import AtLeast0, with_options

_SHOWN = 7  # steps whose maps a report may show
RANDOM_CONSTANT = "the map of a randomised network is the same everywhere, or not finite"
Similarity = Literal["spearman", "ssim"]
Layer = tuple[str, ...]  # names of modules


@with_options
class _Randomised:
    noisy: int = 0
    noise: AtLeast0 = 0.1
    channels: Channels = "max_abs"

    of: ClassVar[Of] = "randomised"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explainer"})
    scale_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.noisy < 0:
            raise SpecError(
                f"noisy must be a number of points near each input, or 0 for the input alone, not {self.noisy}."
            )

    def check(self, case: Case) -> None:
        """Raise InputError for a network that cannot be initialised again."""
        layers(case.classifier, case.x)

    def own(self, case: Case) -> tuple[Tensor, dict[str, Tensor]]:
        """The network's own maps, and what is undefined: see `merged`."""
        maps = self._explained(case, case.classifier) if self.noisy else case.explanation.map
        return merged(maps, self.channels)

    def of_copy(self, case: Case, names: Layer) -> tuple[Tensor, dict[str, Tensor]]:
        """The maps of a copy in which the modules of these names are random, which is made once for all measures."""
        key = ("randomised", names, self.noisy, self.noise)
        maps = case.shared(key, lambda: self._explained(case, randomised(case.classifier, names, case.seed)))
        return merged(maps, self.channels)

    def _explained(self, case: Case, classifier: Classifier) -> Tensor:
        if not self.noisy:
            return case.explain(case.x, classifier)
        total = torch.zeros_like(case.x)
        for x in self._near(case):
            total += case.explain(x, classifier)
        return total / self.noisy

    def _near(self, case: Case) -> Iterator[Tensor]:
        for k in range(self.noisy):
            noise = randomness.normal(case.x, randomness.draw(case.seed, k), "randomised")
            yield case.x + case.classifier.box.confine(case.x, self.noise * case.classifier.width * noise)


@measure(
    "randomised",
    cites="adebayo2018; hedstrom2024 (MPRT, sMPRT)",
    examples=("order=independent,start=bottom,similarity=ssim", "noisy=2,noise=0.02,channels=mean_abs"),
)
class Randomised(_Randomised):
    """How similar the map of a copy with random layers is to the network's own: 1 if the map ignores the weights.

    first, middle, last: after the first step, half way, and at the end; mean: of all steps. order: each step makes one
    layer more random (cascading) or another one alone (independent). start: with the layer nearest to the answer (top)
    or to the input (bottom). similarity: rank correlation (spearman) or SSIM of the maps, one value per pixel, as the
    explainer makes them. noisy: points near each input whose maps are averaged first; 0 for the input alone. noise:
    their standard deviation, a share of the box's width. channels: how those of a pixel become one value.
    """

    order: Literal["cascading", "independent"] = "cascading"
    start: Literal["top", "bottom"] = "top"
    similarity: Similarity = "spearman"

    traces: ClassVar[bool] = True
    values: ClassVar[Mapping[str, Value]] = {
        "first": Value(title="Similarity, one layer random", better="low"),
        "middle": Value(title="Similarity, half way", better="low"),
        "last": Value(title="Similarity, last step", better="low"),
        "mean": Value(title="Similarity, mean of all steps", better="low"),
    }

    def check(self, case: Case) -> None:
        """Raise InputError for a network that cannot be initialised again, SpecError for SSIM of rows."""
        if self.similarity == "ssim" and case.x.ndim != 4:
            raise SpecError("SSIM needs pictures, not rows of a table: use similarity=spearman.")
        super().check(case)

    def __call__(self, case: Case) -> Measured:
        if self.similarity == "ssim" and case.x.ndim != 4:
            raise SpecError("SSIM needs pictures, not rows of a table: use similarity=spearman.")
        before, undefined = self.own(case)
        steps = self.steps(layers(case.classifier, case.x))
        maps = {step: self.of_copy(case, names)[0] for step, names in steps.items()}
        alike = torch.stack([likeness(before, each, self.similarity) for each in maps.values()], dim=1)
        shown = {round(k * (len(maps) - 1) / (_SHOWN - 1)) for k in range(_SHOWN)}
        trace = {"trained": before} | {step: each for k, (step, each) in enumerate(maps.items()) if k in shown}
        values = {"first": alike[:, 0], "middle": alike[:, (len(maps) - 1) // 2], "last": alike[:, -1]}
        return Measured(
            value=values | {"mean": alike.mean(dim=1)}, undefined=undefined, trace=trace,
            partly={RANDOM_CONSTANT: alike.isnan().any(dim=1)},
        )  # fmt: skip

    def steps(self, upwards: list[Layer]) -> dict[str, Layer]:
        """The modules that are random in each step, by its name: the layer that is added, or that is alone.

        upwards: the layers from the input on.
        """
        ordered = upwards[::-1] if self.start == "top" else upwards
        random = ordered if self.order == "independent" else list(accumulate(ordered))
        return {names[0].removeprefix("network."): each for names, each in zip(ordered, random, strict=True)}


@measure("entropy_rise", cites="hedstrom2024 (eMPRT)", examples=("bins=8",))
class EntropyRise(_Randomised):
    """How much higher the entropy of the map is for a fully randomised copy: (H' - H) / H; with their similarity.

    H: entropy of the histogram of a map's values between its least and its largest. similarity: rank correlation of
    both maps: a map that hardly depends on the weights can rise all the same, and one of few values can fall. bins: of
    the histogram, at least 2. noisy, noise, channels: see `randomised`.
    """

    bins: int = 100

    values: ClassVar[Mapping[str, Value]] = {
        "": Value(title="Entropy increase, all layers random", better="high"),
        "similarity": Value(title="Similarity, all layers random", better="low"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins < 2:
            raise SpecError(f"A histogram of {self.bins} bins has no entropy: use at least 2 bins.")

    def __call__(self, case: Case) -> Measured:
        before, undefined = self.own(case)
        after, flaws = self.of_copy(case, sum(layers(case.classifier, case.x)[::-1], ()))
        own, bad = (torch.stack([*rows.values()]).any(dim=0) for rows in (undefined, flaws))
        return Measured(
            value={
                "": self.entropy(after) / self.entropy(before) - 1,
                "similarity": likeness(before, after, "spearman"),
            },
            undefined=undefined | {RANDOM_CONSTANT: bad & ~own},
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


def layers(classifier: Classifier, x: Tensor) -> list[Layer]:
    """The modules with weights by their names, layer by layer, as the network calls them for inputs x.

    A layer begins with each module that has a weight of two axes or more. Modules of vectors alone, such as
    normalisations, belong to the layer before them; at the beginning, to the first. A module that is not called itself
    comes behind the one registered before it. Raises InputError for a network without weights, and names the modules
    whose weights cannot be drawn again.
    """
    owners = {name: module for name, module in classifier.named_modules() if _own(module) or _counts(module)}
    if unable := [name for name, module in owners.items() if _own(module) and not _resets(module)]:
        raise InputError(
            f"Weights of {', '.join(unable)} cannot be initialised again: the module has no "
            "reset_parameters(). Give it one, or omit the measures of randomised networks."
        )
    if not any(_own(module) for module in owners.values()):
        raise InputError("The network has no weights to randomise: omit the measures of randomised networks.")
    made: list[Layer] = []
    has_begun = False
    for name in _in_order_of_calls(classifier, x, owners):
        begins = any(parameter.ndim > 1 for parameter in _own(owners[name]))
        if not made or (begins and has_begun):
            made.append((name,))
        else:
            made[-1] += (name,)
        has_begun |= begins
    return made


@torch.no_grad()
def _in_order_of_calls(classifier: Classifier, x: Tensor, owners: Mapping[str, nn.Module]) -> list[str]:
    calls: dict[str, int] = {}
    with contextlib.ExitStack() as hooks:
        for name, module in owners.items():
            hooks.callback(module.register_forward_pre_hook(partial(_called, calls, name)).remove)
        with classifier.frozen():
            classifier(x[:1])
    place, places = -1, {}
    for name in owners:
        places[name] = place = calls.get(name, place)
    return sorted(owners, key=places.__getitem__)


def _called(calls: dict[str, int], name: str, module: nn.Module, inputs: object) -> None:
    calls.setdefault(name, len(calls))


def randomised(classifier: Classifier, names: Layer, seed: int) -> Classifier:
    """A copy whose modules of these names have new weights, drawn as each module draws its own, and fresh statistics.

    The global random state is as before. Raises InputError where the network cannot be copied, or a module cannot draw
    its weights or keeps them when it does.
    """
    try:
        made = copy.deepcopy(classifier)
    except Exception as error:
        raise InputError(f"The network cannot be copied, so it cannot be randomised: {error}") from error
    for name in names:
        _draw(made.get_submodule(name), name, seed)
    return made


@torch.no_grad()
def _draw(module: nn.Module, name: str, seed: int) -> None:
    fresh = copy.deepcopy(module).to("cpu", torch.float32)
    for parameter in fresh.parameters():  # numbers are drawn in the order of memory
        parameter.data = parameter.data.contiguous()
    state = torch.get_rng_state()
    torch.set_rng_state(randomness.generators(torch.zeros(1, 1), seed, name)[0].get_state())
    try:
        if _own(module):
            fresh.reset_parameters()  # pyright: ignore[reportCallIssue]
        if _counts(module):
            fresh.reset_running_stats()  # pyright: ignore[reportCallIssue]
    except Exception as error:
        raise InputError(f"{name} cannot be initialised again: its reset_parameters() failed: {error}") from error
    finally:
        torch.set_rng_state(state)
    for key, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        drawn = getattr(fresh, key)
        if isinstance(value, nn.Parameter) and value.ndim > 1 and torch.equal(drawn.to(value), value):
            raise InputError(f"reset_parameters() of {name} leaves its {key} unchanged, so it cannot be randomised.")
        value.copy_(drawn)


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _resets(module: nn.Module) -> bool:
    return isinstance(getattr(module, "reset_parameters", None), Callable)


def _counts(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None and hasattr(module, "reset_running_stats")
