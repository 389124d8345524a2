"""`advex annotate agreement`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advex.cli import options, terminal

if TYPE_CHECKING:
    from advex.annotation.agreement import Agreement, Interval

_MEASURES = ("percent", "cohen", "fleiss", "alpha")


@terminal.verb
def agreement(
    project: options.Project,
    out: Annotated[
        Path | None, typer.Option(metavar="PAGE.html", help="Also write a page that shows the disagreements.")
    ] = None,
    database: options.Database = None,
    json_: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Show how well people agree, overall and by class."""
    from advex.annotation.project import opened
    from advex.files import write_text

    with opened(project, database) as store:
        from advex.annotation import pages
        from advex.annotation.agreement import agreement as of
        from advex.annotation.agreement import by_class

        votes = store.votes()
        if out is not None:
            write_text(out, pages.standalone(store))
    groups: dict[str, Agreement] = {"all": of(votes), **by_class(votes)}
    if json_:
        terminal.emit_json(
            [{"class": None if not row else name, **_plain(group)} for row, (name, group) in enumerate(groups.items())]
        )
        return
    rows = [
        [name, *map(str, group.answered.values()), str(group.images)]
        + [_figure(getattr(group, key), 100 if key == "percent" else 1) for key in _MEASURES]
        for name, group in groups.items()
    ]
    columns = ["class", "unchanged", "unsure", "changed", "shared", "agree %", "Cohen", "Fleiss", "Krippendorff"]
    terminal.table(columns, rows)


def _plain(group: Agreement) -> dict[str, Any]:
    from advex.record import plain

    intervals = {key: {name: plain(value) for name, value in vars(getattr(group, key)).items()} for key in _MEASURES}
    return {"images": group.images, "answers": group.answers, "answered": group.answered, **intervals}


def _figure(interval: Interval, scale: int) -> str:
    if math.isnan(interval.value):
        return "-"
    digits = 1 if scale == 100 else 3
    value, low, high = (f"{scale * each:.{digits}f}" for each in (interval.value, interval.low, interval.high))
    return value if math.isnan(interval.low) else f"{value} [{low}, {high}]"
