"""What an evaluation does with each of its specs: searches, radii, pictures, maps and measures, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advex import attacks, explainers
from advex.attacks.suite import Ball
from advex.corruptions import Corruption
from advex.environment import without_places
from advex.geometry import RMSE, Norm, as_norm
from advex.measures.case import Measure, values_of
from advex.measures.verdicts import standing
from advex.record import CorruptionEntry, MeasureEntry, RadiusEntry
from advex.record.tables import distance_column, in_norm
from advex.registry import describe, parse

ATTACK = "attack"  # the search that certificates and the recheck are set beside


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """A search and the spec of its goal. name: as in `Record.searches`; spec: as kept there."""

    name: str
    search: attacks.Search
    goal: str
    spec: str

    @property
    def norm(self) -> Norm:
        """What its distances, their curve and area are in: the norm that it makes small; RMSE of other searches."""
        small = getattr(self.search, "promises", "") in ("smallest", "smallest tried")
        return as_norm(getattr(self.search, "norm", RMSE)) if small else RMSE

    def key(self, of: str) -> str:
        """Of a figure of its distances."""
        return in_norm(f"{self.name}_{of}", self.norm.name)

    @property
    def column(self) -> str:
        """Of its distances."""
        return distance_column(self.name, self.norm.name)

    @property
    def area(self) -> bool:
        """Whether what is left at a distance is the accuracy, so that there is an accuracy-robustness area."""
        return not self.within and parse(self.goal)[0] in ("misclassify", "below_chance")

    @property
    def within(self) -> bool:
        """Whether it looks within a distance of its own, so that what it does not reach may lie farther."""
        return getattr(self.search, "promises", None) == "lowest"


@dataclass(frozen=True, kw_only=True)
class RadiusTask:
    """A distance and the searches within it, by name in their order. key: as in `Record.radii`. alone: all on all.

    Where the attack's changes are known in the norm, it stands first: what it has done already costs nothing.
    """

    key: str
    ball: Ball
    searches: Mapping[str, attacks.Search]
    alone: bool = False

    @property
    def kind(self) -> str:
        """Of its pieces."""
        return f"within-{self.ball.norm.name}-{self.ball.radius:.6g}"

    @property
    def entry(self) -> RadiusEntry:
        """What the record says of it."""
        searches = {name: describe(search) for name, search in self.searches.items()}
        return RadiusEntry(norm=self.ball.norm.name, radius=self.ball.radius, searches=searches, alone=self.alone)


@dataclass(frozen=True, kw_only=True)
class CorruptionTask:
    """A corruption by its severities. key: its name in the registry, as in `Record.corruptions`."""

    key: str
    severities: Mapping[int, Corruption]

    def entry(self, shape: Sequence[int]) -> CorruptionEntry:
        """What the record says of it, for inputs of a shape."""
        first = next(iter(self.severities.values()))
        spec = without_places(describe(first))
        return CorruptionEntry(title=first.title, spec=spec, severities=list(self.severities), table=first.table(shape))


@dataclass(frozen=True, kw_only=True)
class PictureTask:
    """An explainer of pictures. rho: the RMSE of its changes, None where it has no such size."""

    name: str
    explainer: explainers.Explainer
    rho: float | None

    @property
    def lowers(self) -> bool:
        """Whether it shows what speaks against the class rather than for it."""
        return bool(getattr(self.explainer, "lowers", False))


@dataclass(frozen=True, kw_only=True)
class MapTask:
    """An explainer whose maps are measured. target: the class that they are of: `predicted`, `true`, or a number."""

    name: str
    explainer: explainers.Explainer
    target: str = "predicted"


@dataclass(frozen=True, kw_only=True)
class MeasureTask:
    """What is measured of maps. keys: of the record for each of its values, by the measure's own name of the value."""

    name: str
    measure: Measure
    keys: Mapping[str, str]

    @property
    def entries(self) -> dict[str, MeasureEntry]:
        """What the record says of its values."""
        spec = describe(self.measure)
        known = standing(spec)
        return {
            self.keys[name]: MeasureEntry(
                title=value.title,
                better=value.better,
                unit=value.unit,
                baseline=value.baseline,
                of=self.measure.of,
                spec=spec,
                standing="" if value.better == "neither" else known,
            )  # fmt: skip
            for name, value in values_of(self.measure).items()
        }


def standing_on(shape: Sequence[int], entries: Mapping[str, MeasureEntry]) -> dict[str, MeasureEntry]:
    """What is known of measures on inputs of this shape: they were tested on pictures."""
    if len(shape) == 3:
        return dict(entries)
    untested = {"standing": "not validated"}
    return {
        key: each.model_copy(update=untested) if each.standing == "validated" else each for key, each in entries.items()
    }


def distinct(entries: Mapping[str, MeasureEntry]) -> dict[str, MeasureEntry]:
    """With the key behind a title that several measures share, so that no two figures look alike."""
    alike = Counter(each.title for each in entries.values())
    return {
        key: each.model_copy(update={"title": f"{each.title} ({key})"}) if alike[each.title] > 1 else each
        for key, each in entries.items()
    }
