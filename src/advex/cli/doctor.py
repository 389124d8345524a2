"""`advex list` and `advex doctor`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from advex.cli import options, terminal
from advex.errors import SpecError, did_you_mean

KINDS = ("network", "attack", "goal", "objective", "explainer", "measure", "dataset", "recipe", "builtin", "paper")


@terminal.verb
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help=f"One of {', '.join(KINDS)}.", autocompletion=lambda: list(KINDS)),
    ] = None,
    json_: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Everything that a name on the command line can mean, with its options and their defaults."""
    if kind is not None and kind not in KINDS:
        raise SpecError(f"There is no kind '{kind}': {did_you_mean(kind, KINDS)}")
    found = [entry for each in ([kind] if kind else KINDS) for entry in _entries(each)]
    if json_:
        terminal.emit_json(found)
        return
    if not found:
        terminal.emit(f"no {kind} yet")
        return
    for entry in found:
        terminal.emit(f"{entry['kind']} {entry['name']}: {entry['summary']}")
        terminal.emit(f"    {_options(entry['options']) or 'no options'}")
        terminal.emit(f"    {entry['file']}{', after ' + entry['cites'] if entry['cites'] else ''}")


def _entries(kind: str) -> list[dict[str, Any]]:
    if kind == "recipe":
        from advex import recipes

        return [
            {"kind": kind, "name": name, "summary": recipes.summary(path), "options": recipes.read(name), "cites": "",
             "file": _place(path)}
            for name, path in recipes.bundled().items()
        ]  # fmt: skip
    if kind == "paper":
        return _papers()
    if kind == "builtin":
        from advex import bundled

        return [
            {"kind": kind, "name": name, "summary": bundled.figures(name).summary, "options": {}, "cites": "",
             "file": _place(folder)}
            for name, folder in bundled.names().items()
        ]  # fmt: skip
    from advex import registry

    return [
        {"kind": kind, "name": name, "summary": entry.summary, "options": _defaults(entry.options()),
         "cites": entry.cites, "file": _place(Path(inspect.getsourcefile(inspect.unwrap(entry.make)) or ""))}
        for name, entry in registry.entries(kind).items()
    ]  # fmt: skip


def _papers() -> list[dict[str, Any]]:
    """Papers whose tables can be run again: their tables, scales and subsets stand for options."""
    from advex import papers

    found = []
    for name, path in papers.papers().items():
        paper = papers.read(name)
        told = {"tables": paper.tables, "scales": paper.scales, "subsets": paper.subsets}
        summary = f"{paper.authors} {paper.year}: {len(paper.rows)} rows, for advex reproduce"
        names = {key: ",".join(values) for key, values in told.items()}
        found.append({"kind": "paper", "name": name, "summary": summary, "options": names, "cites": "",
                      "file": _place(path)})  # fmt: skip
    return found


def _defaults(parameters: dict[str, inspect.Parameter]) -> dict[str, Any]:
    """Option -> default, in a form that JSON has; `...` where one must be given."""
    plain = {}
    for name, parameter in parameters.items():
        default = parameter.default
        if default is inspect.Parameter.empty:
            plain[name] = "..."
        else:
            plain[name] = default if isinstance(default, str | int | float | bool | None) else _text(default)
    return plain


def _text(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _options(options: dict[str, Any]) -> str:
    words = {None: "null", True: "true", False: "false"}
    return " ".join(
        f"{name}={words[value] if value is None or isinstance(value, bool) else value}"
        for name, value in options.items()
    )


def _place(path: Path) -> str:
    """A file of the package, from the package's own folder on; any other in full."""
    root = Path(__file__).resolve().parents[2]
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


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

    found = checks.examine(device_named(device))
    broken = [check for check in found if check.state == "broken"]
    if json_:
        terminal.emit_json({"ok": not broken, "checks": [vars(check) for check in found]})
    else:
        terminal.table(["", "check", "found"], [[check.state, check.name, check.found] for check in found])
        for check in found:
            if check.remedy:
                terminal.emit(f"{check.state}: {check.name}: {check.remedy}")
    if broken:
        raise typer.Exit(terminal.FAILED)
