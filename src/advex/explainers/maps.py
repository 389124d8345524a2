"""What an explainer is: a formula for a map, and around it what all share.

`explainer` registers a class that has the formula and gives it its `__call__`. The formula gets an
`AttributionRequest`: the output to explain, and gradients and logits in passes of bounded size.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, TypeVar, dataclass_transform

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.contexts import ordinary, warn_of_doubt
from advex.errors import InputError
from advex.explainers.request import ROWS as ROWS
from advex.explainers.request import Attribution as Attribution
from advex.explainers.request import AttributionRequest as AttributionRequest
from advex.geometry import RMSE
from advex.goals.targets import Classes, numbers_of
from advex.inputs import check_wrapped
from advex.logits import out_of_memory
from advex.options import with_options
from advex.registry import describe, register
from advex.types import INCOMPLETE, MISSES, Explanation

Made = TypeVar("Made", bound=type)

# What a map shows: how much each element counts; which region counts, coarser than elements; how the input was changed
# (the explanation then has the changed picture); or nothing of the model: a control, beside which others are judged.
Shows = Literal["elements", "regions", "change", "control"]


class AttributionMethod(Protocol):
    """An explainer as a class that `explainer` registers, which is given this `__call__`."""

    differentiable: ClassVar[bool] = False

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        target: Classes | None = None,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
    ) -> Explanation:
        """Explain the class `target` ([n] int64, or numbers and names) for each row of x [n, *shape].

        Works in evaluation mode and changes nothing of the model. seed: of everything random. mask: bool,
        broadcastable to x, True where elements may count; the map is 0 elsewhere (its completeness error is that of
        the whole map). max_batch: rows of a pass; "auto" starts with all and halves when memory runs out.
        Raises InputError for inputs that the classifier refuses, and for targets and masks that do not fit.
        """
        return _explained(self, classifier, x, target, seed=seed, mask=mask, max_batch=max_batch)


class DifferentiableMethod(Protocol):
    """The same of an explainer whose maps can be differentiated."""

    differentiable: ClassVar[bool] = True

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        target: Classes | None = None,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
        create_graph: bool = False,
    ) -> Explanation:
        """Explain the class `target` ([n] int64, or numbers and names) for each row of x [n, *shape].

        Works in evaluation mode and changes nothing of the model. seed: of everything random. mask: bool,
        broadcastable to x, True where elements may count; the map is 0 elsewhere (its completeness error is that of
        the whole map). max_batch: rows of a pass; "auto" starts with all and halves when memory runs out.
        create_graph: the map can be differentiated, in x and in the parameters; without it no graph is kept.
        Raises InputError for inputs that the classifier refuses, and for targets and masks that do not fit.
        """
        options = {"seed": seed, "mask": mask, "max_batch": max_batch, "create_graph": create_graph}
        return _explained(self, classifier, x, target, **options)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def explainer(
    name: str,
    *,
    cites: str = "",
    shows: Shows = "elements",
    looks_at: Literal["input", "layer", "pool"] = "input",
    examples: Sequence[str] = (),
) -> Callable[[Made], Made]:
    """Class decorator: register an explainer by name. The class has its options as fields (see `options`), and

        def attribute(self, request: AttributionRequest) -> Attribution

    What is dear may be shared by explainers that differ only in what they do afterwards. Such a class has

        part: what the outcome of `attribute` depends on: explainers of equal parts share it
        def finish(self, request: AttributionRequest, values: Tensor) -> Tensor: the map, of the one of `attribute`

    Its option `of`, where it has one, says which output is explained. Where its class attribute `differentiable` is
    true, as in every `DifferentiableMethod`, its call takes `create_graph`.

    shows: what its map shows. looks_at: "layer" for maps that need a layer whose output has places, "pool" for those
    that need a network which ends in a mean over these and a linear layer, or that takes several sizes. examples: see
    `registry.register`.
    """

    def add(made: Made) -> Made:
        made = with_options(made)
        made.shows, made.looks_at = shows, looks_at
        made.differentiable = getattr(made, "differentiable", False)
        made.__call__ = (DifferentiableMethod if made.differentiable else AttributionMethod).__call__
        return register("explainer", name, cites=cites, examples=examples)(made)

    return add


def _explained(
    explainer: Any, classifier: Classifier, x: Tensor, target: Classes | None, *, mask: Tensor | None, **options: Any
) -> Explanation:
    return started(explainer, classifier, x, target, mask=mask, **options).finished(explainer, stacklevel=4)


@dataclass(frozen=True, kw_only=True)
class Started:
    """What an explainer's formula has yielded, from which it, and every explainer of the same `part`, has its map.

    picture: of a changed picture, by the names of `Explanation`, what the classifier says of it. estimated: how the
    gradients were, where the network has none; else "".
    """

    request: AttributionRequest
    result: Attribution
    picture: Mapping[str, Tensor]
    estimated: str

    def finished(self, explainer: Any, stacklevel: int = 3) -> Explanation:
        """The explanation, with how it was made. Warns of maps that are doubtful."""
        request, result = self.request, self.result
        if hasattr(explainer, "finish"):
            with request.classifier.frozen(), torch.set_grad_enabled(request.create_graph):
                result = replace(result, map=explainer.finish(request, result.map))
        explanation = _finished(explainer, request, result, self.picture)
        explanation = replace(explanation, method=explanation.method + self.estimated)
        for words, rows in explanation.doubts().items() if not request.create_graph else ():
            few = words == INCOMPLETE and int(rows.sum()) * 2 < len(rows)  # a map may be hard to sum up here and there
            if not (few or (words == INCOMPLETE and result.warned)):
                text = f"{explanation.method}: {int(rows.sum())} of {len(rows)} maps are doubtful: {words}."
                warn_of_doubt(text, stacklevel=stacklevel)
        return explanation


def started(
    explainer: Any,
    classifier: Classifier,
    x: Tensor,
    target: Classes | None,
    *,
    seed: int = 0,
    mask: Tensor | None = None,
    max_batch: int | str | None = None,
    create_graph: bool = False,
) -> Started:
    """What is dear of an explanation; `Started.finished` makes it one. Arguments and errors as of the explainer."""
    check_wrapped(classifier, name := type(explainer).__name__)
    if target is None:
        raise InputError(
            f"{name} needs the class to explain, one or one of each input, such as classifier.predict(x).argmax(dim=1)."
        )
    if isinstance(target, str | int | list | tuple):
        target = numbers_of(target, classifier, x, "The target")
    if not isinstance(target, Tensor) or target.shape != (len(x),) or target.is_floating_point():
        given = f"{target.dtype} {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
        raise InputError(f"The target needs one class index per example, int64 [{len(x)}], not {given}.")
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    with classifier.frozen(), torch.set_grad_enabled(create_graph):
        classifier.check(x)
        for parameter in trained:  # `frozen` puts the flags back
            parameter.requires_grad_(create_graph)
        request = AttributionRequest(
            classifier=classifier,
            x=ordinary((x if create_graph else x.detach()).to(classifier.dtype)),
            target=ordinary(target.to(device=x.device, dtype=torch.int64)),
            of=getattr(explainer, "of", "logit"),
            seed=seed,
            mask=None if mask is None else _like(mask, x),
            create_graph=create_graph,
            max_batch=max_batch,
        )
        estimates, estimated = getattr(classifier.network, "estimates", 0), ""
        result = _attribution(explainer, request)
        picture = {} if result.picture is None else _pictured(request, result.picture)
        if getattr(classifier.network, "estimates", 0) > estimates:
            estimated = f" by gradients estimated from {classifier.network.pairs} pairs of answers each"
    return Started(request=request, result=result, picture=picture, estimated=estimated)


def _attribution(explainer: Any, request: AttributionRequest) -> Attribution:
    """What the formula yields; for inputs that the network cannot take, the classifier's own error is raised."""
    if not len(request.x):
        return Attribution(map=torch.zeros_like(request.x), picture=request.x if explainer.shows == "change" else None)
    try:
        if request.target.amin() < 0:
            raise InputError(f"A target must be a class index in [0, classes), not {int(request.target.amin())}.")
        return explainer.attribute(request)
    except (IndexError, RuntimeError) as error:
        if not (isinstance(error, RuntimeError) and out_of_memory(error)):
            with torch.no_grad():
                request.classifier(request.x[:1])
        raise


def _finished(
    explainer: Any, request: AttributionRequest, result: Attribution, picture: Mapping[str, Tensor]
) -> Explanation:
    values = result.map if request.mask is None else torch.where(request.mask, result.map, 0.0)
    flat = request.flat if result.flat is None else result.flat
    flat = flat | ~result.map.detach().flatten(1).isfinite().all(dim=1)
    return Explanation(
        map=values,
        target=request.target,
        method=record(explainer, **result.chosen),
        completeness=result.completeness,
        flat=flat,
        weight=result.weight,
        incomplete=result.incomplete
        if result.completeness is None
        else _incomplete(result.map.detach(), result.completeness) & ~flat,
        **picture,
    )


def _pictured(request: AttributionRequest, picture: Tensor) -> dict[str, Tensor]:
    """What the classifier says of a changed picture, and how large the change is."""
    rows = request.max_batch if isinstance(request.max_batch, int) else 512
    before, after = (request.classifier.predict(x, max_batch=rows) for x in (request.x, picture))
    size = request.classifier.norm(RMSE).size(picture - request.x)
    return {"picture": picture, "before": before, "after": after, "rmse": size}


def _incomplete(values: Tensor, error: Tensor) -> Tensor:
    """[n] bool: a map's sum misses what it should be by more than a share, beyond what float32 rounds away."""
    total, size = values.flatten(1).sum(dim=1), values.flatten(1).abs().sum(dim=1)
    return ~(error.detach().abs() <= MISSES * (total - error.detach()).abs() + 1e-3 * size + 1e-6)


def _like(mask: Tensor, x: Tensor) -> Tensor:
    try:
        return mask.to(device=x.device, dtype=torch.bool).expand(x.shape)
    except RuntimeError:
        shapes = f"{tuple(mask.shape)} does not broadcast to inputs {tuple(x.shape)}"
        raise InputError(f"The mask of shape {shapes}.") from None


def record(explainer: Any, /, **chosen: Any) -> str:
    """The explainer's spec string with automatic choices filled in; a tensor is named by its shape and a digest."""
    completed = copy.copy(explainer)
    for name, value in {**vars(explainer), **chosen}.items():
        if isinstance(value, Tensor):
            digest = hashlib.blake2b(value.detach().cpu().contiguous().numpy().tobytes(), digest_size=4).hexdigest()
            value = f"tensor-{'x'.join(map(str, value.shape))}-{digest}"
        object.__setattr__(completed, name, value)
    return describe(completed)
