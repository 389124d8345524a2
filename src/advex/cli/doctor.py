"""`advex doctor`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from advex.cli import options, terminal


@terminal.verb
def doctor(
    device: options.Device = "auto",
    measures: Annotated[
        bool, typer.Option("--measures", help="Test the explanation measures instead, on planted evidence.")
    ] = False,
    json_: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Check the installation: versions, device, memory, disk, and a search with a known answer.

    Exit code 1 means that something is broken: with --measures, that a validated measure fails now.
    """
    if measures:
        _measures(json_)
        return
    from advex import doctor as checks
    from advex.lookup.devices import device_named

    results = checks.examine(device_named(device))
    broken = [check for check in results if check.state == "broken"]
    if json_:
        terminal.emit_json({"ok": not broken, "checks": [vars(check) for check in results]})
    else:
        terminal.table(["", "check", "found"], [[check.state, check.name, check.found] for check in results])
        for check in results:
            if check.remedy:
                terminal.emit(f"{check.state}: {check.name}: {check.remedy}")
    if broken:
        raise typer.Exit(terminal.FAILED)


def _measures(json_: bool) -> None:
    """Dose and response of every measure that claims to know the truth."""
    from advex import registry
    from advex.measures import verdicts

    measures = {name: registry.build("measure", name) for name in registry.entries("measure")}
    judged = verdicts.verdicts(measures)
    lost = [name for name, known in verdicts.known().items() if known.validated and not judged[name].validated]
    if json_:
        terminal.emit_json({name: dataclasses.asdict(verdict) for name, verdict in judged.items()})
    else:
        columns = [f"{what}, {a}" for what in ("tau", "right", "resolution") for a in verdicts.AMPLITUDES]
        header = ["figure", "", *columns]
        rows = [
            [name, "validated" if verdict.validated else "not validated"]
            + [f"{value:.2f}" for values in (verdict.tau, verdict.right, verdict.resolution) for value in values]
            for name, verdict in judged.items()
        ]
        terminal.table(header, rows)
        for name, made in measures.items():
            if made.of not in verdicts.ABOUT_TRUTH:
                terminal.emit(f"{name}: {verdicts.standing(name)} ({made.of})")
    if lost:
        terminal.emit(f"broken: no longer validated: {', '.join(lost)}")
        raise typer.Exit(terminal.FAILED)
