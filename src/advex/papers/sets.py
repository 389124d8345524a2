"""How a paper had its data sets, where what is downloaded may be had in several ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from advex.errors import did_you_mean

if TYPE_CHECKING:
    from advex.papers.paper import Paper


class DataSet(BaseModel):
    """size: the side in pixels to which its pictures are scaled and cut. options: of the loader of its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int | None = Field(default=None, ge=1)
    options: dict[str, int | str] = {}


def names(paper: Paper) -> set[str]:
    """Of the data sets of all rows."""
    return {table.data for table in paper.tables.values()} | {row.data for row in paper.rows.values() if row.data}


def problems(paper: Paper) -> Iterator[str]:
    """What is wrong with a paper's data sets."""
    for name in paper.sets.keys() - names(paper):
        yield f"sets: no row is on '{name}': {did_you_mean(name, names(paper))}"
