"""Other distributions' additions, by entry points: a module, or a package with all its modules, is imported.

    [project.entry-points."advex.plugins"]
    any-name = "their_package"

Sections of reports have a group of their own, `advex.report_sections`: whoever reads a report loads no model code.
"""

from __future__ import annotations

import importlib
import pkgutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import ModuleType

from advex.errors import AdvexWarning

_LOADED: dict[str, str] = {}  # modules named by distributions, of all groups


def owner_of(error: BaseException) -> tuple[str, str] | None:
    """The distribution and the module whose code an error came from; None where that is ours."""
    for frame in reversed([frame for frame, _ in traceback.walk_tb(error.__traceback__)]):
        name = str(frame.f_globals.get("__name__", ""))
        for module, distribution in _LOADED.items():
            if f"{name}.".startswith(f"{module}."):
                return distribution, name
        if name.startswith("advex."):
            return None
    return None


@cache
def plugins(group: str) -> dict[str, str]:
    """Import what the installed distributions name in a group: {module: "distribution version"}.

    What cannot be imported is left out with a warning that names the distribution and the error.
    """
    from importlib import metadata  # 20 ms

    modules: dict[str, str] = {}
    for point in metadata.entry_points(group=group):
        name = point.dist and f"{point.dist.name} {point.dist.version}"
        modules[point.module] = name or "an unknown distribution"
    # Sorted: the order of folders on the path decides nothing.
    modules = {module: modules[module] for module in sorted(modules, key=lambda module: (modules[module], module))}
    _LOADED.update(modules)
    for module, distribution in modules.items():
        for _ in walk(module, partial(_load, distribution)):
            pass
    return modules


def _load(distribution: str, name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"{distribution}: its plugin '{name}' cannot be imported. {reason}", AdvexWarning, stacklevel=2)
        return None


def walk(name: str, load: Callable[[str], ModuleType | None] = importlib.import_module) -> Iterator[ModuleType]:
    """Import a module and, if it is a package, all modules in it, but what runs as a program (`__main__`)."""
    if (module := load(name)) is None:
        return
    yield module
    for inside in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if inside.name != "__main__":
            yield from walk(f"{name}.{inside.name}", load)
