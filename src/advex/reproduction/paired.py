"""A row less the row that it is set against, example by example: read from the records of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from advex.record import read_record, read_rows

Values = Mapping[str, Mapping[str, float]]  # measure -> id of the example -> value


@dataclass(frozen=True)
class Pair:
    """What two evaluations say of every example: `accuracy`, and EXPLAINER_MEASURE of every map."""

    mine: Values
    theirs: Values

    @property
    def measures(self) -> list[str]:
        """The measures that both have."""
        return [name for name in self.mine if name in self.theirs]

    def values(self, measure: str, other: str | None = None) -> Tensor:
        """Mine and theirs, of the examples that both have: [2, n] float64. other: the measure of theirs."""
        mine, theirs = self.mine[measure], self.theirs[other or measure]
        common = [each for each in mine if each in theirs]
        return torch.tensor([[of[each] for each in common] for of in (mine, theirs)], dtype=torch.float64)


def values_of(folder: Path) -> Values:
    """What the record of one model says of every example, by its id: each may have been asked of others."""
    rows = read_rows(folder, "examples")
    ids = {row["example"]: row["id"] for row in rows}
    values = {"accuracy": {row["id"]: float(row["prediction"] == row["label"]) for row in rows}}
    measures = read_record(folder).measures
    for row in read_rows(folder, "maps") if (folder / "maps.parquet").is_file() else ():
        for measure in measures:
            values.setdefault(f"{row['explainer']}_{measure}", {})[ids[row["example"]]] = row[measure]
    return values
