"""What decides an evaluation, but the models and the data: values as typed and kept. See `plan`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from advex.errors import SpecError, which_option, why_impossible

# What means nothing unless the first of each group is given, and is then no difference between two evaluations.
CERTIFICATION = ("certify", "certify_samples", "certify_examples")
MAPPING = ("maps", "map_target", "measures")
RADII = ("radius", "suite", "alone", "transfer")
CORRUPTING = ("corruptions",)


class Settings(BaseModel):
    """Everything that decides an evaluation, but the models and the data.

    attack, btr: the searches for a change of the decision, and for a confidence below chance; None: no such search.
    searches: more of them, as SPEC@GOAL. published: also both searches by the papers' protocol, for comparison with
    printed figures.
    radius: NORM:RADIUS, within which every search of `suite` tries to move the decision, one after the other on what
    is left; suite: spec strings of searches, or `standard`; alone: each of them on all examples.
    transfer: within each radius, every model's changes by PGD are judged by every other model.
    corruptions: `all`, or corruptions by name: NAME for all severities, NAME:SEVERITY for one of them.
    explanations: examples to explain, spread over the classes; rows of a table also in sentences. pictures: explainers
    of pictures by which they are explained. targets: `all` explains every class (of more than 10 about four: the
    predicted one, the label and the next likeliest), `runner_up` the second likeliest alone; what lowers a class is
    made of the predicted one and the label. rho: RMSE of explanations of a given size, steps: their gradients, unless
    their spec says otherwise. sweep: how many of these examples are explained at each of sweep_rhos as well.
    recheck: examples on which the attack is repeated with twice its gradients, to see whether more
    help. batch_size: examples at a time, and per shard. bfloat16, compiled: of the searches alone;
    whatever is claimed is judged in full precision.
    certify: standard deviation of the noise, in data units, for certificates by randomised smoothing; None:
    nothing is certified. certify_samples: draws that bound the probability of the class that 100 others chose,
    each radius with a risk of 0.001 (Cohen et al. 2019, Sec. 4); fewer than 10 could certify nothing.
    certify_examples: how many examples, drawn at random: each costs as many passes of the network as there are draws.
    maps: explainers whose maps of every example are measured. map_target: the class that they are of, the one the model
    answers or the right one; SPEC@true, SPEC@predicted and SPEC@NUMBER say it for one of them. measures: of each map.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attack: str | None = "minimal"
    btr: str | None = "minimal"
    searches: tuple[str, ...] = ()
    published: bool = False
    radius: tuple[str, ...] = ()
    suite: tuple[str, ...] = ("standard",)
    alone: bool = False
    transfer: bool = False
    corruptions: tuple[str, ...] = ()
    explanations: int = Field(default=8, ge=0)
    pictures: tuple[str, ...] = ("toward", "away")
    targets: Literal["all", "runner_up"] = "all"
    rho: float = Field(default=0.1, gt=0, le=1)
    sweep: int = Field(default=2, ge=0)
    sweep_rhos: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2)
    steps: int = Field(default=35, ge=1)
    recheck: int = Field(default=64, ge=0)
    batch_size: int = Field(default=128, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    bfloat16: bool = False
    compiled: bool = False
    certify: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    certify_samples: int = Field(default=10_000, ge=10, le=10_000_000)
    certify_examples: int = Field(default=500, ge=1)
    maps: tuple[str, ...] = ()
    map_target: Literal["predicted", "true"] = "predicted"
    measures: tuple[str, ...] = ("gini", "entropy", "effective")


def checked(values: dict[str, Any]) -> Settings:
    """Settings whose specs have not been read. Raises SpecError, naming the setting."""
    for key in values:
        if key not in Settings.model_fields:
            raise SpecError(f"An evaluation has no setting '{key}': {which_option(key, Settings.model_fields)}")
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise SpecError(
            f"The setting {name} = {first['input']!r} is not valid: {why_impossible(first['msg'])}."
        ) from None


def parted(text: str) -> tuple[str, str]:
    """`SPEC@REST`, parted at the first @ that is not in brackets; REST is empty without one."""
    depth = 0
    for place, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "@" and depth == 0:
            return text[:place], text[place + 1 :]
    return text, ""
