"""What an evaluation asks, and the searches that answer it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from advex import attacks, explainers
from advex.errors import SpecError, did_you_mean
from advex.goals import BelowChance, Goal, Misclassify
from advex.measures.certified import Certify
from advex.registry import describe, parse

UNCERTIFIED = ("certify", "certify_samples", "certify_examples")  # mean nothing where nothing is certified
UNMAPPED = ("maps", "map_target")  # nor these without maps


class Settings(BaseModel):
    """Everything that decides an evaluation, but the models and the data.

    attack, btr: the searches for a change of the decision, and for a confidence below chance.
    published: also both searches by the papers' protocol, for comparison with printed figures.
    explanations: examples to explain, spread over the classes; rows of a table also in sentences. targets: `all`
    asks about every class (of more than 10 about four: the predicted one, the label and the next likeliest),
    `runner_up` about the second likeliest alone.
    rho: RMSE of the explanations. away: also what lowers the predicted class and the label.
    sweep: how many of these examples are explained at each of sweep_rhos. steps: gradients each.
    recheck: examples on which the attack is repeated with twice its gradients, to see whether more
    help. batch_size: examples at a time, and per shard. bfloat16, compiled: of the searches alone;
    whatever is claimed is judged in full precision.
    certify: standard deviation of the noise, in data units, for certificates by randomised smoothing; None:
    nothing is certified. certify_samples: draws that bound the probability of the class that 100 others chose,
    each radius with a risk of 0.001 (Cohen et al. 2019, Sec. 4); fewer than 10 could certify nothing.
    certify_examples: how many examples, drawn at random: each costs as many passes of the network as there are draws.
    maps: explainers whose maps of every example are measured. map_target: the class that they are of, the one the model
    answers or the right one; SPEC@true, SPEC@predicted and SPEC@NUMBER say it for one of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attack: str = "minimal"
    btr: str = "minimal"
    published: bool = False
    explanations: int = Field(8, ge=0)
    targets: Literal["all", "runner_up"] = "all"
    rho: float = Field(0.1, gt=0, le=1)
    away: bool = True
    sweep: int = Field(2, ge=0)
    sweep_rhos: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2)
    steps: int = Field(35, ge=1)
    recheck: int = Field(64, ge=0)
    batch_size: int = Field(128, ge=1)
    seed: int = 0
    bfloat16: bool = False
    compiled: bool = False
    certify: float | None = Field(None, gt=0, allow_inf_nan=False)
    certify_samples: int = Field(10_000, ge=10, le=10_000_000)
    certify_examples: int = Field(500, ge=1)
    maps: tuple[str, ...] = ()
    map_target: Literal["predicted", "true"] = "predicted"

    def decisive(self) -> dict[str, Any]:
        """What must agree for results to be taken over, but the searches: two ways to write one spec are one search."""
        idle = (() if self.certify is not None else UNCERTIFIED) + (() if self.maps else UNMAPPED)
        values = self.model_dump(mode="json", exclude={"attack", "btr", "published", *idle})
        asked = {
            one.name: describe(one.explainer) + (f"@{one.target}" if one.target != self.map_target else "")
            for one in map_questions(self)
        }
        return values | {"maps": asked} if asked else values


def settings_from(values: dict[str, Any]) -> Settings:
    """Checked settings. Raises SpecError, naming the setting, for unknown names and impossible values."""
    for key in values:
        if key not in Settings.model_fields:
            raise SpecError(f"An evaluation has no setting '{key}': {did_you_mean(key, Settings.model_fields)}")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise SpecError(f"The setting {name} = {first['input']!r} is not possible: {first['msg']}.") from None
    questions(settings)
    map_questions(settings)
    return settings


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """A search and its goal. name: as in `Record.searches`. goal: labels [n] -> the goal."""

    name: str
    search: attacks.Search
    goal: Callable[[Tensor], Goal]


def questions(settings: Settings) -> tuple[SearchTask, ...]:
    """The searches to run on every example. Raises SpecError for specs that name none."""
    asked = [
        SearchTask(name="attack", search=attacks.build(settings.attack), goal=Misclassify),
        SearchTask(name="btr", search=attacks.build(settings.btr), goal=BelowChance),
    ]
    if settings.published:
        protocol = attacks.Algorithm1(published=True)
        asked += [
            SearchTask(name="attack_published", search=protocol, goal=Misclassify),
            SearchTask(name="btr_published", search=protocol, goal=BelowChance),
        ]
    return tuple(asked)


def certification(settings: Settings) -> Certify | None:
    """How examples are certified, with the published number of draws that choose a class and risk; None: not at all."""
    if settings.certify is None:
        return None
    return Certify(sigma=settings.certify, samples=settings.certify_samples, batch_size=settings.batch_size)


# -- maps --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MapTask:
    """An explainer whose maps are asked for. name: that of the registry; of several of one name the next is NAME-2.

    target: the class that they are of: `predicted`, `true`, or a number.
    """

    name: str
    explainer: explainers.Explainer
    target: str = "predicted"


def map_questions(settings: Settings) -> tuple[MapTask, ...]:
    """The explainers whose maps are measured. Raises SpecError for specs that name none, or one twice."""
    pairs = [spec.partition("@") for spec in settings.maps]
    for spec, at, target in pairs:
        if at and target not in ("predicted", "true") and not target.isdecimal():
            raise SpecError(f"In '{spec}@{target}', the class is 'predicted', 'true' or its number.")
    found = named_explainers([spec for spec, _, _ in pairs])
    return tuple(
        replace(one, target=target or settings.map_target) for one, (_, _, target) in zip(found, pairs, strict=True)
    )


def named_explainers(specs: Sequence[str]) -> tuple[MapTask, ...]:
    """Explainers by spec strings, each with a name of its own. Raises SpecError for unknown and repeated ones."""
    found: dict[str, MapTask] = {}
    methods: set[str] = set()
    for spec in specs:
        explainer, name = explainers.build(spec), parse(spec)[0]
        if describe(explainer) in methods:
            raise SpecError(f"The explainer '{describe(explainer)}' is asked for twice.")
        methods.add(describe(explainer))
        places = (name, *(f"{name}-{count}" for count in range(2, len(specs) + 1)))
        unique = next(place for place in places if place not in found)
        found[unique] = MapTask(name=unique, explainer=explainer)
    return tuple(found.values())


def specs_from(texts: Sequence[str]) -> tuple[str, ...]:
    """Spec strings as typed, of which one text may hold several with commas between them.

    A piece `option=value` belongs to the spec before it, as does whatever is within its brackets.

    >>> specs_from(["integrated_gradients:steps=50,rule=trapezoid,grad_cam", "gradient"])
    ('integrated_gradients:steps=50,rule=trapezoid', 'grad_cam', 'gradient')
    """
    found: list[str] = []
    for text in texts:
        pieces: list[str] = []
        for piece in text.split(","):
            inside = bool(pieces) and pieces[-1].count("(") > pieces[-1].count(")")
            option = bool(pieces) and "=" in piece and ":" not in piece.partition("=")[0]
            if inside or option:
                pieces[-1] += f",{piece}"
            else:
                pieces.append(piece.strip())
        found += pieces
    return tuple(found)
