"""Whether the values of options may be meant for a factory's parameters, by the types that these are annotated with."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from advex.errors import SpecError
from advex.registry.specs import write_value

# What may be given for a parameter of each plain type. One width may stand for a list of them.
_PLAIN: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    bool: (bool,),
    str: (str,),
    tuple: (tuple, list, int),
    type(None): (type(None),),
}


def fitted(what: str, make: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options, a number or a switch as a word where a word is wanted. what: begins the sentence of a SpecError."""
    hints, fit = _hints(make), dict(options)
    for key, value in options.items():
        if key in hints and not _fits(value, hints[key]):
            # A word may look like a number: the first layer of a network in a row is called 0.
            fit[key] = write_value(value) if isinstance(value, int | float) else value
            if not _fits(fit[key], hints[key]):
                raise SpecError(f"{what}: {key} must be {_type_name(hints[key])}, not {value!r}.")
    return fit


@lru_cache(maxsize=1024)  # things are made by the thousand, of a few hundred factories
def parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a factory may be given, by name."""
    return inspect.signature(make).parameters


@lru_cache(maxsize=1024)
def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    """The types of a factory's parameters, or of a dataclass's fields."""
    written_out = isinstance(make, type) and not dataclasses.is_dataclass(make)
    return typing.get_type_hints(make.__init__ if written_out else getattr(make, "func", make))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may be meant for a parameter. One annotated with other than plain types decides for itself."""
    for allowed in _alternatives(hint):
        origin = typing.get_origin(allowed) or allowed
        if origin is typing.Literal:
            fits = isinstance(value, str | int) and value in typing.get_args(allowed)
        elif origin in _PLAIN:
            fits = isinstance(value, _PLAIN[origin]) and isinstance(value, bool) <= (origin is bool) and value == value
        else:
            fits = True
        if fits:
            return True
    return False


def _type_name(hint: Any) -> str:
    if len(alternatives := _alternatives(hint)) > 1:
        return " or ".join(map(_type_name, alternatives))
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) else str(hint)
