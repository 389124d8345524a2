"""Reasons to trust the figures less, each with its remedy."""

from __future__ import annotations

from typing import Any

from advex.registry import register
from advex.report.reading import Contents
from advex.report.sentences import grouped


@register("section", "trust")
class Trust:
    """The flags of the evaluation."""

    title, menu, place, tables = "Trust", "Trust", 20, ()

    def __call__(self, contents: Contents) -> dict[str, Any]:
        groups = grouped(contents.record.flags)
        warnings = [group for group in groups if group[0][0] == "warning"]
        return {"flags": groups, "warnings": warnings, "notes": groups[len(warnings) :], "badge": len(groups) or ""}
