"""`advex doctor`."""

from __future__ import annotations

import typer

from advex.cli import options, terminal


@terminal.verb
def doctor(
    device: options.Device = "auto",
    json_: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Check the installation: versions, device, memory, disk, and a search with a known answer.

    Ends with exit code 1 when something is broken.
    """
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
