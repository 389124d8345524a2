"""Names for things: a class or factory registers itself, spec strings build it, `advex list` shows it.

A file dropped into a room's folder is found by `discover`; nothing else needs to know it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from advex.documents import parse_yaml
from advex.errors import AdvexError, SpecError, did_you_mean, quoted

T = TypeVar("T", bound=Callable[..., Any])

# The rooms whose files register something, by kind.
ROOMS = {
    "network": "advex.networks",
    "attack": "advex.attacks",
    "objective": "advex.objectives",
    "explainer": "advex.explainers",
    "measure": "advex.measures",
    "goal": "advex.goals",
    "dataset": "advex.data",
}


@dataclass(frozen=True)
class Entry:
    """One registered thing. cites: the paper it follows. examples: options of other forms of it, worth trying."""

    kind: str
    name: str
    make: Callable[..., Any]
    cites: str
    examples: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.make) or "").split("\n")[0]

    def options(self) -> dict[str, inspect.Parameter]:
        """Keyword parameters of the constructor or factory."""
        return dict(inspect.signature(self.make).parameters)


_entries: dict[tuple[str, str], Entry] = {}


def register(kind: str, name: str, *, cites: str = "", examples: Sequence[str] = ()) -> Callable[[T], T]:
    """Decorator: make a class or factory known as `name` among its kind.

    cites: the paper it follows. examples: options of other forms, such as "norm=l2,radius=0.5": tests try them all.
    Raises SpecError when another thing already has that name.
    """

    def add(make: T) -> T:
        known = _entries.get((kind, name))
        if known is not None and known.make.__qualname__ != make.__qualname__:
            raise SpecError(f"Two {kind}s are called '{name}': {known.make} and {make}.")
        _entries[kind, name] = Entry(kind, name, make, cites, tuple(examples))
        return make

    return add


def discover(package: str) -> None:
    """Import every module of a package and of those in it, so that what it registers is known."""
    module = importlib.import_module(package)
    for inside in pkgutil.iter_modules(getattr(module, "__path__", [])):
        discover(f"{package}.{inside.name}")


def entries(kind: str) -> dict[str, Entry]:
    """All registered things of a kind, by name, sorted.

    Raises SpecError for an unknown kind.
    """
    if kind not in ROOMS:
        raise SpecError(f"There is no kind '{kind}': {did_you_mean(kind, ROOMS)}")
    discover(ROOMS[kind])
    return {name: entry for (of, name), entry in sorted(_entries.items()) if of == kind}


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """`"pgd:norm=linf,radius=8/255"` -> `("pgd", {"norm": "linf", "radius": "8/255"})`.

    Values are YAML scalars; a list is written with dashes (`widths=16-32-64`), a value that has commas
    itself in brackets (`adversarial:attack=(pgd:norm=l2,radius=1),share=1`).
    Raises SpecError for a malformed spec.
    """
    if not isinstance(spec, str):
        raise SpecError(f"A spec is a string such as 'pgd:norm=l2,radius=0.5', not {spec!r}.")
    name, _, rest = spec.strip().partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in _split(rest))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise SpecError(f"In '{spec}', '{part}' is not of the form option=value.")
        if key.strip() in options:
            raise SpecError(f"In '{spec}', option '{key.strip()}' is given twice.")
        value = value.strip()
        bracketed = value.startswith("(") and value.endswith(")")
        options[key.strip()] = value[1:-1] if bracketed else parse_value(value)
    return name, options


def _split(text: str) -> list[str]:
    """Pieces between the commas that are not in brackets. Raises SpecError when brackets do not match."""
    pieces, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
        if character == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    if depth:
        raise SpecError(f"The brackets in '{text}' do not match.")
    return pieces


def parse_value(text: str) -> Any:
    """A value as typed by a user: a YAML scalar, or whole numbers joined by dashes (a tuple).

    Raises SpecError.

    >>> parse_value("16-32-64"), parse_value("0.1"), parse_value("8/255")
    ((16, 32, 64), 0.1, '8/255')
    """
    if "-" in text and all(piece.isdigit() for piece in text.split("-")):
        return tuple(int(piece) for piece in text.split("-"))
    value = parse_yaml(text, f"The value {quoted(text)}", SpecError)
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value):
        return float(value)  # YAML 1.1 takes 1e-4, without a point, for a word
    if isinstance(value, dict | list):
        raise SpecError(f"The value {quoted(text)} must be a number, a word, true, false or null.")
    return value


def build(kind: str, spec: str) -> Any:
    """Make the thing that a spec string names. Raises SpecError: see `make`."""
    name, options = parse(spec)
    return make(kind, name, **options)


def make(kind: str, name: str, **options: Any) -> Any:
    """Make a registered thing by name and options.

    Raises SpecError for unknown names and options, with the nearest known one, and for values
    that the thing refuses.
    """
    known = entries(kind)
    if name not in known:
        raise SpecError(f"There is no {kind} '{name}': {did_you_mean(name, known)}")
    allowed = known[name].options()
    for key in options:
        if key not in allowed:
            raise SpecError(f"The {kind} '{name}' has no option '{key}': {did_you_mean(key, allowed)}")
    missing = [key for key, at in allowed.items() if at.default is inspect.Parameter.empty and key not in options]
    if missing:
        raise SpecError(f"The {kind} '{name}' needs {', '.join(missing)}, e.g. '{name}:{missing[0]}=...'.")
    make_it = known[name].make
    written_out = isinstance(make_it, type) and not dataclasses.is_dataclass(make_it)
    hints = typing.get_type_hints(make_it.__init__ if written_out else make_it)
    # A word may look like a number: the first layer of a network in a row is called 0.
    words = {key for key in options if hints.get(key) is str}
    options = {
        key: str(one) if key in words and type(one) in (int, float) and one == one else one
        for key, one in options.items()
    }
    for key, value in options.items():
        if key in hints and not _fits(value, hints[key]):
            kind_of = getattr(hints[key], "__name__", None) or str(hints[key])
            raise SpecError(f"The {kind} '{name}' takes {key} as {kind_of}, not {value!r}.")
    try:
        return known[name].make(**options)
    except AdvexError:
        raise
    except (TypeError, ValueError) as error:
        raise SpecError(f"The {kind} '{name}' cannot be made with {options}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may be meant for a parameter. One annotated with other than plain types decides for itself."""
    for one in typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,):
        one = typing.get_origin(one) or one
        if one is typing.Literal or one not in _PLAIN:
            return True
        if isinstance(value, _PLAIN[one]) and (isinstance(value, bool) <= (one is bool)) and value == value:
            return True
    return False


# What may be given for a parameter of each plain type. One width may stand for a list of them.
_PLAIN: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    bool: (bool,),
    str: (str,),
    tuple: (tuple, list, int),
    type(None): (type(None),),
}


def describe(thing: Any) -> str:
    """The spec string that builds a registered dataclass again, with every option spelt out."""
    name = next((entry.name for entry in _entries.values() if entry.make is type(thing)), None)
    if name is None:
        return repr(thing)
    options = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing) if field.init}
    return name + (":" + ",".join(f"{key}={_text(value)}" for key, value in options.items()) if options else "")


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return f"({value})" if isinstance(value, str) and "," in value else str(value)


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
