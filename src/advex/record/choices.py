"""choice.json: which of several networks a row of a reproduction has, and by what."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from advex.documents import read_json
from advex.errors import ArtifactError
from advex.files import write_text
from advex.record.figures import Strict

CHOICE = "choice.json"


class ChoiceEntry(Strict):
    """Which network a row has, see `advex.papers.choices.Chosen`.

    accuracies: of the row `like` and of the rows that were to be chosen among, in [0, 1], on so many `examples` of
    `data`. missing: those that could not be trained or evaluated. reason: why none could be chosen.
    """

    like: str
    within: float
    data: str = ""
    examples: int = 0
    accuracies: dict[str, float] = {}
    missing: list[str] = []
    reason: str = ""

    @property
    def chosen(self) -> str | None:
        """The nearest; of two the first."""
        others = [name for name in self.accuracies if name != self.like]
        return min(others, key=lambda name: abs(self.away(name)), default=None)

    def away(self, name: str) -> float:
        """By how many points a network's accuracy is above that of `like`."""
        return 100 * (self.accuracies[name] - self.accuracies[self.like])

    @property
    def sentence(self) -> str:
        """What was chosen, from what, and whether it is near."""
        if self.chosen is None:
            return self.reason
        each = ", ".join(f"{name} {100 * value:.2f} %" for name, value in self.accuracies.items())
        each += f"; there is no {' and no '.join(self.missing)} to choose" if self.missing else ""
        points = self.away(self.chosen)
        near = "within" if abs(points) <= self.within else "which is no fair match: not within"
        return (
            f"Chosen is {self.chosen}, {points:+.2f} points from {self.like} ({near} {self.within:g}), by accuracy on "
            f"{self.examples:,} pictures that are neither trained on nor compared ({self.data}): {each}."
        )


def write_choice(folder: Path, choice: ChoiceEntry) -> None:
    """Write choice.json, completely or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CHOICE, choice.model_dump_json(indent=1) + "\n")


def read_choice(folder: Path, networks: Collection[str]) -> ChoiceEntry | None:
    """What was chosen among these, once it is. Raises ArtifactError for what is no choice among them."""
    path = folder / CHOICE
    if not path.is_file():
        return None
    try:
        entry = ChoiceEntry.model_validate(read_json(path, "a choice among networks", ArtifactError))
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read as a choice among networks: {error}. Delete it.") from None
    if unknown := entry.accuracies.keys() - networks:
        raise ArtifactError(f"{path} has {min(unknown)}, which is not one of {', '.join(networks)}. Delete it.")
    return entry
