"""Sections of the page of a record. Each is one file in `sections/` with a template beside it, or in a plugin.

    @register("section", "boxes")
    class Boxes:
        title, menu, place, tables = "Where the thing lies", "Boxes", 65, ("examples",)

        def __call__(self, contents):
            return {"lines": [...]} if ... else None

and `boxes.html.j2` beside it, which says `{% for line in lines %}...`. Nothing else has to know of it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from markupsafe import Markup

from advex import registry
from advex.report.reading import Contents
from advex.report.templates import environment


class Section(Protocol):
    """A registered class without options; its name is the section's id.

    title: above the section; menu: in the bar that leads to it. place: sections stand in rising order of it, ours at
    10, 20, 30, ...
    tables: names of the record's tables that are read. A call gives the variables of the template (`badge`, if it is
    there, stands in the bar beside the menu's word), or None where the record has nothing for it. The template also
    knows `record` and `contents`.
    """

    title: str
    menu: str
    place: int
    tables: tuple[str, ...]

    def __call__(self, contents: Contents) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True)
class RenderedSection:
    """A section as it stands on a page."""

    id: str
    place: float
    title: str
    menu: str
    badge: str
    html: Markup


def tables_of_sections() -> set[str]:
    """The tables of a record that any section reads."""
    return {table for entry in registry.entries("section").values() for table in getattr(entry.make, "tables", ())}


def shown(contents: Contents) -> list[RenderedSection]:
    """The sections that the record has something for, in the order of the page."""
    made = (_shown(entry, contents) for entry in registry.entries("section").values())
    return sorted((section for section in made if section is not None), key=lambda section: (section.place, section.id))


def rendered(section: Section, values: Mapping[str, Any], **more: Any) -> Markup:
    """A section's template, which lies beside its file, with its variables."""
    template = Path(inspect.getfile(type(section))).with_suffix(".html.j2")
    return Markup(environment().from_string(template.read_text(encoding="utf-8")).render(**values, **more))


def _shown(entry: registry.Entry, contents: Contents) -> RenderedSection | None:
    """One section. One of a plugin that fails is a sentence that says so; a fault in one of ours is raised."""
    try:
        section: Section = entry.make()
        values = section(contents)
        if values is None:
            return None
        html = rendered(section, values, record=contents.record, contents=contents)
        return RenderedSection(
            entry.name, section.place, section.title, section.menu, str(values.get("badge") or ""), html
        )
    except Exception as error:
        if not entry.distribution:
            raise
        place, title = getattr(entry.make, "place", math.inf), getattr(entry.make, "title", entry.name)
        sentence = "<p>The section '{}' of {} could not be made ({}: {}). The rest of this page is complete.</p>"
        html = Markup(sentence).format(entry.name, entry.distribution, type(error).__name__, error)
        return RenderedSection(entry.name, place, title, getattr(entry.make, "menu", title), "", html)
