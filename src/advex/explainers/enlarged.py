"""What another explainer shows of an enlarged picture: a small thing then fills more of each layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field, PlainValidator
from torch import Tensor
from torch.nn.functional import interpolate

from advex import registry
from advex.contexts import without_doubts
from advex.errors import InputError, SpecError
from advex.explainers.filling import pictures
from advex.explainers.maps import Attribution, AttributionMethod, AttributionRequest, explainer
from advex.logits import out_of_memory
from advex.types import Explainer


def _made(given: Any) -> Any:
    if isinstance(given, str):
        return registry.build("explainer", given)
    if not callable(given):
        raise SpecError(f"enlarged: explainer must be an explainer or the spec of one, not {given!r}.")
    return given


@explainer(
    "enlarged", cites="elliott2021 Tab. 3", shows="regions", looks_at="pool",
    examples=("explainer=(smooth_grad:samples=4),by=2", "explainer=(perceptual:perceptual=10,gradients=5)"),
)  # fmt: skip
class Enlarged(AttributionMethod):
    """The map that another explainer makes of the enlarged picture, made smaller again.

    For networks that take pictures of several sizes. A changed picture is made smaller with it, and stays within the
    box. Rows of data are not taken as the other's baseline: name a number.

    explainer: a spec, in brackets where it has commas, as in enlarged:explainer=(smooth_grad:samples=8,sigma=0.1).
    by: the factor of both sides, to whole pixels; below 1 the picture is made smaller.
    """

    explainer: Annotated[Explainer | str, PlainValidator(lambda value: _made(value) and value)] = "gradient"
    by: Annotated[float, Field(gt=0, le=16)] = 1.5

    def __post_init__(self) -> None:
        if isinstance(self.explainer, str):  # two ways to write one spec are one
            object.__setattr__(self, "explainer", registry.describe(_made(self.explainer)))
        if getattr(_made(self.explainer), "shows", "") == "control":
            object.__setattr__(self, "shows", "control")

    def attribute(self, request: AttributionRequest) -> Attribution:
        pictures(self, request)
        large = resized(request, self.by, "by")
        with without_doubts():  # they are said of this map
            made = _made(self.explainer)(
                large.classifier, large.x, large.target, seed=large.seed, mask=large.mask, max_batch=large.max_batch
            )
        picture = None
        if made.picture is not None:
            delta = shrunk(made.picture - large.x, request.x)
            picture = request.x + request.classifier.box.confine(request.x, delta)
        return Attribution(
            map=shrunk(made.map, request.x), picture=picture, flat=made.flat, weight=made.weight,
            incomplete=made.incomplete, chosen={"explainer": made.method.partition(" by gradients estimated")[0]},
        )  # fmt: skip


def resized(request: AttributionRequest, factor: float, option: str) -> AttributionRequest:
    """The same about pictures of other sizes. Raises InputError, naming the option, if the network does not."""
    old, new = (tuple(request.x.shape[2:]), tuple(max(1, round(side * factor)) for side in request.x.shape[2:]))
    try:
        x = interpolate(request.x, size=new, mode="bilinear", antialias=True)
        x = x.clamp(request.classifier.lower, request.classifier.upper)
        with torch.no_grad():
            request.classifier(x[:1])
    except (InputError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        sizes = " and ".join("x".join(map(str, size)) for size in (old, new))
        raise InputError(f"{option}={factor:g} needs a network that takes pictures of {sizes}: {error}") from None
    mask = None if request.mask is None else interpolate(request.mask.to(x), size=new).bool()
    return replace(request, x=x, mask=mask, slopes=[])


def shrunk(values: Tensor, x: Tensor) -> Tensor:
    """Values with places, in the size of the pictures x again."""
    if values.shape[2:] == x.shape[2:]:
        return values
    return interpolate(values, size=tuple(x.shape[2:]), mode="bilinear", antialias=True)
