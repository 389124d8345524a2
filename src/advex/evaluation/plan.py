"""The specs of an evaluation, read once: what is searched, pictured, mapped and measured, by name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from advex import attacks, registry
from advex.attacks.suite import Ball, members
from advex.corruptions import SEVERITIES, Corruption
from advex.errors import SpecError
from advex.evaluation.settings import CERTIFICATION, CORRUPTING, MAPPING, RADII, Settings, checked, parted
from advex.evaluation.tasks import (
    ATTACK,
    CorruptionTask,
    MapTask,
    MeasureTask,
    PictureTask,
    RadiusTask,
    SearchTask,
    distinct,
)
from advex.explanation import named_explainers
from advex.geometry import as_norm, as_radius
from advex.measures.case import values_of
from advex.measures.certified import Certify
from advex.record import MeasureEntry
from advex.record.tables import TABLES, maps_of
from advex.registry import describe, numbered, parse


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An evaluation's settings and what their specs name. sweep: shown at several sizes. certify: None: not at all."""

    settings: Settings
    searches: tuple[SearchTask, ...]
    radii: tuple[RadiusTask, ...]
    corruptions: tuple[CorruptionTask, ...]
    pictures: tuple[PictureTask, ...]
    maps: tuple[MapTask, ...]
    measures: tuple[MeasureTask, ...]
    certify: Certify | None

    @property
    def sweep(self) -> PictureTask | None:
        """The explainer that is shown at several sizes: the first that has one."""
        return next((task for task in self.pictures if task.rho is not None), None)

    @property
    def attack(self) -> SearchTask | None:
        """The search for a change of the decision."""
        return next((task for task in self.searches if task.name == ATTACK), None)

    @property
    def entries(self) -> dict[str, MeasureEntry]:
        """`Record.measures`."""
        return distinct(
            {key: each for task in self.measures for key, each in task.entries.items()} if self.maps else {}
        )

    def identity(self) -> dict[str, Any]:
        """What must agree for results to be taken over; two ways to write one spec are one spec."""
        settings = self.settings
        idle = (() if self.certify else CERTIFICATION) + (() if self.maps else MAPPING)
        values = settings.model_dump(
            mode="json", exclude={"attack", "btr", "searches", "published", *RADII, *CORRUPTING, *idle}
        )
        if self.radii:
            values["radii"] = {task.key: task.entry.model_dump() for task in self.radii}
        if self.corruptions:
            values["corruptions"] = {
                task.key: [f"{describe(each)} {each.digest}".rstrip() for each in task.severities.values()]
                for task in self.corruptions
            }
        if settings.transfer:
            values["transfer"] = True
        values["pictures"] = {task.name: describe(task.explainer) for task in self.pictures}
        if self.maps:
            values["maps"] = {
                task.name: describe(task.explainer) + (f"@{task.target}" if task.target != settings.map_target else "")
                for task in self.maps
            }
            values["measures"] = {task.name: describe(task.measure) for task in self.measures}
        return {"settings": values, "searches": {task.name: task.spec for task in self.searches}}


def settings_from(values: dict[str, Any]) -> Settings:
    """Checked settings. Raises SpecError, naming the setting, for unknown names and impossible values and specs."""
    settings = checked(values)
    plan_of(settings)
    return settings


def plan_of(settings: Settings) -> Plan:
    """Read the specs of an evaluation. Raises SpecError for one that names nothing, or is given twice."""
    if settings.transfer and not settings.radius:
        raise SpecError("Transfer needs a radius, e.g. linf:8/255.")
    certify = None
    if settings.certify is not None:
        certify = Certify(
            sigma=settings.certify, samples=settings.certify_samples, batch_size=settings.batch_size
        )  # with the published number of draws that choose a class, and risk
        if settings.attack is None:
            raise SpecError("Certificates are compared with an attack on the same examples: certify needs an attack.")
    searches = _searches(settings)
    if certify and searches[0].norm.name not in ("rmse", "l2"):
        raise SpecError(
            f"Certificates hold in l2, but the attack '{settings.attack}' minimises the change in "
            f"{searches[0].norm}: use an attack in l2 or rmse."
        )
    return Plan(
        settings=settings, searches=searches, radii=_radii(settings, searches),
        corruptions=_corruptions(settings.corruptions), pictures=_pictures(settings),
        maps=_maps(settings), measures=_measures(settings.measures), certify=certify,
    )  # fmt: skip


# -- searches ----------------------------------------------------------------------------------------------


def _searches(settings: Settings) -> tuple[SearchTask, ...]:
    pairs = {ATTACK: (settings.attack, "misclassify"), "btr": (settings.btr, "below_chance")}
    tasks = []
    for name, (spec, goal) in pairs.items():
        if spec is not None:
            search = attacks.build(spec)
            task = SearchTask(name=name, search=search, goal=goal, spec=describe(search))
            if task.within:
                raise SpecError(
                    f"'{spec}' minimises the loss within a fixed radius, but {name} needs the smallest "
                    "change (`promises`): its area would be infinite. Use a search such as 'minimal' here; "
                    f"for the accuracy within a radius use --radius linf:8/255 --suite {parse(spec)[0]}."
                )
            tasks.append(task)
    if settings.published:
        search = attacks.Algorithm1(published=True)
        for name, (_, goal) in pairs.items():
            tasks.append(SearchTask(name=f"{name}_published", search=search, goal=goal, spec=describe(search)))
    return (*tasks, *_named_searches(settings.searches))


def _radii(settings: Settings, searches: Sequence[SearchTask]) -> tuple[RadiusTask, ...]:
    """The radii by norm, in each the smallest first: what moves an example there moves it farther out as well."""
    tasks = []
    for text in registry.specs_from(settings.radius):
        ball = Ball.of(text)
        suite, known = members(settings.suite, ball), next((task for task in searches if task.name == ATTACK), None)
        # Its changes are kept with their RMSE, and their size in its own norm.
        if known is not None and ball.norm.name in ("l2", "rmse", as_norm(getattr(known.search, "norm", "rmse")).name):
            others = {name: search for name, search in suite.items() if not _alike(search, known.search)}
            suite = {ATTACK: known.search, **others}
        tasks.append(RadiusTask(key=ball.key, ball=ball, searches=suite, alone=settings.alone))
    for first, second in itertools.combinations(tasks, 2):
        if first.kind == second.kind:
            also = "" if first.key == second.key else f", the second time as '{second.key}'"
            raise SpecError(f"The radius '{first.key}' is given twice{also}.")
    norms = [task.ball.norm.name for task in tasks]
    return tuple(sorted(tasks, key=lambda task: (norms.index(task.ball.norm.name), task.ball.radius)))


def _alike(first: attacks.Search, second: attacks.Search) -> bool:
    """Whether two searches are the same, but for l2 and rmse, which order all changes alike."""
    options, others = ({**vars(each), "norm": _order(each)} for each in (first, second))
    return type(first) is type(second) and options == others


def _order(search: attacks.Search) -> str:
    name = as_norm(getattr(search, "norm", "rmse")).name
    return "rmse" if name == "l2" else name


def _named_searches(specs: Sequence[str]) -> list[SearchTask]:
    """Searches of `SPEC@GOAL`, named by the registry's names of both."""
    pairs = [parted(spec) for spec in specs]
    for spec, goal in pairs:
        if not goal:
            raise SpecError(f"The search '{spec}' has no goal: write SPEC@GOAL, e.g. '{spec}@misclassify'.")
    searches = [attacks.build(spec) for spec, _ in pairs]
    goals = [describe(registry.build("goal", goal)) for _, goal in pairs]
    written = [f"{describe(search)}@{goal}" for search, goal in zip(searches, goals, strict=True)]
    _refuse_repeated("search", written)
    names = numbered([f"{parse(spec)[0]}@{parse(goal)[0]}" for spec, goal in pairs])
    return [
        SearchTask(name=name, search=search, goal=goal, spec=spec)
        for name, search, (_, goal), spec in zip(names, searches, pairs, written, strict=True)
    ]


def _corruptions(specs: Sequence[str]) -> tuple[CorruptionTask, ...]:
    """`all` or NAME, with or without :SEVERITY, or a spec with options: by name, with severities in rising order."""
    tasks: dict[str, dict[int, Corruption]] = {}
    typed: dict[tuple[str, int], str] = {}
    for text, name, options in itertools.chain.from_iterable(map(_read_corruption, specs)):
        several = (options.pop("severity"),) if "severity" in options else range(1, SEVERITIES + 1)
        for severity in several:
            made = registry.make("corruption", name, severity=severity, **options)
            if severity in tasks.setdefault(name, {}):
                first = typed[name, severity]
                by = "" if first == text else f": '{first}' and '{text}' both contain it"
                raise SpecError(f"The corruption '{name}:{severity}' is given twice{by}.")
            typed[name, severity] = text
            if any(replace(each, severity=severity) != made for each in tasks[name].values()):
                raise SpecError(f"The corruption '{name}' is given with different options: evaluate them one by one.")
            tasks[name][severity] = made
    return tuple(CorruptionTask(key=key, severities=dict(sorted(made.items()))) for key, made in tasks.items())


def _read_corruption(text: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(text, name, options) of each corruption that a text names. Raises SpecError."""
    name, _, rest = text.partition(":")
    if text == "none":
        raise SpecError("There is no corruption 'none': omit corruptions to measure under none.")
    if rest and "=" not in rest and rest not in map(str, range(1, SEVERITIES + 1)):
        raise SpecError(
            f"The corruption '{text}': a severity is a whole number from 1 to {SEVERITIES}, as in {name}:3, and an "
            "option is written option=value."
        )
    _, options = parse(f"{name}:severity={rest}" if rest and "=" not in rest else text)
    for each in registry.entries("corruption") if name == "all" else (name,):
        yield text, each, dict(options)


# -- explainers and measures -------------------------------------------------------------------------------


def _named(
    kind: str, specs: Sequence[str], *, taken: Sequence[str] = (), defaults: Mapping[str, Any] | None = None
) -> list[tuple[str, Any]]:
    """What spec strings name, each with the registry's name; of several of one name the next is NAME-2.

    taken: names that none can have. defaults: options where a thing with an option `rho` has them and its spec does not
    say them. Raises SpecError for what is unknown, or given twice.
    """
    parsed = [parse(spec) for spec in specs]
    things = []
    for name, options in parsed:
        entry = registry.entries(kind).get(name)
        allowed = {} if entry is None else entry.options()
        sizes = {key: value for key, value in (defaults or {}).items() if key in allowed and "rho" in allowed}
        things.append(registry.make(kind, name, **{**sizes, **options}))
    _refuse_repeated(kind, [describe(thing) for thing in things])
    names = numbered([*taken, *(name for name, _ in parsed)])[len(taken) :]
    return list(zip(names, things, strict=True))


def _refuse_repeated(kind: str, specs: Sequence[str]) -> None:
    for spec in specs:
        if specs.count(spec) > 1:
            raise SpecError(f"The {kind} '{spec}' is given twice.")


def _maps(settings: Settings) -> tuple[MapTask, ...]:
    pairs = [parted(spec) for spec in settings.maps]
    for spec, target in pairs:
        if target not in ("", "predicted", "true") and not target.isdecimal():
            raise SpecError(f"In '{spec}@{target}', the class must be 'predicted', 'true' or its number.")
    by_name = named_explainers([spec for spec, _ in pairs])
    return tuple(
        MapTask(name=name, explainer=explainer, target=target or settings.map_target)
        for (name, explainer), (_, target) in zip(by_name.items(), pairs, strict=True)
    )


def _measures(specs: Sequence[str]) -> tuple[MeasureTask, ...]:
    """Measures, the keys of whose values are columns of maps.parquet: NAME, or NAME_VALUE of one of several values."""
    tasks = [
        MeasureTask(
            name=name,
            measure=measure,
            keys={value: f"{name}_{value}" if value else name for value in values_of(measure)},
        )
        for name, measure in _named("measure", specs, taken=list(maps_of(())))
    ]
    keys = [key for task in tasks for key in task.keys.values()]
    _refuse_repeated("value", [*keys, *TABLES["maps"]])
    return tuple(tasks)


def _pictures(settings: Settings) -> tuple[PictureTask, ...]:
    """Explainers of pictures; those that make changes of a given size have the settings' unless their spec says it."""
    sizes = {"rho": settings.rho, "steps": settings.steps}
    tasks = []
    for name, explainer in _named("explainer", settings.pictures, defaults=sizes):
        if getattr(explainer, "shows", "change") != "change":
            raise SpecError(f"The explainer '{name}' makes no pictures: measure its maps (maps: {name}).")
        rho = getattr(explainer, "rho", None)
        tasks.append(PictureTask(name=name, explainer=explainer, rho=None if rho is None else as_radius(rho)))
    return tuple(tasks)
