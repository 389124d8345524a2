"""Rows whose network is another row's, which one is known only once several are trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from advex.errors import did_you_mean

if TYPE_CHECKING:
    from advex.papers.paper import Paper


class Chosen(BaseModel):
    """Of the rows `of` that whose accuracy is nearest to that of the row `like`, on examples that are neither learned
    from nor compared. within: percentage points, beyond which it is said that none is near.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    of: tuple[str, ...] = Field(min_length=2)
    like: str
    within: float = Field(default=1.0, gt=0)


def problems(paper: Paper) -> Iterator[str]:
    """What is wrong with a paper's choices."""
    rows = paper.rows
    for row in rows.values():
        named = () if row.chosen is None else (*row.chosen.of, row.chosen.like)
        for name in sorted({name for name in named if named.count(name) > 1}):
            yield f"row {row.id} is chosen by {name} twice"
        for name in named:
            if name not in rows:
                yield f"row {row.id} is chosen by '{name}': {did_you_mean(name, rows)}"
            elif rows[name].recipe is None:
                yield f"row {row.id} is chosen by {name}, which has no recipe of its own"
