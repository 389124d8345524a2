"""Names for things: a class or factory registers itself, spec strings build it, `advex list` shows it.

The entries of a kind are what the modules of its rooms and of installed plugins (`plugins`) register, whatever else was
imported. A file that is put into a room's folder is discovered; nothing else needs to know it.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from advex.errors import AdvexError, AdvexWarning, SpecError, did_you_mean, which_option
from advex.registry.option_types import fitted, parameters
from advex.registry.plugins import plugins, walk
from advex.registry.specs import parse as parse
from advex.registry.specs import parse_value as parse_value
from advex.registry.specs import specs_from as specs_from
from advex.registry.specs import write as write
from advex.registry.specs import write_value as write_value

__all__ = [
    "ROOMS", "Entry", "Listing", "build", "describe", "discover", "entries", "file_of", "make", "numbered", "parse",
    "parse_value", "register", "register_files", "specs_from", "write", "write_value",
]  # fmt: skip

T = TypeVar("T", bound=Callable[..., Any])

# The rooms whose modules register something, by kind.
ROOMS: dict[str, tuple[str, ...]] = {
    "network": ("advex.networks",),
    "attack": ("advex.attacks",),
    "goal": ("advex.goals",),
    "objective": ("advex.objectives",),
    "explainer": ("advex.explainers",),
    "distance": ("advex.distances",),
    "measure": ("advex.measures",),
    "norm": ("advex.geometry",),
    "dataset": ("advex.data",),
    "format": ("advex.data",),
    "section": ("advex.report.sections",),
    "corruption": ("advex.corruptions",),
    "recipe": ("advex.recipes",),
    "builtin": ("advex.bundled",),
    "paper": ("advex.papers",),
}
# The entry points of plugins. A report imports no model code, so its sections stand in a group of their own.
PLUGINS, SECTIONS = "advex.plugins", "advex.report_sections"


@dataclass(frozen=True)
class Listing:
    """How a thing is listed that is described by a file or folder, not by code.

    path: that file or folder. summary: what it is, in one line. facts: shown in the place of options. Both are read
    when somebody asks.
    """

    path: Path
    summary: Callable[[], str]
    facts: Callable[[], Mapping[str, Any]] = dict


@dataclass(frozen=True)
class Entry:
    """One registered thing.

    make: the class or factory. cites: the paper it follows. module: where it is registered. examples: options of other
    forms of it, worth trying. distribution: name and version of the plugin that brought it, empty where it is ours.
    """

    kind: str
    name: str
    make: Callable[..., Any]
    cites: str
    module: str
    examples: tuple[str, ...] = ()
    listing: Listing | None = None
    distribution: str = ""

    @property
    def summary(self) -> str:
        """What it is: the first line of its docstring."""
        return self.listing.summary() if self.listing else (inspect.getdoc(self.make) or "").split("\n")[0]

    @property
    def path(self) -> Path:
        """The file that it is in."""
        return self.listing.path if self.listing else Path(inspect.getsourcefile(inspect.unwrap(self.make)) or "")

    @property
    def place(self) -> str:
        """That file: of ours from the package's own folder on, of plugins in full."""
        root = Path(__file__).resolve().parents[2]
        return str(self.path.relative_to(root) if self.path.is_relative_to(root) else self.path)

    def options(self) -> dict[str, inspect.Parameter]:
        """Keyword parameters of the constructor or factory."""
        return {name: option for name, option in parameters(self.make).items() if option.kind is not option.VAR_KEYWORD}

    def defaults(self) -> dict[str, Any]:
        """Option -> default, `...` where one must be given; of what a file describes, its facts."""
        if self.listing:
            return dict(self.listing.facts())
        return {name: "..." if at.default is at.empty else at.default for name, at in self.options().items()}


# By kind, name and top-level package of whoever registered it.
_entries: dict[tuple[str, str, str], Entry] = {}


def register(
    kind: str,
    name: str,
    *,
    cites: str = "",
    examples: Sequence[str] = (),
    module: str = "",
    listing: Listing | None = None,
) -> Callable[[T], T]:
    """Decorator: make a class or factory known as `name` among its kind.

    cites: the paper it follows. examples: options of other forms, such as "norm=l2,radius=0.5": tests try them all.
    module: where it is registered, if not where it is defined. Raises SpecError for an unknown kind, when another thing
    of the same package already has that name, and for one of ours that is not in a room of its kind.
    """
    rooms = _rooms(kind)

    def add(make: T) -> T:
        entry = Entry(kind, name, make, cites, module or make.__module__, tuple(examples), listing)
        package = entry.module.partition(".")[0]
        if package == "advex" and not _within(entry.module, rooms):
            raise SpecError(f"{entry.module} registers the {kind} '{name}', which belongs in {' or '.join(rooms)}.")
        known = _entries.setdefault((kind, name, package), entry)
        if _place(known) != _place(entry):
            raise SpecError(_two(known, entry))
        _entries[kind, name, package] = entry
        return make

    return add


def register_files(
    kind: str,
    package: str,
    make: Callable[..., Any],
    summary: Callable[[Path], str],
    facts: Callable[[Path], Mapping[str, Any]],
) -> None:
    """Register the YAML files beside a package's modules, each by its name.

    make, summary and facts (see `Listing`) are called with the path of a file.
    """
    for path in sorted(Path(sys.modules[package].__file__ or "").parent.glob("*.yaml")):
        listing = Listing(path, partial(summary, path), partial(facts, path))
        register(kind, path.stem, module=package, listing=listing)(partial(make, path))


def _rooms(kind: str) -> tuple[str, ...]:
    if kind not in ROOMS:
        raise SpecError(f"There is no kind '{kind}': {did_you_mean(kind, ROOMS)}")
    return ROOMS[kind]


def _within(module: str, packages: Iterable[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _place(entry: Entry) -> str:
    return f"{entry.module}.{getattr(entry.make, '__qualname__', entry.name)}"


def _two(first: Entry, second: Entry) -> str:
    return f"Two {first.kind}s are called '{first.name}': {_place(first)} and {_place(second)}."


@cache
def discover(package: str) -> None:
    """Import every module of a package and of those in it, so that what it registers is known."""
    for _ in walk(package):
        pass


def _owners(kind: str) -> dict[str, str]:
    """The rooms of a kind and the modules of plugins, all imported: {module: distribution}, ours first."""
    rooms = _rooms(kind)
    for room in rooms:
        discover(room)
    return {**dict.fromkeys(rooms, ""), **plugins(SECTIONS if kind == "section" else PLUGINS)}


def entries(kind: str) -> dict[str, Entry]:
    """All registered things of a kind, by name, sorted: those of its rooms and of plugins.

    A plugin's thing that takes a name which another has is left out with a warning. Raises SpecError for an unknown
    kind.
    """
    owners, listed = _owners(kind), dict[str, Entry]()
    registered = [entry for entry in list(_entries.values()) if entry.kind == kind]
    for package, distribution in owners.items():
        for entry in registered:
            if _within(entry.module, [package]):
                own = dataclasses.replace(entry, distribution=distribution) if distribution else entry
                first = listed.setdefault(entry.name, own)
                if first.make is not entry.make:
                    refusal = f"{_two(first, entry)} The one of {distribution} is left out."
                    warnings.warn(refusal, AdvexWarning, stacklevel=1)  # from one place: it is said once
    return dict(sorted(listed.items()))


def file_of(kind: str, name_or_path: str | Path) -> Path:
    """The file that describes a registered thing, or the one at a path. Raises SpecError where there is neither."""
    known, name = entries(kind), str(name_or_path)
    path = known[name].path if name in known else Path(name)
    if not path.is_file():
        raise SpecError(f"There is no {kind} '{name}' and no such file: {did_you_mean(name, known, _every(kind))}")
    return path


def _every(kind: str) -> str:
    return f"advex list {kind}"


def _known(kind: str) -> dict[str, Entry]:
    """The entries of a kind, and what the running program registers itself: a script, a notebook, a test.

    Raises SpecError where it takes a name that an entry has.
    """
    known, owners = entries(kind), _owners(kind)
    for entry in list(_entries.values()):
        if entry.kind == kind and not _within(entry.module, owners):
            first = known.setdefault(entry.name, entry)
            if first is not entry:
                raise SpecError(_two(first, entry))
    return known


def build(kind: str, spec: str) -> Any:
    """Make the thing that a spec string names. Raises SpecError: see `make`."""
    if isinstance(spec, str):
        _entry(kind, spec.strip().partition(":")[0])  # a name that does not exist before options that cannot be
    name, options = parse(spec)
    return make(kind, name, **options)


def _entry(kind: str, name: str) -> Entry:
    known = _known(kind)
    if name not in known:
        raise SpecError(f"There is no {kind} '{name}': {did_you_mean(name, known, _every(kind))}")
    return known[name]


def make(kind: str, name: str, **options: Any) -> Any:
    """Make a registered thing by name and options.

    Raises SpecError for unknown names and options, with the nearest known one, and for values
    that the thing refuses.
    """
    entry = _entry(kind, name)
    allowed = entry.options()
    takes_any = len(allowed) < len(parameters(entry.make))  # and checks them itself
    for key in options:
        if key not in allowed and not takes_any:
            nearest = which_option(key, allowed) if allowed else "it has none."
            raise SpecError(f"The {kind} '{name}' has no option '{key}': {nearest}")
    missing = [key for key, at in allowed.items() if at.default is inspect.Parameter.empty and key not in options]
    if missing:
        raise SpecError(f"The {kind} '{name}' needs {', '.join(missing)}, e.g. '{name}:{missing[0]}=...'.")
    options = fitted(f"The {kind} '{name}'", entry.make, options)
    try:
        return entry.make(**options)
    except AdvexError:
        raise
    except (TypeError, ValueError) as error:
        raise SpecError(f"The {kind} '{name}' cannot be created with {options}: {error}") from error


def describe(thing: Any) -> str:
    """The spec string that builds a registered dataclass again, with every option spelt out."""
    if (name := next((entry.name for entry in _entries.values() if entry.make is type(thing)), None)) is None:
        return repr(thing)
    values = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing) if field.init}
    return write(name, {key: describe(at) if dataclasses.is_dataclass(at) else at for key, at in values.items()})


def numbered(names: Sequence[str]) -> list[str]:
    """The names, of which repeated ones get -2, -3, ...; upper and lower case are the same, as to some file systems.

    >>> numbered(["a", "A", "b", "a-2"])
    ['a', 'A-3', 'b', 'a-2']
    """
    wanted = {name.casefold() for name in names}
    given: dict[str, str] = {}
    for name in names:
        candidate, count = name, 1
        while candidate.casefold() in given or (count > 1 and candidate.casefold() in wanted):
            count += 1
            candidate = f"{name}-{count}"
        given[candidate.casefold()] = candidate
    return list(given.values())
