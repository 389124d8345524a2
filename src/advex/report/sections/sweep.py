"""Increasing the change step by step: the same target at ever larger changes."""

from __future__ import annotations

from typing import Any

from advex.registry import register
from advex.report.grids import grids
from advex.report.reading import Contents


@register("section", "sweep")
class Sweep:
    """The same target at ever larger changes."""

    title, menu, place, tables = "Increasing the change step by step", "Sweep", 26, ("examples", "explanations")

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        made = () if contents.rows("answers") else grids(contents, "sweep")  # rows of tables are told in sentences
        return {"grids": made} if made else None
