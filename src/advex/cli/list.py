"""`advex list`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from advex import registry
from advex.cli import options, terminal

KINDS = tuple(registry.ROOMS)


@terminal.verb
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help=f"One of {', '.join(KINDS)}.", autocompletion=lambda: list(KINDS)),
    ] = None,
    json_: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """List every network, attack, explainer, ... that you can name; for one KIND with options and defaults.

    Example: advex list explainers
    """
    if kind is not None and kind not in KINDS and kind.removesuffix("s") in KINDS:
        kind = kind.removesuffix("s")
    entries = [entry for each in ([kind] if kind else KINDS) for entry in registry.entries(each).values()]
    if json_:
        terminal.emit_json([_plain(entry) for entry in entries])
    elif not entries:
        terminal.emit(f"no {kind} yet")
    elif kind is None:
        _show_all(entries)
    else:
        _show(entries)


def _show_all(entries: list[registry.Entry]) -> None:
    """A line for each, below the name of its kind."""
    width = max(len(entry.name) for entry in entries)
    for kind in dict.fromkeys(entry.kind for entry in entries):
        terminal.emit(f"{kind}s")
        for entry in entries:
            if entry.kind == kind:
                terminal.emit(f"    {entry.name.ljust(width)}  {entry.summary}")
    terminal.emit("\nadvex list KIND shows the options.")


def _show(entries: list[registry.Entry]) -> None:
    """Each with its options, its file and where it comes from."""
    for entry in entries:
        words = (f"{name}={_text(value, entry)}" for name, value in entry.defaults().items())
        after = f", after {entry.cites}" if entry.cites else ""
        origin = f", from {entry.distribution}" if entry.distribution else ""
        terminal.emit(f"{entry.kind} {entry.name}: {entry.summary}")
        terminal.emit(f"    {' '.join(words) or 'no options'}")
        terminal.emit(f"    {entry.place}{after}{origin}")
        if standing := _standing(entry):
            terminal.emit(f"    {standing}")


def _text(value: Any, entry: registry.Entry) -> str:
    """As a spec string has it; of what a file describes, words as they stand."""
    return value if entry.listing and isinstance(value, str) else registry.write_value(value)


def _standing(entry: registry.Entry) -> str:
    """Of a measure, whether it was found to know the truth; else nothing."""
    if entry.kind != "measure":
        return ""
    from advex.measures.verdicts import standing

    return standing(entry.name)


def _plain(entry: registry.Entry) -> dict[str, Any]:
    """The entry in a form that JSON has."""
    plain = str | int | float | bool | list | dict | None
    options = {
        name: value if isinstance(value, plain) else registry.write_value(value)
        for name, value in entry.defaults().items()
    }
    return {
        "kind": entry.kind,
        "name": entry.name,
        "summary": entry.summary,
        "options": options,
        "cites": entry.cites,
        "file": entry.place,
        "distribution": entry.distribution,
    } | ({"standing": standing} if (standing := _standing(entry)) else {})
