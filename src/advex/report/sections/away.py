"""Away from a class: what has to go for a model to let go of a class."""

from __future__ import annotations

from typing import Any

from advex.registry import register
from advex.report.grids import grids
from advex.report.reading import Contents


@register("section", "away")
class Away:
    """What has to go for a model to let go of a class."""

    title, menu, place, tables = "Away from a class", "Away", 27, ("examples", "explanations")

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        made = () if contents.rows("answers") else grids(contents, "away")  # rows of tables are told in sentences
        return {"grids": made} if made else None
